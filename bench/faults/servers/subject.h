/*
 * What the servers of the faults have in common. Each speaks as much HTTP as one client needs for all of them:
 *
 *     GET /ping    a short answer; the connection stays
 *     GET /once    a short answer; the connection is closed
 *     GET /big     32 MB; the connection is closed
 *
 * Their arguments: the port of 127.0.0.1, and then `name=value`. Each listens with a backlog of 4096. SIGTERM stops
 * them as their library would have it. They say on standard error what they are told to be wrong.
 */
#ifndef FAULTS_SUBJECT_H
#define FAULTS_SUBJECT_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BIG = 32 * 1024 * 1024, INPUT = 1024, BACKLOG = 4096 };
enum request { NOTHING, PING, ONCE, WHOLE };

static const char pong[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npong\n";
static const char done[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\ndone\n";
static const char head[] = "HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\nConnection: close\r\n\r\n";
static char big[BIG];

struct asked {
    int port, workers, drain_ms, idle_ms, sigpipe;
    const char *model;
};

static inline void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* SIGPIPE is ignored, as the libraries' guides say, unless sigpipe=1 leaves it as it is. */
static inline struct asked read_arguments(int argc, char **argv)
{
    struct asked asked = {0, 0, 0, 0, 0, "threads"};

    if (argc < 2)
        exit(2);
    asked.port = atoi(argv[1]);
    for (int i = 2; i < argc; i++) {
        const char *value = strchr(argv[i], '=');
        if (value == NULL)
            exit(2);
        value++;
        if (strncmp(argv[i], "workers=", 8) == 0)
            asked.workers = atoi(value);
        else if (strncmp(argv[i], "drain=", 6) == 0)
            asked.drain_ms = atoi(value);
        else if (strncmp(argv[i], "idle=", 5) == 0)
            asked.idle_ms = atoi(value);
        else if (strncmp(argv[i], "sigpipe=", 8) == 0)
            asked.sigpipe = atoi(value);
        else if (strncmp(argv[i], "model=", 6) == 0)
            asked.model = value;
    }
    if (!asked.sigpipe)
        signal(SIGPIPE, SIG_IGN);
    return asked;
}

/* The first request in the input, and how long it is. */
static inline enum request request_in(const char *bytes, size_t size, size_t *length)
{
    const char *end = memmem(bytes, size, "\r\n\r\n", 4);

    if (end == NULL)
        return NOTHING;
    *length = (size_t)(end - bytes) + 4;
    if (memmem(bytes, *length, "/once ", 6) != NULL)
        return ONCE;
    return memmem(bytes, *length, "/big ", 5) != NULL ? WHOLE : PING;
}

/* Input that came in parts; 0 where it is too long for a request. */
struct input {
    char bytes[INPUT];
    size_t size;
};

static inline int input_add(struct input *input, const char *bytes, size_t size)
{
    if (size > sizeof input->bytes - input->size)
        return 0;
    memcpy(input->bytes + input->size, bytes, size);
    input->size += size;
    return 1;
}

static inline enum request input_take(struct input *input)
{
    size_t length = 0;
    enum request request = request_in(input->bytes, input->size, &length);

    input->size -= length;
    memmove(input->bytes, input->bytes + length, input->size);
    return request;
}

static inline struct sockaddr_in address_of(struct asked asked)
{
    struct sockaddr_in address;

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)asked.port);
    return address;
}

#endif
