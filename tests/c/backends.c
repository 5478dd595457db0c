/* Event servers on epoll and on io_uring: see backends.h. */
#define _GNU_SOURCE
#include "backends.h"
#include "clients.h"

#include <unistd.h>

oyez_server_options backend_options(int backend, int workers)
{
    oyez_server_options options = serve_workers(workers);
    options.backend = backend;
    return options;
}

served backend_serve(int backend, int workers, const oyez_events *events, void *user)
{
    oyez_server_options options = backend_options(backend, workers);
    return serve_events(OVER_TCP, events, user, &options);
}

oyez_events backend_echo_events(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    events.on_data = serve_echo_data;
    return events;
}

void backend_need_ring(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server_options options = backend_options(OYEZ_BACKEND_IO_URING, 1);
    oyez_server server = oyez_server_new_events(&events, NULL, &options);
    if (server == -1)
        SKIP(oyez_error_message(NULL));
    CHECK_WORKS(oyez_server_close(server));
}

int held_at(oyez_conn connection, held *own)
{
    if (own->held == 0) {
        own->held = connection;
        gate_pass(&own->at);
    }
    return own->held == connection;
}

void held_start(held *own, int over, const oyez_events *events, const oyez_server_options *options)
{
    own->at = gate_make();
    own->server = serve_events(over, events, own, options);
    own->holder = serve_client(own->server);
}

void held_now(held *own)
{
    client_send_text(own->holder, "hold");
    gate_await(&own->at, 1);
}

void held_end(held *own)
{
    MUST(close(own->holder));
    serve_end(own->server);
    gate_end(&own->at);
}
