/* oyez_accept: timeouts, signals, many acceptors on one listener, what is accepted, and running out of descriptors. */
#define _GNU_SOURCE
#include "clients.h"
#include "expect.h"
#include "places.h"
#include "storm.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* A blocking listener, or one that is not. */
static int listener_of(int nonblocking)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.nonblocking = nonblocking ? OYEZ_ON : OYEZ_OFF;
    return (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", &options));
}

static void timeouts(void)
{
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int fd = listener_of(nonblocking);
        long long start = check_now_ms();
        CHECK_FAILS(oyez_accept(fd, NULL, 0, 0), OYEZ_TIMED_OUT, EAGAIN);
        CHECK_TOOK(start, 0, 500);
        start = check_now_ms();
        CHECK_FAILS(oyez_accept(fd, NULL, 0, 150), OYEZ_TIMED_OUT, EAGAIN);
        CHECK_TOOK(start, 149, 2000);
        MUST(close(fd));
    }
}

static void what_is_queued_is_taken_at_once(void)
{
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int fd = listener_of(nonblocking);
        int client = client_connect(oyez_local_port(fd));
        int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 0));
        CHECK_EQ_INT(MUST(fcntl(accepted, F_GETFD)), FD_CLOEXEC);
        CHECK_EQ_INT(MUST(fcntl(accepted, F_GETFL)) & O_NONBLOCK, 0);
        client_send_text(client, "x");
        client_expect(accepted, "x");
        MUST(close(accepted));
        MUST(close(client));
        MUST(close(fd));
    }
}

typedef struct later {
    int port;
    int ms;
    int client;
} later;

static void *connect_later(void *argument)
{
    later *one = argument;
    check_nap(one->ms);
    one->client = client_connect(one->port);
    return NULL;
}

static void it_waits_for_a_client(void)
{
    for (int i = 0; i < 4; i++) {
        int fd = listener_of(i % 2);
        later one = { oyez_local_port(fd), 50, -1 };
        pthread_t thread = check_thread(connect_later, &one);
        int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, i < 2 ? -1 : 20000));
        check_thread_join(thread);
        MUST(close(accepted));
        MUST(close(one.client));
        MUST(close(fd));
    }
}

static void signals_do_not_lengthen_the_wait(void)
{
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int fd = listener_of(nonblocking);
        storm_start();
        long long start = check_now_ms();
        CHECK_FAILS(oyez_accept(fd, NULL, 0, 300), OYEZ_TIMED_OUT, EAGAIN);
        CHECK_TOOK(start, 299, 1500);
        later one = { oyez_local_port(fd), 100, -1 };
        pthread_t thread = check_thread(connect_later, &one);
        int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, -1));
        storm_end();
        check_thread_join(thread);
        MUST(close(accepted));
        MUST(close(one.client));
        MUST(close(fd));
    }
}

/* Several acceptors, fewer clients: those who get none come back in time. */

enum { ACCEPTORS = 5, WAIT_MS = 300 };

typedef struct acceptor {
    int listener;
    int got;
} acceptor;

static void *accept_in_time(void *argument)
{
    acceptor *one = argument;
    long long start = check_now_ms();
    int fd = oyez_accept(one->listener, NULL, 0, WAIT_MS);
    CHECK_TOOK(start, 0, WAIT_MS + 2000);
    one->got = fd != -1;
    if (fd == -1)
        CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_TIMED_OUT);
    else
        MUST(close(fd));
    return NULL;
}

static void race_of_threads(int listener, int clients)
{
    pthread_t threads[ACCEPTORS];
    acceptor all[ACCEPTORS];
    int open[ACCEPTORS];
    int served = 0;
    for (int i = 0; i < ACCEPTORS; i++) {
        all[i].listener = listener;
        threads[i] = check_thread(accept_in_time, &all[i]);
    }
    check_nap(20); /* so that they wait when the clients come */
    for (int i = 0; i < clients; i++)
        open[i] = client_connect(oyez_local_port(listener));
    for (int i = 0; i < ACCEPTORS; i++) {
        check_thread_join(threads[i]);
        served += all[i].got;
    }
    CHECK_EQ_INT(served, clients);
    for (int i = 0; i < clients; i++)
        MUST(close(open[i]));
}

static void threads_share_a_listener(void)
{
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int fd = listener_of(nonblocking);
        for (int round = 0; round < 8; round++)
            race_of_threads(fd, round % ACCEPTORS);
        MUST(close(fd));
    }
}

static void accept_and_tell(void *argument)
{
    acceptor one = { *(int *)argument, 0 };
    accept_in_time(&one);
    _exit(one.got);
}

static void race_of_processes(int listener, int clients)
{
    pid_t children[ACCEPTORS];
    int open[ACCEPTORS];
    int served = 0;
    for (int i = 0; i < ACCEPTORS; i++)
        children[i] = check_fork(accept_and_tell, &listener);
    check_nap(20);
    for (int i = 0; i < clients; i++)
        open[i] = client_connect(oyez_local_port(listener));
    for (int i = 0; i < ACCEPTORS; i++) {
        int status;
        MUST(waitpid(children[i], &status, 0));
        CHECK(WIFEXITED(status));
        served += WEXITSTATUS(status);
    }
    CHECK_EQ_INT(served, clients);
    for (int i = 0; i < clients; i++)
        MUST(close(open[i]));
}

static void processes_share_a_listener(void)
{
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int fd = listener_of(nonblocking);
        for (int round = 0; round < 8; round++)
            race_of_processes(fd, 1 + round % (ACCEPTORS - 1));
        MUST(close(fd));
    }
}

/* The flags are shared with whoever has a copy of the listener: they stay. */
static void flags_are_left_alone(void)
{
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int fd = listener_of(nonblocking);
        int copy = (int)MUST(dup(fd));
        int flags = (int)MUST(fcntl(fd, F_GETFL));
        oyez_accept(fd, NULL, 0, 50);
        CHECK_EQ_INT(MUST(fcntl(copy, F_GETFL)), flags);
        later one = { oyez_local_port(fd), 50, -1 };
        pthread_t thread = check_thread(connect_later, &one);
        int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
        CHECK_EQ_INT(MUST(fcntl(copy, F_GETFL)), flags);
        check_thread_join(thread);
        MUST(close(accepted));
        MUST(close(one.client));
        MUST(close(copy));
        MUST(close(fd));
    }
}

/* accept(2) by hand, before and after. */
static void plain_accept_goes_on_working(void)
{
    int fd = listener_of(0);
    for (int i = 0; i < 6; i++) {
        int client = client_connect(oyez_local_port(fd));
        int accepted = i % 2 == 0 ? accept(fd, NULL, NULL) : oyez_accept(fd, NULL, 0, 10000);
        MUST(accepted);
        MUST(close(accepted));
        MUST(close(client));
    }
    MUST(close(fd));
}

static void peers_in_words(void)
{
    char peer[64];
    char expected[64];
    int fd = listener_of(0);
    int client = client_connect(oyez_local_port(fd));
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, peer, sizeof peer, 10000));
    snprintf(expected, sizeof expected, "127.0.0.1:%d", client_own_port(client));
    CHECK_STR_EQ(peer, expected);
    MUST(close(accepted));
    MUST(close(client));
    MUST(close(fd));
    fd = oyez_listen("[::1]:0", NULL);
    if (fd == -1)
        return; /* no IPv6 here */
    client = client_connect6(oyez_local_port(fd));
    accepted = (int)CHECK_WORKS(oyez_accept(fd, peer, sizeof peer, 10000));
    snprintf(expected, sizeof expected, "[::1]:%d", client_own_port(client));
    CHECK_STR_EQ(peer, expected);
    MUST(close(accepted));
    MUST(close(client));
    MUST(close(fd));
}

static void a_peer_that_does_not_fit_is_cut(void)
{
    char peer[16];
    int fd = listener_of(0);
    for (size_t size = 0; size <= 8; size++) {
        int client = client_connect(oyez_local_port(fd));
        memset(peer, '#', sizeof peer);
        int accepted = (int)CHECK_WORKS(oyez_accept(fd, peer, size, 10000));
        CHECK_EQ_INT(peer[size], '#');
        if (size > 0) {
            CHECK_EQ_INT(strlen(peer), size - 1);
            CHECK_EQ_INT(strncmp(peer, "127.0.0.1", size - 1), 0);
        }
        MUST(close(accepted));
        MUST(close(client));
    }
    MUST(close(fd));
}

/* A client that was reset while it waited: accepted, its address known, its bytes there. */
static void accepted_after_a_reset(void)
{
    char peer[64];
    char expected[64];
    char byte;
    int fd = listener_of(0);
    int client = client_connect(oyez_local_port(fd));
    snprintf(expected, sizeof expected, "127.0.0.1:%d", client_own_port(client));
    client_reset(client);
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, peer, sizeof peer, 10000));
    CHECK_STR_EQ(peer, expected);
    CHECK_FAILS(oyez_peer_address(accepted, peer, sizeof peer), OYEZ_CLOSED, ENOTCONN);
    CHECK_FAILS(oyez_read(accepted, &byte, 1, 10000), OYEZ_CLOSED, ECONNRESET);
    MUST(close(accepted));
    MUST(close(fd));
}

static void out_of_descriptors(void)
{
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int fd = listener_of(nonblocking);
        int client = client_connect(oyez_local_port(fd));
        for (int timeout = -1; timeout <= 100; timeout += 50) {
            int before = place_descriptors_left(0);
            long long start = check_now_ms();
            CHECK_FAILS(oyez_accept(fd, NULL, 0, timeout), OYEZ_LIMIT_REACHED, EMFILE);
            CHECK_TOOK(start, 0, 2000);
            CHECK(oyez_error_hint(NULL)[0] != '\0');
            place_descriptor_limit(before);
        }
        int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
        client_send_text(client, "still here");
        client_expect(accepted, "still here");
        MUST(close(accepted));
        MUST(close(client));
        MUST(close(fd));
    }
}

/* One descriptor is enough for the one that is accepted. */
static void the_last_descriptor_is_enough(void)
{
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int fd = listener_of(nonblocking);
        int client = client_connect(oyez_local_port(fd));
        int before = place_descriptors_left(1);
        int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 1000));
        place_descriptor_limit(before);
        MUST(close(accepted));
        MUST(close(client));
        MUST(close(fd));
    }
}

/* A client must not become standard input or output, which other code closes or writes to. */
static void never_standard_input(void)
{
    int kept = (int)MUST(fcntl(0, F_DUPFD_CLOEXEC, 50));
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int fd = listener_of(nonblocking);
        int client = client_connect(oyez_local_port(fd));
        MUST(close(0));
        int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
        int is_free = fcntl(0, F_GETFD) == -1;
        MUST(dup2(kept, 0));
        CHECK(accepted > 2);
        CHECK(is_free);
        CHECK_EQ_INT(MUST(fcntl(accepted, F_GETFD)), FD_CLOEXEC);
        MUST(close(accepted));
        MUST(close(client));
        MUST(close(fd));
    }
    MUST(close(kept));
}

static void never_standard_output(void)
{
    int kept = (int)MUST(fcntl(1, F_DUPFD_CLOEXEC, 50));
    int fd = listener_of(0);
    int client = client_connect(oyez_local_port(fd));
    MUST(close(1));
    MUST(close(2));
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
    MUST(dup2(kept, 1));
    MUST(dup2(kept, 2));
    CHECK(accepted > 2);
    MUST(close(accepted));
    MUST(close(client));
    MUST(close(fd));
    MUST(close(kept));
}

static void what_is_no_listener(void)
{
    int pipes[2];
    MUST(pipe2(pipes, O_CLOEXEC));
    CHECK_FAILS(oyez_accept(pipes[0], NULL, 0, 0), OYEZ_INVALID_ARGUMENT, ENOTSOCK);
    CHECK_FAILS(oyez_accept(pipes[0], NULL, 0, -1), OYEZ_INVALID_ARGUMENT, ENOTSOCK);
    CHECK_FAILS(oyez_accept(-1, NULL, 0, -1), OYEZ_INVALID_ARGUMENT, EBADF);
    CHECK_FAILS(oyez_accept(999, NULL, 0, 100), OYEZ_INVALID_ARGUMENT, EBADF);
    int plain = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_FAILS(oyez_accept(plain, NULL, 0, -1), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_accept(plain, NULL, 0, 100), OYEZ_INVALID_ARGUMENT, EINVAL);
    int datagrams = (int)CHECK_WORKS(oyez_listen("udp:127.0.0.1:0", NULL));
    CHECK_FAILS(oyez_accept(datagrams, NULL, 0, 100), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    MUST(close(plain));
    MUST(close(datagrams));
    MUST(close(pipes[0]));
    MUST(close(pipes[1]));
}

/* Thousands in a row: no descriptor, thread or memory goes astray. */
static void many_in_a_row(void)
{
    char peer[64];
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int fd = listener_of(nonblocking);
        int port = oyez_local_port(fd);
        long memory = 0;
        int before = check_descriptors();
        for (int i = 0; i < 3000; i++) {
            int client = client_connect(port);
            int accepted = (int)CHECK_WORKS(oyez_accept(fd, peer, sizeof peer, 10000));
            MUST(close(client));
            MUST(close(accepted));
            if (i == 500)
                memory = check_memory();
        }
        CHECK_EQ_INT(check_descriptors(), before);
        CHECK(check_memory() - memory < 2000);
        MUST(close(fd));
    }
}

/* What oyez_accept does inside must not show in other calls: no EINTR where no signal came. */
static void no_call_is_interrupted_later(void)
{
    int interrupted = 0;
    struct epoll_event event;
    int fd = listener_of(0);
    int port = oyez_local_port(fd);
    int waiting = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    for (int i = 0; i < 3000; i++) {
        int client = client_connect(port);
        int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
        interrupted += epoll_wait(waiting, &event, 1, i % 20 == 0) == -1 && errno == EINTR;
        MUST(close(accepted));
        MUST(close(client));
    }
    MUST(close(waiting));
    MUST(close(fd));
    if (interrupted != 0)
        check_fail(__FILE__, __LINE__, "epoll_wait was interrupted %d times", interrupted);
}

static const check_case cases[] = {
    CASE(timeouts),
    CASE(what_is_queued_is_taken_at_once),
    CASE(it_waits_for_a_client),
    CASE(signals_do_not_lengthen_the_wait),
    CASE(threads_share_a_listener),
    CASE(processes_share_a_listener),
    CASE(flags_are_left_alone),
    CASE(plain_accept_goes_on_working),
    CASE(peers_in_words),
    CASE(a_peer_that_does_not_fit_is_cut),
    CASE(accepted_after_a_reset),
    CASE(out_of_descriptors),
    CASE(the_last_descriptor_is_enough),
    CASE(never_standard_input),
    CASE(never_standard_output),
    CASE(what_is_no_listener),
    CASE(many_in_a_row),
    CASE(no_call_is_interrupted_later),
};

CHECK_MAIN(cases)
