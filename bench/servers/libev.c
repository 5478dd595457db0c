/* An echo server on libev: one watcher for each connection, which waits to read, or to write what is left. */
#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <ev.h>

struct client {
    ev_io watcher;
    int ending;             /* close when all is sent */
    unsigned char *rest;    /* what the kernel has not taken yet; nothing is read meanwhile */
    size_t size, sent;
};

static unsigned char buffer[BUFFER];
static struct asked asked;

static void end(struct ev_loop *loop, struct client *client)
{
    ev_io_stop(loop, &client->watcher);
    close(client->watcher.fd);
    free(client->rest);
    free(client);
}

static void watch(struct ev_loop *loop, struct client *client, int events)
{
    ev_io_stop(loop, &client->watcher);
    ev_io_set(&client->watcher, client->watcher.fd, events);
    ev_io_start(loop, &client->watcher);
}

static void keep(struct ev_loop *loop, struct client *client, const unsigned char *bytes, size_t size)
{
    client->rest = malloc(size);
    if (client->rest == NULL)
        fail("malloc");
    memcpy(client->rest, bytes, size);
    client->size = size;
    client->sent = 0;
    watch(loop, client, EV_WRITE);
}

static void receive(struct ev_loop *loop, struct client *client)
{
    ssize_t got = recv(client->watcher.fd, buffer, sizeof buffer, 0), sent;

    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        end(loop, client);
        return;
    }
    client->ending = ends(asked.line, buffer, (size_t)got);
    sent = send(client->watcher.fd, buffer, (size_t)got, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        end(loop, client);
        return;
    }
    if (sent < 0)
        sent = 0;
    if (sent < got)
        keep(loop, client, buffer + sent, (size_t)(got - sent));
    else if (client->ending)
        end(loop, client);
}

static void send_rest(struct ev_loop *loop, struct client *client)
{
    ssize_t sent = send(client->watcher.fd, client->rest + client->sent, client->size - client->sent, MSG_NOSIGNAL);

    if (sent < 0 && errno == EAGAIN)
        return;
    if (sent >= 0)
        client->sent += (size_t)sent;
    if (sent < 0 || (client->sent == client->size && client->ending)) {
        end(loop, client);
        return;
    }
    if (client->sent == client->size) {
        free(client->rest);
        client->rest = NULL;
        watch(loop, client, EV_READ);
    }
}

static void on_client(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct client *client = (struct client *)watcher;

    (void)events;
    if (client->rest != NULL)
        send_rest(loop, client);
    else
        receive(loop, client);
}

static void on_listener(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)events;
    for (;;) {
        struct client *client;
        int fd = accept4(watcher->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED))
            return;
        if (fd < 0)
            fail("accept4");
        client = calloc(1, sizeof *client);
        if (client == NULL)
            fail("calloc");
        ev_io_init(&client->watcher, on_client, fd, EV_READ);
        ev_io_start(loop, &client->watcher);
    }
}

int main(int argc, char **argv)
{
    struct ev_loop *loop = ev_default_loop(EVBACKEND_EPOLL);
    ev_io listener;

    asked = read_arguments(argc, argv);
    if (loop == NULL)
        fail("ev_default_loop");
    ev_io_init(&listener, on_listener, listen_by_hand(asked, SOCK_NONBLOCK), EV_READ);
    ev_io_start(loop, &listener);
    announce(listener.fd);
    return !ev_run(loop, 0);
}
