/*
 * accept_loop on plain sockets: echoes to two clients, one after the other. See ../accept_loop.c.
 *
 *     ./accept_loop 9000               a port of 127.0.0.1
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 2 };

static void die(const char *call)
{
    perror(call);
    exit(1);
}

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
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int listener, on = 1;

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)atoi(argc > 1 ? argv[1] : "9000"));

    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0)
        die("socket");
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        die("setsockopt");
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        die("bind");
    if (listen(listener, SOMAXCONN) < 0)
        die("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        die("getsockname");
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);

    signal(SIGPIPE, SIG_IGN);
    for (int served = 1; served <= CLIENTS; served++) {
        int client = accept(listener, NULL, NULL);
        if (client < 0)
            die("accept");
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
