/* An event server inside libuv: uv_poll_t on its descriptor. */
#define _GNU_SOURCE
#include "expect.h"
#include "loop.h"

#include <uv.h>

/* What there is in the loop. */
typedef struct driven {
    oyez_server server;
    int polls;
    uv_poll_t poll;
    uv_timer_t timer;
    void (*then)(void *);
    void *argument;
} driven;

static void on_readable(uv_poll_t *poll, int status, int happened)
{
    driven *all = poll->data;
    (void)happened;
    CHECK_EQ_INT(status, 0);
    all->polls++;
    if (oyez_server_poll(all->server, 0) == 0)
        return;
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_STOPPED);
    uv_close((uv_handle_t *)poll, NULL);
}

static void on_timer(uv_timer_t *timer)
{
    driven *all = timer->data;
    uv_close((uv_handle_t *)timer, NULL);
    all->then(all->argument);
}

int loop_drive(oyez_server server, int after_ms, void (*then)(void *), void *argument)
{
    uv_loop_t loop;
    driven all = { 0 };

    all.server = server;
    all.then = then;
    all.argument = argument;
    all.poll.data = &all;
    all.timer.data = &all;
    CHECK_EQ_INT(uv_loop_init(&loop), 0);
    CHECK_EQ_INT(uv_poll_init(&loop, &all.poll, (int)CHECK_WORKS(oyez_server_poll_fd(server))), 0);
    CHECK_EQ_INT(uv_poll_start(&all.poll, UV_READABLE, on_readable), 0);
    if (then != NULL) {
        CHECK_EQ_INT(uv_timer_init(&loop, &all.timer), 0);
        CHECK_EQ_INT(uv_timer_start(&all.timer, on_timer, (uint64_t)after_ms, 0), 0);
    }
    CHECK_EQ_INT(uv_run(&loop, UV_RUN_DEFAULT), 0);
    CHECK_EQ_INT(uv_loop_close(&loop), 0);
    uv_library_shutdown();
    return all.polls;
}
