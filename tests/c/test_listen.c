/* oyez_listen: address forms, dual stack, datagrams, the hook, and what a failing call leaves behind. */
#define _GNU_SOURCE
#include "clients.h"
#include "expect.h"
#include "places.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The architecture-neutral report of a stop at a system call, as in linux/ptrace.h. */
typedef struct call_stop {
    uint8_t op;
    uint8_t padding[3];
    uint32_t arch;
    uint64_t at[2];
    uint64_t number;
    uint64_t arguments[6];
} call_stop;

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t size = sizeof value;
    MUST(getsockopt(fd, level, name, &value, &size));
    return value;
}

static int has_ipv6(void)
{
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 address = { 0 };
    address.sin6_family = AF_INET6;
    address.sin6_addr = in6addr_loopback;
    int works = fd != -1 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (fd != -1)
        close(fd);
    return works;
}

static void check_plain_listener(int fd)
{
    CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
    CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFD)) & FD_CLOEXEC, FD_CLOEXEC);
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFL)) & O_NONBLOCK, 0);
    CHECK(oyez_local_port(fd) > 0);
}

/* A client that gets through, with plain accept(2) on the other side. */
static void check_serves(int listener, int client)
{
    int accepted = (int)MUST(accept(listener, NULL, NULL));
    client_send_text(accepted, "hello");
    client_expect(client, "hello");
    MUST(close(accepted));
    MUST(close(client));
}

typedef struct form {
    const char *address;
    const char *shown; /* before the port */
    int family;
    int only6;
} form;

static const form forms[] = {
    { "0", NULL, AF_INET6, 0 },
    { ":0", NULL, AF_INET6, 0 },
    { "*:0", NULL, AF_INET6, 0 },
    { "[::]:0", "[::]:", AF_INET6, 1 },
    { "[::1]:0", "[::1]:", AF_INET6, 1 },
    { "[0:0:0:0:0:0:0:1]:0", "[::1]:", AF_INET6, 1 },
    { "0.0.0.0:0", "0.0.0.0:", AF_INET, 0 },
    { "127.0.0.1:0", "127.0.0.1:", AF_INET, 0 },
    { "127.1.2.3:0", "127.1.2.3:", AF_INET, 0 },
};

static void check_form(const form *one)
{
    char text[128];
    char again[128];
    int fd = (int)CHECK_WORKS(oyez_listen(one->address, NULL));
    check_plain_listener(fd);
    CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_DOMAIN), one->family);
    if (one->family == AF_INET6)
        CHECK_EQ_INT(option(fd, IPPROTO_IPV6, IPV6_V6ONLY), one->only6);
    int port = oyez_local_port(fd);
    CHECK_WORKS(oyez_local_address(fd, text, sizeof text));
    if (one->shown != NULL) {
        snprintf(again, sizeof again, "%s%d", one->shown, port);
        CHECK_STR_EQ(text, again);
    }
    MUST(close(fd));
    fd = (int)CHECK_WORKS(oyez_listen(text, NULL));
    CHECK_WORKS(oyez_local_address(fd, again, sizeof again));
    CHECK_STR_EQ(again, text);
    CHECK_EQ_INT(oyez_local_port(fd), port);
    CHECK_WORKS(oyez_unlisten(fd));
}

static void every_form_listens(void)
{
    if (!has_ipv6())
        SKIP("this host has no IPv6");
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        check_form(&forms[i]);
}

/* "9000", ":9000", "*:9000" and "127.0.0.1:9000" mean port 9000. */
static void a_port_is_that_port(void)
{
    static const char *const texts[] = {
        "9000", ":9000", "*:9000", "127.0.0.1:9000", "0.0.0.0:9000", "localhost:9000", "127.0.0.1:9000?backlog=3",
    };
    place_network();
    place_loopback_up();
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        int fd = (int)CHECK_WORKS(oyez_listen(texts[i], NULL));
        CHECK_EQ_INT(oyez_local_port(fd), 9000);
        MUST(close(fd));
    }
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:65535", NULL));
    CHECK_EQ_INT(oyez_local_port(fd), 65535);
    MUST(close(fd));
}

static void dual_stack_serves_both(void)
{
    char peer[64];
    char expected[64];
    if (!has_ipv6())
        SKIP("this host has no IPv6");
    int fd = (int)CHECK_WORKS(oyez_listen(":0", NULL));
    check_serves(fd, client_connect(oyez_local_port(fd)));
    check_serves(fd, client_connect6(oyez_local_port(fd)));

    int client = client_connect(oyez_local_port(fd));
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
    snprintf(expected, sizeof expected, "127.0.0.1:%d", client_own_port(client));
    CHECK_EQ_INT(oyez_peer_address(accepted, peer, sizeof peer), strlen(expected));
    CHECK_STR_EQ(peer, expected);
    snprintf(expected, sizeof expected, "127.0.0.1:%d", oyez_local_port(fd));
    CHECK_EQ_INT(oyez_local_address(accepted, peer, sizeof peer), strlen(expected));
    CHECK_STR_EQ(peer, expected);
    MUST(close(accepted));
    MUST(close(client));
    MUST(close(fd));
}

/* IPv6 by name leaves IPv4's port to somebody else, and the other way round. */
static void families_do_not_mix(void)
{
    char text[64];
    if (!has_ipv6())
        SKIP("this host has no IPv6");
    int six = (int)CHECK_WORKS(oyez_listen("[::]:0", NULL));
    int port = oyez_local_port(six);
    CHECK(client_try(port) == -1 && errno == ECONNREFUSED);
    snprintf(text, sizeof text, "0.0.0.0:%d", port);
    int four = (int)CHECK_WORKS(oyez_listen(text, NULL));
    check_serves(four, client_connect(port));
    check_serves(six, client_connect6(port));
    MUST(close(four));
    CHECK(client_try(port) == -1 && errno == ECONNREFUSED);
    MUST(close(six));
}

static void names_are_resolved(void)
{
    int fd = (int)CHECK_WORKS(oyez_listen("localhost:0", NULL));
    check_plain_listener(fd);
    MUST(close(fd));
    CHECK_FAILS(oyez_listen("no-such-host.invalid:0", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    CHECK_STR_EQ(oyez_error_operation(NULL), "resolve");
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "no-such-host.invalid");
    CHECK_FAILS(oyez_listen("localhost:no-such-service", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
}

static void service_names_are_resolved(void)
{
    place_network();
    place_loopback_up();
    if (access("/etc/services", R_OK) == -1)
        SKIP("there is no /etc/services");
    int fd = (int)CHECK_WORKS(oyez_listen("localhost:http", NULL));
    CHECK_EQ_INT(oyez_local_port(fd), 80);
    MUST(close(fd));
}

static void a_second_copy_fails(void)
{
    char text[64];
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    CHECK_WORKS(oyez_local_address(fd, text, sizeof text));
    CHECK_FAILS(oyez_listen(text, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    CHECK_STR_EQ(oyez_error_operation(NULL), "bind");
    CHECK_STR_EQ(oyez_error_address(NULL), text);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), text);
    CHECK(oyez_error_hint(NULL)[0] != '\0');
    check_serves(fd, client_connect(oyez_local_port(fd)));
    MUST(close(fd));
}

static void a_foreign_address_fails(void)
{
    CHECK_FAILS(oyez_listen("192.0.2.1:0", NULL), OYEZ_ADDRESS_NOT_AVAILABLE, EADDRNOTAVAIL);
    CHECK_STR_EQ(oyez_error_operation(NULL), "bind");
    CHECK_STR_CONTAINS(oyez_error_address(NULL), "192.0.2.1");
    CHECK(oyez_error_hint(NULL)[0] != '\0');
}

/* A closing server's connections stay in TIME_WAIT for a minute: the next start binds all the same. */
static void a_restart_binds_at_once(void)
{
    char text[64];
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    CHECK_WORKS(oyez_local_address(fd, text, sizeof text));
    int client = client_connect(oyez_local_port(fd));
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
    MUST(close(accepted));
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    MUST(close(fd));
    fd = (int)CHECK_WORKS(oyez_listen(text, NULL));
    MUST(close(fd));
}

/* Stops the traced child each time it calls or returns; true at a call of listen(2), false at its end. */
static int run_to_listen(pid_t child)
{
    int status;
    call_stop stop;
    for (;;) {
        MUST(ptrace(PTRACE_SYSCALL, child, NULL, NULL));
        MUST(waitpid(child, &status, 0));
        if (!WIFSTOPPED(status))
            return 0;
        memset(&stop, 0, sizeof stop);
        MUST(ptrace((enum __ptrace_request)0x420e, child, (void *)sizeof stop, &stop)); /* ..._GET_SYSCALL_INFO */
        if (stop.op == 1 && stop.number == SYS_listen)
            return 1;
    }
}

static void listen_too_late(void *address)
{
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == -1)
        SKIP("ptrace is not permitted here");
    raise(SIGSTOP);
    int before = check_descriptors();
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    CHECK_STR_EQ(oyez_error_operation(NULL), "listen");
    CHECK_STR_EQ(oyez_error_address(NULL), address);
    CHECK_EQ_INT(check_descriptors(), before);
}

/* On Linux bind can succeed for two, and then one of them fails at listen: here it is the other who comes first. */
static void in_use_at_listen(void)
{
    char text[64];
    int status;
    struct sockaddr_in address = { 0 };
    socklen_t size = sizeof address;
    int on = 1;
    int other = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(bind(other, (struct sockaddr *)&address, sizeof address));
    MUST(getsockname(other, (struct sockaddr *)&address, &size));
    snprintf(text, sizeof text, "127.0.0.1:%d", ntohs(address.sin_port));

    pid_t child = check_fork(listen_too_late, text);
    MUST(waitpid(child, &status, 0));
    if (!WIFSTOPPED(status))
        SKIP("ptrace is not permitted here");
    MUST(ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)PTRACE_O_TRACESYSGOOD));
    CHECK(run_to_listen(child));
    MUST(listen(other, 5));
    while (run_to_listen(child))
        ;
    MUST(close(other));
}

/* The hook. */

typedef struct hook {
    int calls;
    int stop_with; /* errno, -1 = none */
    int unbound;
    int type;
} hook;

static int32_t look_before_bind(int32_t fd, void *user)
{
    hook *seen = user;
    int bytes = 7;
    struct sockaddr_storage address = { 0 };
    socklen_t size = sizeof address;
    seen->calls++;
    seen->type = option(fd, SOL_SOCKET, SO_TYPE);
    MUST(getsockname(fd, (struct sockaddr *)&address, &size));
    seen->unbound = address.ss_family == AF_INET && ((struct sockaddr_in *)&address)->sin_port == 0;
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes));
    if (seen->stop_with == -1)
        return 0;
    errno = seen->stop_with;
    return 1;
}

static oyez_listen_options with_hook(hook *seen, int stop_with)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    memset(seen, 0, sizeof *seen);
    seen->stop_with = stop_with;
    options.before_bind = look_before_bind;
    options.before_bind_user = seen;
    return options;
}

static void the_hook_sees_the_socket(void)
{
    hook seen;
    oyez_listen_options options = with_hook(&seen, -1);
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", &options));
    CHECK_EQ_INT(seen.calls, 1);
    CHECK(seen.unbound);
    CHECK_EQ_INT(seen.type, SOCK_STREAM);
    CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_RCVLOWAT), 7);
    MUST(close(fd));
    fd = (int)CHECK_WORKS(oyez_listen("udp:127.0.0.1:0", &options));
    CHECK_EQ_INT(seen.calls, 2);
    CHECK_EQ_INT(seen.type, SOCK_DGRAM);
    MUST(close(fd));
}

/* The errno is the hook's; which code stands for it is not said. */
static void check_stopped_by_hook(const char *address, const oyez_listen_options *options, int number)
{
    errno = 0;
    CHECK_EQ_INT(oyez_listen(address, options), -1);
    CHECK_EQ_INT(errno, number);
    CHECK_EQ_INT(oyez_error_errno(NULL), number);
    CHECK(oyez_error_code(NULL) != OYEZ_OK);
    CHECK_STR_EQ(oyez_error_operation(NULL), "before_bind");
}

static void the_hook_stops_the_call(void)
{
    hook seen;
    char address[200];
    int before = check_descriptors();
    oyez_listen_options options = with_hook(&seen, EDOM);
    check_stopped_by_hook("127.0.0.1:0", &options, EDOM);
    CHECK_EQ_INT(seen.calls, 1);
    options = with_hook(&seen, EPERM);
    check_stopped_by_hook("127.0.0.1:0", &options, EPERM);
    options = with_hook(&seen, 0);
    snprintf(address, sizeof address, "unix:%s/hook.sock", check_folder());
    check_stopped_by_hook(address, &options, ECANCELED);
    CHECK_EQ_INT(place_entries(check_folder()), 0);
    CHECK_EQ_INT(check_descriptors(), before);
}

/* Datagrams. */

static void datagrams_arrive(void)
{
    char text[64];
    char bytes[16] = "";
    int fd = (int)CHECK_WORKS(oyez_listen("udp:127.0.0.1:0", NULL));
    CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
    CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_REUSEADDR), 0);
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFD)) & FD_CLOEXEC, FD_CLOEXEC);
    struct sockaddr_in address = { 0 };
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)CHECK_WORKS(oyez_local_port(fd)));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int client = (int)MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    MUST(sendto(client, "hello", 5, 0, (struct sockaddr *)&address, sizeof address));
    CHECK(client_readable(fd, 10000));
    CHECK_EQ_INT(recv(fd, bytes, sizeof bytes, 0), 5);
    CHECK_STR_EQ(bytes, "hello");
    CHECK_WORKS(oyez_local_address(fd, text, sizeof text));
    CHECK_STR_CONTAINS(text, "127.0.0.1:");
    MUST(close(client));
    MUST(close(fd));
}

static void datagram_ports_are_shared_only_if_asked(void)
{
    char text[64];
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    int fd = (int)CHECK_WORKS(oyez_listen("udp:127.0.0.1:0", NULL));
    snprintf(text, sizeof text, "udp:127.0.0.1:%d", oyez_local_port(fd));
    CHECK_FAILS(oyez_listen(text, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    CHECK_EQ_INT(oyez_unlisten(fd), 0);

    options.reuse_address = OYEZ_ON;
    fd = (int)CHECK_WORKS(oyez_listen(text, &options));
    int second = (int)CHECK_WORKS(oyez_listen(text, &options));
    MUST(close(fd));
    MUST(close(second));
}

static void datagrams_of_both_families(void)
{
    if (!has_ipv6())
        SKIP("this host has no IPv6");
    int fd = (int)CHECK_WORKS(oyez_listen("udp::0", NULL));
    CHECK_EQ_INT(option(fd, IPPROTO_IPV6, IPV6_V6ONLY), 0);
    MUST(close(fd));
    fd = (int)CHECK_WORKS(oyez_listen("udp:[::1]:0", NULL));
    CHECK_EQ_INT(option(fd, IPPROTO_IPV6, IPV6_V6ONLY), 1);
    MUST(close(fd));
}

/* Nothing is left behind by a call that fails, wherever it fails. */
static void failures_leave_nothing(void)
{
    char taken[64];
    char taken_datagrams[64];
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    int datagrams = (int)CHECK_WORKS(oyez_listen("udp:127.0.0.1:0", NULL));
    snprintf(taken, sizeof taken, "127.0.0.1:%d", oyez_local_port(fd));
    snprintf(taken_datagrams, sizeof taken_datagrams, "udp:127.0.0.1:%d", oyez_local_port(datagrams));
    const char *const failing[] = {
        taken, taken_datagrams, "192.0.2.1:0", "udp:192.0.2.1:0", "localhost:99999", "no-such-host.invalid:1",
        "127.0.0.1:0?interface=nope0", "127.0.0.1:0?backlog=x", "fd:999", "systemd:", "unix:/no/such/folder/x",
        "unix:/", "unix:/dev/null", "[2001:db8::1]:0", "[fe80::1%nope0]:0",
    };
    int before = check_descriptors();
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < sizeof failing / sizeof failing[0]; i++) {
            errno = 0;
            if (oyez_listen(failing[i], NULL) != -1 || errno == 0)
                check_fail(__FILE__, __LINE__, "%s did not fail, or with errno 0", failing[i]);
        }
    }
    CHECK_EQ_INT(check_descriptors(), before);
    MUST(close(fd));
    MUST(close(datagrams));
}

static void ports_of_what_has_none(void)
{
    char text[64];
    int pair[2];
    int pipes[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    MUST(pipe2(pipes, O_CLOEXEC));
    CHECK_FAILS(oyez_local_port(pair[0]), OYEZ_INVALID_ARGUMENT, EAFNOSUPPORT);
    CHECK_FAILS(oyez_local_port(pipes[0]), OYEZ_INVALID_ARGUMENT, ENOTSOCK);
    CHECK_FAILS(oyez_local_port(-1), OYEZ_INVALID_ARGUMENT, EBADF);
    CHECK_FAILS(oyez_local_port(1000), OYEZ_INVALID_ARGUMENT, EBADF);
    CHECK_FAILS(oyez_local_address(pipes[0], text, sizeof text), OYEZ_INVALID_ARGUMENT, ENOTSOCK);
    CHECK_FAILS(oyez_peer_address(pipes[0], text, sizeof text), OYEZ_INVALID_ARGUMENT, ENOTSOCK);
    CHECK_FAILS(oyez_unlisten(pipes[0]), OYEZ_INVALID_ARGUMENT, ENOTSOCK);
    MUST(fcntl(pipes[0], F_GETFD));
    CHECK_EQ_INT(oyez_local_address(pair[0], text, sizeof text), 5);
    CHECK_STR_EQ(text, "unix:");
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_FAILS(oyez_local_port(fd), OYEZ_INVALID_ARGUMENT, EADDRNOTAVAIL);
    CHECK_FAILS(oyez_peer_address(fd, text, sizeof text), OYEZ_CLOSED, ENOTCONN);
    MUST(close(fd));
    for (int i = 0; i < 2; i++) {
        MUST(close(pair[i]));
        MUST(close(pipes[i]));
    }
}

/* A text that does not fit is cut, terminated, and its whole length told. */
static void texts_follow_snprintf(void)
{
    char whole[64];
    char part[64];
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    int length = (int)CHECK_WORKS(oyez_local_address(fd, whole, sizeof whole));
    CHECK_EQ_INT(length, strlen(whole));
    CHECK_EQ_INT(oyez_local_address(fd, NULL, 0), length);
    for (int size = 1; size <= length + 2; size++) {
        memset(part, '#', sizeof part);
        CHECK_EQ_INT(oyez_local_address(fd, part, (size_t)size), length);
        int fits = size - 1 < length ? size - 1 : length;
        CHECK_EQ_INT(strlen(part), fits);
        CHECK_EQ_INT(strncmp(part, whole, (size_t)fits), 0);
        CHECK_EQ_INT(part[size], '#');
    }
    MUST(close(fd));
}

static const check_case cases[] = {
    CASE(every_form_listens),
    CASE(a_port_is_that_port),
    CASE(dual_stack_serves_both),
    CASE(families_do_not_mix),
    CASE(names_are_resolved),
    CASE(service_names_are_resolved),
    CASE(a_second_copy_fails),
    CASE(a_foreign_address_fails),
    CASE(a_restart_binds_at_once),
    CASE(in_use_at_listen),
    CASE(the_hook_sees_the_socket),
    CASE(the_hook_stops_the_call),
    CASE(datagrams_arrive),
    CASE(datagram_ports_are_shared_only_if_asked),
    CASE(datagrams_of_both_families),
    CASE(failures_leave_nothing),
    CASE(ports_of_what_has_none),
    CASE(texts_follow_snprintf),
};

CHECK_MAIN(cases)
