/*
 * The clients of the faults, to a port of 127.0.0.1:
 *
 *     clients storm PORT CLIENTS DEPTH RATE   connect, ask, read to the end, close; DEPTH at once for each client;
 *                                             RATE a second in all, 0 is as fast as it goes; until refused
 *     clients ping PORT CLIENTS PAUSE_MS      an answer on each of CLIENTS connections, and again after a pause
 *     clients slow PORT COUNT PERIOD_MS       COUNT connections that send a byte in each period, never a request
 *
 * Each prints a line when it is under way, ends at the end of standard input (storm: also when all are refused), and
 * then prints what it saw as JSON. With each line of input `ping` and `storm` print that, and begin a new account.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64, DEEPEST = 64, SAMPLES = 1 << 20, WAIT_S = 10, PING_WAIT_S = 2 };

static const char once[] = "GET /once HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
static const char ping[] = "GET /ping HTTP/1.1\r\nHost: a\r\n\r\n";
static const char begun[] = "GET /slow HTTP/1.1\r\nHost: a\r\nX-Long: ";

static int port, depth;
static long long pause_ns;
static atomic_int ending, running;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* What came of it; with the lock. */
static struct {
    long answered, reset, cut, silent, refused, failed, lost, count;
    int last_errno;
} account;
static float samples[SAMPLES];

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void sleep_until(long long when)
{
    struct timespec at = {when / 1000000000, when % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        ;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void add(long *to)
{
    pthread_mutex_lock(&lock);
    ++*to;
    pthread_mutex_unlock(&lock);
}

/* A connection, with a bound to every wait; -1 where there is none. */
static int connect_to(int seconds, int flags)
{
    struct timeval wait = {seconds, 0};
    struct sockaddr_in address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

    if (fd < 0)
        fail("socket");
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)port);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* Storm. */

static int whole(const char *answer, size_t size)
{
    return size >= 5 && memmem(answer, size, "\r\n\r\n", 4) != NULL && memcmp(answer + size - 5, "done\n", 5) == 0;
}

/* Reads to the end and accounts for it. */
static void finish(int fd)
{
    char answer[1024];
    size_t size = 0;
    ssize_t got;

    while (size < sizeof answer && (got = recv(fd, answer + size, sizeof answer - size, 0)) > 0)
        size += (size_t)got;
    pthread_mutex_lock(&lock);
    if (got == 0 && whole(answer, size)) {
        account.answered++;
    } else {
        account.last_errno = got < 0 ? errno : 0;
        if (got < 0 && errno == EAGAIN)
            account.silent++;
        else if (got < 0)
            account.reset++;
        else
            account.cut++;
    }
    pthread_mutex_unlock(&lock);
    close(fd);
}

static void *storm(void *argument)
{
    long long next = now_ns();
    int refused = 0;

    (void)argument;
    while (!refused && !ending) {
        int fds[DEEPEST], count = 0;
        while (count < depth) {
            int fd = connect_to(WAIT_S, 0);
            if (fd < 0) {
                refused = errno == ECONNREFUSED || errno == ECONNRESET;
                add(refused ? &account.refused : &account.failed);
                break;
            }
            fds[count++] = fd;
            /* What a send meets, the receive tells. */
            (void)!send(fd, once, sizeof once - 1, MSG_NOSIGNAL);
        }
        for (int i = 0; i < count; i++)
            finish(fds[i]);
        if (pause_ns > 0) {
            next += pause_ns * depth;
            if (next > now_ns())
                sleep_until(next);
            else
                next = now_ns();
        }
    }
    running--;
    return NULL;
}

/* Ping. */

static int answered(int fd)
{
    char answer[1024];
    size_t size = 0;

    if (send(fd, ping, sizeof ping - 1, MSG_NOSIGNAL) < 0)
        return 0;
    for (;;) {
        ssize_t got = recv(fd, answer + size, sizeof answer - size, 0);
        if (got <= 0)
            return 0;
        size += (size_t)got;
        if (memmem(answer, size, "pong\n", 5) != NULL)
            return 1;
        if (size == sizeof answer)
            return 0;
    }
}

static void *ping_on(void *argument)
{
    int fd = *(int *)argument;
    long long next = now_ns();

    while (!ending) {
        long long start = now_ns();
        int works = answered(fd);
        long long took = now_ns() - start;
        pthread_mutex_lock(&lock);
        if (works && account.count < SAMPLES)
            samples[account.count++] = (float)took / 1e3F;
        account.lost += !works;
        pthread_mutex_unlock(&lock);
        if (!works)
            break;
        next += pause_ns;
        if (next < now_ns())
            next = now_ns() + pause_ns;
        sleep_until(next);
    }
    close(fd);
    running--;
    return NULL;
}

static int by_size(const void *one, const void *other)
{
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

/* Prints the account and begins a new one. */
static void tell(void)
{
    long count;

    pthread_mutex_lock(&lock);
    count = account.count;
    qsort(samples, (size_t)count, sizeof *samples, by_size);
    printf("{\"answered\": %ld, \"reset\": %ld, \"cut\": %ld, \"silent\": %ld, \"refused\": %ld, \"failed\": %ld, "
           "\"errno\": %d, \"lost\": %ld, \"pings\": %ld",
           account.answered, account.reset, account.cut, account.silent, account.refused, account.failed,
           account.last_errno, account.lost, count);
    if (count > 0)
        printf(", \"median_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f", samples[count / 2],
               samples[count * 99 / 100], samples[count - 1]);
    puts("}");
    fflush(stdout);
    memset(&account, 0, sizeof account);
    pthread_mutex_unlock(&lock);
}

static void until_told(void)
{
    struct pollfd input = {0, POLLIN, 0};
    char line[16];

    while (running > 0)
        if (poll(&input, 1, 5) > 0) {
            if (read(0, line, sizeof line) <= 0)
                break;
            tell();
        }
    ending = 1;
}

static void run(void *(*function)(void *), int clients, int *arguments)
{
    pthread_t threads[MOST];

    running = clients;
    for (int i = 0; i < clients; i++)
        if (pthread_create(&threads[i], NULL, function, arguments == NULL ? NULL : arguments + i) != 0)
            fail("pthread_create");
    puts("under way");
    fflush(stdout);
    until_told();
    for (int i = 0; i < clients; i++)
        pthread_join(threads[i], NULL);
    tell();
}

/* Slow. */

/* One turn: each sends its next byte; who is over is counted. */
static long turn(int *all, int count, int period_ms, const char *first)
{
    struct pollfd input = {0, POLLIN, 0};
    long long start = now_ns();
    long lost = 0;

    for (int i = 0; i < count; i++) {
        const char *byte = first != NULL ? first : "x";
        size_t size = first != NULL ? strlen(first) : 1;
        if (all[i] < 0)
            continue;
        if (send(all[i], byte, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN) {
            close(all[i]);
            all[i] = -1;
            lost++;
        }
        /* Evenly over the period; the first turn is not held back. */
        if (first == NULL && (i % 16 == 15 || i == count - 1)) {
            int ahead = (int)((long long)period_ms * (i + 1) / count - (now_ns() - start) / 1000000);
            if (poll(&input, 1, ahead > 0 ? ahead : 0) > 0)
                return lost;
        }
    }
    return lost;
}

static int slow(int count, int period_ms)
{
    int *all = calloc((size_t)count, sizeof *all);
    struct pollfd input = {0, POLLIN, 0};
    long lost = 0, connected = 0;

    if (all == NULL)
        fail("calloc");
    for (int i = 0; i < count; i++) {
        all[i] = connect_to(WAIT_S, SOCK_NONBLOCK);
        lost += all[i] < 0;
        if (i % 256 == 255)
            sleep_until(now_ns() + 10000000);
    }
    sleep_until(now_ns() + 300000000);
    lost += turn(all, count, 0, begun);
    for (int i = 0; i < count; i++)
        connected += all[i] >= 0;
    printf("{\"connected\": %ld}\n", connected);
    fflush(stdout);
    while (poll(&input, 1, 0) == 0)
        lost += turn(all, count, period_ms, NULL);
    printf("{\"lost\": %ld}\n", lost);
    return 0;
}

int main(int argc, char **argv)
{
    int fds[MOST], clients;

    if (argc < 5)
        return 2;
    port = atoi(argv[2]);
    clients = atoi(argv[3]);
    if (strcmp(argv[1], "slow") == 0)
        return slow(clients, atoi(argv[4]));
    if (clients < 1 || clients > MOST)
        return 2;
    if (strcmp(argv[1], "storm") == 0 && argc == 6) {
        depth = atoi(argv[4]);
        pause_ns = atoi(argv[5]) > 0 ? 1000000000LL * clients / atoi(argv[5]) : 0;
        if (depth < 1 || depth > DEEPEST)
            return 2;
        run(storm, clients, NULL);
        return 0;
    }
    pause_ns = atoi(argv[4]) * 1000000LL;
    for (int i = 0; i < clients; i++) {
        fds[i] = connect_to(PING_WAIT_S, 0);
        if (fds[i] < 0 || !answered(fds[i]))
            fail("the first answer");
    }
    run(ping_on, clients, fds);
    return 0;
}
