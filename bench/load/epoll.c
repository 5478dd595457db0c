/* The engine on epoll: edge-triggered, one thread. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENTS = 1024 };

static unsigned char input[CHUNK];
static int poller;

static void prepare(void)
{
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fail("epoll_create1: %s", strerror(errno));
}

static void watch(struct connection *connection, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data = {.ptr = connection}};

    if (epoll_ctl(poller, operation, connection->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

/* Sends as much as was started and the kernel takes; the rest when it is writable. */
static void pump(struct connection *connection)
{
    while (connection->sent < connection->goal) {
        uint64_t rest = connection->goal - connection->sent;
        ssize_t sent = send(connection->fd, to_send(connection),
                            rest < CHUNK ? (size_t)rest : CHUNK, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            return;
        if (sent < 0)
            fail("send: %s", strerror(errno));
        was_sent(connection, (size_t)sent);
    }
}

/* All of what is there is read; a short read says that nothing is left. */
static void receive(struct connection *connection)
{
    for (;;) {
        uint64_t due = connection->sent - connection->received;
        size_t room = due < CHUNK ? (size_t)due : CHUNK;
        ssize_t got = recv(connection->fd, input, room > 0 ? room : 1, 0);

        if (got < 0 && errno == EAGAIN)
            return;
        if (got < 0)
            fail("recv: %s", strerror(errno));
        if (got == 0)
            fail("the server closed a connection");
        now = clock_ns(CLOCK_MONOTONIC);
        arrived(connection, input, (size_t)got);
        pump(connection);
        if ((size_t)got < room || connection->received == connection->sent || (uint64_t)got == due)
            return;
    }
}

/* A line is sent as soon as the connection is made, which over loopback it is at once. */
static void line_send(struct connection *connection)
{
    ssize_t sent = send(connection->fd, to_send(connection), asked.size, MSG_NOSIGNAL);

    if (sent < 0 && errno != EAGAIN)
        fail("send: %s", strerror(errno));
    if (sent >= 0 && (size_t)sent != asked.size)
        fail("send: only %zd bytes of a line were taken", sent);
    connection->sent = sent > 0 ? (uint64_t)sent : 0;
}

static void line_begin(struct connection *connection)
{
    struct sockaddr_storage address;
    socklen_t size = server_address(&address);

    if (!may_start())
        return;
    begin_stream(connection, 0);
    connection->started[0] = now = clock_ns(CLOCK_MONOTONIC);
    connection->fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connection->fd < 0)
        fail("socket: %s", strerror(errno));
    if (connect(connection->fd, (struct sockaddr *)&address, size) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    line_send(connection);
    watch(connection, EPOLL_CTL_ADD, connection->sent > 0 ? EPOLLIN : EPOLLOUT);
}

static void line_event(struct connection *connection)
{
    ssize_t got;

    if (connection->sent == 0) {
        line_send(connection);
        if (connection->sent > 0)
            watch(connection, EPOLL_CTL_MOD, EPOLLIN);
        return;
    }
    while ((got = recv(connection->fd, input, sizeof input, 0)) > 0)
        line_arrived(connection, input, (size_t)got);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got < 0)
        fail("recv: %s", strerror(errno));
    close(connection->fd);
    now = clock_ns(CLOCK_MONOTONIC);
    line_ended(connection);
    line_begin(connection);
}

static void begin(struct connection *connection)
{
    if (asked.line) {
        line_begin(connection);
        return;
    }
    if (fcntl(connection->fd, F_SETFL, O_NONBLOCK) < 0)
        fail("O_NONBLOCK: %s", strerror(errno));
    watch(connection, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLET);
}

static void echo_event(struct connection *connection, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(connection);
    if (events & EPOLLOUT)
        pump(connection);
}

static void turn(void)
{
    static struct epoll_event events[EVENTS];
    int count = epoll_wait(poller, events, EVENTS, GIVE_UP_SECONDS * 1000);

    if (count < 0 && errno != EINTR)
        fail("epoll_wait: %s", strerror(errno));
    if (count == 0)
        fail("nothing came back for %d seconds", GIVE_UP_SECONDS);
    for (int i = 0; i < count; i++) {
        if (asked.line)
            line_event(events[i].data.ptr);
        else
            echo_event(events[i].data.ptr, events[i].events);
    }
    now = clock_ns(CLOCK_MONOTONIC);
}

const struct engine epoll_engine = {"epoll", prepare, begin, pump, turn};
