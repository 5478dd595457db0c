/* Limits in options: their ranges, the faults of lists, what oyez_server_set_limits() changes and what it does not; and
   the limit that descriptors make. */
#define _GNU_SOURCE
#include "clients.h"
#include "holding.h"
#include "places.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static oyez_server_options limits(void)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    return options;
}

/* Each function that takes them refuses these options, and names what is wrong. */
static void check_refused(const oyez_server_options *options, int code, const char *message)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    served server = serve_at("127.0.0.1:0", NULL, NULL, NULL);
    CHECK_FAILS(oyez_server_set_limits(server.id, options), code, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), message);
    CHECK_STR_EQ(oyez_error_operation(NULL), "oyez_server_set_limits");
    CHECK_WORKS(oyez_server_close(server.id));
    CHECK_FAILS(oyez_server_new(serve_hello, NULL, options), code, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), message);
    CHECK_FAILS(oyez_server_new_events(&events, NULL, options), code, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), message);
    CHECK_FAILS(oyez_serve("127.0.0.1:0", serve_hello, NULL, options), code, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), message);
}

static void ranges(void)
{
    const struct {
        size_t at;
        const char *name;
        int lowest;
    } options[] = {
        { offsetof(oyez_server_options, max_connections), "max_connections", -1 },
        { offsetof(oyez_server_options, max_connections_per_address), "max_connections_per_address", 1 },
        { offsetof(oyez_server_options, accept_rate), "accept_rate", 1 },
        { offsetof(oyez_server_options, accept_burst), "accept_burst", 1 },
        { offsetof(oyez_server_options, lifetime_ms), "lifetime_ms", -1 },
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        char message[100];
        oyez_server_options wrong = limits();
        int bad[] = { options[i].lowest == 1 ? -1 : -2, INT32_MIN };
        for (int k = 0; k < 2; k++) {
            memcpy((char *)&wrong + options[i].at, &bad[k], sizeof bad[k]);
            snprintf(message, sizeof message, "%s is %d, not within", options[i].name, bad[k]);
            check_refused(&wrong, OYEZ_INVALID_ARGUMENT, message);
        }
    }
    oyez_server_options wrong = limits();
    wrong.accept_burst = 5;
    check_refused(&wrong, OYEZ_INVALID_ARGUMENT, "accept_burst is set without accept_rate");
    wrong = limits();
    wrong.reserved = 1;
    check_refused(&wrong, OYEZ_UNSUPPORTED, "a field at byte ");
    wrong = limits();
    wrong.size = 3;
    check_refused(&wrong, OYEZ_INVALID_ARGUMENT, "size is 3");
    oyez_server_options highest = limits();
    highest.max_connections = highest.max_connections_per_address = INT32_MAX;
    highest.accept_rate = highest.accept_burst = INT32_MAX;
    served server = serve(serve_hello, NULL, &highest);
    client_expect(client_connect(server.port), "hello\n");
    CHECK_WORKS(oyez_server_set_limits(server.id, &highest));
    serve_end(server);
    exit(0); /* with the client's descriptor */
}

static void all_ranges(void *unused)
{
    (void)unused;
    ranges();
}

static void ranges_and_words(void)
{
    check_join(check_fork(all_ranges, NULL));
}

static void no_server(void)
{
    oyez_server_options options = limits();
    char text[10];
    served server = serve(serve_hello, NULL, NULL);
    serve_end(server);
    const oyez_server gone[] = { 0, -1, INT32_MAX, server.id };
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++) {
        CHECK_FAILS(oyez_server_set_limits(gone[i], NULL), OYEZ_CLOSED, ANY_ERRNO);
        CHECK_FAILS(oyez_server_set_limits(gone[i], &options), OYEZ_CLOSED, ANY_ERRNO);
        CHECK_FAILS(oyez_server_stats_text(gone[i], text, sizeof text), OYEZ_CLOSED, ANY_ERRNO);
    }
}

/* Lists. */

/* The hint shows the list, and below it a caret at that place. */
static void check_caret(const char *list, int caret)
{
    const char *hint = oyez_error_hint(NULL);
    const char *below = strchr(hint, '\n');
    CHECK(below != NULL);
    CHECK(strncmp(hint, list, strlen(list)) == 0);
    CHECK_EQ_INT(strcspn(below + 1, "^"), caret);
}

static void faults_in_lists(void)
{
    static const struct {
        const char *list;
        const char *message;
        int caret;
    } faults[] = {
        { "", "there is no network", 0 },
        { "10.0.0.0/8,", "there is no network", 11 },
        { "10.0.0.1/8", "the address has bits behind its prefix", 0 },
        { "10.0.0.0/33", "this is no prefix of the address", 9 },
        { "10.0.0.0/08", "this is no prefix of the address", 9 },
        { "::1, 10.0.0", "this is no address", 5 },
        { "localhost", "this is no address", 0 },
        { "[::1]", "this is no IPv6 address", 0 },
    };
    oyez_server_options before = limits();
    before.deny = "127.0.0.1";
    served server = serve(serve_hello, NULL, &before);
    for (size_t i = 0; i < 2 * sizeof faults / sizeof faults[0]; i++) {
        char message[100];
        oyez_server_options options = limits();
        const char *list = faults[i / 2].list;
        *(i % 2 == 0 ? &options.allow : &options.deny) = list;
        snprintf(message, sizeof message, "%s: ", i % 2 == 0 ? "allow" : "deny");
        check_refused(&options, OYEZ_INVALID_ARGUMENT, message);
        CHECK_STR_CONTAINS(oyez_error_message(NULL), faults[i / 2].message);
        check_caret(list, faults[i / 2].caret);
        /* Nothing has changed, also of what is right. */
        options.max_connections_per_address = 1;
        CHECK_FAILS(oyez_server_set_limits(server.id, &options), OYEZ_INVALID_ARGUMENT, EINVAL);
        hold_refused(client_connect(server.port));
    }
    CHECK_EQ_INT(serve_stats(server).refused_rules, 2 * sizeof faults / sizeof faults[0]);
    CHECK_EQ_INT(serve_stats(server).accepted, 0);
    serve_end(server);
}

/* 200 kB of networks, of which the last one decides; and one that is too long. */
static void very_long_lists(void)
{
    enum { SIZE = 300 * 1024 };
    char *list = calloc(1, SIZE);
    size_t length = 0;
    oyez_server_options options = limits();
    for (int i = 0; length < 200 * 1024; i++)
        length += (size_t)snprintf(list + length, SIZE - length, "10.%d.%d.0/24, ", i >> 8 & 255, i & 255);
    snprintf(list + length, SIZE - length, "127.0.0.9");
    options.deny = list;
    served server = serve(serve_hello, NULL, &options);
    hold_refused(client_connect_from("127.0.0.9", "127.0.0.1", server.port));
    int client = client_connect(server.port);
    client_expect(client, "hello\n");
    client_close(client);
    long long start = check_now_ms();
    for (int i = 0; i < 20; i++)
        CHECK_WORKS(oyez_server_set_limits(server.id, &options));
    check_note("a list of 200 kB is read in %lld ms", (check_now_ms() - start) / 20);
    list[length - 2] = '/';
    CHECK_FAILS(oyez_server_set_limits(server.id, &options), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "^");
    CHECK(strlen(oyez_error_hint(NULL)) < 1000);
    memset(list, ',', SIZE - 1);
    CHECK_FAILS(oyez_server_set_limits(server.id, &options), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "307199 bytes, and 262144 are the most");
    CHECK_FAILS(oyez_server_set_limits(server.id, &options), OYEZ_INVALID_ARGUMENT, EINVAL);
    serve_end(server);
    free(list);
}

/* Times hold for connections that come later. */
static void check_times(hold_kind kind)
{
    oyez_server_options options = limits();
    options.idle_timeout_ms = 20000;
    holding *server = hold(kind, &options);
    int early = client_connect(server->server.port);
    CHECK_SOON(hold_begun(server) == 1);
    options.idle_timeout_ms = 60;
    CHECK_WORKS(oyez_server_set_limits(server->server.id, &options));
    long long start = check_now_ms();
    int late = client_connect(server->server.port);
    hold_refused(late);
    CHECK_TOOK(start, 59, 10000);
    CHECK(!client_readable(early, 0));
    CHECK_WORKS(oyez_server_set_limits(server->server.id, NULL));
    late = client_connect(server->server.port);
    CHECK_SOON(hold_begun(server) == 3);
    CHECK(!client_readable(late, 200));
    hold_release(early);
    hold_release(late);
    hold_end(server);
}

static void times_of_later_connections(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        if (kind != HOLD_SEQUENTIAL)
            check_times(kind);
}

/* A handler, and the log, may change limits. */

static oyez_server itself;
static int said;

static void change(oyez_conn connection, void *user)
{
    oyez_server_options options = limits();
    (void)user;
    options.deny = "127.0.0.9";
    CHECK_WORKS(oyez_server_set_limits(itself, &options));
    oyez_conn_write(connection, "bye\n", 4);
}

static void change_in_log(int32_t level, const char *event, const char *text, void *user)
{
    oyez_server_options options = limits();
    oyez_stats stats = OYEZ_STATS_INIT;
    char statistics[4096];
    (void)level;
    (void)text;
    (void)user;
    if (strncmp(event, "refused_by_", 11) != 0)
        return;
    CHECK_WORKS(oyez_server_stats(itself, &stats));
    CHECK_WORKS(oyez_server_stats_text(itself, statistics, sizeof statistics));
    CHECK_WORKS(oyez_server_pause(itself));
    CHECK_WORKS(oyez_server_resume(itself));
    CHECK_WORKS(oyez_server_set_limits(itself, &options));
    __atomic_add_fetch(&said, 1, __ATOMIC_SEQ_CST);
}

static void from_a_handler_and_from_the_log(void)
{
    static const int models[] = { OYEZ_THREADS, OYEZ_SEQUENTIAL };
    for (int m = 0; m < 2; m++) {
        oyez_server_options options = serve_options(models[m]);
        options.log = change_in_log;
        options.deny = "127.0.0.8";
        said = 0;
        served server = serve(change, NULL, &options);
        itself = server.id;
        hold_refused(client_connect_from("127.0.0.8", "127.0.0.1", server.port));
        CHECK_SOON(SEEN(said) == 1);
        hold_served(client_connect_from("127.0.0.8", "127.0.0.1", server.port));
        hold_refused(client_connect_from("127.0.0.9", "127.0.0.1", server.port));
        serve_end(server);
    }
}

/* Descriptors. */

/* The handler opens a file, and closes it. */

static pthread_mutex_t one_file = PTHREAD_MUTEX_INITIALIZER;

static void open_a_file(oyez_conn connection, void *user)
{
    char byte;
    pthread_mutex_lock(&one_file);
    MUST(close((int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC))));
    pthread_mutex_unlock(&one_file);
    __atomic_add_fetch((int *)user, 1, __ATOMIC_SEQ_CST);
    if (oyez_conn_read(connection, &byte, 1) == 1)
        oyez_conn_write(connection, "bye\n", 4);
}

/* It keeps one for as long as the connection. */
static void keep_a_file(oyez_conn connection, void *user)
{
    int fd = (int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
    open_a_file(connection, user);
    MUST(close(fd));
}

/* Clients in a process of their own, which the limit here does not touch. */

typedef struct crowd {
    int port;
    int count;
    int told[2];
    int go[2];
} crowd;

static void connect_and_ask(void *argument)
{
    crowd *all = argument;
    int *clients = calloc((size_t)all->count, sizeof *clients);
    place_descriptor_limit(500);
    for (int i = 0; i < all->count; i++)
        clients[i] = client_connect(all->port);
    MUST(write(all->told[1], "c", 1));
    CHECK(client_readable(all->go[0], 20000));
    for (int i = 0; i < all->count; i++)
        hold_ask(clients[i]);
    for (int i = 0; i < all->count; i++)
        hold_served(clients[i]);
    free(clients);
}

static pid_t gather(crowd *all, int port, int count)
{
    char byte;
    all->port = port;
    all->count = count;
    MUST(pipe2(all->told, O_CLOEXEC));
    MUST(pipe2(all->go, O_CLOEXEC));
    pid_t child = check_fork(connect_and_ask, all);
    CHECK(client_readable(all->told[0], 20000));
    MUST(read(all->told[0], &byte, 1));
    return child;
}

static void let_go(crowd *all, pid_t child)
{
    MUST(write(all->go[1], "g", 1));
    check_join(child);
    for (int i = 0; i < 2; i++) {
        MUST(close(all->told[i]));
        MUST(close(all->go[i]));
    }
}

static void some_are_left_to_the_program(void)
{
    crowd all;
    int begun = 0;
    oyez_server_options options = limits();
    int before = place_descriptors_left(0);
    place_descriptor_limit(64);
    log_kept(&options);
    served server = serve(open_a_file, &begun, &options);
    pid_t child = gather(&all, server.port, 100);
    CHECK_SOON(serve_stats(server).descriptor_pauses == 1);
    check_idle("no room by descriptors");
    CHECK(SEEN(begun) >= 20);
    CHECK_EQ_INT(serve_stats(server).queue + (unsigned)SEEN(begun), 100);
    CHECK_EQ_INT(log_lines("descriptors_used_up"), 1);
    CHECK_LOGGED("descriptors_used_up", "the rest is left to the program");
    let_go(&all, child);
    CHECK_EQ_INT(SEEN(begun), 100);
    CHECK_EQ_INT(serve_stats(server).accepted, 100);
    CHECK_EQ_INT(serve_stats(server).accept_errors, 0);
    serve_end(server);
    place_descriptor_limit(before);
}

/* Handlers take descriptors of their own, and there are some left all the same. */
static void some_are_left_to_handlers(void)
{
    enum { CLIENTS = 40 };
    int clients[CLIENTS];
    int begun = 0;
    int came = 0;
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int before = place_descriptors_left(50);
    oyez_server_options options = limits();
    log_kept(&options);
    served server = serve(keep_a_file, &begun, &options);
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    MUST(getsockname(server.listener, (struct sockaddr *)&address, &size));
    /* One after another, so that each handler has its file before the next client comes. */
    while (serve_stats(server).descriptor_pauses == 0) {
        CHECK(came < CLIENTS);
        MUST(connect(clients[came++], (struct sockaddr *)&address, size));
        CHECK_SOON(SEEN(begun) == came || serve_stats(server).descriptor_pauses == 1);
    }
    CHECK(came > 10);
    CHECK_EQ_INT(serve_stats(server).accept_errors, 0);
    MUST(close((int)MUST(open("/dev/null", O_RDONLY | O_CLOEXEC))));
    for (int i = 0; i < came; i++)
        hold_ask(clients[i]);
    for (int i = 0; i < came; i++)
        hold_served(clients[i]);
    for (int i = came; i < CLIENTS; i++)
        MUST(close(clients[i]));
    serve_end(server);
    CHECK_EQ_INT(begun, came);
    place_descriptor_limit(before);
}

static void check_limit_of_a_living_process(hold_kind kind)
{
    crowd all;
    struct rlimit raised;
    int before = place_descriptors_left(40);
    holding *server = hold(kind, NULL);
    pid_t child = gather(&all, server->server.port, 80);
    CHECK_SOON(hold_stats(server).descriptor_pauses >= 1);
    check_idle(hold_name(kind));
    int first = hold_begun(server);
    CHECK(first < 40);
    MUST(prlimit(0, RLIMIT_NOFILE, NULL, &raised));
    raised.rlim_cur = 400;
    long long start = check_now_ms();
    MUST(prlimit(0, RLIMIT_NOFILE, &raised, NULL));
    CHECK_SOON(hold_begun(server) == 80);
    check_note("%s: %d waited, and were in %lld ms after the limit rose", hold_name(kind), 80 - first,
               check_now_ms() - start);
    CHECK_TOOK(start, 0, 3000);
    /* Lower than what is open: nobody is lost. */
    place_descriptor_limit(30);
    int late = fork();
    MUST(late);
    if (late == 0) {
        place_descriptor_limit(500);
        hold_release(client_connect(server->server.port));
        _exit(0);
    }
    let_go(&all, child);
    check_join(late);
    CHECK_SOON(hold_stats(server).active == 0);
    CHECK_EQ_INT(hold_begun(server), 81);
    CHECK_EQ_INT(hold_stats(server).accepted, 81);
    place_descriptor_limit(before);
    hold_end(server);
}

static void the_limit_of_a_living_process(void)
{
    check_limit_of_a_living_process(HOLD_THREADS);
    check_limit_of_a_living_process(HOLD_PROCESSES);
    check_limit_of_a_living_process(HOLD_EVENTS);
    check_limit_of_a_living_process(HOLD_POLLED);
}

/* More connections than descriptors are said when they are asked for, and only then. */
static void more_than_descriptors(void)
{
    char text[100];
    oyez_server_options options = limits();
    log_kept(&options);
    options.max_connections = 5;
    served server = serve(serve_hello, NULL, &options);
    CHECK_EQ_INT(log_lines("max_connections_beyond_descriptors"), 0);
    options.max_connections = 100000000;
    CHECK_WORKS(oyez_server_set_limits(server.id, &options));
    CHECK_EQ_INT(log_lines("max_connections_beyond_descriptors"), 1);
    snprintf(text, sizeof text, "max_connections is %d, but the limit of descriptors leaves room for ",
             options.max_connections);
    CHECK_LOGGED("max_connections_beyond_descriptors", text);
    options.max_connections = -1;
    CHECK_WORKS(oyez_server_set_limits(server.id, &options));
    CHECK_WORKS(oyez_server_set_limits(server.id, NULL));
    CHECK_EQ_INT(log_lines("max_connections_beyond_descriptors"), 1);
    serve_end(server);
    options.max_connections = 100000000;
    log_kept(&options);
    server = serve(serve_hello, NULL, &options);
    CHECK_EQ_INT(log_lines("max_connections_beyond_descriptors"), 1);
    serve_end(server);
}

/* The kernel's queue. */

static void check_queue(hold_kind kind)
{
    enum { BACKLOG = 4, CLIENTS = 12 };
    int clients[CLIENTS];
    oyez_listen_options listening = OYEZ_LISTEN_OPTIONS_INIT;
    listening.backlog = BACKLOG;
    holding *server = hold(kind, NULL);
    int small = (int)CHECK_WORKS(oyez_server_listen(server->server.id, "127.0.0.1:0", &listening));
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    MUST(getsockname(small, (struct sockaddr *)&address, &size));
    CHECK_WORKS(oyez_server_pause(server->server.id));
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        CHECK(connect(clients[i], (struct sockaddr *)&address, size) == 0 || errno == EINPROGRESS);
    }
    CHECK_SOON(hold_stats(server).dropped >= 1);
    CHECK_SOON(log_lines("queue_fills") == 1 && log_lines("connections_dropped") == 1);
    CHECK_LOGGED("queue_fills", " clients wait at 127.0.0.1:");
    CHECK_LOGGED("connections_dropped", "the kernel dropped ");
    for (int i = 0; i < CLIENTS; i++)
        MUST(close(clients[i]));
    CHECK_WORKS(oyez_server_resume(server->server.id));
    unsigned long long dropped = hold_stats(server).dropped;
    hold_stop(server, -1);
    CHECK(hold_stats(server).dropped >= dropped);
    CHECK_EQ_INT(hold_stats(server).listeners, 0);
    hold_close(server);
}

static void a_queue_that_is_full(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        check_queue(kind);
}

static const check_case cases[] = {
    CASE(ranges_and_words),
    CASE(no_server),
    CASE(faults_in_lists),
    CASE(very_long_lists),
    CASE(times_of_later_connections),
    CASE(from_a_handler_and_from_the_log),
    CASE(some_are_left_to_the_program),
    CASE(some_are_left_to_handlers),
    CASE(the_limit_of_a_living_process),
    CASE(more_than_descriptors),
    CASE(a_queue_that_is_full),
};

CHECK_MAIN(cases)
