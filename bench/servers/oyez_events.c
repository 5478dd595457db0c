/* An echo server on oyez: an event server with one worker. */
#define _GNU_SOURCE
#include "oyez_server.h"

static struct asked asked;

static size_t on_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)user;
    if (oyez_conn_write(connection, bytes, size) < 0) {
        oyez_conn_pause(connection);
        return 0;
    }
    if (ends(asked.line, bytes, size))
        oyez_conn_close(connection);
    return size;
}

static void on_drain(oyez_conn connection, void *user)
{
    (void)user;
    oyez_conn_resume(connection);
}

int main(int argc, char **argv)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server server;
    int listener;

    asked = read_arguments(argc, argv);
    events.on_data = on_data;
    events.on_drain = on_drain;
    options.workers = 1;
    if (asked.timeouts) {
        options.idle_timeout_ms = 60000;
        options.read_timeout_ms = 30000;
    }
    server = oyez_server_new_events(&events, NULL, &options);
    listener = server < 0 ? -1 : oyez_server_listen(server, address_of(asked), NULL);
    if (listener >= 0) {
        announce(listener);
        if (oyez_server_run(server) == 0)
            return 0;
    }
    oyez_perror("oyez_events");
    return 1;
}
