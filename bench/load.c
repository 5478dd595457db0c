/*
 * load: talks to an echo server over loopback, checks every byte that comes back, and prints one line of JSON.
 *
 *     load --port PORT [--pid PID] [--connections N] [--size BYTES] [--window MESSAGES] [--line]
 *          [--warm SECONDS] [--seconds SECONDS | --messages COUNT] [--hold]
 *
 * Each connection keeps `window` messages of `size` bytes under way. With --line each connection is made, sends one
 * line, reads it back and the end that follows, and is made again. One thread, epoll. The server's CPU time is read
 * from the clock of its process (clock_getcpuclockid(3)), which has threads that have ended too, at the same two
 * moments as the generator's own: what happens before `warm` is over, and each connection was served, counts nowhere.
 * With --hold it keeps the connections open, after its line of JSON, until standard input ends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WINDOW = 16, EVENTS = 1024, PERIOD = 8191, CHUNK = 256 * 1024, PARTS = 128, POWERS = 40 };

struct connection {
    int fd;
    size_t base;                    /* where in the pattern its stream begins */
    uint64_t sent, goal, received;  /* positions in the stream */
    uint64_t started[WINDOW];       /* when each message under way was sent */
};

static struct {
    int port, connections, window, line, hold;
    size_t size;
    double warm, seconds;
    long messages;
    pid_t pid;
} asked = {.connections = 1, .window = 1, .size = 64, .warm = 0.1, .seconds = 1};

static unsigned char pattern[PERIOD + CHUNK]; /* the streams' bytes, which repeat after PERIOD of them */
static unsigned char input[CHUNK];
static struct connection *connections;
static int poller;

static uint64_t now;          /* nanoseconds; read after each receive */
static long left;             /* with --messages: how many are still to be started */
static uint64_t completed;
static int served;            /* connections that have had their first message back */
static uint64_t histogram[POWERS * PARTS];

static void fail(const char *format, ...)
{
    va_list arguments;

    fputs("load: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec time;

    if (clock_gettime(clock, &time) < 0)
        fail("clock_gettime: %s", strerror(errno));
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* The histogram has PARTS steps to each power of two, so that a step is less than one in a hundred. */
static void record(uint64_t nanoseconds)
{
    unsigned power = 0;

    while (nanoseconds >= 2 * PARTS) {
        nanoseconds >>= 1;
        power++;
    }
    histogram[nanoseconds < PARTS ? nanoseconds : (power + 1) * PARTS + (nanoseconds - PARTS)]++;
    completed++;
}

static double quantile_us(double part)
{
    uint64_t rank = (uint64_t)(part * (double)completed), seen = 0;

    for (size_t i = 0; i < POWERS * PARTS; i++) {
        seen += histogram[i];
        if (seen > rank) {
            double step = i < PARTS ? 1 : (double)((uint64_t)1 << (i / PARTS - 1));
            double low = i < PARTS ? (double)i : (double)(PARTS + i % PARTS) * step;
            return (low + step / 2) / 1000;
        }
    }
    return 0;
}

static void watch(struct connection *connection, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data = {.ptr = connection}};

    if (epoll_ctl(poller, operation, connection->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

static int connect_to(int flags)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)asked.port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

    if (fd < 0)
        fail("socket: %s", strerror(errno));
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        fail("TCP_NODELAY: %s", strerror(errno));
    /* The cheapest there is, so that the generator has less to do than the server, which has the system's default. */
    if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) < 0)
        fail("TCP_CONGESTION: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    return fd;
}

static void check(const struct connection *connection, size_t size)
{
    if (memcmp(input, pattern + (connection->base + connection->received) % PERIOD, size) != 0)
        fail("other bytes came back than were sent, within %zu from byte %llu of a stream", size,
             (unsigned long long)connection->received);
}

/* Sends as much as was started and the kernel takes; the rest when it is writable. */
static void pump(struct connection *connection)
{
    while (connection->sent < connection->goal) {
        uint64_t rest = connection->goal - connection->sent;
        ssize_t sent = send(connection->fd, pattern + (connection->base + connection->sent) % PERIOD,
                            rest < CHUNK ? (size_t)rest : CHUNK, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            return;
        if (sent < 0)
            fail("send: %s", strerror(errno));
        connection->sent += (uint64_t)sent;
    }
}

static void start(struct connection *connection)
{
    if (asked.messages > 0 && left-- <= 0)
        return;
    connection->started[connection->goal / asked.size % (uint64_t)asked.window] = now;
    connection->goal += asked.size;
}

/* The event is edge-triggered: all of what is there is read, and a short read says that nothing is left. */
static void receive(struct connection *connection)
{
    for (;;) {
        uint64_t due = connection->sent - connection->received, first = connection->received / asked.size;
        size_t room = due < CHUNK ? (size_t)due : CHUNK;
        ssize_t got = recv(connection->fd, input, room > 0 ? room : 1, 0);

        if (got < 0 && errno == EAGAIN)
            return;
        if (got < 0)
            fail("recv: %s", strerror(errno));
        if (got == 0)
            fail("the server closed a connection");
        if (room == 0)
            fail("more bytes came back than were sent");
        check(connection, (size_t)got);
        served += first == 0 && connection->received + (uint64_t)got >= asked.size;
        connection->received += (uint64_t)got;
        now = clock_ns(CLOCK_MONOTONIC);
        for (uint64_t i = first; i < connection->received / asked.size; i++) {
            record(now - connection->started[i % (uint64_t)asked.window]);
            start(connection);
        }
        pump(connection);
        if ((size_t)got < room || connection->received == connection->sent || (uint64_t)got == due)
            return;
    }
}

static void echo_event(struct connection *connection, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(connection);
    if (events & EPOLLOUT)
        pump(connection);
}

static void echo_begin(struct connection *connection)
{
    connection->fd = connect_to(0);
    if (fcntl(connection->fd, F_SETFL, O_NONBLOCK) < 0)
        fail("O_NONBLOCK: %s", strerror(errno));
    watch(connection, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLET);
}

/* A line is sent as soon as the connection is made, which over loopback it is at once. */
static void line_send(struct connection *connection)
{
    ssize_t sent = send(connection->fd, pattern + connection->base, asked.size, MSG_NOSIGNAL);

    if (sent < 0 && errno != EAGAIN)
        fail("send: %s", strerror(errno));
    if (sent >= 0 && (size_t)sent != asked.size)
        fail("send: only %zd bytes of a line were taken", sent);
    connection->sent = sent > 0 ? (uint64_t)sent : 0;
}

static void line_begin(struct connection *connection)
{
    if (asked.messages > 0 && left-- <= 0)
        return;
    connection->received = 0;
    connection->started[0] = now = clock_ns(CLOCK_MONOTONIC);
    connection->fd = connect_to(SOCK_NONBLOCK);
    line_send(connection);
    watch(connection, EPOLL_CTL_ADD, connection->sent > 0 ? EPOLLIN : EPOLLOUT);
}

static void line_event(struct connection *connection, uint32_t events)
{
    ssize_t got;

    if (connection->sent == 0) {
        (void)events;
        line_send(connection);
        if (connection->sent > 0)
            watch(connection, EPOLL_CTL_MOD, EPOLLIN);
        return;
    }
    while ((got = recv(connection->fd, input, sizeof input, 0)) > 0) {
        if (connection->received + (uint64_t)got > asked.size)
            fail("more bytes came back than were sent");
        check(connection, (size_t)got);
        connection->received += (uint64_t)got;
    }
    if (got < 0 && errno == EAGAIN)
        return;
    if (got < 0)
        fail("recv: %s", strerror(errno));
    if (connection->received != asked.size)
        fail("%llu bytes came back of a line of %zu", (unsigned long long)connection->received, asked.size);
    close(connection->fd);
    record(clock_ns(CLOCK_MONOTONIC) - connection->started[0]);
    line_begin(connection);
}

/* Runs until `until`, or, where that is 0, until all messages that were asked for have come back. */
static void run(uint64_t until)
{
    static struct epoll_event events[EVENTS];

    while (until > 0 ? now < until : completed < (uint64_t)asked.messages) {
        int count = epoll_wait(poller, events, EVENTS, 10000);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait: %s", strerror(errno));
        if (count == 0)
            fail("nothing came back for ten seconds");
        for (int i = 0; i < count; i++)
            (asked.line ? line_event : echo_event)(events[i].data.ptr, events[i].events);
        now = clock_ns(CLOCK_MONOTONIC);
    }
}

static void read_arguments(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", 1, NULL, 'p'}, {"pid", 1, NULL, 'i'}, {"connections", 1, NULL, 'c'}, {"size", 1, NULL, 's'},
        {"window", 1, NULL, 'w'}, {"line", 0, NULL, 'l'}, {"warm", 1, NULL, 'a'}, {"seconds", 1, NULL, 't'},
        {"messages", 1, NULL, 'm'}, {"hold", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (option) {
        case 'p': asked.port = atoi(optarg); break;
        case 'i': asked.pid = atoi(optarg); break;
        case 'c': asked.connections = atoi(optarg); break;
        case 's': asked.size = (size_t)atol(optarg); break;
        case 'w': asked.window = atoi(optarg); break;
        case 'l': asked.line = 1; break;
        case 'a': asked.warm = atof(optarg); break;
        case 't': asked.seconds = atof(optarg); break;
        case 'm': asked.messages = atol(optarg); break;
        case 'h': asked.hold = 1; break;
        default: exit(2);
        }
    if (asked.port <= 0 || asked.connections < 1 || asked.size < 1 || asked.window < 1 || asked.window > WINDOW ||
        (asked.line && asked.size > PERIOD))
        fail("an argument is missing or out of its range; the head of load.c shows them");
}

static void make_pattern(void)
{
    uint32_t random = 1;

    for (size_t i = 0; i < PERIOD; i++) {
        random = random * 1664525u + 1013904223u;
        pattern[i] = (unsigned char)(random >> 24);
        if (asked.line && pattern[i] == '\n')
            pattern[i] = ' ';
    }
    if (asked.line)
        pattern[asked.size - 1] = '\n';
    for (size_t i = PERIOD; i < sizeof pattern; i++)
        pattern[i] = pattern[i - PERIOD];
}

int main(int argc, char **argv)
{
    clockid_t server = CLOCK_MONOTONIC;
    uint64_t began, wall, server_cpu = 0, own_cpu, warm_until;
    double seconds;

    read_arguments(argc, argv);
    make_pattern();
    if (asked.pid > 0 && clock_getcpuclockid(asked.pid, &server) != 0)
        fail("there is no process %d", (int)asked.pid);
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)asked.connections, sizeof *connections);
    if (poller < 0 || connections == NULL)
        fail("out of descriptors or memory");

    left = asked.messages;
    for (int i = 0; i < asked.connections; i++) {
        connections[i].base = asked.line ? 0 : (size_t)i * 193 % PERIOD;
        if (!asked.line)
            echo_begin(&connections[i]);
    }
    now = began = clock_ns(CLOCK_MONOTONIC);
    server_cpu = asked.pid > 0 ? clock_ns(server) : 0;
    own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < asked.connections; i++) {
        if (asked.line) {
            line_begin(&connections[i]);
            continue;
        }
        now = clock_ns(CLOCK_MONOTONIC);
        for (int message = 0; message < asked.window; message++)
            start(&connections[i]);
        pump(&connections[i]);
    }
    if (asked.messages > 0) {
        run(0);
    } else {
        warm_until = now + (uint64_t)(asked.warm * 1e9);
        run(warm_until);
        while (!asked.line && served < asked.connections)
            run(now + 1000000);
        memset(histogram, 0, sizeof histogram);
        completed = 0;
        began = clock_ns(CLOCK_MONOTONIC);
        server_cpu = asked.pid > 0 ? clock_ns(server) : 0;
        own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        run(began + (uint64_t)(asked.seconds * 1e9));
    }
    wall = clock_ns(CLOCK_MONOTONIC) - began;
    server_cpu = asked.pid > 0 ? clock_ns(server) - server_cpu : 0;
    own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own_cpu;
    seconds = (double)wall / 1e9;
    if (completed == 0)
        fail("not one message came back in time");

    printf("{\"messages\": %llu, \"seconds\": %.4f, \"rate\": %.1f, \"cpu_ns\": %.2f, \"server_share\": %.4f, "
           "\"load_share\": %.4f, \"p50\": %.3f, \"p99\": %.3f, \"p999\": %.3f}\n",
           (unsigned long long)completed, seconds, (double)completed / seconds, (double)server_cpu / (double)completed,
           (double)server_cpu / (double)wall, (double)own_cpu / (double)wall, quantile_us(0.5), quantile_us(0.99),
           quantile_us(0.999));
    fflush(stdout);
    if (asked.hold)
        while (read(0, input, sizeof input) > 0)
            ;
    return 0;
}
