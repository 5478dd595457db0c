/*
 * What the servers have in common. Each echoes what comes. Its arguments:
 *
 *     line         echo one line on each connection, then close it
 *     unix PATH    listen there, and not on 127.0.0.1 at a free port with TCP_NODELAY inherited from the listener
 *     timeouts     with those that a real server has, where the library has them
 *
 * Once it listens it prints "PORT PID", the port being 0 for a Unix socket.
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
#include <sys/un.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, BACKLOG = 4096 };

struct asked {
    int line, timeouts;
    const char *unix_path;
};

static inline void fail(const char *what)
{
    perror(what);
    exit(1);
}

static inline struct asked read_arguments(int argc, char **argv)
{
    struct asked asked = {0, 0, NULL};

    for (int i = 1; i < argc; i++) {
        asked.line |= strcmp(argv[i], "line") == 0;
        asked.timeouts |= strcmp(argv[i], "timeouts") == 0;
        if (strcmp(argv[i], "unix") == 0)
            asked.unix_path = argv[++i];
    }
    return asked;
}

/* Does this input end the line? */
static inline int ends(int line, const void *bytes, size_t size)
{
    return line && memchr(bytes, '\n', size) != NULL;
}

static inline void announce(int listener)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    int on = 1, port = 0;

    memset(&address, 0, sizeof address);
    if (getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        fail("getsockname");
    if (address.ss_family == AF_INET) {
        if (setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
            fail("TCP_NODELAY");
        port = ntohs(((struct sockaddr_in *)&address)->sin_port);
    }
    printf("%d %d\n", port, (int)getpid());
    fflush(stdout);
}

/* A listener for the libraries too: what is compared is what they do with connections. */
static inline int listen_by_hand(struct asked asked, int flags)
{
    union {
        struct sockaddr any;
        struct sockaddr_in internet;
        struct sockaddr_un path;
    } address;
    int listener;

    memset(&address, 0, sizeof address);
    if (asked.unix_path != NULL) {
        address.path.sun_family = AF_UNIX;
        strncpy(address.path.sun_path, asked.unix_path, sizeof address.path.sun_path - 1);
    } else {
        address.internet.sin_family = AF_INET;
        address.internet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    }
    listener = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (listener < 0 ||
        bind(listener, &address.any, asked.unix_path != NULL ? sizeof address.path : sizeof address.internet) < 0 ||
        listen(listener, BACKLOG) < 0)
        fail("listen");
    return listener;
}

#endif
