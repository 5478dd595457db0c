/* What an error says where a port is not in use, and still cannot be had: not permitted, not there, not known. */
#define _GNU_SOURCE
#include "faults.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Ports below the limit. */

static void need_root(void)
{
    if (geteuid() != 0)
        SKIP("only root can become somebody else");
}

static void check_privileged(const char *address, int limit, const char *user)
{
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_PERMISSION_DENIED, EACCES);
    fault_parts("bind", address, EACCES);
    MESSAGE_HAS("ports below %d are privileged", limit);
    MESSAGE_HAS("user %s", user);
    MESSAGE_HAS("CAP_NET_BIND_SERVICE");
    HINT_HAS("setcap cap_net_bind_service=+ep /");
    HINT_HAS("sysctl net.ipv4.ip_unprivileged_port_start=%s", strrchr(address, ':') + 1);
    HINT_HAS("service manager");
    HINT_HAS("systemd:");
}

static void ask_for_80(void *user)
{
    place_user(NOBODY);
    check_privileged("127.0.0.1:80", 1024, user);
    check_privileged("udp:127.0.0.1:80", 1024, user);
    check_privileged(":80", 1024, user);
    MUST(close(fault_listen("127.0.0.1:1024")));
}

static void a_privileged_port(void)
{
    char user[100];
    need_root();
    fault_network();
    snprintf(user, sizeof user, "%s", fault_user(NOBODY));
    check_join(check_fork(ask_for_80, user));
}

static void ask_for_1500(void *user)
{
    place_user(NOBODY);
    check_privileged("127.0.0.1:1500", 2000, user);
    MUST(close(fault_listen("127.0.0.1:2000")));
}

static void a_port_that_the_host_made_privileged(void)
{
    char user[100];
    need_root();
    fault_network();
    snprintf(user, sizeof user, "%s", fault_user(NOBODY));
    place_sysctl("/proc/sys/net/ipv4/ip_unprivileged_port_start", "2000");
    check_join(check_fork(ask_for_1500, user));
}

/* Security policies. */

static void check_refused(const char *address, const char *step, int number, const char *reason)
{
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_PERMISSION_DENIED, number);
    fault_parts(step, address, number);
    MESSAGE_HAS("%s", reason);
    MESSAGE_HAS("security policy");
    HINT_HAS("this process runs under a seccomp filter");
}

static void check_bind_refused(int number)
{
    fault_network();
    place_refuse_call(SYS_bind, number);
    check_refused(HERE, "bind", number, "it is not the port's number");
    check_refused("udp:" HERE, "bind", number, "it is not the port's number");
    check_refused("127.0.0.1:0", "bind", number, "it is not the port's number");
}

static void a_filter_that_refuses_bind(void)
{
    check_bind_refused(EACCES);
}

static void a_filter_that_does_not_permit_bind(void)
{
    check_bind_refused(EPERM);
}

static void a_filter_that_refuses_sockets(void)
{
    fault_network();
    place_refuse_family(AF_INET, EACCES);
    check_refused(HERE, "socket", EACCES, "it is not the address");
    place_refuse_call(SYS_socket, EPERM);
    check_refused("[::1]:7000", "socket", EPERM, "it is not the address");
}

static void a_filter_and_a_privileged_port(void)
{
    need_root();
    fault_network();
    place_refuse_call(SYS_bind, EACCES);
    check_refused("127.0.0.1:80", "bind", EACCES, "this process has CAP_NET_BIND_SERVICE");
    MESSAGE_HAS("it is not the port's number");
}

/* Addresses that this host does not have. */

/* The words stand in the message, one behind the other. */
static void check_order(const char *const *words)
{
    const char *at = oyez_error_message(NULL);
    for (; *words != NULL; words++) {
        CHECK_STR_CONTAINS(at, *words);
        at = strstr(at, *words);
    }
}

/* Two interfaces that are up, left0 and right0; the loopback interface would take whole networks. */
static void add_interfaces(void)
{
    place_command("ip link add left0 type veth peer name right0");
    place_command("ip link set left0 up && ip link set right0 up");
}

static void check_missing(const char *address, const char *const *nearest)
{
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_ADDRESS_NOT_AVAILABLE, EADDRNOTAVAIL);
    fault_parts("bind", address, EADDRNOTAVAIL);
    check_order(nearest);
    HINT_HAS("free_bind=on");
    HINT_HAS("ip -brief address");
}

static void an_address_of_another_host(void)
{
    static const char *const nearest[] =
        { "this host has 10.1.2.3 on left0", "10.1.9.9 on right0", "127.0.0.1 on lo", "192.168.7.7 on left0", NULL };
    static const char *const other[] = { "this host has 192.168.7.7 on left0", NULL };
    fault_network();
    add_interfaces();
    place_command("ip addr add 192.168.7.7/24 dev left0");
    place_command("ip addr add 10.1.9.9/16 dev right0");
    place_command("ip addr add 10.1.2.3/24 dev left0");
    check_missing("10.1.2.77:7000", nearest);
    check_missing("udp:10.1.2.77:7000", nearest);
    check_missing("192.168.0.1:7000", other);
    MUST(close(fault_listen("10.1.2.77:7000?free_bind=on"))); /* as the hint says */
    MUST(close(fault_listen("10.1.2.3:7000")));
}

static void an_ipv6_address_of_another_host(void)
{
    static const char *const nearest[] = { "this host has 2001:db8::5 on left0", "::1 on lo", NULL };
    fault_network();
    add_interfaces();
    place_command("ip -6 addr add 2001:db8::5/64 dev left0 nodad");
    check_missing("[2001:db8::6]:7000", nearest);
    MESSAGE_LACKS("127.0.0.1");
    MUST(close(fault_listen("[2001:db8::6]:7000?free_bind=on")));
}

static void more_addresses_than_are_worth_a_line(void)
{
    fault_network();
    add_interfaces();
    for (int i = 1; i <= 20; i++) {
        char command[80];
        snprintf(command, sizeof command, "ip addr add 10.0.0.%d/24 dev left0", i);
        place_command(command);
    }
    CHECK_FAILS(oyez_listen("10.0.0.99:7000", NULL), OYEZ_ADDRESS_NOT_AVAILABLE, EADDRNOTAVAIL);
    MESSAGE_HAS("and 16 more");
}

/* Interfaces and IPv6. */

static void ipv6_switched_off(void)
{
    place_network();
    place_sysctl("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    place_loopback_up();
    CHECK_FAILS(oyez_listen("[::1]:0", NULL), OYEZ_ADDRESS_NOT_AVAILABLE, EADDRNOTAVAIL);
    fault_parts("bind", "[::1]:0", EADDRNOTAVAIL);
    MESSAGE_HAS("IPv6 is switched off: net.ipv6.conf.all.disable_ipv6 is 1");
    HINT_HAS("sysctl net.ipv6.conf.all.disable_ipv6=0");
    place_sysctl("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0");
    MUST(close(fault_listen("[::1]:0"))); /* as the hint says */
    place_sysctl("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1");
    CHECK_FAILS(oyez_listen("[::1]:0", NULL), OYEZ_ADDRESS_NOT_AVAILABLE, EADDRNOTAVAIL);
    MESSAGE_HAS("IPv6 is switched off: net.ipv6.conf.lo.disable_ipv6 is 1");
}

static void check_loopback_down(void)
{
    CHECK_FAILS(oyez_listen("[::1]:7000", NULL), OYEZ_ADDRESS_NOT_AVAILABLE, EADDRNOTAVAIL);
    fault_parts("bind", "[::1]:7000", EADDRNOTAVAIL);
    MESSAGE_HAS("lo");
    MESSAGE_HAS("is down");
    HINT_HAS("ip link set lo up");
}

/* 127.0.0.1 can be bound all the same. */
static void the_loopback_interface_is_down(void)
{
    place_network();
    check_loopback_down();
    place_loopback_up(); /* as the hint says */
    int fd = oyez_listen("[::1]:7000", NULL);
    if (fd == -1)
        SKIP("this host has no IPv6");
    MUST(close(fd));
    place_command("ip link set lo down");
    check_loopback_down();
}

static void a_kernel_without_ipv6(void)
{
    place_network();
    place_refuse_family(AF_INET6, EAFNOSUPPORT);
    CHECK_FAILS(oyez_listen("[::1]:0", NULL), OYEZ_UNSUPPORTED, EAFNOSUPPORT);
    fault_parts("socket", "[::1]:0", EAFNOSUPPORT);
    MESSAGE_HAS("this kernel has no IPv6");
    HINT_HAS("IPv4");
    MUST(close(fault_listen(":0"))); /* as the hint says */
}

static void unknown_interfaces(void)
{
    static const char *const addresses[] = { "[fe80::1%nope0]:7000", ":7000?interface=nope0" };
    fault_network();
    add_interfaces();
    for (int i = 0; i < 2; i++) {
        CHECK_FAILS(oyez_listen(addresses[i], NULL), OYEZ_ADDRESS_NOT_AVAILABLE, ENODEV);
        fault_parts(i == 0 ? "interface" : "setsockopt", addresses[i], ENODEV);
        MESSAGE_HAS("there is no interface nope0; this host has ");
        MESSAGE_HAS("lo");
        MESSAGE_HAS("left0");
        MESSAGE_HAS("right0");
        HINT_HAS("ip -brief link");
    }
}

/* The hint shows the address, and a caret under this character of it. */
static void check_caret(const char *address, int column)
{
    const char *shown = strstr(oyez_error_hint(NULL), address);
    CHECK(shown != NULL);
    int indent = 0;
    while (shown - indent > oyez_error_hint(NULL) && shown[-indent - 1] == ' ')
        indent++;
    const char *caret = strchr(shown, '^');
    const char *line = strchr(shown, '\n');
    CHECK(caret != NULL && line != NULL);
    CHECK_EQ_INT(caret - line - 1 - indent, column);
}

static void a_link_local_address_without_its_interface(void)
{
    fault_network();
    place_command("ip link add left0 type veth peer name right0"); /* down, and so without addresses */
    place_command("ip -6 addr add fe80::77/64 dev left0 nodad && ip link set left0 up");
    CHECK_FAILS(oyez_listen("[fe80::77]:7000", NULL), OYEZ_INVALID_ADDRESS, EINVAL);
    MESSAGE_HAS("link-local");
    MESSAGE_HAS("[fe80::77]:7000");
    check_caret("[fe80::77]:7000", (int)strlen("[fe80::77"));
    HINT_HAS("this host has left0");
    HINT_LACKS("right0");
    MUST(close(fault_listen("[fe80::77%left0]:7000")));
}

/* For as long as the kernel looks whether somebody else has it, an address is not there. */
static void an_address_that_is_still_tentative(void)
{
    place_network();
    place_command("ip link add left0 type veth peer name right0");
    place_sysctl("/proc/sys/net/ipv6/conf/left0/dad_transmits", "100");
    place_command("ip link set left0 up && ip link set right0 up && ip -6 addr add 2001:db8::5/64 dev left0");
    CHECK_FAILS(oyez_listen("[2001:db8::5]:7000", NULL), OYEZ_ADDRESS_NOT_AVAILABLE, EADDRNOTAVAIL);
    fault_parts("bind", "[2001:db8::5]:7000", EADDRNOTAVAIL);
    MESSAGE_HAS("it is on left0, but not usable: duplicate address detection");
    HINT_HAS("ip -6 address show dev left0 tentative");
    MUST(close(fault_listen("[2001:db8::5]:7000?free_bind=on"))); /* as the hint says */
}

static void every_free_port_is_used(void)
{
    fault_network();
    place_sysctl("/proc/sys/net/ipv4/ip_local_port_range", "40000 40001");
    int one = fault_listen("127.0.0.1:0");
    int two = fault_listen("127.0.0.1:0");
    CHECK_IN_USE("127.0.0.1:0");
    MESSAGE_HAS("every port from 40000 to 40001");
    HINT_HAS("net.ipv4.ip_local_port_range");
    CHECK_IN_USE(":0");
    MESSAGE_HAS("every port from 40000 to 40001");
    MUST(close(fault_listen("127.0.0.1:40002")));
    MUST(close(one));
    MUST(close(two));
}

/* Names. */

static void check_unknown(const char *address, const char *what, const char *asks)
{
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_NAME_NOT_FOUND, ENOENT);
    CHECK_STR_EQ(oyez_error_operation(NULL), "resolve");
    CHECK_STR_EQ(oyez_error_address(NULL), address);
    MESSAGE_HAS("resolve %s: the %s: ", address, what);
    CHECK(strlen(strstr(oyez_error_message(NULL), what)) > strlen(what) + strlen(": ")); /* the resolver's words */
    MESSAGE_LACKS("os error");
    HINT_HAS("%s", asks);
}

static void unknown_names(void)
{
    fault_network();
    check_unknown("no-such-host.invalid:80", "host no-such-host.invalid", "getent ahosts no-such-host.invalid");
    check_unknown("localhost:no-such-service", "service no-such-service", "getent services no-such-service");
    check_unknown("udp:localhost:no-such-service", "service no-such-service", "/etc/services");
}

/* Threads that fail in different ways at the same time. */

typedef struct fault {
    const char *address;
    int code;
    int number;
    const char *words;
} fault;

static pthread_barrier_t all_failed;

static void *keep_failing(void *argument)
{
    const fault *own = argument;
    char said[1000];
    char advised[1000];
    for (int i = 0; i < 40; i++) {
        CHECK_FAILS(oyez_listen(own->address, NULL), own->code, own->number);
        const char *message = oyez_error_message(NULL);
        const char *hint = oyez_error_hint(NULL);
        CHECK_STR_CONTAINS(message, own->words);
        CHECK_STR_CONTAINS(message, own->address);
        snprintf(said, sizeof said, "%s", message);
        snprintf(advised, sizeof advised, "%s", hint);
        pthread_barrier_wait(&all_failed);
        CHECK(oyez_error_message(NULL) == message);
        CHECK_STR_EQ(message, said);
        CHECK_STR_EQ(hint, advised);
        CHECK_EQ_INT(oyez_error_errno(NULL), own->code == OYEZ_INVALID_ADDRESS ? 0 : own->number);
    }
    return NULL;
}

static void each_thread_its_own_fault(void)
{
    enum { THREADS = 8 };
    static fault faults[THREADS] = {
        { "127.0.0.1:7000", OYEZ_ADDRESS_IN_USE, EADDRINUSE, "listens on 127.0.0.1:7000" },
        { "0.0.0.0:7000", OYEZ_ADDRESS_IN_USE, EADDRINUSE, "listens on 127.0.0.1:7000" },
        { "192.0.2.1:7000", OYEZ_ADDRESS_NOT_AVAILABLE, EADDRNOTAVAIL, "this host has" },
        { "192.0.2.2:7001", OYEZ_ADDRESS_NOT_AVAILABLE, EADDRNOTAVAIL, "this host has" },
        { "127.0.0.1:70000", OYEZ_INVALID_ADDRESS, EINVAL, "port" },
        { "[fe80::1]:7000", OYEZ_INVALID_ADDRESS, EINVAL, "link-local" },
        { "[fe80::1%nope0]:7000", OYEZ_ADDRESS_NOT_AVAILABLE, ENODEV, "nope0" },
        { "[fe80::1%nope1]:7000", OYEZ_ADDRESS_NOT_AVAILABLE, ENODEV, "nope1" },
    };
    pthread_t threads[THREADS];
    fault_network();
    int fd = fault_listen(HERE);
    CHECK_EQ_INT(pthread_barrier_init(&all_failed, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++)
        threads[i] = check_thread(keep_failing, &faults[i]);
    for (int i = 0; i < THREADS; i++)
        check_thread_join(threads[i]);
    CHECK_EQ_INT(pthread_barrier_destroy(&all_failed), 0);
    MUST(close(fd));
}

static const check_case cases[] = {
    CASE(a_privileged_port),
    CASE(a_port_that_the_host_made_privileged),
    CASE(a_filter_that_refuses_bind),
    CASE(a_filter_that_does_not_permit_bind),
    CASE(a_filter_that_refuses_sockets),
    CASE(a_filter_and_a_privileged_port),
    CASE(an_address_of_another_host),
    CASE(an_ipv6_address_of_another_host),
    CASE(more_addresses_than_are_worth_a_line),
    CASE(ipv6_switched_off),
    CASE(the_loopback_interface_is_down),
    CASE(a_kernel_without_ipv6),
    CASE(unknown_interfaces),
    CASE(a_link_local_address_without_its_interface),
    CASE(an_address_that_is_still_tentative),
    CASE(every_free_port_is_used),
    CASE(unknown_names),
    CASE(each_thread_its_own_fault),
};

CHECK_MAIN(cases)
