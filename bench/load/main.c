/*
 * load: talks to an echo server over loopback, checks every byte that comes back, and prints one line of JSON.
 *
 *     load --port PORT | --unix PATH [--pid PID] [--connections N] [--size BYTES] [--window MESSAGES] [--line]
 *          [--warm SECONDS] [--seconds SECONDS | --messages COUNT] [--hold] [--engine epoll]
 *
 * Each connection keeps `window` messages of `size` bytes under way. With --line each connection is made, sends one
 * line, reads it back and the end that follows, and is made again. One thread. The server's CPU time is read from the
 * clock of its process (clock_getcpuclockid(3)), which has threads that have ended too, at the same two moments as the
 * generator's own: what happens before `warm` is over, and each connection was served, counts nowhere. With --hold it
 * keeps the connections open, after its line of JSON, until standard input ends, and then resets them, so that nothing
 * of them lingers.
 */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

struct arguments asked = {.connections = 1, .window = 1, .size = 64, .warm = 0.1, .seconds = 1};
struct connection *connections;

void fail(const char *format, ...)
{
    va_list arguments;

    fputs("load: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

uint64_t clock_ns(clockid_t clock)
{
    struct timespec time;

    if (clock_gettime(clock, &time) < 0)
        fail("clock_gettime: %s", strerror(errno));
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

socklen_t server_address(struct sockaddr_storage *address)
{
    memset(address, 0, sizeof *address);
    if (asked.unix_path != NULL) {
        struct sockaddr_un *path = (struct sockaddr_un *)address;
        path->sun_family = AF_UNIX;
        strncpy(path->sun_path, asked.unix_path, sizeof path->sun_path - 1);
        return sizeof *path;
    }
    struct sockaddr_in *internet = (struct sockaddr_in *)address;
    internet->sin_family = AF_INET;
    internet->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    internet->sin_port = htons((uint16_t)asked.port);
    return sizeof *internet;
}

/* One address has not the ports for more than some 28,000 connections to one server: others are taken then. */
static void bind_source(int fd, int number)
{
    struct sockaddr_in source = {.sin_family = AF_INET,
                                 .sin_addr = {htonl(INADDR_LOOPBACK + (uint32_t)(number / ONE_SOURCE))}};
    int on = 1;

    if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&source, sizeof source) < 0)
        fail("bind: %s", strerror(errno));
}

int connect_to(int number)
{
    struct sockaddr_storage address;
    socklen_t size = server_address(&address);
    int on = 1, fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        fail("socket: %s", strerror(errno));
    if (address.ss_family == AF_INET) {
        if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
            fail("TCP_NODELAY: %s", strerror(errno));
        /* The cheapest there is, so that the generator has less to do than the server, which has the system's default. */
        if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) < 0)
            fail("TCP_CONGESTION: %s", strerror(errno));
        if (number >= ONE_SOURCE)
            bind_source(fd, number);
    }
    if (connect(fd, (struct sockaddr *)&address, size) < 0)
        fail("connect: %s", strerror(errno));
    return fd;
}

static const struct engine *engine_named(const char *name)
{
    if (strcmp(name, epoll_engine.name) == 0)
        return &epoll_engine;
#ifdef WITH_URING
    if (strcmp(name, uring_engine.name) == 0)
        return &uring_engine;
#endif
    fail("it has no engine %s", name);
    return NULL;
}

static void read_arguments(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", 1, NULL, 'p'}, {"unix", 1, NULL, 'u'}, {"pid", 1, NULL, 'i'}, {"connections", 1, NULL, 'c'},
        {"size", 1, NULL, 's'}, {"window", 1, NULL, 'w'}, {"line", 0, NULL, 'l'}, {"warm", 1, NULL, 'a'},
        {"seconds", 1, NULL, 't'}, {"messages", 1, NULL, 'm'}, {"hold", 0, NULL, 'h'}, {"engine", 1, NULL, 'e'},
        {NULL, 0, NULL, 0}};
    int option;

#ifdef WITH_URING
    asked.engine = &uring_engine;
#else
    asked.engine = &epoll_engine;
#endif
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (option) {
        case 'p': asked.port = atoi(optarg); break;
        case 'u': asked.unix_path = optarg; break;
        case 'i': asked.pid = atoi(optarg); break;
        case 'c': asked.connections = atoi(optarg); break;
        case 's': asked.size = (size_t)atol(optarg); break;
        case 'w': asked.window = atoi(optarg); break;
        case 'l': asked.line = 1; break;
        case 'a': asked.warm = atof(optarg); break;
        case 't': asked.seconds = atof(optarg); break;
        case 'm': asked.messages = atol(optarg); break;
        case 'h': asked.hold = 1; break;
        case 'e': asked.engine = engine_named(optarg); break;
        default: exit(2);
        }
    if ((asked.port <= 0 && asked.unix_path == NULL) || asked.connections < 1 || asked.size < 1 || asked.window < 1 ||
        asked.window > WINDOW || (asked.line && asked.size > PERIOD))
        fail("an argument is missing or out of its range; the head of load/main.c shows them");
}

/* The two moments between which is measured. */
struct moment {
    uint64_t wall, server, own;
};

static struct moment moment(clockid_t server)
{
    struct moment is = {.wall = clock_ns(CLOCK_MONOTONIC), .own = clock_ns(CLOCK_PROCESS_CPUTIME_ID)};

    if (asked.pid > 0)
        is.server = clock_ns(server);
    return is;
}

static void connect_all(void)
{
    size_t size = (size_t)asked.connections * sizeof *connections;

    if (posix_memalign((void **)&connections, 64, size) != 0)
        fail("out of memory");
    memset(connections, 0, size);
    for (int i = 0; i < asked.connections; i++) {
        if (!asked.line) {
            begin_stream(&connections[i], (size_t)i * 193);
            connections[i].fd = connect_to(i);
            asked.engine->begin(&connections[i]);
        }
    }
}

static void start_all(void)
{
    for (int i = 0; i < asked.connections; i++) {
        if (asked.line) {
            asked.engine->begin(&connections[i]);
            continue;
        }
        now = clock_ns(CLOCK_MONOTONIC);
        for (int message = 0; message < asked.window; message++)
            start(&connections[i]);
        asked.engine->pump(&connections[i]);
    }
}

static void run_until(uint64_t until)
{
    while (now < until)
        asked.engine->turn();
}

static void tell(struct moment first, struct moment last)
{
    double messages = (double)completed, wall = (double)(last.wall - first.wall), seconds = wall / 1e9;
    double server = (double)(last.server - first.server), own = (double)(last.own - first.own);

    printf("{\"messages\": %.0f, \"seconds\": %.4f, \"rate\": %.1f, \"cpu_ns\": %.2f, \"load_ns\": %.2f, "
           "\"server_share\": %.4f, \"load_share\": %.4f, \"p50\": %.3f, \"p99\": %.3f, \"p999\": %.3f}\n",
           messages, seconds, messages / seconds, server / messages, own / messages, server / wall, own / wall,
           quantile_us(0.5), quantile_us(0.99), quantile_us(0.999));
    fflush(stdout);
}

static void hold(void)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    char byte;

    while (read(0, &byte, 1) > 0)
        ;
    for (int i = 0; i < asked.connections && !asked.line; i++)
        setsockopt(connections[i].fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

int main(int argc, char **argv)
{
    clockid_t server = CLOCK_MONOTONIC;
    struct moment first;

    read_arguments(argc, argv);
    make_traffic();
    if (asked.pid > 0 && clock_getcpuclockid(asked.pid, &server) != 0)
        fail("there is no process %d", (int)asked.pid);
    asked.engine->prepare();
    connect_all();
    first = moment(server);
    start_all();
    if (asked.messages > 0) {
        while (completed < (uint64_t)asked.messages)
            asked.engine->turn();
    } else {
        run_until(clock_ns(CLOCK_MONOTONIC) + (uint64_t)(asked.warm * 1e9));
        while (!asked.line && served < asked.connections)
            asked.engine->turn();
        forget_times();
        first = moment(server);
        run_until(first.wall + (uint64_t)(asked.seconds * 1e9));
    }
    if (completed == 0)
        fail("not one message came back in time");
    tell(first, moment(server));
    if (asked.hold)
        hold();
    return 0;
}
