/* Listeners that were passed in: fd:N, and systemd's environment. */
#define _GNU_SOURCE
#include "clients.h"
#include "expect.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int plain_listener(void)
{
    return (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
}

/* Serves one client with what came back; closes it, and the original where it is another. */
static void check_and_close(int fd, int original)
{
    int client = client_connect(oyez_local_port(fd));
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFD)), FD_CLOEXEC);
    MUST(close(accepted));
    MUST(close(client));
    MUST(close(fd));
    if (fd != original)
        MUST(close(original));
}

static void an_inherited_listener(void)
{
    char text[40];
    int original = plain_listener();
    MUST(fcntl(original, F_SETFD, 0));
    snprintf(text, sizeof text, "fd:%d", original);
    check_and_close((int)CHECK_WORKS(oyez_listen(text, NULL)), original);
}

static void an_inherited_unix_listener(void)
{
    char text[200];
    char path[190];
    snprintf(path, sizeof path, "%s/passed.sock", check_folder());
    snprintf(text, sizeof text, "unix:%s", path);
    int original = (int)CHECK_WORKS(oyez_listen(text, NULL));
    int copy = (int)MUST(dup(original));
    snprintf(text, sizeof text, "fd:%d", copy);
    int fd = (int)CHECK_WORKS(oyez_listen(text, NULL));
    int client = client_connect_unix(path);
    MUST(close(client));
    MUST(close(fd));
    if (fd != copy)
        MUST(close(copy));
    CHECK_WORKS(oyez_unlisten(original));
}

/* What an error must say of each wrong descriptor. */
static const char *const shown[] = {
    " is the device /dev/null, not a socket",
    " is a UDP socket bound to 127.0.0.1:",
    " is a TCP socket that is not bound and does not listen",
    " is a Unix stream socket that is not bound and does not listen",
    " is the directory /, not a socket",
    " is a pipe, not a socket",
    " is an epoll instance, not a socket",
    "/odd\\nname, not a socket",
    " is a TCP socket bound to 127.0.0.1:",
    " is a Unix stream socket that is connected",
    " is a netlink socket, not a stream socket",
    " is opened with O_PATH, the socket file ",
    " is a Unix packet socket (SOCK_SEQPACKET) that is not bound and does not listen, not a stream socket",
};

enum { WRONG = sizeof shown / sizeof shown[0] };

static int odd_file(void)
{
    char path[220];
    snprintf(path, sizeof path, "%s/odd\nname", check_folder());
    return (int)MUST(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600));
}

static int bound_socket(void)
{
    struct sockaddr_in here = { 0 };
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    here.sin_family = AF_INET;
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(bind(fd, (struct sockaddr *)&here, sizeof here));
    return fd;
}

static int socket_file(void)
{
    struct sockaddr_un name = { 0 };
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    name.sun_family = AF_UNIX;
    snprintf(name.sun_path, sizeof name.sun_path, "%.90s/a.sock", check_folder());
    MUST(bind(fd, (struct sockaddr *)&name, sizeof name));
    MUST(close(fd));
    return (int)MUST(open(name.sun_path, O_PATH | O_CLOEXEC));
}

static int wrong_descriptor(int which)
{
    int pipes[2];
    switch (which) {
    case 0:
        return (int)MUST(open("/dev/null", O_RDWR | O_CLOEXEC));
    case 1:
        return (int)CHECK_WORKS(oyez_listen("udp:127.0.0.1:0", NULL));
    case 2:
        return (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    case 3:
        return (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    case 4:
        return (int)MUST(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    case 6:
        return (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    case 7:
        return odd_file();
    case 8:
        return bound_socket();
    case 9:
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pipes));
        MUST(close(pipes[1]));
        return pipes[0];
    case 10:
        return (int)MUST(socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    case 11:
        return socket_file();
    case 12:
        return (int)MUST(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    default:
        MUST(pipe2(pipes, O_CLOEXEC));
        MUST(close(pipes[1]));
        return pipes[0];
    }
}

/* Each is refused, and still the caller's. */
static void wrong_descriptors_are_refused(void)
{
    static const int numbers[WRONG] = { ENOTSOCK, EPROTOTYPE, EINVAL, EINVAL, ENOTSOCK, ENOTSOCK, ENOTSOCK, ENOTSOCK,
                                        EINVAL, EINVAL, EPROTOTYPE, EBADF, EPROTOTYPE };
    char text[40];
    for (int which = 0; which < WRONG; which++) {
        int fd = wrong_descriptor(which);
        snprintf(text, sizeof text, "fd:%d", fd);
        CHECK_FAILS(oyez_listen(text, NULL), OYEZ_INVALID_ARGUMENT, numbers[which]);
        CHECK_STR_CONTAINS(oyez_error_message(NULL), text);
        CHECK_STR_CONTAINS(oyez_error_message(NULL), shown[which]);
        CHECK_STR_EQ(oyez_error_operation(NULL), "inherit");
        CHECK_STR_CONTAINS(oyez_error_hint(NULL), numbers[which] == EINVAL ? "listen" : "a listening stream socket");
        MUST(fcntl(fd, F_GETFD));
        MUST(close(fd));
    }
}

static void a_connected_socket_is_refused(void)
{
    char text[40];
    int listener = plain_listener();
    int client = client_connect(oyez_local_port(listener));
    snprintf(text, sizeof text, "fd:%d", client);
    CHECK_FAILS(oyez_listen(text, NULL), OYEZ_INVALID_ARGUMENT, EINVAL);
    snprintf(text, sizeof text, "is connected to 127.0.0.1:%d", oyez_local_port(listener));
    CHECK_STR_CONTAINS(oyez_error_message(NULL), text);
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "pass the listening socket itself");
    MUST(close(client));
    MUST(close(listener));
}

static void closed_descriptors_are_refused(void)
{
    CHECK_FAILS(oyez_listen("fd:77", NULL), OYEZ_INVALID_ARGUMENT, EBADF);
    CHECK_FAILS(oyez_listen("fd:2147483647", NULL), OYEZ_INVALID_ARGUMENT, EBADF);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "descriptor 2147483647 is not open; no descriptor of this process is");
}

/* Those that could have been meant are named, up to a few. */
static void the_listening_ones_are_named(void)
{
    char text[80];
    int listeners[8];
    int pipes[2];
    MUST(pipe2(pipes, O_CLOEXEC));
    for (int i = 0; i < 8; i++) {
        listeners[i] = plain_listener();
        if (i == 1) {
            CHECK_FAILS(oyez_listen("fd:77", NULL), OYEZ_INVALID_ARGUMENT, EBADF);
            snprintf(text, sizeof text, "descriptor 77 is not open; the listening sockets are %d (127.0.0.1:%d), %d (",
                     listeners[0], oyez_local_port(listeners[0]), listeners[1]);
            CHECK_STR_CONTAINS(oyez_error_message(NULL), text);
            CHECK(strstr(oyez_error_message(NULL), "more") == NULL);
        }
    }
    CHECK_FAILS(oyez_listen("fd:77", NULL), OYEZ_INVALID_ARGUMENT, EBADF);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "), and more");
    snprintf(text, sizeof text, "if 127.0.0.1:%d was meant, the address is fd:%d", oyez_local_port(listeners[0]),
             listeners[0]);
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), text);
    for (int i = 0; i < 8; i++)
        MUST(close(listeners[i]));
    MUST(close(pipes[0]));
    MUST(close(pipes[1]));
}

/* systemd's way. */

/* Listeners at 3 and 4, where the service manager puts them; the environment speaks to process `pid`. */
static void pass_two(long pid, const char *count, const char *names)
{
    char text[30];
    int first = plain_listener();
    int second = plain_listener();
    CHECK_EQ_INT(first, 3);
    CHECK_EQ_INT(second, 4);
    snprintf(text, sizeof text, "%ld", pid);
    MUST(setenv("LISTEN_PID", text, 1));
    MUST(setenv("LISTEN_FDS", count, 1));
    if (names != NULL)
        MUST(setenv("LISTEN_FDNAMES", names, 1));
}

static void end_two(void)
{
    MUST(close(3));
    MUST(close(4));
}

static void the_first_and_the_named(void)
{
    pass_two(getpid(), "2", "web:admin");
    int first_port = oyez_local_port(3);
    int second_port = oyez_local_port(4);
    int named = (int)CHECK_WORKS(oyez_listen("systemd:admin", NULL));
    int first = (int)CHECK_WORKS(oyez_listen("systemd:", NULL));
    CHECK_EQ_INT(oyez_local_port(named), second_port);
    CHECK_EQ_INT(oyez_local_port(first), first_port);
    check_and_close(named, 4);
    check_and_close(first, 3);
    CHECK_STR_EQ(getenv("LISTEN_FDS"), "2");
    CHECK_STR_EQ(getenv("LISTEN_FDNAMES"), "web:admin");
}

static void without_names(void)
{
    pass_two(getpid(), "2", NULL);
    CHECK_FAILS(oyez_listen("systemd:web", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "LISTEN_FDNAMES is not set");
    int fd = (int)CHECK_WORKS(oyez_listen("systemd:", NULL));
    CHECK_EQ_INT(oyez_local_port(fd), oyez_local_port(3));
    check_and_close(fd, 3);
    MUST(close(4));
}

static void no_such_name(void)
{
    pass_two(getpid(), "2", "web:admin");
    CHECK_FAILS(oyez_listen("systemd:mail", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "the names are web (descriptor 3), admin (descriptor 4)");
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "FileDescriptorName=");
    MUST(setenv("LISTEN_FDNAMES", "w\nb:\x1b[31m\xff", 1));
    CHECK_FAILS(oyez_listen("systemd:mail", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "w\\nb (descriptor 3), \\u{1b}[31m\\xff (descriptor 4)");
    MUST(setenv("LISTEN_FDNAMES", "web:admin", 1));
    CHECK_FAILS(oyez_listen("systemd:we", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    end_two();
}

static void nothing_was_passed(void)
{
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    CHECK_FAILS(oyez_listen("systemd:", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "LISTEN_FDS is not set");
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "systemd.socket(5)");
    MUST(setenv("LISTEN_FDS", "1", 1));
    CHECK_FAILS(oyez_listen("systemd:", NULL), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "LISTEN_FDS is set, but LISTEN_PID is not");
}

/* LISTEN_PID names that process; this one has been passed nothing, and is told by these words. */
static void check_meant_for(long pid, const char *message, const char *hint)
{
    char text[200];
    snprintf(text, sizeof text, "%ld", pid);
    MUST(setenv("LISTEN_PID", text, 1));
    CHECK_FAILS(oyez_listen("systemd:", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    snprintf(text, sizeof text, "LISTEN_PID is %ld%s, this process is %d: the sockets were passed to another process",
             pid, message, (int)getpid());
    CHECK_STR_CONTAINS(oyez_error_message(NULL), text);
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), hint);
}

static void check_as_child(void *argument)
{
    (void)argument;
    check_meant_for((long)getppid(), " (a\\nb\\u{1b}[31m\\xff)", "must start the program by `exec`");
}

static void wait_for_the_end(void *argument)
{
    char byte;
    int *end = argument;
    MUST(prctl(PR_SET_NAME, "other", 0, 0, 0));
    MUST(close(end[1]));
    MUST(write(end[3], "r", 1));
    while (read(end[0], &byte, 1) > 0)
        ;
}

static void the_process_it_was_meant_for_is_named(void)
{
    char byte;
    int ends[4];
    MUST(pipe2(ends, O_CLOEXEC));
    MUST(pipe2(ends + 2, O_CLOEXEC));
    MUST(setenv("LISTEN_FDS", "1", 1));
    pid_t other = check_fork(wait_for_the_end, ends);
    CHECK_EQ_INT(MUST(read(ends[2], &byte, 1)), 1);
    check_meant_for((long)other, " (other)", "the variables were inherited from it");
    MUST(close(ends[1]));
    check_join(other);
    check_meant_for((long)other, ", which is not running", "must `exec` it instead");
    check_meant_for(2147483647, ", which is not running", "in a container");
    check_meant_for(0, ", which is not running", "in a container");
    MUST(prctl(PR_SET_NAME, "a\nb\x1b[31m\xff", 0, 0, 0));
    check_join(check_fork(check_as_child, NULL));
    MUST(close(ends[0]));
    MUST(close(ends[2]));
    MUST(close(ends[3]));
}

/* What the environment says is for the process it names; another has been passed nothing. */
static void meant_for_another_process(void)
{
    pass_two((long)getppid(), "2", "web:admin");
    CHECK_FAILS(oyez_listen("systemd:", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    CHECK_FAILS(oyez_listen("systemd:web", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    MUST(fcntl(3, F_GETFD));
    end_two();
}

static void garbage_in_the_environment(void)
{
    static const char *const counts[] = { "-1", "99999999999", "x", "", "2x", " 2", "+2", "2147483647" };
    char own[30];
    pass_two(getpid(), "2", NULL);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        MUST(setenv("LISTEN_FDS", counts[i], 1));
        errno = 0;
        if (oyez_listen("systemd:", NULL) != -1 || errno == 0)
            check_fail(__FILE__, __LINE__, "LISTEN_FDS=\"%s\" was taken", counts[i]);
        CHECK_STR_CONTAINS(oyez_error_message(NULL), "LISTEN_FDS is malformed: \"");
        CHECK_STR_CONTAINS(oyez_error_message(NULL), counts[i]);
        CHECK_STR_CONTAINS(oyez_error_hint(NULL), "a count from 1 on");
    }
    MUST(setenv("LISTEN_FDS", "2", 1));
    snprintf(own, sizeof own, "%dx", (int)getpid());
    MUST(setenv("LISTEN_PID", own, 1));
    CHECK_EQ_INT(oyez_listen("systemd:", NULL), -1);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "LISTEN_PID is malformed: \"");
    MUST(fcntl(3, F_GETFD));
    end_two();
}

static void more_promised_than_passed(void)
{
    pass_two(getpid(), "3", NULL);
    CHECK_FAILS(oyez_listen("systemd:", NULL), OYEZ_INVALID_ARGUMENT, EBADF);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "LISTEN_FDS is 3, and descriptor 5 is not open; the listening sockets");
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "the descriptors from 3 on");
    MUST(fcntl(3, F_GETFD));
    end_two();
}

static void more_names_than_descriptors(void)
{
    pass_two(getpid(), "2", "web:admin:mail");
    CHECK_FAILS(oyez_listen("systemd:web", NULL), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "LISTEN_FDNAMES has 3 names, and LISTEN_FDS is 2; the names are web");
    end_two();
}

static void what_was_passed_is_no_listener(void)
{
    pass_two(getpid(), "2", "web:null");
    int file = (int)MUST(open("/dev/null", O_RDWR | O_CLOEXEC));
    MUST(dup2(file, 4));
    MUST(close(file));
    CHECK_FAILS(oyez_listen("systemd:null", NULL), OYEZ_INVALID_ARGUMENT, ENOTSOCK);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "descriptor 4 is the device /dev/null, not a socket");
    MUST(fcntl(4, F_GETFD));
    end_two();
}

static const check_case cases[] = {
    CASE(an_inherited_listener),
    CASE(an_inherited_unix_listener),
    CASE(wrong_descriptors_are_refused),
    CASE(a_connected_socket_is_refused),
    CASE(closed_descriptors_are_refused),
    CASE(the_listening_ones_are_named),
    CASE(the_first_and_the_named),
    CASE(without_names),
    CASE(no_such_name),
    CASE(nothing_was_passed),
    CASE(the_process_it_was_meant_for_is_named),
    CASE(meant_for_another_process),
    CASE(garbage_in_the_environment),
    CASE(more_promised_than_passed),
    CASE(more_names_than_descriptors),
    CASE(what_was_passed_is_no_listener),
};

CHECK_MAIN(cases)
