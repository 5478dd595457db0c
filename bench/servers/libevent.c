/* An echo server on libevent: a bufferevent for each connection; input is moved to output without a copy. */
#define _GNU_SOURCE
#include "server.h"

#include <signal.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

enum { MOST = 1024 * 1024 }; /* with more to send, nothing is read */

static struct asked asked;

static void end(struct bufferevent *client)
{
    bufferevent_free(client);
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

static void on_written(struct bufferevent *client, void *user)
{
    (void)user;
    if (!(bufferevent_get_enabled(client) & EV_READ))
        bufferevent_enable(client, EV_READ);
}

static void on_data(struct bufferevent *client, void *user)
{
    struct evbuffer *input = bufferevent_get_input(client), *output = bufferevent_get_output(client);
    int ending = asked.line && evbuffer_search(input, "\n", 1, NULL).pos >= 0;

    (void)user;
    if (evbuffer_add_buffer(output, input) < 0)
        fail("evbuffer_add_buffer");
    if (ending)
        bufferevent_setcb(client, NULL, on_last_written, on_event, NULL);
    else if (evbuffer_get_length(output) > MOST)
        bufferevent_disable(client, EV_READ);
}

static void on_connection(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *peer, int size,
                          void *user)
{
    struct bufferevent *client = bufferevent_socket_new(evconnlistener_get_base(listener), fd, BEV_OPT_CLOSE_ON_FREE);

    (void)peer;
    (void)size;
    (void)user;
    if (client == NULL)
        fail("bufferevent_socket_new");
    bufferevent_setcb(client, on_data, on_written, on_event, NULL);
    bufferevent_enable(client, EV_READ | EV_WRITE);
}

int main(int argc, char **argv)
{
    struct event_base *base = event_base_new();
    struct evconnlistener *listener;
    int fd;

    asked = read_arguments(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    if (base == NULL)
        fail("event_base_new");
    fd = listen_by_hand(asked, SOCK_NONBLOCK);
    listener = evconnlistener_new(base, on_connection, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (listener == NULL)
        fail("evconnlistener_new");
    announce(fd);
    return event_base_dispatch(base);
}
