/*
 * echo: sends back what it receives, to any number of clients at once.
 *
 *     ./echo 127.0.0.1:9000            then, in another terminal:   nc 127.0.0.1 9000
 *
 * It shows the third verb. The program is the function `echo`, which serves one client with calls that block; oyez runs
 * it on a thread of a pool for each client. Where the address need not be printed, oyez_serve() does all of main().
 */
#include <oyez.h>

#include <stdio.h>
#include <string.h>

/* Serves one client. When it returns, the connection is closed, and what was written still arrives. */
static void echo(oyez_conn client, void *user)
{
    char bytes[16384];
    ssize_t size;

    (void)user;
    while ((size = oyez_conn_read(client, bytes, sizeof bytes)) > 0)
        if (oyez_conn_write(client, bytes, (size_t)size) < 0)
            return;
}

/* Prints where the server listens and how to try it. nc wants host and port apart, and IPv6 without brackets. */
static void announce(int listener)
{
    char address[128];
    int port = oyez_local_port(listener);

    oyez_local_address(listener, address, sizeof address);
    printf("listening on %s\n", address);
    if (port > 0) {
        const char *host = address + strspn(address, "[");
        int length = (int)strcspn(host, host == address ? ":" : "]");
        printf("try it in another terminal:  nc %.*s %d\n", length, host, port);
    }
    printf("Ctrl-C stops it; clients that are connected get five seconds, or until a second Ctrl-C\n");
    fflush(stdout);
}

static int fail(void)
{
    oyez_perror("echo");
    return 1;
}

int main(int argc, char **argv)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    oyez_server server;
    int listener;

    /* SIGINT and SIGTERM: accept nobody new, let the clients that are served finish, then return from the run. */
    options.stop_on_signals = OYEZ_ON;

    server = oyez_server_new(echo, NULL, &options);
    if (server < 0)
        return fail();
    listener = oyez_server_listen(server, argc > 1 ? argv[1] : "127.0.0.1:9000", NULL);
    if (listener < 0)
        return fail();
    announce(listener);
    if (oyez_server_run(server) < 0)
        return fail();
    oyez_server_close(server);
    printf("stopped\n");
    return 0;
}
