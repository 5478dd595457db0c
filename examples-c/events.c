/*
 * events: sends whole lines back, to thousands of clients from a thread for each processor.
 *
 *     ./events 127.0.0.1:9000          then, in another terminal:   nc 127.0.0.1 9000
 *
 * An event server calls the functions below for what happens on a connection. They must not wait, since others of the
 * same thread would wait with them, and they need not: oyez_conn_write() queues what the client does not take at once.
 * All calls for one connection come from one thread, in order, so that what is kept with it needs no lock. When a
 * client leaves, the program prints how many lines it has sent, and how it ended.
 */
#include <oyez.h>

#include <stdio.h>
#include <stdlib.h>

/* What the program keeps of each client. */
struct client {
    unsigned long lines;
};

static void on_open(oyez_conn connection, void *user)
{
    (void)user;
    if (oyez_conn_set_user(connection, calloc(1, sizeof(struct client))) < 0 || oyez_conn_user(connection) == NULL)
        oyez_conn_abort(connection);
}

/* Input comes as the network has cut it. What is not consumed is given again, with what follows: whole lines only. */
static size_t on_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    struct client *client = oyez_conn_user(connection);
    size_t whole = size;

    (void)user;
    while (whole > 0 && bytes[whole - 1] != '\n')
        whole--;
    /* Where the client does not read, and as much is queued as may be, nothing of this was: wait until that is sent. */
    if (whole > 0 && oyez_conn_write(connection, bytes, whole) < 0) {
        oyez_conn_pause(connection);
        return 0;
    }
    for (size_t i = 0; i < whole; i++)
        client->lines += bytes[i] == '\n';
    return whole;
}

/* All that was queued is sent. What on_data has left is given again. */
static void on_drain(oyez_conn connection, void *user)
{
    (void)user;
    oyez_conn_resume(connection);
}

/* Called once for each on_open, whatever ended the connection: the client, a timeout, a limit, the stop. */
static void on_close(oyez_conn connection, const oyez_error *why, void *user)
{
    struct client *client = oyez_conn_user(connection);
    char peer[128];

    (void)user;
    if (client == NULL)
        return;
    oyez_conn_peer(connection, peer, sizeof peer);
    printf("%s: %lu lines; %s\n", peer, client->lines, oyez_error_message(why));
    fflush(stdout);
    free(client);
}

static int fail(void)
{
    oyez_perror("events");
    return 1;
}

int main(int argc, char **argv)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    oyez_events events = OYEZ_EVENTS_INIT;
    char address[128];
    oyez_server server;
    int listener;

    events.on_open = on_open;
    events.on_data = on_data;
    events.on_drain = on_drain;
    events.on_close = on_close;

    options.idle_timeout_ms = 60000;
    options.max_input = 1 << 20;     /* the longest line; the default, too */
    options.max_output = 4 << 20;    /* what may be queued for a client that does not read; more than one answer */
    options.stop_on_signals = OYEZ_ON;

    server = oyez_server_new_events(&events, NULL, &options);
    if (server < 0)
        return fail();
    listener = oyez_server_listen(server, argc > 1 ? argv[1] : "127.0.0.1:9000", NULL);
    if (listener < 0)
        return fail();
    oyez_local_address(listener, address, sizeof address);
    printf("listening on %s\n", address);
    fflush(stdout);

    if (oyez_server_run(server) < 0)
        return fail();
    oyez_server_close(server);
    printf("stopped\n");
    return 0;
}
