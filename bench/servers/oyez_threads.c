/* An echo server on oyez: the model of threads, with as many as there are connections. */
#define _GNU_SOURCE
#include "oyez_server.h"

enum { MOST = 16384 };

static struct asked asked;

static void serve(oyez_conn connection, void *user)
{
    unsigned char buffer[BUFFER];
    ssize_t got;

    (void)user;
    while ((got = oyez_conn_read(connection, buffer, sizeof buffer)) > 0)
        if (oyez_conn_write(connection, buffer, (size_t)got) < 0 || ends(asked.line, buffer, (size_t)got))
            break;
}

int main(int argc, char **argv)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    oyez_server server;
    int listener;

    asked = read_arguments(argc, argv);
    options.workers = MOST;
    server = oyez_server_new(serve, NULL, &options);
    listener = server < 0 ? -1 : oyez_server_listen(server, address_of(asked), NULL);
    if (listener >= 0) {
        announce(listener);
        if (oyez_server_run(server) == 0)
            return 0;
    }
    oyez_perror("oyez_threads");
    return 1;
}
