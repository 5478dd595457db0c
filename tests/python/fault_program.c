/*
 * What test_faults.py runs under strace.
 *
 *     fault_program listen ADDRESS                one oyez_listen between the marks
 *     fault_program accept plain|oyez COUNT TIMEOUT_MS PEER
 *                                                 COUNT connections by accept4 or oyez_accept between the marks; with a
 *                                                 timeout the listener does not block, and plain polls; PEER is 0 or 1
 *     fault_program talk COUNT TIMEOUT_MS LISTENER
 *                                                 oyez_accept, then echo to the end of the stream, COUNT clients;
 *                                                 LISTENER is "blocking" or "nonblocking"
 *     fault_program once TIMEOUT_MS               one oyez_accept, and how it ended
 *     fault_program close                         listens, and once a client came closes by oyez_unlisten
 *     fault_program serve MODEL DRAIN_MS          an echo server that SIGTERM stops
 *
 * A mark is a write of a line to standard output, which the trace shows.
 */
#define _GNU_SOURCE
#include <oyez.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void mark(const char *line)
{
    if (write(STDOUT_FILENO, line, strlen(line)) < 0)
        exit(3);
}

static void fail(void)
{
    oyez_perror("fault_program");
    exit(1);
}

static void say_address(int listener)
{
    char address[128];

    if (oyez_local_address(listener, address, sizeof address) < 0)
        fail();
    dprintf(STDOUT_FILENO, "listening on %s\n", address);
}

static int listen_at(const char *address)
{
    int listener = oyez_listen(address, NULL);

    if (listener < 0)
        fail();
    say_address(listener);
    return listener;
}

static int listen_once(const char *address)
{
    int listener;

    mark("begin\n");
    listener = oyez_listen(address, NULL);
    mark("end\n");
    if (listener < 0)
        fail();
    say_address(listener);
    return 0;
}

/* What a careful program writes by hand. */
static int accept_plain(int listener, char *peer, size_t size, int timeout)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int client;

    for (;;) {
        if (timeout >= 0) {
            struct pollfd poll_fd = { listener, POLLIN, 0 };
            if (poll(&poll_fd, 1, timeout) <= 0)
                return -1;
        }
        client = accept4(listener, (struct sockaddr *)&address, &length, SOCK_CLOEXEC);
        if (client >= 0)
            break;
        if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN)
            return -1;
    }
    if (peer)
        inet_ntop(AF_INET, &address.sin_addr, peer, (socklen_t)size);
    return client;
}

static int accept_many(int plain, int count, int timeout, int want_peer)
{
    int listener = listen_at(timeout < 0 ? "127.0.0.1:0" : "127.0.0.1:0?nonblocking=on");
    char peer[64];

    /* The first call may set something up for those that follow, and its client says when they are in the queue. */
    for (int i = 0; i <= count; i++) {
        char *text = want_peer ? peer : NULL;
        size_t size = want_peer ? sizeof peer : 0;
        int client;
        if (i == 1)
            mark("begin\n");
        client = plain ? accept_plain(listener, text, size, timeout) : oyez_accept(listener, text, size, timeout);
        if (client < 0)
            fail();
        if (i == 0 && read(client, peer, 1) != 1)
            fail();
        close(client);
    }
    mark("end\n");
    return 0;
}

static int talk(int count, int timeout, const char *kind)
{
    int listener = listen_at(strcmp(kind, "blocking") ? "127.0.0.1:0?nonblocking=on" : "127.0.0.1:0");

    for (int i = 0; i < count; i++) {
        char bytes[4096];
        ssize_t size;
        int client = oyez_accept(listener, NULL, 0, timeout);
        if (client < 0)
            fail();
        if (!(fcntl(client, F_GETFD) & FD_CLOEXEC) || fcntl(client, F_GETFL) & O_NONBLOCK)
            mark("not close-on-exec and blocking\n");
        while ((size = oyez_read(client, bytes, sizeof bytes, 20000)) > 0)
            if (oyez_write(client, bytes, (size_t)size, 20000) != size)
                fail();
        if (size < 0)
            fail();
        /* Also where close(2) is prevented the client is to see the end. */
        shutdown(client, SHUT_RDWR);
        close(client);
    }
    return 0;
}

static int accept_once(int timeout)
{
    int listener = listen_at("127.0.0.1:0?nonblocking=on");
    struct timespec from, to;
    int client;

    clock_gettime(CLOCK_MONOTONIC, &from);
    client = oyez_accept(listener, NULL, 0, timeout);
    clock_gettime(CLOCK_MONOTONIC, &to);
    dprintf(STDOUT_FILENO, "ended with %s errno %d after %ld ms\n", client < 0 ? oyez_code_name(oyez_error_code(NULL)) : "a client",
            client < 0 ? oyez_error_errno(NULL) : 0, (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000);
    return 0;
}

static int close_listener(void)
{
    int listener = listen_at("127.0.0.1:0");

    if (oyez_accept(listener, NULL, 0, 20000) < 0)
        fail();
    mark("begin\n");
    int result = oyez_unlisten(listener);
    mark("end\n");
    dprintf(STDOUT_FILENO, "unlisten %d of %d\n", result, listener);
    return 0;
}

static void echo(oyez_conn connection, void *user)
{
    char bytes[16384];
    ssize_t size;

    (void)user;
    while ((size = oyez_conn_read(connection, bytes, sizeof bytes)) > 0)
        if (oyez_conn_write(connection, bytes, (size_t)size) != size)
            return;
}

static void report(int32_t level, const char *event, const char *text, void *user)
{
    (void)user;
    dprintf(STDERR_FILENO, "log %d %s: %s\n", (int)level, event, text);
}

static int serve(int model, int drain_ms)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    oyez_stats stats = OYEZ_STATS_INIT;
    oyez_server server;
    int listener;

    options.model = model;
    options.drain_ms = drain_ms;
    options.stop_on_signals = OYEZ_ON;
    options.log = report;
    server = oyez_server_new(echo, NULL, &options);
    if (server < 0)
        fail();
    listener = oyez_server_listen(server, "127.0.0.1:0", NULL);
    if (listener < 0)
        fail();
    say_address(listener);
    if (oyez_server_run(server) < 0)
        fail();
    if (oyez_server_stats(server, &stats) < 0)
        fail();
    if (oyez_server_close(server) < 0)
        fail();
    dprintf(STDOUT_FILENO, "accepted %lu errors %lu pauses %lu cut %lu\n", (unsigned long)stats.accepted,
            (unsigned long)stats.accept_errors, (unsigned long)stats.descriptor_pauses, (unsigned long)stats.cut);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    /* strace is attached to it by another process than its parent. */
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    if (!strcmp(what, "listen") && argc == 3)
        return listen_once(argv[2]);
    if (!strcmp(what, "accept") && argc == 6)
        return accept_many(!strcmp(argv[2], "plain"), atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
    if (!strcmp(what, "talk") && argc == 5)
        return talk(atoi(argv[2]), atoi(argv[3]), argv[4]);
    if (!strcmp(what, "once") && argc == 3)
        return accept_once(atoi(argv[2]));
    if (!strcmp(what, "close") && argc == 2)
        return close_listener();
    if (!strcmp(what, "serve") && argc == 4)
        return serve(atoi(argv[2]), atoi(argv[3]));
    fprintf(stderr, "fault_program: see the head of its source\n");
    return 2;
}
