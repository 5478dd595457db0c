/* Event servers on epoll and on io_uring: how each connection ends with a stop, and what other threads write. */
#define _GNU_SOURCE
#include "backends.h"
#include "clients.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* Stopping. */

/* What the kernel has of a connection's input when the stop comes is served before that counts as idle. */
static size_t hold_or_count(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    held *own = user;
    if (!held_at(connection, own))
        own->bytes += size;
    if (bytes[0] != 0)
        serve_echo_data(connection, bytes, 1, NULL);
    return size;
}

static void stop_with_input(int backend, int peers, size_t size)
{
    static char bytes[60 * KILOBYTE];
    held own = { .held = 0 };
    oyez_events events = seen_events();
    oyez_server_options options = backend_options(backend, 1);
    int *clients = calloc((size_t)peers, sizeof *clients);
    events.on_data = hold_or_count;
    held_start(&own, OVER_TCP, &events, &options);
    CHECK_SOON(SEEN(own.all.opened) == 1);
    held_now(&own);
    gate_open(&own.at);
    client_expect(own.holder, "h");
    gate_end(&own.at);
    own.at = gate_make();
    for (int i = 0; i < peers; i++) {
        clients[i] = serve_client(own.server);
        client_send_text(clients[i], "x");
        client_expect_bytes(clients[i], 'x', 1);
    }
    own.bytes = 0;
    own.held = 0;
    held_now(&own);
    for (int i = 0; i < peers; i++)
        client_send(clients[i], bytes, size);
    for (int i = 0; i < peers; i++)
        client_await_arrival(clients[i]);
    CHECK_WORKS(oyez_server_stop(own.server.id, 5000));
    gate_open(&own.at);
    CHECK_WORKS(oyez_server_wait(own.server.id, 20000));
    CHECK_EQ_INT(own.bytes, (size_t)peers * size);
    for (int i = 0; i < peers; i++) {
        CHECK_EQ_INT(client_ending(clients[i]), 0);
        MUST(close(clients[i]));
    }
    free(clients);
    held_end(&own);
}

static void stopped_with_much_input(int backend)
{
    stop_with_input(backend, 3, 60 * KILOBYTE);
}
ON_BOTH(stopped_with_much_input)

static void stopped_with_input_of_many(int backend)
{
    stop_with_input(backend, 700, 5 * KILOBYTE);
}
ON_BOTH(stopped_with_input_of_many)

/* One of each kind, and how each ends. */

enum { IDLE, FRESH, BUSY, PAUSED, HALF_CLOSED, LINGERING, KINDS };

static size_t be_a_kind(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    static char much[4 * MEGABYTE];
    if (bytes[0] == '0' + BUSY || bytes[0] == '0' + HALF_CLOSED)
        CHECK_WORKS(oyez_conn_write(connection, much, sizeof much));
    if (bytes[0] == '0' + PAUSED)
        CHECK_WORKS(oyez_conn_pause(connection));
    if (bytes[0] == '0' + LINGERING)
        CHECK_WORKS(oyez_conn_close(connection));
    return seen_data(connection, bytes, size, user);
}

static void stopped_as_it_is(int backend)
{
    seen all = { 0 };
    int clients[KINDS];
    oyez_stats stats = OYEZ_STATS_INIT;
    oyez_events events = seen_events();
    events.on_data = be_a_kind;
    served server = backend_serve(backend, 2, &events, &all);
    for (int kind = 0; kind < KINDS; kind++) {
        char word = (char)('0' + kind);
        clients[kind] = serve_client(server);
        if (kind != FRESH)
            client_send(clients[kind], &word, 1);
        if (kind == HALF_CLOSED)
            MUST(shutdown(clients[kind], SHUT_WR));
    }
    CHECK_SOON(SEEN(all.bytes) == KINDS - 1 && SEEN(all.opened) == KINDS);
    CHECK_EQ_INT(client_ending(clients[LINGERING]), 0);
    CHECK_SOON(SEEN(all.closed) == 1);
    CHECK_WORKS(oyez_server_stop(server.id, 1000));
    CHECK_EQ_INT(client_ending(clients[IDLE]), 0);
    client_expect_bytes(clients[BUSY], 0, 4 * MEGABYTE);
    CHECK_EQ_INT(client_ending(clients[BUSY]), 0);
    client_expect_bytes(clients[HALF_CLOSED], 0, 4 * MEGABYTE);
    CHECK_EQ_INT(client_ending(clients[HALF_CLOSED]), 0);
    CHECK_EQ_INT(client_ending(clients[FRESH]), ECONNRESET);
    CHECK_EQ_INT(client_ending(clients[PAUSED]), ECONNRESET);
    CHECK_WORKS(oyez_server_wait(server.id, 20000));
    CHECK_WORKS(oyez_server_stats(server.id, &stats));
    CHECK_EQ_INT(stats.cut, 2);
    CHECK_EQ_INT(stats.drained, 3);
    CHECK_EQ_INT(stats.active, 0);
    CHECK_EQ_INT(all.closed, KINDS);
    for (int kind = 0; kind < KINDS; kind++)
        MUST(close(clients[kind]));
    CHECK_WORKS(oyez_server_close(server.id));
}
ON_BOTH(stopped_as_it_is)

/* Other threads. */

enum { WRITERS = 3, TARGETS = 12, RECORDS = 3000 };

typedef struct record {
    int who;
    int number;
    char more[40];
} record;

typedef struct targets {
    seen all;
    int count;
    oyez_conn connections[TARGETS];
} targets;

typedef struct writer {
    const targets *to;
    int who;
} writer;

static void add_target(oyez_conn connection, void *user)
{
    targets *own = user;
    own->connections[__atomic_fetch_add(&own->count, 1, __ATOMIC_SEQ_CST)] = connection;
    seen_open(connection, user);
}

static void *write_to_targets(void *argument)
{
    const writer *own = argument;
    record one = { own->who, 0, "" };
    for (; one.number < RECORDS; one.number++)
        for (int i = 0; i < TARGETS; i++)
            CHECK_WORKS(oyez_conn_write(own->to->connections[i], &one, sizeof one));
    return NULL;
}

static void written_by_other_threads(int backend)
{
    targets to = { .count = 0 };
    writer writers[WRITERS];
    pthread_t threads[WRITERS];
    int clients[TARGETS];
    oyez_events events = seen_events();
    events.on_open = add_target;
    served server = backend_serve(backend, 4, &events, &to);
    for (int i = 0; i < TARGETS; i++)
        clients[i] = serve_client(server);
    CHECK_SOON(SEEN(to.all.opened) == TARGETS);
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (writer){ &to, i };
        threads[i] = check_thread(write_to_targets, &writers[i]);
    }
    for (int i = 0; i < TARGETS; i++) {
        int next[WRITERS] = { 0 };
        for (int count = 0; count < WRITERS * RECORDS; count++) {
            record one;
            CHECK_EQ_INT(client_receive(clients[i], &one, sizeof one), sizeof one);
            CHECK(one.who >= 0 && one.who < WRITERS);
            CHECK_EQ_INT(one.number, next[one.who]++);
        }
        MUST(close(clients[i]));
    }
    for (int i = 0; i < WRITERS; i++)
        check_thread_join(threads[i]);
    serve_end(server);
}
ON_BOTH(written_by_other_threads)

static const check_case cases[] = {
    CASES(stopped_with_much_input),
    CASES(stopped_with_input_of_many),
    CASES(stopped_as_it_is),
    CASES(written_by_other_threads),
};

CHECK_MAIN(cases)
