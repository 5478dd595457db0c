/* A port that is in use: each way in which it can be, made for real, and what the error says about it. */
#define _GNU_SOURCE
#include "clients.h"
#include "places.h"
#include "serving.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PORT = 7000, NOBODY = 65534 };
#define HERE "127.0.0.1:7000"

/* What the error says. */

/* Every byte belongs to a character of UTF-8. */
static void check_utf8(const char *text)
{
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0';) {
        int more = *at < 0x80 ? 0 : *at < 0xc2 ? -1 : *at < 0xe0 ? 1 : *at < 0xf0 ? 2 : *at < 0xf5 ? 3 : -1;
        CHECK(more >= 0);
        for (at++; more > 0; more--, at++)
            CHECK((*at & 0xc0) == 0x80);
    }
}

/* The step, the address and the system's words, and behind them what oyez found out. */
static const char *check_parts(const char *step, const char *address)
{
    char lead[200];
    int shown = (int)strcspn(address, "?");
    const char *message = oyez_error_message(NULL);
    int length = snprintf(lead, sizeof lead, "%s %.*s: %s: ", step, shown, address, strerror(EADDRINUSE));
    CHECK_STR_EQ(oyez_error_operation(NULL), step);
    CHECK_EQ_INT(strlen(oyez_error_address(NULL)), shown);
    CHECK_EQ_INT(strncmp(oyez_error_address(NULL), address, (size_t)shown), 0);
    CHECK_STR_CONTAINS(message, lead);
    check_utf8(message);
    check_utf8(oyez_error_hint(NULL));
    return message + length;
}

static void check_in_use(const char *address)
{
    int before = check_descriptors();
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    CHECK_EQ_INT(oyez_error_errno(NULL), EADDRINUSE);
    CHECK_EQ_INT(check_descriptors(), before);
    check_parts("bind", address);
}

CHECK_PRINTF(1, 2) static void message_has(const char *format, ...)
{
    char part[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(part, sizeof part, format, arguments);
    va_end(arguments);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), part);
}

CHECK_PRINTF(1, 2) static void hint_has(const char *format, ...)
{
    char part[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(part, sizeof part, format, arguments);
    va_end(arguments);
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), part);
}

#define CHECK_NOT_SAID(part) CHECK(strstr(oyez_error_message(NULL), part) == NULL)

static const char *user_name(int user)
{
    struct passwd *found = getpwuid((uid_t)user);
    if (found == NULL)
        SKIP("this user has no name here");
    return found->pw_name;
}

/* Who holds the port. */

static void own_network(void)
{
    place_network();
    place_loopback_up();
}

static int listen_at(const char *address)
{
    return (int)CHECK_WORKS(oyez_listen(address, NULL));
}

/* A neighbour of this name, which listens. */
static void rival(void *address)
{
    MUST(prctl(PR_SET_NAME, "rival"));
    listen_at(address);
}

/* The same as another user, whose processes may look at it as if it had never been root. */
static void rival_of_nobody(void *address)
{
    place_user(NOBODY);
    MUST(prctl(PR_SET_DUMPABLE, 1));
    rival(address);
}

/* Another program with a listener that it does not know of. */
static void other_program(void *address)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.close_on_exec = OYEZ_OFF;
    CHECK_WORKS(oyez_listen(address, &options));
    execlp("sleep", "sleep", "1000", (char *)NULL);
    SKIP("there is no sleep(1)");
}

/* In a process to which the holder is no child. */
static void find_stranger(void *argument)
{
    const char *name = ((const char **)argument)[0];
    const char *number = ((const char **)argument)[1];
    check_in_use(HERE);
    message_has("%s (pid %s, user %s) listens on " HERE, name, number, user_name((int)geteuid()));
    hint_has("`kill %s`", number);
}

static void find_neighbour(const char *name, void (*holder)(void *))
{
    char number[20];
    const char *expected[] = { name, number };
    own_network();
    pid_t neighbour = place_neighbour(holder, HERE);
    snprintf(number, sizeof number, "%d", (int)neighbour);
    check_join(check_fork(find_stranger, expected));
    place_neighbour_end(neighbour);
    MUST(close(listen_at(HERE)));
}

static void held_by_another_process(void)
{
    find_neighbour("rival", rival);
}

static void held_by_another_program(void)
{
    find_neighbour("sleep", other_program);
}

static void held_by_this_process(void)
{
    own_network();
    int fd = listen_at(HERE);
    check_in_use(HERE);
    message_has("this process itself (pid %d, descriptor %d) listens on " HERE, (int)getpid(), fd);
    hint_has("close descriptor %d", fd);
    MUST(close(fd));
}

static void be_named(void *name)
{
    MUST(prctl(PR_SET_NAME, name));
}

static void held_by_a_child_that_inherited_it(void)
{
    own_network();
    int fd = listen_at(HERE);
    pid_t child = place_neighbour(be_named, "heir");
    MUST(close(fd));
    check_in_use(HERE);
    message_has("heir (pid %d, user %s, a child of this process", (int)child, user_name((int)geteuid()));
    message_has("descriptor %d) listens on " HERE, fd);
    hint_has("`kill %d`", (int)child);
    hint_has("descriptor %d", fd);
    place_neighbour_end(child);
}

static void held_by_this_process_and_a_child(void)
{
    own_network();
    int fd = listen_at(HERE);
    pid_t child = place_neighbour(be_named, "heir");
    check_in_use(HERE);
    message_has("this process itself (pid %d, descriptor %d", (int)getpid(), fd);
    message_has("and one more process");
    hint_has("close descriptor %d", fd);
    hint_has("%d", (int)child); /* it would keep the port when this process has closed it */
    MUST(close(fd));
    place_neighbour_end(child);
}

static void held_by_several_children(void)
{
    enum { HEIRS = 4 };
    pid_t heirs[HEIRS];
    own_network();
    int fd = listen_at(HERE);
    for (int i = 0; i < HEIRS; i++)
        heirs[i] = place_neighbour(be_named, "heir");
    MUST(close(fd));
    check_in_use(HERE);
    message_has("heir (pid ");
    message_has("and 3 more processes) listens on " HERE);
    hint_has("kill");
    for (int i = 0; i < HEIRS; i++)
        place_neighbour_end(heirs[i]);
}

/* What this user may not see. */

static void look_as_nobody(void *unused)
{
    (void)unused;
    place_user(NOBODY);
    check_in_use(HERE);
    message_has("a process of user %s", user_name(0));
    message_has("this user may not see) listens on " HERE);
    CHECK_NOT_SAID("(pid ");
    hint_has("ss -ltnp");
    hint_has("root");
}

static void held_by_a_user_we_may_not_look_at(void)
{
    own_network();
    pid_t neighbour = place_neighbour(rival, HERE);
    check_join(check_fork(look_as_nobody, NULL));
    place_neighbour_end(neighbour);
}

static void look_as_the_same_user(void *number)
{
    place_user(NOBODY);
    check_in_use(HERE);
    message_has("rival (pid %d, user %s) listens on " HERE, *(int *)number, user_name(NOBODY));
}

static void an_unprivileged_user_finds_its_own(void)
{
    own_network();
    int neighbour = (int)place_neighbour(rival_of_nobody, HERE);
    check_join(check_fork(look_as_the_same_user, &neighbour));
    place_neighbour_end(neighbour);
}

static void look_alone(void *unused)
{
    (void)unused;
    check_in_use(HERE);
    message_has("a process of user %s (not visible from here", user_name((int)geteuid()));
    message_has("pid namespace");
    message_has("listens on " HERE);
    CHECK_NOT_SAID("(pid ");
    hint_has("ss -ltnp");
}

static void held_in_another_pid_namespace(void)
{
    own_network();
    pid_t neighbour = place_neighbour(rival, HERE);
    place_alone(look_alone, NULL);
    place_neighbour_end(neighbour);
}

/* A process may call itself anything. */
static void hostile_rival(void *address)
{
    rival(address);
    MUST(prctl(PR_SET_NAME, "a\nb\x1b[31m\xff\xc3(\t"));
}

static void a_hostile_name_is_escaped(void)
{
    own_network();
    pid_t neighbour = place_neighbour(hostile_rival, HERE);
    check_in_use(HERE);
    message_has("a\\nb\\x1b[31m\\xff\\xc3(");
    message_has("(pid %d, user %s", (int)neighbour, user_name((int)geteuid()));
    place_neighbour_end(neighbour);
}

/* Where it is held. */

static void check_held_at(const char *held, const char *asked, const char *said)
{
    int fd = listen_at(held);
    check_in_use(asked);
    message_has(") listens on %s", said);
    CHECK(strcmp(strstr(oyez_error_message(NULL), ") listens on ") + strlen(") listens on "), said) == 0);
    MUST(close(fd));
}

static void held_on_another_address(void)
{
    own_network();
    check_held_at("0.0.0.0:7000", HERE, "0.0.0.0:7000, every address");
    check_held_at(HERE, "0.0.0.0:7000", HERE);
    check_held_at(HERE, ":7000", HERE);
    check_held_at("0.0.0.0:7000", ":7000", "0.0.0.0:7000, every address");
}

static void held_on_ipv6(void)
{
    own_network();
    if (oyez_listen("[::1]:0", NULL) == -1)
        SKIP("this host has no IPv6");
    MUST(close(3));
    check_held_at(":7000", HERE, "[::]:7000, every address of IPv6 and IPv4");
    check_held_at(":7000", "[::1]:7000", "[::]:7000, every address of IPv6 and IPv4");
    check_held_at("[::1]:7000", ":7000", "[::1]:7000");
    check_held_at("[::]:7000", "[::1]:7000", "[::]:7000, every address");
}

static void ipv6_alone_leaves_ipv4_free(void)
{
    own_network();
    int six = oyez_listen("[::]:7000", NULL);
    if (six == -1)
        SKIP("this host has no IPv6");
    int four = listen_at("0.0.0.0:7000");
    check_in_use(HERE); /* and it is the right one of the two that is named */
    message_has("descriptor %d) listens on 0.0.0.0:7000", four);
    check_in_use("[::1]:7000");
    message_has("descriptor %d) listens on [::]:7000", six);
    MUST(close(four));
    MUST(close(listen_at(HERE)));
    MUST(close(six));
}

/* Connections that are left. */

/* `count` connections that were accepted at a listener which is closed again; the ends of the clients come first. */
static void leave_connections(const char *address, int *ends, int count)
{
    int listener = listen_at(address);
    for (int i = 0; i < count; i++) {
        ends[i] = client_connect(PORT);
        ends[count + i] = (int)CHECK_WORKS(oyez_accept(listener, NULL, 0, 10000));
    }
    MUST(close(listener));
}

static void end_connections(int *ends, int count)
{
    for (int i = 0; i < count; i++) {
        MUST(close(ends[count + i])); /* who closes first is the one who waits */
        CHECK_EQ_INT(client_ending(ends[i]), 0);
        MUST(close(ends[i]));
    }
}

static void connections_in_time_wait(void)
{
    int ends[6];
    int seconds = 0;
    own_network();
    leave_connections(HERE, ends, 3);
    end_connections(ends, 3);
    check_in_use(HERE "?reuse_address=off");
    message_has("nobody listens, but 3 ended connections keep it in TIME_WAIT, for ");
    const char *time = strstr(oyez_error_message(NULL), "TIME_WAIT, for ");
    CHECK_EQ_INT(sscanf(time, "TIME_WAIT, for %d s more at the latest", &seconds), 1);
    CHECK(seconds > 50 && seconds <= 60);
    hint_has("reuse_address=on");
    MUST(close(listen_at(HERE "?reuse_address=on"))); /* as the hint says */
}

static void connections_that_live(void)
{
    int ends[4];
    own_network();
    leave_connections(HERE, ends, 2);
    check_in_use(HERE "?reuse_address=off");
    message_has("nobody listens, but 2 connections are open, one of them to 127.0.0.1:");
    message_has("of this process itself (pid %d, descriptor ", (int)getpid());
    hint_has("reuse_address");
    MUST(close(ends[3]));
    CHECK_EQ_INT(client_ending(ends[1]), 0);
    MUST(close(ends[1]));
    check_in_use(HERE "?reuse_address=off");
    message_has("a connection to 127.0.0.1:%d is open, of this process itself (pid %d, descriptor %d)",
                client_own_port(ends[0]), (int)getpid(), ends[2]);
    message_has("and 1 ended one keeps it in TIME_WAIT");
    MUST(close(listen_at(HERE)));
    end_connections(ends, 1);
}

static void connections_without_reuse_address(void)
{
    int ends[2];
    own_network();
    leave_connections(HERE "?reuse_address=off", ends, 1);
    check_in_use(HERE);
    message_has("a connection to 127.0.0.1:%d is open", client_own_port(ends[0]));
    hint_has("SO_REUSEADDR");
    end_connections(ends, 1);
    check_in_use(HERE);
    message_has("1 ended connection keeps it in TIME_WAIT");
    hint_has("SO_REUSEADDR");
}

/* The server has closed its end, and the client not yet: nobody has this end any more. */
static void a_connection_that_nobody_has(void)
{
    int ends[2];
    own_network();
    leave_connections(HERE, ends, 1);
    MUST(close(ends[1]));
    check_in_use(HERE "?reuse_address=off");
    message_has("a connection to 127.0.0.1:%d is open", client_own_port(ends[0]));
    CHECK_NOT_SAID("not visible from here");
    CHECK_NOT_SAID("user");
    hint_has("reuse_address=on");
    MUST(close(ends[0]));
}

static void an_outgoing_connection(void)
{
    char address[40];
    own_network();
    int listener = listen_at(HERE);
    int client = client_connect(PORT);
    snprintf(address, sizeof address, "127.0.0.1:%d", client_own_port(client));
    check_in_use(address);
    message_has("a connection to " HERE " is open, of this process itself (pid %d, descriptor %d)",
                (int)getpid(), client);
    hint_has("ip_local_reserved_ports");
    MUST(close(client));
    MUST(close(listener));
}

/* Ports that are shared. */

static void shared_by_another_user(void)
{
    own_network();
    pid_t neighbour = place_neighbour(rival_of_nobody, HERE "?reuse_port=on");
    check_in_use(HERE "?reuse_port=on");
    message_has("rival (pid %d, user %s", (int)neighbour, user_name(NOBODY));
    message_has("user %s, and %s here", user_name(NOBODY), user_name(0));
    hint_has("as one user");
    place_neighbour_end(neighbour);
}

static void shared_by_one_side_alone(void)
{
    own_network();
    int fd = listen_at(HERE);
    check_in_use(HERE "?reuse_port=on");
    message_has("descriptor %d) listens on " HERE "; without reuse_port", fd);
    hint_has("SO_REUSEPORT");
    MUST(close(fd));
    fd = listen_at(HERE "?reuse_port=on");
    check_in_use(HERE); /* and here it is we who lack it */
    message_has("descriptor %d) listens on " HERE, fd);
    MUST(close(listen_at(HERE "?reuse_port=on")));
    MUST(close(fd));
}

/* Bound, and not listening. */

static int bind_there(int kind, int reuse)
{
    struct sockaddr_in address = { 0 };
    int fd = (int)MUST(socket(AF_INET, kind | SOCK_CLOEXEC, 0));
    address.sin_family = AF_INET;
    address.sin_port = htons(PORT);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse));
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    return fd;
}

static void bound_without_listening(void)
{
    own_network();
    int fd = bind_there(SOCK_STREAM, 0);
    check_in_use(HERE);
    if (strstr(oyez_error_message(NULL), "nothing is to be seen") != NULL)
        SKIP("this kernel does not list such sockets (Linux 6.8)");
    message_has("this process itself (pid %d, descriptor %d) has bound " HERE ", without listening", (int)getpid(), fd);
    hint_has("descriptor %d", fd);
    MUST(close(fd));
}

/* The C library's, so that a rival can come between oyez's bind(2) and its listen(2). */
static void (*between)(void);

int listen(int fd, int backlog)
{
    void (*now)(void) = between;
    between = NULL;
    if (now != NULL)
        now();
    return (int)syscall(SYS_listen, fd, backlog);
}

static int overtaking;

static void overtake(void)
{
    MUST(listen(overtaking, 1));
}

static void overtaken_before_listen(void)
{
    own_network();
    overtaking = bind_there(SOCK_STREAM, 1);
    between = overtake;
    CHECK_FAILS(oyez_listen(HERE, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    CHECK(between == NULL);
    check_parts("listen", HERE);
    message_has("this process itself (pid %d, descriptor %d) listens on " HERE, (int)getpid(), overtaking);
    hint_has("close descriptor %d", overtaking);
    MUST(close(overtaking));
}

static void a_udp_port(void)
{
    own_network();
    int fd = listen_at("udp:" HERE);
    check_in_use("udp:" HERE);
    message_has("this process itself (pid %d, descriptor %d) has bound " HERE, (int)getpid(), fd);
    CHECK_NOT_SAID("listen");
    MUST(close(listen_at(HERE))); /* TCP has ports of its own */
    pid_t child = place_neighbour(be_named, "heir");
    MUST(close(fd));
    check_in_use("udp:0.0.0.0:7000");
    message_has("heir (pid %d, user %s", (int)child, user_name((int)geteuid()));
    message_has("has bound " HERE);
    place_neighbour_end(child);
}

/* A datagram socket that speaks with one peer only. */
static void a_connected_udp_port(void)
{
    struct sockaddr_in peer = { 0 };
    own_network();
    int fd = bind_there(SOCK_DGRAM, 0);
    peer.sin_family = AF_INET;
    peer.sin_port = htons(53);
    peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(connect(fd, (struct sockaddr *)&peer, sizeof peer));
    check_in_use("udp:" HERE);
    message_has("this process itself (pid %d, descriptor %d)", (int)getpid(), fd);
    message_has("127.0.0.1:53");
    CHECK_NOT_SAID("nobody listens");
    CHECK(strstr(oyez_error_hint(NULL), "reuse_address=on, the default") == NULL); /* it is not that of UDP */
    MUST(close(fd));
}

/* Bounds. */

enum { DESCRIPTORS = 5000, PROCESSES = 300 };

static void open_many(int *fds)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = DESCRIPTORS + 200;
    if (limit.rlim_max < limit.rlim_cur)
        SKIP("so many descriptors are not permitted here");
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    for (int i = 0; i < DESCRIPTORS; i++)
        fds[i] = (int)MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}

static void close_many(int *fds)
{
    for (int i = 0; i < DESCRIPTORS; i++)
        MUST(close(fds[i]));
}

/* They have this process's descriptors too, or none but what they wait for. */
static void crowd(pid_t *children, int *fds, int with_descriptors)
{
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0) {
            if (!with_descriptors)
                MUST(syscall(SYS_close_range, fds[0], fds[DESCRIPTORS - 1], 0));
            for (;;)
                pause();
        }
    }
}

static void check_bounded(int holder, const char *where)
{
    long long start = check_now_ms();
    check_in_use(HERE);
    check_note("%lld ms %s", check_now_ms() - start, where);
    CHECK_TOOK(start, 0, 999);
    if (strstr(oyez_error_message(NULL), "in time") == NULL)
        message_has("rival (pid %d", holder);
    else
        hint_has("ss -ltnp");
}

static void look_in_a_crowd(int with_descriptors, const char *where)
{
    static int fds[DESCRIPTORS];
    static pid_t children[PROCESSES];
    struct rlimit before;
    own_network();
    MUST(getrlimit(RLIMIT_NOFILE, &before));
    open_many(fds);
    crowd(children, fds, with_descriptors);
    pid_t neighbour = place_neighbour(rival, HERE);
    check_bounded(neighbour, where);
    place_neighbour_end(neighbour);
    for (int i = 0; i < PROCESSES; i++)
        place_neighbour_end(children[i]);
    close_many(fds);
    MUST(setrlimit(RLIMIT_NOFILE, &before));
}

static void thousands_of_descriptors_and_hundreds_of_processes(void)
{
    look_in_a_crowd(0, "with 5,000 descriptors and 300 processes");
}

static void hundreds_of_processes_with_thousands_of_descriptors(void)
{
    look_in_a_crowd(1, "with 300 processes of 5,000 descriptors each");
}

static void descriptors_nearly_used_up(void)
{
    struct rlimit before;
    own_network();
    int fd = listen_at(HERE);
    MUST(getrlimit(RLIMIT_NOFILE, &before));
    for (int left = 1; left <= 4; left++) {
        place_descriptors_left(left);
        CHECK_FAILS(oyez_listen(HERE, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
        check_parts("bind", HERE);
        CHECK_NOT_SAID("not visible from here");
        CHECK(oyez_error_hint(NULL)[0] != '\0');
        MUST(setrlimit(RLIMIT_NOFILE, &before));
    }
    message_has("descriptor %d", fd);
    MUST(close(fd));
}

static const check_case cases[] = {
    CASE(held_by_another_process),
    CASE(held_by_another_program),
    CASE(held_by_this_process),
    CASE(held_by_a_child_that_inherited_it),
    CASE(held_by_this_process_and_a_child),
    CASE(held_by_several_children),
    CASE(held_by_a_user_we_may_not_look_at),
    CASE(an_unprivileged_user_finds_its_own),
    CASE(held_in_another_pid_namespace),
    CASE(a_hostile_name_is_escaped),
    CASE(held_on_another_address),
    CASE(held_on_ipv6),
    CASE(ipv6_alone_leaves_ipv4_free),
    CASE(connections_in_time_wait),
    CASE(connections_that_live),
    CASE(connections_without_reuse_address),
    CASE(a_connection_that_nobody_has),
    CASE(an_outgoing_connection),
    CASE(shared_by_another_user),
    CASE(shared_by_one_side_alone),
    CASE(bound_without_listening),
    CASE(overtaken_before_listen),
    CASE(a_udp_port),
    CASE(a_connected_udp_port),
    CASE(thousands_of_descriptors_and_hundreds_of_processes),
    CASE(hundreds_of_processes_with_thousands_of_descriptors),
    CASE(descriptors_nearly_used_up),
};

CHECK_MAIN(cases)
