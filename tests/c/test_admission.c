/* The most connections at once: never more, nobody lost, and no processor time while others wait. */
#define _GNU_SOURCE
#include "clients.h"
#include "holding.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static oyez_server_options at_most(int most)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.max_connections = most;
    return options;
}

static void set_most(const holding *server, int most)
{
    oyez_server_options options = at_most(most);
    CHECK_WORKS(oyez_server_set_limits(server->server.id, &options));
}

static void connect_all(const holding *server, int *clients, int count)
{
    for (int i = 0; i < count; i++)
        clients[i] = client_connect(server->server.port);
}

/* All ask at once, so that it does not matter who is in; all are served. */
static void release_all(const int *clients, int count)
{
    for (int i = 0; i < count; i++)
        hold_ask(clients[i]);
    for (int i = 0; i < count; i++)
        hold_served(clients[i]);
}

/* Those who can be full: one that serves one after another never has more than one. */
static int can_be_full(hold_kind kind)
{
    return kind != HOLD_SEQUENTIAL;
}

static void check_never_more(hold_kind kind)
{
    enum { MOST = 3, CLIENTS = 24 };
    int clients[CLIENTS];
    oyez_server_options options = at_most(MOST);
    holding *server = hold(kind, &options);
    int expected = can_be_full(kind) ? MOST : 1;
    connect_all(server, clients, CLIENTS);
    CHECK_SOON(hold_begun(server) == expected);
    check_idle(hold_name(kind));
    CHECK_EQ_INT(hold_begun(server), expected);
    CHECK_EQ_INT(hold_stats(server).active, expected);
    CHECK_EQ_INT(hold_stats(server).queue, CLIENTS - expected);
    for (int i = 0; i < CLIENTS; i++)
        CHECK(!client_readable(clients[i], 0));
    CHECK_EQ_INT(log_lines("max_connections_reached"), can_be_full(kind));
    release_all(clients, CLIENTS);
    CHECK_SOON(hold_stats(server).active == 0);
    CHECK_EQ_INT(hold_most(server), expected);
    CHECK_EQ_INT(hold_stats(server).accepted, CLIENTS);
    CHECK_EQ_INT(hold_stats(server).refused_limit, 0);
    CHECK_EQ_INT(hold_stats(server).descriptor_pauses, 0);
    CHECK_EQ_INT(log_lines("max_connections_reached"), can_be_full(kind));
    if (can_be_full(kind))
        CHECK_LOGGED("max_connections_reached", "3 connections are open, as many as may be");
    hold_end(server);
}

static void never_more_than_may_be(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        check_never_more(kind);
}

/* Many come and go at once. */
static void never_more_in_a_crowd(void)
{
    enum { MOST = 4, CLIENTS = 200 };
    int clients[CLIENTS];
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++) {
        oyez_server_options options = at_most(MOST);
        holding *server = hold(kind, &options);
        connect_all(server, clients, CLIENTS);
        release_all(clients, CLIENTS);
        CHECK(hold_most(server) <= MOST);
        CHECK_EQ_INT(hold_stats(server).accepted, CLIENTS);
        hold_end(server);
    }
}

static void check_raised_and_lowered(hold_kind kind)
{
    enum { CLIENTS = 9 };
    int clients[CLIENTS];
    oyez_server_options options = at_most(2);
    holding *server = hold(kind, &options);
    connect_all(server, clients, CLIENTS);
    CHECK_SOON(hold_begun(server) == 2);
    set_most(server, 5);
    CHECK_SOON(hold_begun(server) == 5);
    set_most(server, 1);
    for (int i = 0; i < 4; i++)
        hold_release(clients[i]);
    CHECK_SOON(hold_stats(server).active == 1);
    check_idle(hold_name(kind));
    CHECK_EQ_INT(hold_begun(server), 5);
    hold_release(clients[4]);
    CHECK_SOON(hold_begun(server) == 6);
    set_most(server, 2);
    CHECK_SOON(hold_begun(server) == 7);
    set_most(server, -1);
    CHECK_SOON(hold_begun(server) == CLIENTS);
    CHECK_EQ_INT(hold_most(server), 5);
    release_all(clients + 5, CLIENTS - 5);
    hold_end(server);
}

static void raised_and_lowered_while_full(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        if (can_be_full(kind))
            check_raised_and_lowered(kind);
}

static void check_pause(hold_kind kind)
{
    int clients[4];
    oyez_server_options options = at_most(1);
    holding *server = hold(kind, &options);
    connect_all(server, clients, 4);
    CHECK_SOON(hold_begun(server) == 1);
    CHECK_WORKS(oyez_server_pause(server->server.id));
    hold_release(clients[0]);
    check_idle(hold_name(kind));
    CHECK_EQ_INT(hold_begun(server), 1);
    CHECK_WORKS(oyez_server_resume(server->server.id));
    CHECK_SOON(hold_begun(server) == 2);
    CHECK_WORKS(oyez_server_pause(server->server.id));
    CHECK_WORKS(oyez_server_resume(server->server.id));
    check_idle(hold_name(kind));
    CHECK_EQ_INT(hold_begun(server), 2);
    hold_release(clients[1]);
    CHECK_SOON(hold_begun(server) == 3);
    release_all(clients + 2, 2);
    CHECK_EQ_INT(hold_most(server), 1);
    hold_end(server);
}

static void paused_while_full(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        check_pause(kind);
}

/* Stops. */

/* Those who wait are served in the drain time, as others leave. */
static void check_stop_while_full(hold_kind kind)
{
    enum { CLIENTS = 8 };
    int clients[CLIENTS];
    oyez_server_options options = at_most(2);
    holding *server = hold(kind, &options);
    int expected = can_be_full(kind) ? 2 : 1;
    connect_all(server, clients, CLIENTS);
    CHECK_SOON(hold_begun(server) == expected);
    CHECK_WORKS(oyez_server_stop(server->server.id, -1));
    check_idle(hold_name(kind));
    CHECK_EQ_INT(hold_begun(server), expected);
    for (int i = 0; i < CLIENTS; i++)
        hold_release(clients[i]);
    while (server->joined > 0)
        check_thread_join(server->threads[--server->joined]);
    CHECK_WORKS(oyez_server_wait(server->server.id, 20000));
    CHECK_EQ_INT(hold_most(server), expected);
    CHECK_EQ_INT(hold_begun(server), CLIENTS);
    CHECK_EQ_INT(hold_stats(server).cut, 0);
    CHECK_EQ_INT(hold_stats(server).drained, CLIENTS);
    hold_close(server);
}

static void stopped_while_full(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        check_stop_while_full(kind);
}

/* It fills in the stop only: until then it is paused. */
static void check_full_in_a_stop(hold_kind kind)
{
    enum { CLIENTS = 6 };
    int clients[CLIENTS];
    oyez_server_options options = at_most(2);
    holding *server = hold(kind, &options);
    CHECK_WORKS(oyez_server_pause(server->server.id));
    connect_all(server, clients, CLIENTS);
    CHECK_WORKS(oyez_server_stop(server->server.id, -1));
    CHECK_SOON(hold_begun(server) == 2);
    check_idle(hold_name(kind));
    for (int i = 0; i < CLIENTS; i++)
        hold_release(clients[i]);
    CHECK_EQ_INT(hold_most(server), 2);
    while (server->joined > 0)
        check_thread_join(server->threads[--server->joined]);
    CHECK_WORKS(oyez_server_wait(server->server.id, 20000));
    hold_close(server);
}

static void full_in_a_stop_alone(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        if (can_be_full(kind))
            check_full_in_a_stop(kind);
}

/* The listeners are watched when the stop begins, and then there is no place. */

static void *poll_all(void *server)
{
    while (oyez_server_poll(((served *)server)->id, -1) == 0)
        ;
    return NULL;
}

static size_t leave_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)connection;
    (void)bytes;
    (void)size;
    (void)user;
    return 0;
}

static void full_in_a_stop_that_watched(void)
{
    int clients[6];
    seen all = { 0 };
    oyez_events events = seen_events();
    oyez_server_options options = at_most(2);
    events.on_data = leave_data; /* a stop does not count it as idle */
    served server = serve_events_polled(&events, &all, &options);
    CHECK_WORKS(oyez_server_poll(server.id, 0));
    for (int i = 0; i < 6; i++) {
        clients[i] = client_connect(server.port);
        client_send_text(clients[i], "x");
    }
    CHECK_WORKS(oyez_server_stop(server.id, -1));
    pthread_t thread = check_thread(poll_all, &server);
    CHECK_SOON(SEEN(all.opened) >= 2);
    check_idle("a stop that fills");
    for (int i = 0; i < 6; i++)
        client_close(clients[i]);
    check_thread_join(thread);
    CHECK_EQ_INT(all.opened, 6);
    CHECK_EQ_INT(all.closed, 6);
    CHECK_WORKS(oyez_server_close(server.id));
}

/* At the end of the drain time those who are in are reset, and those who wait too. */
static void check_cut_while_full(hold_kind kind)
{
    enum { CLIENTS = 6 };
    int clients[CLIENTS];
    oyez_server_options options = at_most(2);
    holding *server = hold(kind, &options);
    int expected = can_be_full(kind) ? 2 : 1;
    connect_all(server, clients, CLIENTS);
    CHECK_SOON(hold_begun(server) == expected);
    long long start = check_now_ms();
    hold_stop(server, 200);
    CHECK_TOOK(start, 199, 5000);
    for (int i = 0; i < CLIENTS; i++) {
        CHECK_EQ_INT(client_ending(clients[i]), ECONNRESET);
        MUST(close(clients[i]));
    }
    CHECK(hold_stats(server).cut >= (unsigned)expected);
    CHECK_EQ_INT(hold_stats(server).active, 0);
    hold_close(server);
}

static void cut_while_full(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        check_cut_while_full(kind);
}

/* Clients of a paused server who are refused, ahead of one who is not, when it is stopped. */
static void check_stop_behind_refused(hold_kind kind)
{
    enum { REFUSED = 400 };
    int refused[REFUSED];
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.deny = "127.0.0.9";
    holding *server = hold(kind, &options);
    CHECK_WORKS(oyez_server_pause(server->server.id));
    for (int i = 0; i < REFUSED; i++)
        refused[i] = client_connect_from("127.0.0.9", "127.0.0.1", server->server.port);
    int client = client_connect(server->server.port);
    CHECK_WORKS(oyez_server_stop(server->server.id, -1));
    hold_release(client);
    for (int i = 0; i < REFUSED; i++)
        hold_refused(refused[i]);
    while (server->joined > 0)
        check_thread_join(server->threads[--server->joined]);
    CHECK_WORKS(oyez_server_wait(server->server.id, 20000));
    CHECK_EQ_INT(hold_stats(server).refused_rules, REFUSED);
    CHECK_EQ_INT(hold_stats(server).accepted, 1);
    hold_close(server);
}

static void stopped_behind_many_refused(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        check_stop_behind_refused(kind);
}

/* Places that are given back. */

static gate told;

static void detach_it(oyez_conn connection, void *user)
{
    *(int *)user = (int)CHECK_WORKS(oyez_conn_detach(connection));
    MUST(write(told.in[1], "x", 1));
}

/* The descriptor is the program's now, and open: the place is free. */
static void detached(oyez_handler handler, int events)
{
    int fd = -1;
    oyez_server_options options = at_most(1);
    oyez_events functions = OYEZ_EVENTS_INIT;
    functions.on_open = handler;
    told = gate_make();
    served server = events ? serve_events(OVER_TCP, &functions, &fd, &options) : serve(handler, &fd, &options);
    int clients[3];
    int fds[3];
    for (int i = 0; i < 3; i++) {
        clients[i] = client_connect(server.port);
        gate_await(&told, 1);
        fds[i] = fd;
    }
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK_EQ_INT(serve_stats(server).accepted, 3);
    for (int i = 0; i < 3; i++) {
        client_send_text(clients[i], "mine");
        client_expect(fds[i], "mine");
        MUST(close(clients[i]));
        MUST(close(fds[i]));
    }
    serve_end(server);
    gate_end(&told);
}

static void a_detached_one_has_no_place(void)
{
    detached(detach_it, 0);
    detached(detach_it, 1);
}

static oyez_conn accept_one(served server, int timeout_ms)
{
    oyez_conn connection;
    CHECK_WORKS(oyez_server_accept(server.id, &connection, timeout_ms));
    return connection;
}

/* By hand. */

static void a_full_server_by_hand(void)
{
    int clients[3];
    oyez_conn first, none;
    oyez_server_options options = at_most(1);
    served server = serve_at("127.0.0.1:0", NULL, NULL, &options);
    struct pollfd wait = { (int)CHECK_WORKS(oyez_server_poll_fd(server.id)), POLLIN, 0 };
    for (int i = 0; i < 3; i++)
        clients[i] = client_connect(server.port);
    first = accept_one(server, 10000);
    CHECK_FAILS(oyez_server_accept(server.id, &none, 0), OYEZ_LIMIT_REACHED, EAGAIN);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "max_connections");
    CHECK_EQ_INT(poll(&wait, 1, 50), 0);
    long long start = check_now_ms();
    CHECK_FAILS(oyez_server_accept(server.id, &none, 150), OYEZ_LIMIT_REACHED, EAGAIN);
    CHECK_TOOK(start, 149, 5000);
    CHECK_EQ_INT(poll(&wait, 1, 50), 0);
    CHECK_WORKS(oyez_conn_close(first));
    CHECK_EQ_INT(poll(&wait, 1, 10000), 1);
    first = accept_one(server, 0);
    CHECK_FAILS(oyez_server_accept(server.id, &none, 0), OYEZ_LIMIT_REACHED, EAGAIN);
    CHECK_EQ_INT(poll(&wait, 1, 50), 0);
    int fd = (int)CHECK_WORKS(oyez_conn_detach(first));
    CHECK_EQ_INT(poll(&wait, 1, 10000), 1);
    CHECK_WORKS(oyez_conn_abort(accept_one(server, 0)));
    CHECK_FAILS(oyez_server_accept(server.id, &none, 0), OYEZ_TIMED_OUT, EAGAIN);
    MUST(close(fd));
    CHECK_WORKS(oyez_server_close(server.id));
    for (int i = 0; i < 3; i++)
        MUST(close(clients[i]));
}

/* A foreign loop that does nothing but what the descriptor asks for. */
static void a_loop_by_hand(void)
{
    enum { MOST = 3, CLIENTS = 60 };
    int clients[CLIENTS];
    oyez_conn open[MOST];
    int held = 0;
    oyez_server_options options = at_most(MOST);
    served server = serve_at("127.0.0.1:0", NULL, NULL, &options);
    struct pollfd wait = { (int)CHECK_WORKS(oyez_server_poll_fd(server.id)), POLLIN, 0 };
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_connect(server.port);
    for (int done = 0; done < CLIENTS;) {
        CHECK_EQ_INT(poll(&wait, 1, held == MOST ? 20 : 20000), held < MOST);
        while (held < MOST && oyez_server_accept(server.id, &open[held], 0) >= 0)
            held++;
        if (held < MOST && done + held < CLIENTS)
            continue; /* only tidying up */
        oyez_conn more;
        while (oyez_server_accept(server.id, &more, 0) == -1 && poll(&wait, 1, 0) == 1)
            ;
        /* A different number leaves each time. */
        for (int leave = done % MOST + 1; leave > 0 && held > 0; leave--, done++)
            CHECK_WORKS(oyez_conn_close(open[--held]));
    }
    CHECK_EQ_INT(serve_stats(server).accepted, CLIENTS);
    CHECK_WORKS(oyez_server_close(server.id));
    for (int i = 0; i < CLIENTS; i++) {
        CHECK_EQ_INT(client_ending(clients[i]), 0);
        MUST(close(clients[i]));
    }
}

/* Places are freed at nearly the same time, while several threads wait for one each: all of them get one, although
   those who have one do not come back. */

enum { WAITING = 4 };
static served crowded;
static oyez_conn got[WAITING];

static void *accept_for(void *slot)
{
    CHECK_WORKS(oyez_server_accept(crowded.id, slot, 15000));
    return NULL;
}

static void several_places_freed_at_once(void)
{
    oyez_server_options options = at_most(WAITING);
    crowded = serve_at("127.0.0.1:0", NULL, NULL, &options);
    for (int round = 0; round < 150; round++) {
        oyez_conn first[WAITING];
        int clients[2 * WAITING];
        pthread_t threads[WAITING];
        for (int i = 0; i < 2 * WAITING; i++)
            clients[i] = client_connect(crowded.port);
        for (int i = 0; i < WAITING; i++)
            first[i] = accept_one(crowded, 10000);
        for (int i = 0; i < WAITING; i++)
            threads[i] = check_thread(accept_for, &got[i]);
        if (round % 2 == 0)
            check_nap(1);
        for (int i = 0; i < WAITING; i++)
            CHECK_WORKS(oyez_conn_abort(first[i]));
        for (int i = 0; i < WAITING; i++)
            check_thread_join(threads[i]);
        for (int i = 0; i < WAITING; i++)
            CHECK_WORKS(oyez_conn_abort(got[i]));
        for (int i = 0; i < 2 * WAITING; i++)
            MUST(close(clients[i]));
    }
    CHECK_WORKS(oyez_server_close(crowded.id));
}

/* Another thread closes it. */
static void closed_by_another_thread(void)
{
    oyez_server_options options = at_most(1);
    crowded = serve_at("127.0.0.1:0", NULL, NULL, &options);
    int one = client_connect(crowded.port);
    int other = client_connect(crowded.port);
    oyez_conn first = accept_one(crowded, 10000);
    pthread_t thread = check_thread(accept_for, &got[0]);
    check_nap(30);
    CHECK_WORKS(oyez_conn_close(first));
    check_thread_join(thread);
    CHECK_WORKS(oyez_conn_close(got[0]));
    MUST(close(one));
    MUST(close(other));
    CHECK_WORKS(oyez_server_close(crowded.id));
}

/* Threads that wait for a client, not for a place, do not make the log say that there is none. */
static void a_server_that_is_not_full_says_nothing(void)
{
    oyez_server_options options = at_most(2);
    holding *server = hold(HOLD_BY_HAND, &options);
    for (int i = 0; i < 1000; i++) {
        hold_release(client_connect(server->server.port));
        CHECK_SOON(hold_stats(server).active == 0);
    }
    CHECK_EQ_INT(log_lines("max_connections_reached"), 0);
    hold_end(server);
}

static const check_case cases[] = {
    CASE(never_more_than_may_be),
    CASE(never_more_in_a_crowd),
    CASE(raised_and_lowered_while_full),
    CASE(paused_while_full),
    CASE(stopped_while_full),
    CASE(full_in_a_stop_alone),
    CASE(full_in_a_stop_that_watched),
    CASE(cut_while_full),
    CASE(stopped_behind_many_refused),
    CASE(a_detached_one_has_no_place),
    CASE(a_full_server_by_hand),
    CASE(a_loop_by_hand),
    CASE(several_places_freed_at_once),
    CASE(closed_by_another_thread),
    CASE(a_server_that_is_not_full_says_nothing),
};

CHECK_MAIN(cases)
