/* oyez_read and oyez_write on plain descriptors: deadlines, ends, SIGPIPE, and every byte of a big transfer. */
#define _GNU_SOURCE
#include "clients.h"
#include "expect.h"
#include "storm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BIG = 64 * 1024 * 1024 };

/* Two ends of one connection. */
typedef struct ends {
    int here;
    int there;
} ends;

static ends connect_tcp(void)
{
    ends made;
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    made.there = client_connect(oyez_local_port(fd));
    made.here = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
    MUST(close(fd));
    return made;
}

static ends connect_unix(void)
{
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    return (ends){ pair[0], pair[1] };
}

static ends connect_as(int kind)
{
    return kind == 0 ? connect_tcp() : connect_unix();
}

static void close_ends(ends pair)
{
    MUST(close(pair.here));
    MUST(close(pair.there));
}

static void set_nonblocking(int fd)
{
    MUST(fcntl(fd, F_SETFL, MUST(fcntl(fd, F_GETFL)) | O_NONBLOCK));
}

/* Small enough that a big write needs thousands of sends. A small receive buffer would only make TCP slow. */
static void set_small_buffers(int fd)
{
    int size = 4096;
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
}

static void reading(void)
{
    char text[16] = "";
    for (int kind = 0; kind < 4; kind++) {
        ends pair = connect_as(kind % 2);
        if (kind >= 2)
            set_nonblocking(pair.here);
        client_send_text(pair.there, "hello");
        CHECK_EQ_INT(oyez_read(pair.here, text, sizeof text, 10000), 5);
        CHECK_STR_EQ(text, "hello");
        client_send_text(pair.there, "abc");
        CHECK_EQ_INT(oyez_read(pair.here, text, 1, -1), 1);
        CHECK_EQ_INT(text[0], 'a');
        CHECK_EQ_INT(oyez_read(pair.here, text, 1, 0), 1);
        CHECK_EQ_INT(oyez_read(pair.here, text, 0, 0), 0);
        CHECK_EQ_INT(oyez_read(pair.here, NULL, 0, 0), 0);
        CHECK_EQ_INT(oyez_read(pair.here, text, 16, 0), 1);
        MUST(shutdown(pair.there, SHUT_WR));
        CHECK_EQ_INT(oyez_read(pair.here, text, 16, 10000), 0);
        CHECK_EQ_INT(oyez_read(pair.here, text, 16, -1), 0);
        CHECK_EQ_INT(oyez_write(pair.here, "bye", 3, -1), 3);
        client_expect(pair.there, "bye");
        close_ends(pair);
    }
}

static void reading_times_out(void)
{
    char byte;
    for (int kind = 0; kind < 4; kind++) {
        ends pair = connect_as(kind % 2);
        if (kind >= 2)
            set_nonblocking(pair.here);
        long long start = check_now_ms();
        CHECK_FAILS(oyez_read(pair.here, &byte, 1, 0), OYEZ_TIMED_OUT, EAGAIN);
        CHECK_TOOK(start, 0, 500);
        start = check_now_ms();
        CHECK_FAILS(oyez_read(pair.here, &byte, 1, 100), OYEZ_TIMED_OUT, EAGAIN);
        CHECK_TOOK(start, 99, 1500);
        storm_start();
        start = check_now_ms();
        CHECK_FAILS(oyez_read(pair.here, &byte, 1, 200), OYEZ_TIMED_OUT, EAGAIN);
        CHECK_TOOK(start, 199, 1500);
        storm_end();
        close_ends(pair);
    }
}

static void *send_later(void *argument)
{
    check_nap(50);
    client_send_text(*(int *)argument, "late");
    return NULL;
}

static void reading_waits(void)
{
    char text[8] = "";
    for (int kind = 0; kind < 4; kind++) {
        ends pair = connect_as(kind % 2);
        if (kind >= 2)
            set_nonblocking(pair.here);
        pthread_t thread = check_thread(send_later, &pair.there);
        CHECK_EQ_INT(oyez_read(pair.here, text, sizeof text, kind == 0 ? -1 : 20000), 4);
        CHECK_STR_EQ(text, "late");
        check_thread_join(thread);
        close_ends(pair);
    }
}

static void a_peer_that_does_not_read(void)
{
    char *bytes = calloc(1, BIG);
    for (int kind = 0; kind < 4; kind++) {
        ends pair = connect_as(kind % 2);
        if (kind >= 2)
            set_nonblocking(pair.here);
        long long start = check_now_ms();
        CHECK_FAILS(oyez_write(pair.here, bytes, BIG, 200), OYEZ_TIMED_OUT, EAGAIN);
        CHECK_TOOK(start, 199, 3000);
        start = check_now_ms();
        CHECK_FAILS(oyez_write(pair.here, bytes, BIG, 0), OYEZ_TIMED_OUT, EAGAIN);
        CHECK_TOOK(start, 0, 2000);
        storm_start();
        start = check_now_ms();
        CHECK_FAILS(oyez_write(pair.here, bytes, BIG, 200), OYEZ_TIMED_OUT, EAGAIN);
        CHECK_TOOK(start, 199, 3000);
        storm_end();
        close_ends(pair);
    }
    free(bytes);
}

/* Reads a little now and then, until the end. */
static void *read_slowly(void *argument)
{
    char text[2000];
    while (recv(*(int *)argument, text, sizeof text, 0) > 0)
        check_nap(5);
    return NULL;
}

/* The deadline is for the whole call: a peer that takes a byte now and then does not prolong it. */
static void a_peer_that_reads_slowly(void)
{
    char *bytes = calloc(1, BIG);
    for (int kind = 0; kind < 2; kind++) {
        ends pair = connect_as(kind);
        set_small_buffers(pair.here);
        pthread_t reader = check_thread(read_slowly, &pair.there);
        long long start = check_now_ms();
        CHECK_FAILS(oyez_write(pair.here, bytes, BIG, 400), OYEZ_TIMED_OUT, EAGAIN);
        CHECK_TOOK(start, 399, 3000);
        struct linger now = { 1, 0 };
        MUST(setsockopt(pair.here, SOL_SOCKET, SO_LINGER, &now, sizeof now));
        MUST(close(pair.here));
        check_thread_join(reader);
        MUST(close(pair.there));
    }
    free(bytes);
}

/* SIGPIPE has its default, which ends the process: it must not come. */
static void a_peer_that_is_gone(void)
{
    char bytes[1000] = "";
    struct sigaction action;
    MUST(sigaction(SIGPIPE, NULL, &action));
    CHECK(action.sa_handler == SIG_DFL);
    for (int kind = 0; kind < 4; kind++) {
        ends pair = connect_as(kind % 2);
        if (kind < 2)
            MUST(close(pair.there));
        else
            client_reset(pair.there);
        ssize_t count = sizeof bytes;
        for (int i = 0; i < 1000 && count != -1; i++)
            count = oyez_write(pair.here, bytes, sizeof bytes, 1000);
        expect_keep();
        CHECK_EQ_INT(count, -1);
        CHECK_ERROR(OYEZ_CLOSED, ANY_ERRNO);
        CHECK_FAILS(oyez_write(pair.here, bytes, sizeof bytes, 1000), OYEZ_CLOSED, EPIPE);
        MUST(close(pair.here));
    }
    sigset_t waiting;
    MUST(sigpending(&waiting));
    CHECK(!sigismember(&waiting, SIGPIPE));
}

static void our_own_side_shut(void)
{
    ends pair = connect_tcp();
    MUST(shutdown(pair.here, SHUT_WR));
    CHECK_FAILS(oyez_write(pair.here, "x", 1, 1000), OYEZ_CLOSED, EPIPE);
    close_ends(pair);
}

static void a_reset_while_reading(void)
{
    char byte;
    ends pair = connect_tcp();
    client_reset(pair.there);
    CHECK_FAILS(oyez_read(pair.here, &byte, 1, 10000), OYEZ_CLOSED, ECONNRESET);
    CHECK_EQ_INT(oyez_read(pair.here, &byte, 1, 1000), 0);
    MUST(close(pair.here));
}

/* Big transfers. */

typedef struct transfer {
    int fd;
    size_t size;
    size_t piece;
} transfer;

static void *write_all(void *argument)
{
    transfer *one = argument;
    unsigned char *bytes = malloc(one->size);
    for (size_t i = 0; i < one->size; i++)
        bytes[i] = client_byte(5, i);
    for (size_t at = 0; at < one->size; at += one->piece) {
        size_t size = one->size - at < one->piece ? one->size - at : one->piece;
        CHECK_EQ_INT(CHECK_WORKS(oyez_write(one->fd, bytes + at, size, 30000)), size);
    }
    MUST(shutdown(one->fd, SHUT_WR));
    free(bytes);
    return NULL;
}

static void read_all(int fd, size_t expected, size_t piece)
{
    unsigned char *bytes = malloc(piece);
    size_t have = 0;
    ssize_t count;
    while ((count = (ssize_t)CHECK_WORKS(oyez_read(fd, bytes, piece, 30000))) > 0)
        for (ssize_t i = 0; i < count; i++, have++)
            if (bytes[i] != client_byte(5, have))
                check_fail(__FILE__, __LINE__, "byte %zu is wrong", have);
    CHECK_EQ_INT(have, expected);
    free(bytes);
}

static void transfer_as(int kind, int nonblocking, size_t size, size_t write_piece, size_t read_piece)
{
    ends pair = connect_as(kind);
    set_small_buffers(pair.here);
    set_small_buffers(pair.there);
    if (nonblocking) {
        set_nonblocking(pair.here);
        set_nonblocking(pair.there);
    }
    transfer one = { pair.here, size, write_piece };
    pthread_t writer = check_thread(write_all, &one);
    read_all(pair.there, size, read_piece);
    check_thread_join(writer);
    close_ends(pair);
}

static void big_transfers(void)
{
    for (int kind = 0; kind < 2; kind++) {
        for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
            transfer_as(kind, nonblocking, 4000000, 4000000, 1500);
            transfer_as(kind, nonblocking, 300000, 77, 100000);
        }
    }
}

static void big_transfers_in_a_storm(void)
{
    storm_start();
    for (int kind = 0; kind < 2; kind++)
        transfer_as(kind, kind, 2000000, 2000000, 5000);
    storm_end();
}

static void writing_nothing(void)
{
    ends pair = connect_tcp();
    CHECK_EQ_INT(oyez_write(pair.here, "", 0, 0), 0);
    CHECK_EQ_INT(oyez_write(pair.here, NULL, 0, 0), 0);
    CHECK(!client_readable(pair.there, 50));
    close_ends(pair);
}

/* What is not a connected stream socket. */
static void wrong_descriptors(void)
{
    static const int timeouts[] = { -1, 0, 100 };
    char text[8] = "";
    int pipes[2];
    MUST(pipe2(pipes, O_CLOEXEC));
    int file = (int)MUST(open("/dev/null", O_RDWR | O_CLOEXEC));
    const int fds[] = { -1, -2147483647 - 1, INT_MAX, 999, pipes[0], pipes[1], file };
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
        int number = i < 4 ? EBADF : ENOTSOCK;
        for (size_t t = 0; t < 3; t++) {
            CHECK_FAILS(oyez_read(fds[i], text, sizeof text, timeouts[t]), OYEZ_INVALID_ARGUMENT, number);
            CHECK_FAILS(oyez_write(fds[i], text, sizeof text, timeouts[t]), OYEZ_INVALID_ARGUMENT, number);
        }
    }
    int plain = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    errno = 0;
    CHECK_EQ_INT(oyez_read(plain, text, sizeof text, 100), -1);
    CHECK(errno != 0);
    errno = 0;
    CHECK_EQ_INT(oyez_write(plain, text, sizeof text, 100), -1);
    CHECK(errno != 0);
    MUST(close(plain));
    MUST(close(file));
    MUST(close(pipes[0]));
    MUST(close(pipes[1]));
}

static const check_case cases[] = {
    CASE(reading),
    CASE(reading_times_out),
    CASE(reading_waits),
    CASE(a_peer_that_does_not_read),
    CASE(a_peer_that_reads_slowly),
    CASE(a_peer_that_is_gone),
    CASE(our_own_side_shut),
    CASE(a_reset_while_reading),
    CASE(big_transfers),
    CASE(big_transfers_in_a_storm),
    CASE(writing_nothing),
    CASE(wrong_descriptors),
};

CHECK_MAIN(cases)
