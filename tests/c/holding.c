/* Servers of every kind that hold their connections: see holding.h. */
#define _GNU_SOURCE
#include "holding.h"
#include "clients.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *const names[] = { "threads", "sequential", "processes", "by hand", "events", "polled" };

const char *hold_name(hold_kind kind)
{
    return names[kind];
}

static void enter(hold_counts *counts)
{
    int now = __atomic_add_fetch(&counts->active, 1, __ATOMIC_SEQ_CST);
    int most = SEEN(counts->most);
    while (most < now && !__atomic_compare_exchange_n(&counts->most, &most, now, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
    __atomic_add_fetch(&counts->begun, 1, __ATOMIC_SEQ_CST);
}

static void leave(hold_counts *counts)
{
    __atomic_sub_fetch(&counts->active, 1, __ATOMIC_SEQ_CST);
}

static void hold_one(oyez_conn connection, void *user)
{
    char byte;
    enter(user);
    if (oyez_conn_read(connection, &byte, 1) == 1)
        oyez_conn_write(connection, "bye\n", 4);
    leave(user);
}

/* Event servers: a connection's word tells that it has left. */

static void on_open(oyez_conn connection, void *user)
{
    (void)connection;
    enter(user);
}

static size_t on_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)bytes;
    if (oyez_conn_user(connection) == NULL) {
        CHECK_WORKS(oyez_conn_set_user(connection, user));
        leave(user);
        CHECK_WORKS(oyez_conn_write(connection, "bye\n", 4));
        CHECK_WORKS(oyez_conn_close(connection));
    }
    return size;
}

static void on_close(oyez_conn connection, const oyez_error *why, void *user)
{
    (void)why;
    if (oyez_conn_user(connection) == NULL)
        leave(user);
}

static void *accept_and_serve(void *argument)
{
    holding *at = argument;
    oyez_conn connection;
    while (oyez_server_accept(at->server.id, &connection, -1) >= 0) {
        hold_one(connection, at->counts);
        oyez_conn_close(connection); /* a stop may have been first */
    }
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_STOPPED);
    return NULL;
}

static void *poll_to_the_end(void *argument)
{
    holding *at = argument;
    while (oyez_server_poll(at->server.id, -1) == 0)
        ;
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_STOPPED);
    return NULL;
}

holding *hold(hold_kind kind, const oyez_server_options *options)
{
    return hold_at(kind, "127.0.0.1:0", options);
}

holding *hold_at(hold_kind kind, const char *addresses, const oyez_server_options *options)
{
    static const int models[] = { OYEZ_THREADS, OYEZ_SEQUENTIAL, OYEZ_PROCESSES };
    oyez_server_options own = OYEZ_SERVER_OPTIONS_INIT;
    oyez_events events = OYEZ_EVENTS_INIT;
    holding *at = calloc(1, sizeof *at);
    int threads = kind == HOLD_BY_HAND ? HOLD_HANDS : kind == HOLD_POLLED ? 1 : 0;
    if (options != NULL)
        own = *options;
    log_kept(&own);
    at->kind = kind;
    at->counts = mmap(NULL, sizeof *at->counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(at->counts != MAP_FAILED);
    events.on_open = on_open;
    events.on_data = on_data;
    events.on_close = on_close;
    if (kind == HOLD_EVENTS || kind == HOLD_POLLED) {
        at->server.id = (oyez_server)CHECK_WORKS(oyez_server_new_events(&events, at->counts, &own));
    } else {
        own.model = kind == HOLD_BY_HAND ? OYEZ_THREADS : models[kind];
        at->server.id = (oyez_server)CHECK_WORKS(
            oyez_server_new(kind == HOLD_BY_HAND ? NULL : hold_one, at->counts, &own));
    }
    at->server.listener = (int)CHECK_WORKS(oyez_server_listen(at->server.id, addresses, NULL));
    at->server.port = oyez_local_port(at->server.listener);
    if (threads == 0)
        CHECK_WORKS(oyez_server_start(at->server.id));
    for (; at->joined < threads; at->joined++)
        at->threads[at->joined] = check_thread(kind == HOLD_POLLED ? poll_to_the_end : accept_and_serve, at);
    return at;
}

void hold_stop(holding *at, int drain_ms)
{
    CHECK_WORKS(oyez_server_stop(at->server.id, drain_ms));
    if (at->kind == HOLD_BY_HAND)
        CHECK_WORKS(oyez_server_wait(at->server.id, 20000));
    while (at->joined > 0)
        check_thread_join(at->threads[--at->joined]);
    CHECK_WORKS(oyez_server_wait(at->server.id, 20000));
}

void hold_close(holding *at)
{
    CHECK_WORKS(oyez_server_close(at->server.id));
    MUST(munmap(at->counts, sizeof *at->counts));
    free(at);
}

void hold_end(holding *at)
{
    hold_stop(at, -1);
    hold_close(at);
}

int hold_begun(const holding *at)
{
    return SEEN(at->counts->begun);
}

int hold_active(const holding *at)
{
    return SEEN(at->counts->active);
}

int hold_most(const holding *at)
{
    return SEEN(at->counts->most);
}

oyez_stats hold_stats(const holding *at)
{
    return serve_stats(at->server);
}

void hold_ask(int client)
{
    client_send(client, "x", 1);
}

void hold_served(int client)
{
    client_expect(client, "bye\n");
    CHECK_EQ_INT(client_ending(client), 0);
    client_close(client);
}

void hold_release(int client)
{
    hold_ask(client);
    hold_served(client);
}

void hold_refused(int client)
{
    char byte;
    ssize_t count;
    do
        count = read(client, &byte, 1);
    while (count == -1 && errno == EINTR);
    if (count > 0 || (count == -1 && errno != ECONNRESET))
        check_fail(__FILE__, __LINE__, "a client is not refused: %zd, errno %d", count, errno);
    MUST(close(client));
}

/* The log. */

enum { EVENTS_KEPT = 24 };

static struct kept {
    char event[48];
    char text[600];
    int lines;
} kept[EVENTS_KEPT];
static pthread_mutex_t keeping = PTHREAD_MUTEX_INITIALIZER;

/* The event's place, or that of the first free one; with the lock held. */
static struct kept *place_of(const char *event)
{
    int i = 0;
    while (i < EVENTS_KEPT - 1 && kept[i].lines > 0 && strcmp(kept[i].event, event) != 0)
        i++;
    return &kept[i];
}

static void keep(int32_t level, const char *event, const char *text, void *user)
{
    (void)level;
    (void)user;
    pthread_mutex_lock(&keeping);
    struct kept *at = place_of(event);
    snprintf(at->event, sizeof at->event, "%s", event);
    snprintf(at->text, sizeof at->text, "%s", text);
    at->lines++;
    pthread_mutex_unlock(&keeping);
}

void log_kept(oyez_server_options *options)
{
    pthread_mutex_lock(&keeping);
    memset(kept, 0, sizeof kept);
    pthread_mutex_unlock(&keeping);
    options->log = keep;
}

int log_lines(const char *event)
{
    pthread_mutex_lock(&keeping);
    int lines = place_of(event)->lines;
    pthread_mutex_unlock(&keeping);
    return lines;
}

void log_last(const char *event, char *text, size_t size)
{
    pthread_mutex_lock(&keeping);
    snprintf(text, size, "%s", place_of(event)->text);
    pthread_mutex_unlock(&keeping);
}

void check_idle(const char *what)
{
    check_nap(50);
    long cpu = check_cpu_ms();
    check_nap(300);
    long used = check_cpu_ms() - cpu;
    if (used > 30)
        check_fail(__FILE__, __LINE__, "%s: %ld ms of processor time in 300 ms", what, used);
}
