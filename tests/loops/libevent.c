/* An event server inside libevent: an event with EV_READ | EV_PERSIST on its descriptor. */
#define _GNU_SOURCE
#include "expect.h"
#include "loop.h"

#include <event2/event.h>
#include <sys/time.h>

/* What there is in the loop. */
typedef struct driven {
    oyez_server server;
    int polls;
    struct event *poll;
    void (*then)(void *);
    void *argument;
} driven;

static void on_readable(evutil_socket_t fd, short happened, void *argument)
{
    driven *all = argument;
    (void)fd;
    CHECK_EQ_INT(happened, EV_READ);
    all->polls++;
    if (oyez_server_poll(all->server, 0) == 0)
        return;
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_STOPPED);
    CHECK_EQ_INT(event_del(all->poll), 0);
}

static void on_timer(evutil_socket_t fd, short happened, void *argument)
{
    driven *all = argument;
    (void)fd;
    CHECK_EQ_INT(happened, EV_TIMEOUT);
    all->then(all->argument);
}

int loop_drive(oyez_server server, int after_ms, void (*then)(void *), void *argument)
{
    struct event_base *base = event_base_new();
    struct timeval after = { after_ms / 1000, after_ms % 1000 * 1000 };
    driven all = { 0 };

    CHECK(base != NULL);
    all.server = server;
    all.then = then;
    all.argument = argument;
    all.poll = event_new(base, (int)CHECK_WORKS(oyez_server_poll_fd(server)), EV_READ | EV_PERSIST, on_readable, &all);
    CHECK(all.poll != NULL);
    CHECK_EQ_INT(event_add(all.poll, NULL), 0);
    if (then != NULL)
        CHECK_EQ_INT(event_base_once(base, -1, EV_TIMEOUT, on_timer, &all, &after), 0);
    /* It ends when no event is left in it. */
    CHECK_EQ_INT(event_base_dispatch(base), 1);
    event_free(all.poll);
    event_base_free(base);
    libevent_global_shutdown();
    return all.polls;
}
