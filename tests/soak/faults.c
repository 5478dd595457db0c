/*
 Half an hour of faults at random: memory, descriptors and threads at its end are as after its first minute.

 Every way of serving runs in one process. Clients, in processes of their own, ask without end; whoever is connected gets
 the whole answer, but where the server was told to refuse. Meanwhile descriptors run out and come back, the process
 is stopped and goes on, signals interrupt every call, servers pause, limits change, floods and resets come, and clients
 that send a byte now and then.

 SOAK_SECONDS in the environment is how long: 1800. SOAK_SEED repeats a run's choices.
*/
#define _GNU_SOURCE
#include "check.h"
#include "expect.h"
#include "serving.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { WAYS = 6, WORKERS = 8, CLIENTS = 12, IDLE_MS = 1500, PATIENCE_S = 40, ADDRESSES = 64 };
enum { WARM_SECONDS = 60, GROWTH_KB = 2048, GRACE_MS = 500 };

static const char *const way_names[WAYS] = { "threads", "sequential", "processes", "by hand", "events", "events on epoll" };

/* What the processes share. */
typedef struct common {
    int ports[WAYS];
    int ready;              /* the servers run */
    int ending;             /* clients: come to an end */
    long long refusing;     /* until then, by the clock in ms, clients may be refused */
    unsigned long long answered;
    unsigned long long refused;
    unsigned long long lines; /* of the log */
    /* The server process's answer to a request of the director. */
    int descriptors, threads;
    long memory;
    unsigned long long active[WAYS], accepted;
} common;

static common *shared;

#define LOAD(field) __atomic_load_n(&(field), __ATOMIC_SEQ_CST)
#define STORE(field, value) __atomic_store_n(&(field), value, __ATOMIC_SEQ_CST)
#define COUNT(field) __atomic_add_fetch(&(field), 1, __ATOMIC_SEQ_CST)

static unsigned seed_of_run;

static int any(unsigned *seed, int most)
{
    return (int)(rand_r(seed) % (unsigned)most);
}

/* The servers' process. */

static void answer(oyez_conn connection, const char *line, int size)
{
    char text[120];
    int length = snprintf(text, sizeof text, "you said %.*s\n", size, line);
    oyez_conn_write(connection, text, (size_t)length);
}

static void handle(oyez_conn connection, void *user)
{
    char line[80];
    (void)user;
    ssize_t size = oyez_conn_read_line(connection, line, sizeof line);
    if (size > 0)
        answer(connection, line, (int)size);
}

static void handle_or_crash(oyez_conn connection, void *user)
{
    char line[80];
    (void)user;
    ssize_t size = oyez_conn_read_line(connection, line, sizeof line);
    if (size > 0 && strcmp(line, "crash") == 0)
        raise(SIGKILL);
    if (size > 0)
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

static void *accept_by_hand(void *server)
{
    oyez_conn connection;
    for (;;) {
        if (oyez_server_accept(*(oyez_server *)server, &connection, -1) != -1) {
            handle(connection, NULL);
            oyez_conn_close(connection);
        } else if (oyez_error_code(NULL) == OYEZ_STOPPED) {
            return NULL;
        }
    }
}

static void count_line(int level, const char *event, const char *text, void *user)
{
    (void)level;
    (void)event;
    (void)text;
    (void)user;
    COUNT(shared->lines);
}

static oyez_server_options plain_options(void)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.idle_timeout_ms = IDLE_MS;
    options.read_timeout_ms = 2 * IDLE_MS;
    options.lifetime_ms = 10 * IDLE_MS;
    options.log = count_line;
    return options;
}

static oyez_server make_way(int way)
{
    static const int models[] = { OYEZ_THREADS, OYEZ_SEQUENTIAL, OYEZ_PROCESSES };
    oyez_server_options options = plain_options();
    oyez_events events = OYEZ_EVENTS_INIT;
    events.on_data = handle_data;
    options.workers = way >= 4 ? 2 : WORKERS;
    options.backend = way == 5 ? OYEZ_BACKEND_EPOLL : OYEZ_BACKEND_AUTO;
    if (way < 3) {
        options.model = models[way];
        return (oyez_server)CHECK_WORKS(oyez_server_new(way == 2 ? handle_or_crash : handle, NULL, &options));
    }
    if (way == 3)
        return (oyez_server)CHECK_WORKS(oyez_server_new(NULL, NULL, &options));
    return (oyez_server)CHECK_WORKS(oyez_server_new_events(&events, NULL, &options));
}

/* What the director asks of the servers. */
enum { PAUSE, RESUME, FEW, SLOW, DENY, LIMITLESS, LOOK, END };
typedef struct request {
    int what;
    int way;
} request;

static void set_limits(oyez_server server, int what)
{
    oyez_server_options options = plain_options();
    options.max_connections = what == FEW ? 2 : 0;
    options.accept_rate = what == SLOW ? 50 : 0;
    options.max_connections_per_address = what == SLOW ? 1 : 0;
    options.deny = what == DENY ? "127.0.0.0/26, ::1" : NULL;
    CHECK_WORKS(oyez_server_set_limits(server, &options));
}

static void look(const oyez_server *servers)
{
    unsigned long long accepted = 0;
    for (int way = 0; way < WAYS; way++) {
        oyez_stats stats = OYEZ_STATS_INIT;
        CHECK_WORKS(oyez_server_stats(servers[way], &stats));
        shared->active[way] = stats.active;
        accepted += stats.accepted;
    }
    shared->accepted = accepted;
    shared->descriptors = check_descriptors();
    shared->threads = check_threads();
    shared->memory = check_memory();
}

static void do_nothing(int number)
{
    (void)number;
}

static void be_the_servers(void *pipes)
{
    int *in = pipes, *out = in + 2;
    oyez_server servers[WAYS];
    pthread_t by_hand[2];
    struct sigaction storm = { .sa_handler = do_nothing }; /* without SA_RESTART */
    request asked = { LOOK, 0 };
    MUST(close(in[1]));
    MUST(close(out[0]));
    MUST(sigaction(SIGUSR1, &storm, NULL));
    for (int way = 0; way < WAYS; way++) {
        servers[way] = make_way(way);
        shared->ports[way] = oyez_local_port((int)CHECK_WORKS(oyez_server_listen(servers[way], "127.0.0.1:0", NULL)));
        if (way != 3)
            CHECK_WORKS(oyez_server_start(servers[way]));
    }
    for (int i = 0; i < 2; i++)
        by_hand[i] = check_thread(accept_by_hand, &servers[3]);
    STORE(shared->ready, 1);
    do {
        ssize_t count;
        while ((count = read(in[0], &asked, sizeof asked)) == -1 && errno == EINTR)
            ;
        CHECK_EQ_INT(count, sizeof asked);
        if (asked.what == PAUSE)
            CHECK_WORKS(oyez_server_pause(servers[asked.way]));
        else if (asked.what == RESUME)
            CHECK_WORKS(oyez_server_resume(servers[asked.way]));
        else if (asked.what == LOOK)
            look(servers);
        else if (asked.what != END)
            set_limits(servers[asked.way], asked.what);
        while (write(out[1], "", 1) == -1 && errno == EINTR)
            ;
    } while (asked.what != END);
    for (int way = 0; way < WAYS; way++)
        CHECK_WORKS(oyez_server_stop(servers[way], 5000));
    for (int i = 0; i < 2; i++)
        check_thread_join(by_hand[i]);
    for (int way = 0; way < WAYS; way++)
        CHECK_WORKS(oyez_server_close(servers[way]));
}

/* The clients' processes. */

static int connect_from(unsigned *seed, int port)
{
    struct timeval patience = { PATIENCE_S, 0 };
    struct sockaddr_in own = { 0 }, server = { 0 };
    int on = 1, fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    own.sin_family = server.sin_family = AF_INET;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)any(seed, ADDRESSES));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.sin_port = htons((uint16_t)port);
    MUST(setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on));
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience));
    MUST(bind(fd, (struct sockaddr *)&own, sizeof own));
    MUST(connect(fd, (struct sockaddr *)&server, sizeof server));
    return fd;
}

/* Asks one question; false where there was no whole answer. */
static int ask(int fd, const char *line)
{
    char wanted[80], text[160];
    size_t have = 0;
    ssize_t count = send(fd, line, strlen(line), MSG_NOSIGNAL);
    snprintf(wanted, sizeof wanted, "you said %s", line);
    while (count > 0 && (count = recv(fd, text + have, sizeof text - 1 - have, 0)) > 0)
        have += (size_t)count;
    text[have] = '\0';
    return count == 0 && strcmp(text, wanted) == 0;
}

static void reset(int fd)
{
    struct linger now = { 1, 0 };
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now));
}

static void be_a_client(unsigned *seed)
{
    char line[60];
    int way = any(seed, WAYS), kind = any(seed, 100);
    long long start = check_now_ms();
    int fd = connect_from(seed, shared->ports[way]);
    snprintf(line, sizeof line, "%d%d\n", any(seed, 1000000), way);
    if (kind < 4) { /* goes away with a reset, having sent some */
        MUST(send(fd, line, (size_t)any(seed, 4), MSG_NOSIGNAL));
        reset(fd);
    } else if (kind == 4) {
        ask(fd, "crash\n"); /* a process of its own is killed; others say it back */
    } else if (kind == 5) { /* a byte now and then, and never all */
        struct pollfd end = { fd, POLLIN, 0 };
        while (poll(&end, 1, 400) == 0 && send(fd, "x", 1, MSG_NOSIGNAL) == 1)
            ;
    } else if (kind == 6) {
        MUST(shutdown(fd, SHUT_WR));
    } else if (ask(fd, line)) {
        COUNT(shared->answered);
    } else if (start <= LOAD(shared->refusing)) {
        COUNT(shared->refused);
    } else {
        check_fail(__FILE__, __LINE__, "no answer of %s (%s)", way_names[way], strerror(errno));
    }
    MUST(close(fd));
}

static void be_clients(void *number)
{
    unsigned seed = seed_of_run + 1 + (unsigned)*(int *)number;
    while (LOAD(shared->ending) == 0) {
        be_a_client(&seed);
        check_nap(any(&seed, 4));
    }
}

/* The director. */

typedef struct run {
    unsigned seed;
    pid_t servers;
    int to, from;
    unsigned long long faults;
} run;

static void ask_servers(run *one, int what, int way)
{
    request asked = { what, way };
    struct pollfd done = { one->from, POLLIN, 0 };
    char byte;
    CHECK_EQ_INT(MUST(write(one->to, &asked, sizeof asked)), sizeof asked);
    if (poll(&done, 1, 30000) != 1)
        check_fail(__FILE__, __LINE__, "the servers do not answer");
    CHECK_EQ_INT(MUST(read(one->from, &byte, 1)), 1);
}

/* For a while descriptors are few: the limit of the live process is lowered. */
static void few_descriptors(run *one, int ms)
{
    struct rlimit before, few;
    ask_servers(one, LOOK, 0);
    MUST(prlimit(one->servers, RLIMIT_NOFILE, NULL, &before));
    few = before;
    few.rlim_cur = (rlim_t)shared->descriptors + (rlim_t)any(&one->seed, 6);
    MUST(prlimit(one->servers, RLIMIT_NOFILE, &few, NULL));
    check_nap(ms);
    MUST(prlimit(one->servers, RLIMIT_NOFILE, &before, NULL));
}

static void stop_and_go_on(run *one, int ms)
{
    MUST(kill(one->servers, SIGSTOP));
    check_nap(ms);
    MUST(kill(one->servers, SIGCONT));
}

static void storm(run *one, int ms)
{
    long long end = check_now_ms() + ms;
    while (check_now_ms() < end) {
        MUST(kill(one->servers, SIGUSR1));
        check_nap(1);
    }
}

static void flood(run *one)
{
    int clients[200];
    int port = shared->ports[any(&one->seed, WAYS)];
    int gentle = any(&one->seed, 2);
    for (int i = 0; i < 200; i++)
        clients[i] = connect_from(&one->seed, port);
    for (int i = 0; i < 200; i++) {
        if (!gentle)
            reset(clients[i]);
        MUST(close(clients[i]));
    }
}

/* Has one way of serving do something, and take it back. */
static void change_for(run *one, int what, int back, int ms)
{
    int way = any(&one->seed, WAYS);
    ask_servers(one, what, way);
    check_nap(ms);
    ask_servers(one, back, way);
}

/* Limits under which clients are refused; who was accepted before the last word may hear of it later. */
static void refuse_for(run *one, int what, int ms)
{
    STORE(shared->refusing, check_now_ms() + 3600 * 1000);
    change_for(one, what, LIMITLESS, ms);
    check_nap(GRACE_MS);
    STORE(shared->refusing, check_now_ms());
}

static void one_fault(run *one)
{
    int kind = any(&one->seed, 9), ms = 20 + any(&one->seed, 400);
    one->faults++;
    if (kind <= 1)
        few_descriptors(one, ms);
    else if (kind == 2)
        stop_and_go_on(one, ms * 4);
    else if (kind == 3)
        storm(one, ms);
    else if (kind == 4)
        flood(one);
    else if (kind == 5)
        change_for(one, PAUSE, RESUME, ms);
    else if (kind == 6)
        change_for(one, FEW, LIMITLESS, ms);
    else
        refuse_for(one, kind == 7 ? SLOW : DENY, ms);
}

static int all_are_at_rest(run *one)
{
    ask_servers(one, LOOK, 0);
    for (int way = 0; way < WAYS; way++)
        if (shared->active[way] != 0)
            return 0;
    return 1;
}

static int seconds_to_run(void)
{
    const char *said = getenv("SOAK_SECONDS");
    return said != NULL && atoi(said) > 0 ? atoi(said) : 1800;
}

static void faults_until(run *one, long long end)
{
    while (check_now_ms() < end) {
        one_fault(one);
        check_nap(any(&one->seed, 300));
    }
}

/* What may not grow, with nobody connected. Threads of a pool leave after five idle seconds. */
typedef struct size_then {
    int descriptors, threads;
    long memory;
} size_then;

static size_then size_at_rest(run *one, pid_t *clients)
{
    STORE(shared->ending, 1);
    for (int i = 0; i < CLIENTS; i++)
        check_join(clients[i]);
    CHECK_SOON(all_are_at_rest(one));
    check_nap(6000);
    ask_servers(one, LOOK, 0);
    return (size_then){ shared->descriptors, shared->threads, shared->memory };
}

static void start_clients(pid_t *clients)
{
    STORE(shared->ending, 0);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = check_fork(be_clients, &i);
}

static void faults_at_random(void)
{
    int pipes[4], seconds = seconds_to_run();
    const char *said = getenv("SOAK_SEED");
    pid_t clients[CLIENTS];
    seed_of_run = said != NULL ? (unsigned)strtoul(said, NULL, 10) : (unsigned)check_now_ms();
    run one = { .seed = seed_of_run };
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    MUST(pipe2(pipes, O_CLOEXEC));
    MUST(pipe2(pipes + 2, O_CLOEXEC));
    one.servers = check_fork(be_the_servers, pipes);
    MUST(close(pipes[0]));
    MUST(close(pipes[3]));
    one.to = pipes[1];
    one.from = pipes[2];
    CHECK_SOON(LOAD(shared->ready));

    long long start = check_now_ms();
    int warm_seconds = seconds / 3 < WARM_SECONDS ? seconds / 3 : WARM_SECONDS;
    start_clients(clients);
    faults_until(&one, start + warm_seconds * 1000LL);
    size_then warm = size_at_rest(&one, clients);
    start_clients(clients);
    faults_until(&one, start + seconds * 1000LL);
    size_then end = size_at_rest(&one, clients);
    check_note("seed %u: %llu faults in %d s, %llu answered, %llu refused, %llu accepted, %llu lines of log", seed_of_run,
               one.faults, seconds, shared->answered, shared->refused, shared->accepted, shared->lines);
    check_note("descriptors %d then %d, threads %d then %d, memory %ld kB then %ld kB", warm.descriptors,
               end.descriptors, warm.threads, end.threads, warm.memory, end.memory);
    CHECK(end.descriptors <= warm.descriptors);
    CHECK(end.threads <= warm.threads);
    CHECK(end.memory <= warm.memory + GROWTH_KB);
    ask_servers(&one, END, 0);
    check_join(one.servers);
    MUST(close(pipes[1]));
    MUST(close(pipes[2]));
    MUST(munmap(shared, sizeof *shared));
}

static const check_case cases[] = {
    CASE_WITHIN(4000, faults_at_random),
};
CHECK_MAIN(cases)
