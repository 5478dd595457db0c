/* Listeners that were passed in: fd:N, and systemd's environment. */
#define _GNU_SOURCE
#include "clients.h"
#include "expect.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
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
    default:
        MUST(pipe2(pipes, O_CLOEXEC));
        MUST(close(pipes[1]));
        return pipes[0];
    }
}

/* Each is refused, and still the caller's. */
static void wrong_descriptors_are_refused(void)
{
    static const int numbers[] = { ENOTSOCK, ANY_ERRNO, EINVAL, EINVAL, ENOTSOCK, ENOTSOCK };
    char text[40];
    for (int which = 0; which < 6; which++) {
        int fd = wrong_descriptor(which);
        snprintf(text, sizeof text, "fd:%d", fd);
        CHECK_FAILS(oyez_listen(text, NULL), OYEZ_INVALID_ARGUMENT, numbers[which]);
        CHECK_STR_CONTAINS(oyez_error_message(NULL), text);
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
    MUST(close(client));
    MUST(close(listener));
}

static void closed_descriptors_are_refused(void)
{
    CHECK_FAILS(oyez_listen("fd:77", NULL), OYEZ_INVALID_ARGUMENT, EBADF);
    CHECK_FAILS(oyez_listen("fd:2147483647", NULL), OYEZ_INVALID_ARGUMENT, EBADF);
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
    int fd = (int)CHECK_WORKS(oyez_listen("systemd:", NULL));
    CHECK_EQ_INT(oyez_local_port(fd), oyez_local_port(3));
    check_and_close(fd, 3);
    MUST(close(4));
}

static void no_such_name(void)
{
    pass_two(getpid(), "2", "web:admin");
    CHECK_FAILS(oyez_listen("systemd:mail", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    CHECK(oyez_error_hint(NULL)[0] != '\0');
    CHECK_FAILS(oyez_listen("systemd:we", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    end_two();
}

static void nothing_was_passed(void)
{
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    CHECK_FAILS(oyez_listen("systemd:", NULL), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    CHECK(oyez_error_hint(NULL)[0] != '\0');
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
    }
    MUST(setenv("LISTEN_FDS", "2", 1));
    snprintf(own, sizeof own, "%dx", (int)getpid());
    MUST(setenv("LISTEN_PID", own, 1));
    CHECK_EQ_INT(oyez_listen("systemd:", NULL), -1);
    MUST(fcntl(3, F_GETFD));
    end_two();
}

static void more_promised_than_passed(void)
{
    pass_two(getpid(), "3", NULL);
    CHECK_FAILS(oyez_listen("systemd:", NULL), OYEZ_INVALID_ARGUMENT, EBADF);
    MUST(fcntl(3, F_GETFD));
    end_two();
}

static void more_names_than_descriptors(void)
{
    pass_two(getpid(), "2", "web:admin:mail");
    CHECK_FAILS(oyez_listen("systemd:web", NULL), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    end_two();
}

static void what_was_passed_is_no_listener(void)
{
    pass_two(getpid(), "2", "web:null");
    int file = (int)MUST(open("/dev/null", O_RDWR | O_CLOEXEC));
    MUST(dup2(file, 4));
    MUST(close(file));
    CHECK_FAILS(oyez_listen("systemd:null", NULL), OYEZ_INVALID_ARGUMENT, ENOTSOCK);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "4");
    MUST(fcntl(4, F_GETFD));
    end_two();
}

static const check_case cases[] = {
    CASE(an_inherited_listener),
    CASE(an_inherited_unix_listener),
    CASE(wrong_descriptors_are_refused),
    CASE(a_connected_socket_is_refused),
    CASE(closed_descriptors_are_refused),
    CASE(the_first_and_the_named),
    CASE(without_names),
    CASE(no_such_name),
    CASE(nothing_was_passed),
    CASE(meant_for_another_process),
    CASE(garbage_in_the_environment),
    CASE(more_promised_than_passed),
    CASE(more_names_than_descriptors),
    CASE(what_was_passed_is_no_listener),
};

CHECK_MAIN(cases)
