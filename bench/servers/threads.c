/* An echo server by hand: a thread for each connection, and calls that block. */
#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>

static struct asked asked;

static int send_all(int fd, const unsigned char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
        if (sent < 0)
            return -1;
        bytes += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static void *serve(void *argument)
{
    unsigned char buffer[BUFFER];
    int fd = (int)(intptr_t)argument;
    ssize_t got;

    while ((got = recv(fd, buffer, sizeof buffer, 0)) > 0)
        if (send_all(fd, buffer, (size_t)got) < 0 || ends(asked.line, buffer, (size_t)got))
            break;
    close(fd);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_attr_t detached;
    int listener;

    asked = read_arguments(argc, argv);
    listener = listen_by_hand(asked, 0);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    announce(listener);
    for (;;) {
        pthread_t thread;
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0 && errno == ECONNABORTED)
            continue;
        if (fd < 0)
            fail("accept4");
        if (pthread_create(&thread, &detached, serve, (void *)(intptr_t)fd) != 0)
            fail("pthread_create");
    }
}
