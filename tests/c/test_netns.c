/* Hosts that look different: each test in a network namespace of its own. */
#define _GNU_SOURCE
#include "clients.h"
#include "places.h"
#include "serving.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* What SIOCSIFADDR takes for IPv6; linux/ipv6.h has it, which does not go with netinet/in.h. */
typedef struct address6_request {
    struct in6_addr address;
    uint32_t prefix;
    int interface;
} address6_request;

static void check_serves(int listener, int client)
{
    int accepted = (int)CHECK_WORKS(oyez_accept(listener, NULL, 0, 10000));
    client_send_text(client, "hello");
    client_expect(accepted, "hello");
    MUST(close(accepted));
    MUST(close(client));
}

static void network_without_ipv6(void)
{
    place_network();
    place_sysctl("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    place_sysctl("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1");
    place_loopback_up();
}

static void every_address_with_ipv6_off(void)
{
    static const char *const texts[] = { ":0", "*:0", "0", "localhost:0" };
    network_without_ipv6();
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        int fd = (int)CHECK_WORKS(oyez_listen(texts[i], NULL));
        check_serves(fd, client_connect(oyez_local_port(fd)));
        MUST(close(fd));
    }
}

static void ipv6_by_name_with_ipv6_off(void)
{
    network_without_ipv6();
    CHECK_FAILS(oyez_listen("[::1]:0", NULL), OYEZ_ADDRESS_NOT_AVAILABLE, EADDRNOTAVAIL);
    CHECK(oyez_error_hint(NULL)[0] != '\0');
}

/* An address with "-" is left out where the host does not have it, and that is reported. */
static int reports;

static void count_report(int32_t level, const char *event, const char *text, void *user)
{
    (void)user;
    CHECK(level >= OYEZ_LOG_DEBUG && level <= OYEZ_LOG_ERROR);
    CHECK(event[0] != '\0');
    if (strstr(text, "[::1]:0") != NULL)
        __atomic_add_fetch(&reports, 1, __ATOMIC_SEQ_CST);
}

static void optional_addresses_with_ipv6_off(void)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    network_without_ipv6();
    options.log = count_report;
    served server = serve_at("-[::1]:0,127.0.0.1:0", serve_hello, NULL, &options);
    CHECK_EQ_INT(reports, 1);
    CHECK_EQ_INT(serve_stats(server).listeners, 1);
    int client = client_connect(server.port);
    client_expect(client, "hello\n");
    MUST(close(client));
    serve_end(server);

    oyez_server none = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    CHECK_FAILS(oyez_server_listen(none, "-[::1]:0", NULL), OYEZ_ADDRESS_NOT_AVAILABLE, ANY_ERRNO);
    CHECK_FAILS(oyez_server_listen(none, "127.0.0.1:0,[::1]:0", NULL), OYEZ_ADDRESS_NOT_AVAILABLE, ANY_ERRNO);
    CHECK_WORKS(oyez_server_close(none));
}

/* A kernel without IPv6 at all: no such sockets. */
static void a_kernel_without_ipv6(void)
{
    char shown[64];
    place_network();
    place_loopback_up();
    place_refuse_family(AF_INET6, EAFNOSUPPORT);
    int fd = (int)CHECK_WORKS(oyez_listen(":0", NULL));
    check_serves(fd, client_connect(oyez_local_port(fd)));
    CHECK_WORKS(oyez_local_address(fd, shown, sizeof shown));
    MUST(close(fd));
    fd = (int)CHECK_WORKS(oyez_listen(shown, NULL));
    MUST(close(fd));
    fd = (int)CHECK_WORKS(oyez_listen("udp::0", NULL));
    MUST(close(fd));
    errno = 0;
    CHECK_EQ_INT(oyez_listen("[::1]:0", NULL), -1);
    CHECK_EQ_INT(errno, EAFNOSUPPORT);
    CHECK(oyez_error_code(NULL) == OYEZ_UNSUPPORTED || oyez_error_code(NULL) == OYEZ_ADDRESS_NOT_AVAILABLE);
}

/* "bindv6only" says what a socket does that does not say it itself: ours does. */
static void dual_stack_whatever_the_sysctl(void)
{
    place_network();
    place_loopback_up();
    place_sysctl("/proc/sys/net/ipv6/bindv6only", "1");
    int fd = (int)CHECK_WORKS(oyez_listen(":0", NULL));
    check_serves(fd, client_connect(oyez_local_port(fd)));
    check_serves(fd, client_connect6(oyez_local_port(fd)));
    MUST(close(fd));
    place_sysctl("/proc/sys/net/ipv6/bindv6only", "0");
    fd = (int)CHECK_WORKS(oyez_listen("[::]:0", NULL));
    CHECK(client_try(oyez_local_port(fd)) == -1 && errno == ECONNREFUSED);
    check_serves(fd, client_connect6(oyez_local_port(fd)));
    MUST(close(fd));
}

/* Gives the loopback interface fe80::1. */
static void add_link_local(void)
{
    address6_request request = { 0 };
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd == -1)
        SKIP("this host has no IPv6");
    CHECK_EQ_INT(inet_pton(AF_INET6, "fe80::1", &request.address), 1);
    request.prefix = 64;
    request.interface = (int)if_nametoindex("lo");
    if (ioctl(fd, SIOCSIFADDR, &request) == -1)
        SKIP("no link-local address can be added here");
    struct sockaddr_in6 address = { 0 };
    address.sin6_family = AF_INET6;
    address.sin6_addr = request.address;
    address.sin6_scope_id = (uint32_t)request.interface;
    CHECK_SOON(bind(fd, (struct sockaddr *)&address, sizeof address) == 0); /* until the kernel is ready */
    MUST(close(fd));
}

static int connect_link_local(int port)
{
    struct sockaddr_in6 address = { 0 };
    int fd = (int)MUST(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    address.sin6_family = AF_INET6;
    address.sin6_port = htons((uint16_t)port);
    address.sin6_scope_id = if_nametoindex("lo");
    CHECK_EQ_INT(inet_pton(AF_INET6, "fe80::1", &address.sin6_addr), 1);
    MUST(connect(fd, (struct sockaddr *)&address, sizeof address));
    return fd;
}

static void link_local_addresses(void)
{
    char shown[100];
    char expected[100];
    place_network();
    place_loopback_up();
    add_link_local();
    int fd = (int)CHECK_WORKS(oyez_listen("[fe80::1%lo]:0", NULL));
    int port = oyez_local_port(fd);
    check_serves(fd, connect_link_local(port));
    snprintf(expected, sizeof expected, "[fe80::1%%lo]:%d", port);
    CHECK_WORKS(oyez_local_address(fd, shown, sizeof shown));
    CHECK_STR_EQ(shown, expected);
    MUST(close(fd));
    fd = (int)CHECK_WORKS(oyez_listen(shown, NULL));
    CHECK_EQ_INT(oyez_local_port(fd), port);
    MUST(close(fd));
    fd = oyez_listen("[fe80::1%1]:0", NULL); /* by number: taken or refused, not anything else */
    if (fd != -1)
        MUST(close(fd));
}

static void link_local_needs_its_interface(void)
{
    place_network();
    place_loopback_up();
    add_link_local();
    int before = check_descriptors();
    CHECK_EQ_INT(oyez_listen("[fe80::1%nope0]:0", NULL), -1);
    CHECK(oyez_error_code(NULL) == OYEZ_ADDRESS_NOT_AVAILABLE || oyez_error_code(NULL) == OYEZ_INVALID_ADDRESS);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "nope0");
    CHECK_EQ_INT(oyez_listen("[fe80::1]:0", NULL), -1);
    CHECK(oyez_error_code(NULL) != OYEZ_INTERNAL);
    CHECK(oyez_error_hint(NULL)[0] != '\0');
    CHECK_EQ_INT(check_descriptors(), before);
}

/* Ports below 1024. */

static void listen_as_nobody(void *unused)
{
    (void)unused;
    MUST(setgid(65534));
    MUST(setuid(65534));
    CHECK_FAILS(oyez_listen("127.0.0.1:80", NULL), OYEZ_PERMISSION_DENIED, EACCES);
    CHECK_STR_EQ(oyez_error_operation(NULL), "bind");
    CHECK_STR_EQ(oyez_error_address(NULL), "127.0.0.1:80");
    CHECK(oyez_error_hint(NULL)[0] != '\0');
    CHECK_FAILS(oyez_listen(":80", NULL), OYEZ_PERMISSION_DENIED, EACCES);
}

static void privileged_ports(void)
{
    if (geteuid() != 0)
        SKIP("only root can become somebody else");
    place_network();
    place_loopback_up();
    check_join(check_fork(listen_as_nobody, NULL));
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:80", NULL));
    MUST(close(fd));
}

static void listen_permitted(void *unused)
{
    (void)unused;
    MUST(setgid(65534));
    MUST(setuid(65534));
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:80", NULL));
    MUST(close(fd));
    CHECK_FAILS(oyez_listen("127.0.0.1:79", NULL), OYEZ_PERMISSION_DENIED, EACCES);
}

static void ports_that_the_host_gave_away(void)
{
    if (geteuid() != 0)
        SKIP("only root can become somebody else");
    place_network();
    place_loopback_up();
    place_sysctl("/proc/sys/net/ipv4/ip_unprivileged_port_start", "80");
    check_join(check_fork(listen_permitted, NULL));
}

/* The first of a name's addresses that can be bound: here ::1 cannot, 127.0.0.1 can. */
static void a_name_falls_back(void)
{
    char shown[64];
    network_without_ipv6();
    int fd = (int)CHECK_WORKS(oyez_listen("localhost:8080", NULL));
    CHECK_WORKS(oyez_local_address(fd, shown, sizeof shown));
    CHECK_STR_EQ(shown, "127.0.0.1:8080");
    MUST(close(fd));
}

/* A small kernel limit is what the backlog becomes; the same for "the system's maximum". */
static void the_backlog_is_the_systems_maximum(void)
{
    place_network();
    place_loopback_up();
    place_sysctl("/proc/sys/net/core/somaxconn", "37");
    served server = serve(serve_hello, NULL, NULL);
    CHECK_EQ_INT(serve_stats(server).backlog, 37);
    serve_end(server);
    place_sysctl("/proc/sys/net/core/somaxconn", "12345");
    server = serve(serve_hello, NULL, NULL);
    CHECK_EQ_INT(serve_stats(server).backlog, 12345);
    serve_end(server);
}

/* One starts, is killed, starts again: its port is free at once although its connections linger. */
static void serve_and_be_killed(void *told)
{
    served server = serve_at("127.0.0.1:7000", serve_hello, NULL, NULL);
    MUST(write(*(int *)told, "x", 1));
    CHECK_WORKS(oyez_server_wait(server.id, -1));
}

static void a_killed_server_starts_again_at_once(void)
{
    int told[2];
    char byte;
    place_network();
    place_loopback_up();
    MUST(pipe2(told, O_CLOEXEC));
    for (int round = 0; round < 5; round++) {
        pid_t child = check_fork(serve_and_be_killed, &told[1]);
        MUST(read(told[0], &byte, 1));
        int client = client_connect(7000);
        client_expect(client, "hello\n");
        MUST(kill(child, 9));
        int status;
        MUST(waitpid(child, &status, 0));
        MUST(close(client));
    }
    MUST(close(told[0]));
    MUST(close(told[1]));
}

static const check_case cases[] = {
    CASE(every_address_with_ipv6_off),
    CASE(ipv6_by_name_with_ipv6_off),
    CASE(optional_addresses_with_ipv6_off),
    CASE(a_kernel_without_ipv6),
    CASE(dual_stack_whatever_the_sysctl),
    CASE(link_local_addresses),
    CASE(link_local_needs_its_interface),
    CASE(privileged_ports),
    CASE(ports_that_the_host_gave_away),
    CASE(a_name_falls_back),
    CASE(the_backlog_is_the_systems_maximum),
    CASE(a_killed_server_starts_again_at_once),
};

CHECK_MAIN(cases)
