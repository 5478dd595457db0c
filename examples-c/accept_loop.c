/*
 * accept_loop: an existing program that keeps its own loop.
 *
 *     ./accept_loop 127.0.0.1:9000     then, in another terminal, twice:   nc 127.0.0.1 9000
 *
 * What oyez_listen returns is a descriptor like any other: accept, read, write and close are the system's own here. The
 * program echoes to two clients, one after the other. Once the second is accepted it closes the listener, so that
 * nobody can connect any more, and goes on talking: a listener and its connections are separate things.
 */
#include <oyez.h>

#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 2 };

static void echo(int client)
{
    char bytes[4096];
    ssize_t size;

    while ((size = read(client, bytes, sizeof bytes)) > 0) {
        if (write(client, bytes, (size_t)size) != size) {
            perror("write");
            return;
        }
    }
    if (size < 0)
        perror("read");
}

int main(int argc, char **argv)
{
    char address[128];

    int listener = oyez_listen(argc > 1 ? argv[1] : "127.0.0.1:9000", NULL);
    if (listener < 0) {
        oyez_perror("accept_loop");
        return 1;
    }
    oyez_local_address(listener, address, sizeof address);
    printf("listening on %s\n", address);
    fflush(stdout);

    /* A plain write(2) to a client that is gone would end the program. oyez_write() needs no such precaution. */
    signal(SIGPIPE, SIG_IGN);
    for (int served = 1; served <= CLIENTS; served++) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) {
            perror("accept");
            return 1;
        }
        if (served == CLIENTS) {
            close(listener);
            printf("listener closed; the last client goes on\n");
            fflush(stdout);
        }
        echo(client);
        close(client);
    }
    return 0;
}
