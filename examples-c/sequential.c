/*
 * sequential: hands out numbered tickets, one client at a time.
 *
 *     ./sequential 127.0.0.1:9000      then, in another terminal:   nc 127.0.0.1 9000
 *
 * Each line that a client sends is a name, and gets a ticket; an empty line ends. With OYEZ_SEQUENTIAL the handler runs
 * on the thread that called oyez_server_run() and never twice at once, so the counter needs no lock. The next clients
 * wait in the kernel's queue; read_timeout_ms sees to it that a silent one does not keep them waiting for ever.
 */
#include <oyez.h>

#include <stdio.h>
#include <string.h>

static void sell_tickets(oyez_conn client, void *user)
{
    unsigned long *tickets = user;
    char name[64], reply[128];
    ssize_t length;

    while ((length = oyez_conn_read_line(client, name, sizeof name)) > 0) {
        snprintf(reply, sizeof reply, "ticket %lu for %s\n", ++*tickets, name);
        if (oyez_conn_write(client, reply, strlen(reply)) < 0)
            return;
    }
    /* 0 is the empty line; -1 the end, silence, or a line that does not fit, and only the last gets an answer. */
    if (length < 0 && oyez_error_code(NULL) == OYEZ_LIMIT_REACHED)
        oyez_conn_write(client, "name too long\n", 14);
}

static int fail(void)
{
    oyez_perror("sequential");
    return 1;
}

int main(int argc, char **argv)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    unsigned long tickets = 0;
    char address[128];
    oyez_server server;
    int listener;

    options.model = OYEZ_SEQUENTIAL;
    options.read_timeout_ms = 10000;
    options.stop_on_signals = OYEZ_ON;

    server = oyez_server_new(sell_tickets, &tickets, &options);
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
    printf("%lu tickets sold\n", tickets);
    return 0;
}
