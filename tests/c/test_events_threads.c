/* Event servers: calls from inside their functions and from other threads, several workers, and short resources. */
#define _GNU_SOURCE
#include "clients.h"
#include "places.h"
#include "serving.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Calls from inside. */

enum { IN_OPEN, IN_DATA, IN_DRAIN, IN_CLOSE, PLACES };
enum { DO_CLOSE, DO_ABORT, DO_WRITE, DO_PAUSE, DO_STOP, DO_CLOSE_SERVER, ACTIONS };

/* The user of a server one of whose functions does something, once, to its own connection or to another. */
typedef struct inside {
    seen all;
    served server;
    int place;
    int action;
    oyez_conn other; /* 0: to its own */
    int armed;
    int done;
    int reset; /* the client has seen it */
} inside;

static void act(inside *own, oyez_conn connection)
{
    /* Its own in on_close is over. */
    int over = own->place == IN_CLOSE && own->other == 0;
    if (own->other != 0)
        connection = own->other;
    if (own->action == DO_STOP) {
        CHECK_WORKS(oyez_server_stop(own->server.id, 100));
    } else if (own->action == DO_CLOSE_SERVER) {
        CHECK_WORKS(oyez_server_close(own->server.id));
        CHECK_FAILS(oyez_server_close(own->server.id), OYEZ_CLOSED, ANY_ERRNO);
    } else if (over) {
        CHECK_FAILS(oyez_conn_close(connection), OYEZ_CLOSED, ANY_ERRNO);
        CHECK_FAILS(oyez_conn_pause(connection), OYEZ_CLOSED, ANY_ERRNO);
    } else if (own->action == DO_CLOSE) {
        CHECK_WORKS(oyez_conn_close(connection));
    } else if (own->action == DO_ABORT) {
        CHECK_WORKS(oyez_conn_abort(connection));
    } else if (own->action == DO_WRITE) {
        CHECK_WORKS(oyez_conn_write(connection, "inside", 6));
    } else {
        CHECK_WORKS(oyez_conn_pause(connection));
        CHECK_WORKS(oyez_conn_write(connection, "inside", 6));
    }
}

static void act_once(inside *own, oyez_conn connection, int place)
{
    if (own->place == place && __atomic_exchange_n(&own->armed, 0, __ATOMIC_SEQ_CST)) {
        act(own, connection);
        __atomic_store_n(&own->done, 1, __ATOMIC_SEQ_CST);
    }
}

static void inside_open(oyez_conn connection, void *user)
{
    seen_open(connection, user);
    act_once(user, connection, IN_OPEN);
}

enum { MUCH = 8 * 1024 * 1024 };

static size_t inside_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    if (((inside *)user)->place == IN_DRAIN && SEEN(((inside *)user)->armed)) {
        char *much = calloc(1, MUCH);
        CHECK_WORKS(oyez_conn_write(connection, much, MUCH));
        free(much);
    }
    act_once(user, connection, IN_DATA);
    return seen_data(connection, bytes, size, user);
}

static void inside_drain(oyez_conn connection, void *user)
{
    act_once(user, connection, IN_DRAIN);
}

static void inside_close(oyez_conn connection, const oyez_error *why, void *user)
{
    act_once(user, connection, IN_CLOSE);
    seen_close(connection, why, user);
}

/* Makes happen what the function waits for. */
static int provoke(inside *own)
{
    char part[65536];
    __atomic_store_n(&own->armed, 1, __ATOMIC_SEQ_CST);
    int client = serve_client(own->server);
    if (own->place != IN_OPEN)
        MUST(send(client, "x", 1, MSG_NOSIGNAL));
    if (own->place == IN_DRAIN) {
        CHECK_SOON(SEEN(own->all.bytes) == 1); /* the kernel has not taken all of it */
        own->reset = own->action == DO_ABORT && own->other == 0;
        if (own->reset) /* before all has come */
            CHECK_EQ_INT(client_ending(client), ECONNRESET);
        for (size_t have = 0; have < MUCH && !own->reset; have += sizeof part)
            CHECK_EQ_INT(client_receive(client, part, sizeof part), sizeof part);
    }
    if (own->place == IN_CLOSE)
        MUST(shutdown(client, SHUT_WR));
    CHECK_SOON(SEEN(own->done));
    return client;
}

/* What the client of the connection in question sees. */
static void expect_effect(const inside *own, int client)
{
    if (own->action == DO_WRITE || own->action == DO_PAUSE) {
        client_expect(client, "inside");
        MUST(shutdown(client, SHUT_WR));
        CHECK(own->action != DO_PAUSE || !client_readable(client, 30));
        CHECK(own->action != DO_WRITE || client_ending(client) == 0);
    } else {
        CHECK_EQ_INT(client_ending(client), own->action == DO_ABORT ? ECONNRESET : 0);
    }
}

static void try_inside(int workers, int place, int action, int to_other)
{
    inside own = { .place = place, .action = action };
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server_options options = serve_workers(workers);
    int other = -1;
    events.on_open = inside_open;
    events.on_data = inside_data;
    events.on_drain = inside_drain;
    events.on_close = inside_close;
    own.server = serve_events(OVER_TCP, &events, &own, &options);
    if (to_other) {
        other = serve_client(own.server); /* with several workers the next client is on another one */
        CHECK_SOON(SEEN(own.all.opened) == 1);
        own.other = own.all.last;
    }
    int client = provoke(&own);
    if (to_other)
        expect_effect(&own, other);
    else if (place != IN_CLOSE && !own.reset)
        expect_effect(&own, client);
    MUST(close(client));
    if (other != -1)
        MUST(close(other));
    CHECK_WORKS(oyez_server_stop(own.server.id, 0));
    CHECK_WORKS(oyez_server_wait(own.server.id, 20000));
    CHECK_WORKS(oyez_server_close(own.server.id));
    CHECK_EQ_INT(own.all.opened, to_other ? 2 : 1);
    CHECK_EQ_INT(own.all.closed, own.all.opened);
}

static void to_its_own_connection(void)
{
    for (int workers = 1; workers <= 4; workers += 3)
        for (int place = 0; place < PLACES; place++)
            for (int action = DO_CLOSE; action <= DO_PAUSE; action++)
                try_inside(workers, place, action, 0);
}

static void to_another_connection(void)
{
    for (int workers = 1; workers <= 4; workers += 3)
        for (int place = 0; place < PLACES; place++)
            for (int action = DO_CLOSE; action <= DO_PAUSE; action++)
                try_inside(workers, place, action, 1);
}

/* Stops and closes the server; each of its connections gets its on_close. */
static void to_the_server(void)
{
    for (int workers = 1; workers <= 4; workers += 3) {
        for (int place = 0; place < PLACES; place++) {
            for (int action = DO_STOP; action <= DO_CLOSE_SERVER; action++) {
                inside own = { .place = place, .action = action };
                oyez_events events = OYEZ_EVENTS_INIT;
                oyez_server_options options = serve_workers(workers);
                int others[5];
                options.drain_ms = 100;
                events.on_open = inside_open;
                events.on_data = inside_data;
                events.on_drain = inside_drain;
                events.on_close = inside_close;
                own.server = serve_events(OVER_TCP, &events, &own, &options);
                for (int i = 0; i < 5; i++)
                    others[i] = serve_client(own.server);
                CHECK_SOON(SEEN(own.all.opened) == 5);
                int client = provoke(&own);
                for (int i = 0; i < 5; i++) {
                    CHECK_EQ_INT(client_ending(others[i]), ECONNRESET);
                    MUST(close(others[i]));
                }
                CHECK_SOON(SEEN(own.all.closed) == 6);
                if (action == DO_STOP) {
                    CHECK_WORKS(oyez_server_wait(own.server.id, 20000));
                    CHECK_WORKS(oyez_server_close(own.server.id));
                } else {
                    CHECK_SOON(oyez_server_stop(own.server.id, 0) == -1);
                    CHECK_SOON(check_threads() == 1);
                }
                MUST(close(client));
            }
        }
    }
}

/* A server is made, used and closed inside a function of another one. */
static size_t ask_a_second_server(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    char text[8] = "";
    seen all = { 0 };
    oyez_events events = seen_events();
    oyez_server_options options = serve_workers(2);
    (void)user;
    events.on_data = serve_echo_data;
    served second = serve_events(OVER_TCP, &events, &all, &options);
    int client = serve_client(second);
    client_send(client, bytes, size);
    CHECK_EQ_INT(client_receive(client, text, size), size);
    MUST(close(client));
    serve_end(second);
    CHECK_EQ_INT(all.closed, 1);
    /* And one that is polled right here: its functions may use this connection. */
    second = serve_events_polled(&events, &all, &options);
    client = serve_client(second);
    while (SEEN(all.closed) < 2) {
        CHECK_WORKS(oyez_server_poll(second.id, 10));
        if (SEEN(all.opened) == 2)
            shutdown(client, SHUT_WR);
    }
    CHECK_WORKS(oyez_server_close(second.id));
    MUST(close(client));
    CHECK_WORKS(oyez_conn_write(connection, text, size));
    return size;
}

static void a_server_inside_another(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server_options options = serve_workers(1);
    events.on_data = ask_a_second_server;
    served server = serve_events(OVER_TCP, &events, NULL, &options);
    int client = serve_client(server);
    for (int i = 0; i < 3; i++) {
        client_send_text(client, "hello");
        client_expect(client, "hello");
    }
    MUST(close(client));
    serve_end(server);
}

/* Other threads. */

enum { WRITERS = 8, CLIENTS = 100, ROUNDS = 100, RECORD = 48 };

typedef struct many {
    seen all;
    oyez_conn connections[CLIENTS];
    int closed[CLIENTS]; /* by the program */
} many;

static void keep_connection(oyez_conn connection, void *user)
{
    many *own = user;
    int number = __atomic_fetch_add(&own->all.last, 1, __ATOMIC_SEQ_CST);
    own->connections[number] = connection;
    __atomic_add_fetch(&own->all.opened, 1, __ATOMIC_SEQ_CST);
}

typedef struct writer {
    many *to;
    int who;
} writer;

/* Records "who round dddd", to each connection in turn. */
static void *write_to_all(void *argument)
{
    writer *own = argument;
    unsigned char record[RECORD];
    memset(record, 'a' + own->who, sizeof record);
    for (int round = 0; round < ROUNDS; round++) {
        memcpy(record, &round, sizeof round);
        for (int i = 0; i < CLIENTS; i++)
            if (oyez_conn_write(own->to->connections[i], record, sizeof record) == -1) {
                CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_CLOSED);
                CHECK(SEEN(own->to->closed[i]));
            }
    }
    return NULL;
}

/* Each writer's records come whole and in order; how many. */
static int expect_records(int client)
{
    unsigned char record[RECORD];
    int next[WRITERS] = { 0 };
    int count = 0;
    int round;
    size_t size;
    while ((size = client_receive(client, record, sizeof record)) > 0) {
        CHECK_EQ_INT(size, RECORD);
        int who = record[RECORD - 1] - 'a';
        CHECK(who >= 0 && who < WRITERS);
        for (size_t at = sizeof round; at < sizeof record; at++)
            CHECK_EQ_INT(record[at], 'a' + who);
        memcpy(&round, record, sizeof round);
        CHECK_EQ_INT(round, next[who]);
        next[who]++;
        count++;
    }
    return count;
}

static void write_from_threads(int workers, int close_half)
{
    many own = { 0 };
    int complete = 0;
    int clients[CLIENTS];
    writer writers[WRITERS];
    pthread_t threads[WRITERS];
    oyez_events events = seen_events();
    oyez_server_options options = serve_workers(workers);
    events.on_open = keep_connection;
    served server = serve_events(OVER_TCP, &events, &own, &options);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = serve_client(server);
    CHECK_SOON(SEEN(own.all.opened) == CLIENTS);
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (writer){ &own, i };
        threads[i] = check_thread(write_to_all, &writers[i]);
    }
    for (int i = 0; close_half && i < CLIENTS; i += 2) {
        __atomic_store_n(&own.closed[i], 1, __ATOMIC_SEQ_CST);
        CHECK_WORKS(oyez_conn_close(own.connections[i]));
    }
    for (int i = 0; i < WRITERS; i++)
        check_thread_join(threads[i]);
    for (int i = 0; i < CLIENTS; i++)
        if (!own.closed[i])
            CHECK_WORKS(oyez_conn_close(own.connections[i]));
    for (int i = 0; i < CLIENTS; i++) {
        complete += expect_records(clients[i]) == WRITERS * ROUNDS;
        MUST(close(clients[i]));
    }
    CHECK(complete >= (close_half ? CLIENTS / 2 : CLIENTS));
    CHECK_SOON(SEEN(own.all.closed) == CLIENTS);
    CHECK_EQ_INT(own.all.code, OYEZ_OK);
    serve_end(server);
}

static void written_by_other_threads(void)
{
    write_from_threads(1, 0);
    write_from_threads(4, 0);
}

static void closed_while_others_write(void)
{
    for (int round = 0; round < 3; round++) {
        write_from_threads(1, 1);
        write_from_threads(4, 1);
    }
}

/* Connections go to the worker that has fewest. */

static pthread_t worker_of[200];

static void note_worker(oyez_conn connection, void *user)
{
    seen *all = user;
    worker_of[__atomic_fetch_add(&all->drained, 1, __ATOMIC_SEQ_CST)] = pthread_self();
    seen_open(connection, user);
}

static void evenly_spread(void)
{
    int clients[40];
    seen all = { 0 };
    oyez_events events = seen_events();
    oyez_server_options options = serve_workers(4);
    events.on_open = note_worker;
    served server = serve_events(OVER_TCP, &events, &all, &options);
    for (int i = 0; i < 40; i++) {
        clients[i] = serve_client(server);
        if (i % 3 == 0) { /* one that comes and goes */
            int passing = serve_client(server);
            MUST(shutdown(passing, SHUT_WR));
            CHECK_EQ_INT(client_ending(passing), 0);
            MUST(close(passing));
            CHECK_SOON(serve_stats(server).active == (unsigned)i + 1);
        }
    }
    CHECK_SOON(serve_stats(server).active == 40 && SEEN(all.opened) == 54);
    CHECK_WORKS(oyez_server_stop(server.id, 0));
    CHECK_WORKS(oyez_server_wait(server.id, 20000));
    CHECK_WORKS(oyez_server_close(server.id));
    for (int i = 0; i < 54; i++) {
        int same = 0;
        for (int j = 0; j < 54; j++)
            same += pthread_equal(worker_of[i], worker_of[j]) != 0;
        CHECK(same >= 8 && same <= 24); /* with those that passed */
    }
    for (int i = 0; i < 40; i++)
        MUST(close(clients[i]));
}

/* Descriptors used up. */

static int lines;

static void count_lines(int32_t level, const char *event, const char *text, void *user)
{
    (void)event;
    (void)text;
    (void)user;
    __atomic_add_fetch(&lines, level >= OYEZ_LOG_WARNING, __ATOMIC_SEQ_CST);
}

static void descriptors_used_up(void)
{
    for (int workers = 1; workers <= 4; workers += 3) {
        int waiting[20];
        seen all = { 0 };
        oyez_events events = seen_events();
        oyez_server_options options = serve_workers(workers);
        events.on_data = serve_echo_data;
        options.log = count_lines;
        lines = 0;
        served server = serve_events(OVER_TCP, &events, &all, &options);
        int first = serve_client(server);
        CHECK_SOON(SEEN(all.opened) == 1);
        CHECK_WORKS(oyez_server_pause(server.id));
        for (int i = 0; i < 20; i++)
            waiting[i] = serve_client(server);
        int before = place_descriptors_left(0);
        CHECK_WORKS(oyez_server_resume(server.id));
        CHECK_SOON(serve_stats(server).descriptor_pauses == 1);
        long cpu = check_cpu_ms();
        for (int i = 0; i < 20; i++) {
            client_send_text(first, "still here");
            client_expect(first, "still here");
            check_nap(25);
        }
        CHECK(check_cpu_ms() - cpu < 100);
        CHECK_EQ_INT(serve_stats(server).accepted, 1);
        CHECK_EQ_INT(SEEN(lines), 1);
        place_descriptor_limit(before);
        for (int i = 0; i < 20; i++) {
            client_send_text(waiting[i], "late");
            client_expect(waiting[i], "late");
            MUST(close(waiting[i]));
        }
        MUST(close(first));
        serve_end(server);
        CHECK_EQ_INT(all.closed, 21);
        CHECK(lines <= 2);
    }
}

/* One connection that ends makes room for one that waits, whichever worker had it. */
static void a_descriptor_given_back(void)
{
    seen all = { 0 };
    oyez_events events = seen_events();
    oyez_server_options options = serve_workers(4);
    int held[8];
    events.on_data = serve_echo_data;
    served server = serve_events(OVER_TCP, &events, &all, &options);
    for (int i = 0; i < 8; i++)
        held[i] = serve_client(server);
    CHECK_SOON(SEEN(all.opened) == 8);
    CHECK_WORKS(oyez_server_pause(server.id));
    int waiting = serve_client(server);
    int before = place_descriptors_left(0);
    CHECK_WORKS(oyez_server_resume(server.id));
    CHECK_SOON(serve_stats(server).descriptor_pauses == 1);
    MUST(shutdown(held[5], SHUT_WR)); /* its end at the server gives one back */
    client_send_text(waiting, "hello");
    client_expect(waiting, "hello");
    place_descriptor_limit(before);
    for (int i = 0; i < 8; i++)
        MUST(close(held[i]));
    MUST(close(waiting));
    serve_end(server);
}

/* fork(2). */

typedef struct handles {
    oyez_server server;
    oyez_server polled;
    oyez_conn connection;
} handles;

static void use_the_parents(void *argument)
{
    const handles *of = argument;
    long long start = check_now_ms();
    CHECK_FAILS(oyez_server_poll(of->polled, -1), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_poll_fd(of->polled), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_stop(of->server, 0), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_close(of->server), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_write(of->connection, "x", 1), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_pause(of->connection), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_resume(of->connection), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_close(of->connection), OYEZ_FORKED, ANY_ERRNO);
    /* A server of its own works. */
    oyez_events events = OYEZ_EVENTS_INIT;
    events.on_data = serve_echo_data;
    served own = serve_events(OVER_TCP, &events, NULL, NULL);
    client_echo_many(own.port, 10, 1000);
    serve_end(own);
    CHECK_TOOK(start, 0, 5000);
}

static size_t fork_inside(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    handles of = { *(oyez_server *)user, *(oyez_server *)user, connection };
    check_join(check_fork(use_the_parents, &of));
    return serve_echo_data(connection, bytes, size, NULL);
}

static void in_a_forked_child(void)
{
    seen all = { 0 };
    handles of;
    oyez_events events = seen_events();
    served server = serve_events(OVER_TCP, &events, &all, NULL);
    served polled = serve_events_polled(&events, &all, NULL);
    int client = serve_client(server);
    CHECK_SOON(SEEN(all.opened) == 1);
    of = (handles){ server.id, polled.id, all.last };
    for (int i = 0; i < 5; i++)
        check_join(check_fork(use_the_parents, &of));
    CHECK_WORKS(oyez_conn_write(of.connection, "parent", 6));
    client_expect(client, "parent");
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(polled.id));
    serve_end(server);
    /* Inside a function. */
    oyez_server number = 0;
    events = (oyez_events)OYEZ_EVENTS_INIT;
    events.on_data = fork_inside;
    server = serve_events(OVER_TCP, &events, &number, NULL);
    number = server.id;
    client = serve_client(server);
    client_send_text(client, "fork");
    client_expect(client, "fork");
    MUST(close(client));
    serve_end(server);
}

static const check_case cases[] = {
    CASE(to_its_own_connection),
    CASE(to_another_connection),
    CASE(to_the_server),
    CASE(a_server_inside_another),
    CASE(written_by_other_threads),
    CASE(closed_while_others_write),
    CASE(evenly_spread),
    CASE(descriptors_used_up),
    CASE(a_descriptor_given_back),
    CASE(in_a_forked_child),
};

CHECK_MAIN(cases)
