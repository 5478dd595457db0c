/* On oyez with events. What is long is queued by parts: as many as there may be, and more when they are sent. */
#define _GNU_SOURCE
#include "oyez_subject.h"

enum { PART = 1024 * 1024 };

/* How much of it is queued is kept with the connection, less one: NULL is one that sends nothing long. */
static void go_on(oyez_conn client)
{
    size_t queued = (size_t)oyez_conn_user(client) - 1;

    while (queued < BIG && oyez_conn_write(client, big + queued, PART) > 0)
        queued += PART;
    oyez_conn_set_user(client, (void *)(queued + 1));
    if (queued == BIG)
        oyez_conn_close(client);
}

static void on_drain(oyez_conn client, void *user)
{
    (void)user;
    if (oyez_conn_user(client) != NULL)
        go_on(client);
}

static size_t on_data(oyez_conn client, const uint8_t *bytes, size_t size, void *user)
{
    size_t taken = 0, length = 0;
    enum request request;

    (void)user;
    if (oyez_conn_user(client) != NULL)
        return size;
    while ((request = request_in((const char *)bytes + taken, size - taken, &length)) != NOTHING) {
        taken += length;
        if (request == PING) {
            oyez_conn_write(client, pong, sizeof pong - 1);
            continue;
        }
        if (request == ONCE) {
            oyez_conn_write(client, done, sizeof done - 1);
            oyez_conn_close(client);
        } else if (oyez_conn_write(client, head, sizeof head - 1) > 0) {
            oyez_conn_set_user(client, (void *)1);
            go_on(client);
        }
        return size;
    }
    return taken;
}

int main(int argc, char **argv)
{
    struct asked asked = read_arguments(argc, argv);
    oyez_server_options options = options_of(asked);
    oyez_events events = OYEZ_EVENTS_INIT;

    events.on_data = on_data;
    events.on_drain = on_drain;
    return run(oyez_server_new_events(&events, NULL, &options), asked);
}
