/*
 * banner: sends one line to each client and closes.
 *
 *     ./banner 127.0.0.1:9000          then, in another terminal:   nc 127.0.0.1 9000
 *
 * It shows the first two verbs, oyez_listen and oyez_accept. Kill it and start it again: it listens at once, although
 * the connections that it closed are still in TIME_WAIT and would keep a server without SO_REUSEADDR from binding.
 */
#include <oyez.h>

#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static const char banner[] = "hello from oyez\r\n";
    char address[128];
    int client;

    /* socket, setsockopt, bind and listen in one call. */
    int listener = oyez_listen(argc > 1 ? argv[1] : "127.0.0.1:9000", NULL);
    if (listener < 0) {
        oyez_perror("banner");
        return 1;
    }

    /* The address as the kernel knows it: where port 0 was asked for, this is the port that it chose. */
    oyez_local_address(listener, address, sizeof address);
    printf("listening on %s\n", address);
    fflush(stdout);

    while ((client = oyez_accept(listener, NULL, 0, -1)) >= 0) {
        /* All of it within five seconds. A client that is gone already is an error here, and never a SIGPIPE. */
        if (oyez_write(client, banner, sizeof banner - 1, 5000) < 0)
            oyez_perror("banner");
        close(client);
    }
    oyez_perror("banner");
    return 1;
}
