/*
 A day's worth of short connections, one each second, as fast as they go: nothing may grow and nothing be lost.

 Each test is one way of serving. Its clients live in a process of their own. After each hour's worth the server must
 have accepted every connection that was made and have none open, and have no more descriptors, threads, connection
 slots and memory than after the first hours. Every client that has sent a whole line must have got its whole answer,
 whatever others did: reset, go away, close one side, or say nothing until the server's patience ends.

 SOAK_CONNECTIONS in the environment is how many to make: 86400, a day's worth.
*/
#define _GNU_SOURCE
#include "check.h"
#include "expect.h"
#include "serving.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { HOURS = 24, WARM_HOURS = 4, CLIENTS = 4, WORKERS = 8, PATIENCE_S = 30 };
/* Threads that may be there beside the workers: the test's own, and the server's. */
enum { OTHER_THREADS = 3 };
/* In kB. A slot or a line that is lost with each connection would be many times that. */
enum { GROWTH = 1024 };
/* The first chunk of src/serve/table.rs, far more than are ever open here; a number's low bits are the slot's index. */
enum { SLOTS = 1024, SLOT_MASK = (1 << 22) - 1 };

/* The clients. */

enum { IDLE_MS = 1000, SILENT_EACH = 3000, ADDRESSES = 16 };

/* What the process of the clients is asked to do: make the connections of these numbers, at this port. */
typedef struct work {
    int port;
    int first;
    int count;
} work;

/* From several addresses, since the ports that a client has closed rest for a while. */
static int connect_from(int number, int port)
{
    struct timeval patience = { PATIENCE_S, 0 };
    struct sockaddr_in own = { 0 }, server = { 0 };
    int on = 1, fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    own.sin_family = server.sin_family = AF_INET;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(number % ADDRESSES));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.sin_port = htons((uint16_t)port);
    MUST(setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on));
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience));
    MUST(bind(fd, (struct sockaddr *)&own, sizeof own));
    MUST(connect(fd, (struct sockaddr *)&server, sizeof server));
    return fd;
}

static void send_text(int fd, const char *text, size_t size)
{
    CHECK_EQ_INT(MUST(send(fd, text, size, MSG_NOSIGNAL)), size);
}

/* Exactly this, and then the orderly end. */
static void expect_answer(int fd, const char *line)
{
    char wanted[80], text[160];
    size_t have = 0;
    ssize_t count;
    snprintf(wanted, sizeof wanted, "you said %s", line);
    while ((count = MUST(recv(fd, text + have, sizeof text - 1 - have, 0))) > 0)
        have += (size_t)count;
    text[have] = '\0';
    CHECK_STR_EQ(text, wanted);
}

static void reset(int fd)
{
    struct linger now = { 1, 0 };
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now));
}

/* The server ends it: by its close or by a reset. */
static void await_end(int fd)
{
    char byte;
    ssize_t count = recv(fd, &byte, 1, 0);
    CHECK(count == 0 || (count == -1 && errno == ECONNRESET));
}

/* What kind of client it is depends on its number. */
static void be_a_client(int number, int port)
{
    char line[60];
    size_t size = (size_t)snprintf(line, sizeof line, "client %d of the day\n", number);
    int kind = number % 100;
    int fd = connect_from(number, port);
    if (number % SILENT_EACH == SILENT_EACH / 2) {
        await_end(fd);
    } else if (kind < 3) { /* with nothing, half a line, or all of it under way */
        send_text(fd, line, size * (size_t)kind / 2);
        reset(fd);
    } else if (kind == 3) { /* goes away in order, without the answer */
        send_text(fd, line, size);
    } else {
        size_t part = kind % 10 == 4 ? size / 2 : size;
        send_text(fd, line, part);
        if (part < size)
            send_text(fd, line + part, size - part);
        if (kind % 10 == 5)
            MUST(shutdown(fd, SHUT_WR));
        expect_answer(fd, line);
    }
    MUST(close(fd));
}

static work asked;
static int next_number;

static void *make_connections(void *unused)
{
    int number;
    while ((number = __atomic_fetch_add(&next_number, 1, __ATOMIC_SEQ_CST)) < asked.first + asked.count)
        be_a_client(number, asked.port);
    return unused;
}

/* A process: does what it is asked through one pipe, and says so through the other. */
static void be_the_clients(void *pipes)
{
    int *in = pipes, *out = in + 2;
    MUST(close(in[1]));
    MUST(close(out[0]));
    while (MUST(read(in[0], &asked, sizeof asked)) == (ssize_t)sizeof asked) {
        pthread_t threads[CLIENTS];
        next_number = asked.first;
        for (int i = 0; i < CLIENTS; i++)
            threads[i] = check_thread(make_connections, NULL);
        for (int i = 0; i < CLIENTS; i++)
            check_thread_join(threads[i]);
        MUST(write(out[1], "", 1));
    }
}

/* The servers. */

/* Shared with the processes of handlers. */
typedef struct counts {
    uint32_t highest_slot;
    uint64_t answered;
} counts;

static counts *counted;

static void note_slot(oyez_conn connection)
{
    uint32_t slot = (uint32_t)connection & SLOT_MASK;
    uint32_t highest = __atomic_load_n(&counted->highest_slot, __ATOMIC_SEQ_CST);
    while (slot > highest
        && !__atomic_compare_exchange_n(&counted->highest_slot, &highest, slot, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
}

static void answer(oyez_conn connection, const char *line, int size)
{
    char text[120];
    int length = snprintf(text, sizeof text, "you said %.*s\n", size, line);
    if (oyez_conn_write(connection, text, (size_t)length) == length)
        __atomic_add_fetch(&counted->answered, 1, __ATOMIC_SEQ_CST);
}

static void handle(oyez_conn connection, void *user)
{
    char line[80];
    (void)user;
    note_slot(connection);
    ssize_t size = oyez_conn_read_line(connection, line, sizeof line);
    if (size > 0 && oyez_conn_fd(connection) != -1)
        answer(connection, line, (int)size);
}

static size_t handle_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    const uint8_t *end = memchr(bytes, '\n', size);
    (void)user;
    if (end == NULL)
        return 0;
    answer(connection, (const char *)bytes, (int)(end - bytes));
    oyez_conn_close(connection);
    return size;
}

static void handle_open(oyez_conn connection, void *user)
{
    (void)user;
    note_slot(connection);
}

static void *accept_by_hand(void *server)
{
    oyez_conn connection;
    while (oyez_server_accept(*(oyez_server *)server, &connection, -1) != -1) {
        handle(connection, NULL);
        CHECK_WORKS(oyez_conn_close(connection));
    }
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_STOPPED);
    return NULL;
}

/* The soak. */

static int connections(void)
{
    const char *asked_for = getenv("SOAK_CONNECTIONS");
    return asked_for != NULL && atoi(asked_for) > 0 ? atoi(asked_for) : HOURS * 3600;
}

/* What may not grow. */
typedef struct size_then {
    int descriptors;
    int threads;
    long memory;
} size_then;

static size_then look(void)
{
    size_then now = { check_descriptors(), check_threads(), check_memory() };
    return now;
}

static void check_hour(served server, int made, const size_then *warm)
{
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK_EQ_INT(serve_stats(server).accepted, made);
    CHECK_EQ_INT(serve_stats(server).accept_errors, 0);
    CHECK_EQ_INT(serve_stats(server).handler_failures, 0);
    CHECK(counted->highest_slot < SLOTS);
    CHECK_SOON(check_children() <= 1); /* the clients */
    CHECK(check_threads() <= WORKERS + OTHER_THREADS);
    if (warm == NULL)
        return;
    CHECK_SOON(check_descriptors() <= warm->descriptors);
    size_then now = look();
    if (now.memory > warm->memory + GROWTH)
        check_fail(__FILE__, __LINE__, "%ld kB after %d connections, %ld when warm", now.memory, made, warm->memory);
}

static void soak(served server, const int *pipes)
{
    int all = connections(), made = 0;
    long long start = check_now_ms();
    size_then warm = look();
    for (int hour = 1; hour <= HOURS; hour++) {
        work next = { server.port, made, (int)((long long)all * hour / HOURS) - made };
        char done;
        CHECK_EQ_INT(write(pipes[1], &next, sizeof next), sizeof next);
        if (read(pipes[2], &done, 1) != 1)
            check_fail(__FILE__, __LINE__, "the clients have ended early");
        made += next.count;
        check_hour(server, made, hour > WARM_HOURS ? &warm : NULL);
        if (hour == WARM_HOURS)
            warm = look();
    }
    check_note("%d connections, %lld us each, %llu answered; %ld kB when warm, %ld at the end; slots to %u", made,
        (check_now_ms() - start) * 1000 / made, (unsigned long long)counted->answered, warm.memory, check_memory(),
        (unsigned)counted->highest_slot);
}

static oyez_server_options options_of(int model)
{
    oyez_server_options options = serve_options(model);
    options.workers = WORKERS;
    options.idle_timeout_ms = IDLE_MS;
    return options;
}

/* Runs `body` with clients that were forked before there was any thread. */
static void with_clients(void (*body)(const int *pipes))
{
    int pipes[4]; /* to the clients, and from them */
    MUST(pipe2(pipes, O_CLOEXEC));
    MUST(pipe2(pipes + 2, O_CLOEXEC));
    counted = mmap(NULL, sizeof *counted, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(counted != MAP_FAILED);
    pid_t clients = check_fork(be_the_clients, pipes);
    MUST(close(pipes[0]));
    MUST(close(pipes[3]));
    int own[3] = { -1, pipes[1], pipes[2] };
    body(own);
    MUST(close(pipes[1]));
    check_join(clients);
    MUST(close(pipes[2]));
    MUST(munmap(counted, sizeof *counted));
}

static void soak_model(int model, const int *pipes)
{
    oyez_server_options options = options_of(model);
    served server = serve(handle, NULL, &options);
    soak(server, pipes);
    serve_end(server);
}

static void soak_threads(const int *pipes)
{
    soak_model(OYEZ_THREADS, pipes);
}

static void soak_sequential(const int *pipes)
{
    soak_model(OYEZ_SEQUENTIAL, pipes);
}

static void soak_processes(const int *pipes)
{
    soak_model(OYEZ_PROCESSES, pipes);
}

static void soak_events(const int *pipes)
{
    oyez_server_options options = options_of(OYEZ_DEFAULT);
    oyez_events events = OYEZ_EVENTS_INIT;
    options.workers = 2;
    oyez_server first = oyez_server_new_events(&events, NULL, &options);
    if (first < 0 && oyez_error_code(NULL) == OYEZ_UNSUPPORTED)
        check_skip(oyez_error_message(NULL));
    CHECK_WORKS(oyez_server_close(first));
    events.on_open = handle_open;
    events.on_data = handle_data;
    served server = serve_events(OVER_TCP, &events, NULL, &options);
    soak(server, pipes);
    serve_end(server);
}

static void soak_by_hand(const int *pipes)
{
    pthread_t threads[WORKERS];
    oyez_server_options options = options_of(OYEZ_DEFAULT);
    served server = serve(NULL, NULL, &options);
    for (int i = 0; i < WORKERS; i++)
        threads[i] = check_thread(accept_by_hand, &server.id);
    soak(server, pipes);
    CHECK_WORKS(oyez_server_stop(server.id, -1));
    for (int i = 0; i < WORKERS; i++)
        check_thread_join(threads[i]);
    CHECK_WORKS(oyez_server_close(server.id));
}

static void threads(void)
{
    with_clients(soak_threads);
}

static void sequential(void)
{
    with_clients(soak_sequential);
}

static void processes(void)
{
    with_clients(soak_processes);
}

static void events(void)
{
    with_clients(soak_events);
}

static void by_hand(void)
{
    with_clients(soak_by_hand);
}

static const check_case cases[] = {
    CASE_WITHIN(1200, threads),
    CASE_WITHIN(1200, sequential),
    CASE_WITHIN(1200, processes),
    CASE_WITHIN(1200, events),
    CASE_WITHIN(1200, by_hand),
};
CHECK_MAIN(cases)
