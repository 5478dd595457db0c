/*
 * On libevent: evconnlistener and bufferevent, as they are by default. A signal frees the listener; the loop ends with
 * the last connection, or with the drain time.
 */
#define _GNU_SOURCE
#include "subject.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

static struct asked asked;
static struct event_base *base;
static struct evconnlistener *listener;
static int clients, stopping;

static void end(struct bufferevent *client)
{
    bufferevent_free(client);
    clients--;
    if (stopping && clients == 0)
        event_base_loopbreak(base);
}

static void on_last_written(struct bufferevent *client, void *user)
{
    (void)user;
    end(client);
}

static void on_event(struct bufferevent *client, short what, void *user)
{
    (void)what;
    (void)user;
    end(client);
}

static void answer(struct bufferevent *client, enum request request)
{
    struct evbuffer *output = bufferevent_get_output(client);

    if (request == PING) {
        evbuffer_add_reference(output, pong, sizeof pong - 1, NULL, NULL);
        return;
    }
    if (request == ONCE) {
        evbuffer_add_reference(output, done, sizeof done - 1, NULL, NULL);
    } else {
        evbuffer_add_reference(output, head, sizeof head - 1, NULL, NULL);
        evbuffer_add_reference(output, big, sizeof big, NULL, NULL);
    }
    bufferevent_setcb(client, NULL, on_last_written, on_event, NULL);
}

static void on_data(struct bufferevent *client, void *user)
{
    struct evbuffer *input = bufferevent_get_input(client);
    size_t size, length = 0;
    enum request request;

    (void)user;
    while ((size = evbuffer_get_length(input)) > 0) {
        request = request_in((char *)evbuffer_pullup(input, -1), size, &length);
        if (request == NOTHING)
            return;
        evbuffer_drain(input, length);
        answer(client, request);
    }
}

static void on_connection(struct evconnlistener *from, evutil_socket_t fd, struct sockaddr *peer, int size, void *user)
{
    struct bufferevent *client = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    int on = 1;

    (void)from;
    (void)peer;
    (void)size;
    (void)user;
    if (client == NULL)
        fail("bufferevent_socket_new");
    clients++;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    bufferevent_setcb(client, on_data, NULL, on_event, NULL);
    bufferevent_enable(client, EV_READ | EV_WRITE);
}

static void on_signal(evutil_socket_t number, short what, void *user)
{
    struct timeval drain = {asked.drain_ms / 1000, asked.drain_ms % 1000 * 1000};

    (void)number;
    (void)what;
    (void)user;
    if (stopping)
        return;
    stopping = 1;
    evconnlistener_free(listener);
    if (clients == 0)
        event_base_loopbreak(base);
    else
        event_base_loopexit(base, &drain);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address;
    struct event *signalled;

    asked = read_arguments(argc, argv);
    address = address_of(asked);
    base = event_base_new();
    signalled = base == NULL ? NULL : evsignal_new(base, SIGTERM, on_signal, NULL);
    if (signalled == NULL || event_add(signalled, NULL) < 0)
        fail("event_base_new");
    listener = evconnlistener_new_bind(base, on_connection, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC |
                                       LEV_OPT_REUSEABLE, BACKLOG, (struct sockaddr *)&address, sizeof address);
    if (listener == NULL)
        fail("evconnlistener_new_bind");
    event_base_dispatch(base);
    return 0;
}
