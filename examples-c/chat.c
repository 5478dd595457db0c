/*
 * chat: whatever one client says, all others are sent.
 *
 *     ./chat 127.0.0.1:9000            then, in two other terminals:   nc 127.0.0.1 9000
 *
 * It shows how an event server writes to connections other than the one that it is called for. With one worker all of
 * its functions run on one thread, so that the list of clients needs no lock. A client's first line is its name.
 */
#include <oyez.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct client {
    struct client *next;
    oyez_conn connection;
    char name[32];          /* "" until it has told */
};

static struct client *clients;

/* Sends a line to all but one. Whoever has let so much lie unread that it cannot be queued is thrown out. */
static void tell_all_but(const struct client *speaker, const char *name, const char *words, size_t length)
{
    char line[1100];
    int size = snprintf(line, sizeof line, "%s%.*s\n", name, (int)length, words);

    for (struct client *client = clients; client != NULL; client = client->next)
        if (client != speaker && client->name[0] != '\0' && oyez_conn_write(client->connection, line, (size_t)size) < 0)
            oyez_conn_abort(client->connection);
}

static void on_open(oyez_conn connection, void *user)
{
    struct client *client = calloc(1, sizeof *client);

    (void)user;
    if (client == NULL) {
        oyez_conn_abort(connection);
        return;
    }
    client->connection = connection;
    client->next = clients;
    clients = client;
    oyez_conn_set_user(connection, client);
    oyez_conn_write(connection, "your name? ", 11);
}

static void on_line(struct client *client, const char *line, size_t length)
{
    char name[40];

    if (client->name[0] == '\0') {
        snprintf(client->name, sizeof client->name, "%.*s", (int)length, line);
        if (client->name[0] != '\0')
            tell_all_but(client, client->name, " has come", 9);
        return;
    }
    snprintf(name, sizeof name, "%s: ", client->name);
    tell_all_but(client, name, line, length);
}

/* Takes as many whole lines as there are; the beginning of the next is given again when more of it has come. */
static size_t on_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    const char *text = (const char *)bytes, *end;
    size_t taken = 0;

    (void)user;
    while ((end = memchr(text + taken, '\n', size - taken)) != NULL) {
        size_t length = (size_t)(end - text) - taken;
        on_line(oyez_conn_user(connection), text + taken, length > 1000 ? 1000 : length);
        taken += length + 1;
    }
    return taken;
}

static void on_close(oyez_conn connection, const oyez_error *why, void *user)
{
    struct client **link = &clients, *client = oyez_conn_user(connection);

    (void)why;
    (void)user;
    if (client == NULL)
        return;
    while (*link != client)
        link = &(*link)->next;
    *link = client->next;
    if (client->name[0] != '\0')
        tell_all_but(client, client->name, " has left", 9);
    free(client);
}

static int fail(void)
{
    oyez_perror("chat");
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
    events.on_close = on_close;

    options.workers = 1;
    options.max_input = 1000;     /* the longest line; what is longer ends the connection, or is cut */
    options.max_output = 65536;   /* what may wait for a client that does not read */
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
