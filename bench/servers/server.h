/*
 * What the servers have in common. Each echoes what comes; with the argument `line` it echoes one line and closes.
 * It listens on 127.0.0.1, at a free port, with TCP_NODELAY inherited from the listener, and prints "PORT PID".
 */
#ifndef BENCH_SERVER_H
#define BENCH_SERVER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, BACKLOG = 4096 };

static inline void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Was it asked for a line and the end? */
static inline int asked_for_line(int argc, char **argv)
{
    return argc > 1 && strcmp(argv[1], "line") == 0;
}

/* Does this input end the line? */
static inline int ends(int line, const void *bytes, size_t size)
{
    return line && memchr(bytes, '\n', size) != NULL;
}

static inline struct sockaddr_in anywhere(void)
{
    struct sockaddr_in address;

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static inline void announce(int listener)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int on = 1;

    if (setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        fail("TCP_NODELAY");
    if (getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        fail("getsockname");
    printf("%d %d\n", ntohs(address.sin_port), (int)getpid());
    fflush(stdout);
}

static inline int listen_by_hand(int flags)
{
    struct sockaddr_in address = anywhere();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, BACKLOG) < 0)
        fail("listen");
    return listener;
}

#endif
