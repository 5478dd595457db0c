/* An echo server by hand: epoll, level-triggered, one thread. What the others are compared with. */
#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <sys/epoll.h>

enum { EVENTS = 256 };

struct client {
    int fd;
    int ending;             /* close when all is sent */
    unsigned char *rest;    /* what the kernel has not taken yet; nothing is read meanwhile */
    size_t size, sent;
};

static unsigned char buffer[BUFFER];
static struct asked asked;
static int poller;

static void end(struct client *client)
{
    close(client->fd);
    free(client->rest);
    free(client);
}

static void watch(struct client *client, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data = {.ptr = client}};

    if (epoll_ctl(poller, operation, client->fd, &event) < 0)
        fail("epoll_ctl");
}

/* Accepts all that wait. */
static void welcome(int listener)
{
    for (;;) {
        struct client *client;
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED))
            return;
        if (fd < 0)
            fail("accept4");
        client = calloc(1, sizeof *client);
        if (client == NULL)
            fail("calloc");
        client->fd = fd;
        watch(client, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void keep(struct client *client, const unsigned char *bytes, size_t size)
{
    client->rest = malloc(size);
    if (client->rest == NULL)
        fail("malloc");
    memcpy(client->rest, bytes, size);
    client->size = size;
    client->sent = 0;
    watch(client, EPOLL_CTL_MOD, EPOLLOUT);
}

static void receive(struct client *client)
{
    ssize_t got = recv(client->fd, buffer, sizeof buffer, 0), sent;

    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        end(client);
        return;
    }
    client->ending = ends(asked.line, buffer, (size_t)got);
    sent = send(client->fd, buffer, (size_t)got, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        end(client);
        return;
    }
    if (sent < 0)
        sent = 0;
    if (sent < got)
        keep(client, buffer + sent, (size_t)(got - sent));
    else if (client->ending)
        end(client);
}

static void send_rest(struct client *client)
{
    ssize_t sent = send(client->fd, client->rest + client->sent, client->size - client->sent, MSG_NOSIGNAL);

    if (sent < 0 && errno == EAGAIN)
        return;
    if (sent >= 0)
        client->sent += (size_t)sent;
    if (sent < 0 || (client->sent == client->size && client->ending)) {
        end(client);
        return;
    }
    if (client->sent == client->size) {
        free(client->rest);
        client->rest = NULL;
        watch(client, EPOLL_CTL_MOD, EPOLLIN);
    }
}

int main(int argc, char **argv)
{
    static struct epoll_event events[EVENTS];
    struct client listener = {0, 0, NULL, 0, 0};

    asked = read_arguments(argc, argv);
    listener.fd = listen_by_hand(asked, SOCK_NONBLOCK);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fail("epoll_create1");
    watch(&listener, EPOLL_CTL_ADD, EPOLLIN);
    announce(listener.fd);
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);

        for (int i = 0; i < count; i++) {
            struct client *client = events[i].data.ptr;
            if (client == &listener)
                welcome(listener.fd);
            else if (client->rest != NULL)
                send_rest(client);
            else
                receive(client);
        }
    }
}
