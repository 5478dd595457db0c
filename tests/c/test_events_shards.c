/* Event servers with reuse_port: each thread has a listener of its own. */
#define _GNU_SOURCE
#include "clients.h"
#include "serving.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { WORKERS = 4, CLIENTS = 200 };

/* Which threads have opened connections, and how many are open at once. */
static pthread_t threads[WORKERS + 1];
static int distinct, open_now, most_open;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void note_open(oyez_conn connection, void *unused)
{
    int found = 0;
    (void)unused;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < distinct; i++)
        found = found || pthread_equal(threads[i], pthread_self());
    if (!found && distinct <= WORKERS)
        threads[distinct++] = pthread_self();
    open_now++;
    most_open = open_now > most_open ? open_now : most_open;
    pthread_mutex_unlock(&lock);
    CHECK_WORKS(oyez_conn_write(connection, "hello\n", 6));
}

static void note_close(oyez_conn connection, const oyez_error *why, void *unused)
{
    (void)connection;
    (void)why;
    (void)unused;
    pthread_mutex_lock(&lock);
    open_now--;
    pthread_mutex_unlock(&lock);
}

static int seen_now(const int *count)
{
    pthread_mutex_lock(&lock);
    int now = *count;
    pthread_mutex_unlock(&lock);
    return now;
}

static oyez_server make_sharded(const char *address, int most, int *port)
{
    oyez_server_options options = serve_workers(WORKERS);
    oyez_listen_options listen = OYEZ_LISTEN_OPTIONS_INIT;
    oyez_events events = OYEZ_EVENTS_INIT;
    events.on_open = note_open;
    events.on_close = note_close;
    options.max_connections = most;
    listen.reuse_port = OYEZ_ON;
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new_events(&events, NULL, &options));
    int listener = (int)CHECK_WORKS(oyez_server_listen(server, address, &listen));
    *port = oyez_local_port(listener);
    return server;
}

static unsigned long long listeners_of(oyez_server server)
{
    oyez_stats stats = OYEZ_STATS_INIT;
    CHECK_WORKS(oyez_server_stats(server, &stats));
    return stats.listeners;
}

static unsigned long long cut_of(oyez_server server)
{
    oyez_stats stats = OYEZ_STATS_INIT;
    CHECK_WORKS(oyez_server_stats(server, &stats));
    return stats.cut;
}

static void end(oyez_server server)
{
    CHECK_WORKS(oyez_server_stop(server, 20000));
    CHECK_WORKS(oyez_server_wait(server, 20000));
    CHECK_EQ_INT(listeners_of(server), 0);
    CHECK_WORKS(oyez_server_close(server));
}

static void connect_all(int port, int *clients)
{
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_connect(port);
}

static void hear_all(int *clients)
{
    for (int i = 0; i < CLIENTS; i++) {
        client_expect(clients[i], "hello\n");
        MUST(close(clients[i]));
    }
}

/* Those that wait do so at whichever listener: each hears when others leave. */
static void hear_in_any_order(int *clients)
{
    for (int left = CLIENTS; left > 0;) {
        for (int i = 0; i < CLIENTS; i++) {
            if (clients[i] != -1 && client_readable(clients[i], 0)) {
                client_expect(clients[i], "hello\n");
                MUST(close(clients[i]));
                clients[i] = -1;
                left--;
            }
        }
    }
}

static void every_thread_accepts(void)
{
    int port, clients[CLIENTS];
    oyez_server server = make_sharded("127.0.0.1:0", 0, &port);
    CHECK_EQ_INT(listeners_of(server), WORKERS);
    CHECK_WORKS(oyez_server_start(server));
    connect_all(port, clients);
    hear_all(clients);
    CHECK_SOON(seen_now(&open_now) == 0);
    CHECK_EQ_INT(seen_now(&distinct), WORKERS);
    end(server);
    CHECK(client_try(port) == -1 && errno == ECONNREFUSED);
}

static void one_that_is_added_while_it_runs(void)
{
    int first, clients[CLIENTS];
    oyez_server server = make_sharded("127.0.0.1:0", 0, &first);
    CHECK_WORKS(oyez_server_start(server));
    int second = oyez_local_port((int)CHECK_WORKS(oyez_server_listen(server, "[::1]:0?reuse_port=on", NULL)));
    CHECK_EQ_INT(listeners_of(server), 2 * WORKERS);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_connect6(second);
    hear_all(clients);
    end(server);
}

/* A foreign loop drives one thread alone: it serves the clients of all. */
static void polled(void)
{
    int port, clients[CLIENTS];
    oyez_server server = make_sharded("127.0.0.1:0", 0, &port);
    connect_all(port, clients);
    while (seen_now(&open_now) < CLIENTS)
        CHECK_WORKS(oyez_server_poll(server, 1000));
    hear_all(clients);
    CHECK_WORKS(oyez_server_stop(server, -1));
    while (oyez_server_poll(server, 1000) != -1)
        ;
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_STOPPED);
    CHECK_WORKS(oyez_server_close(server));
}

/* All threads together have no more connections than may be, and rest while there are so many. */
static void limits_are_for_all(void)
{
    int port, clients[CLIENTS];
    oyez_server server = make_sharded("127.0.0.1:0", 10, &port);
    CHECK_WORKS(oyez_server_start(server));
    connect_all(port, clients);
    CHECK_SOON(seen_now(&open_now) == 10);
    long before = check_cpu_ms();
    check_nap(300);
    CHECK(check_cpu_ms() - before < 100);
    hear_in_any_order(clients);
    CHECK(seen_now(&most_open) <= 10);
    end(server);
}

static void a_pause(void)
{
    int port, clients[CLIENTS];
    oyez_server server = make_sharded("127.0.0.1:0", 0, &port);
    CHECK_WORKS(oyez_server_start(server));
    CHECK_WORKS(oyez_server_pause(server));
    connect_all(port, clients);
    long before = check_cpu_ms();
    check_nap(200);
    CHECK(check_cpu_ms() - before < 100);
    int opened = seen_now(&open_now);
    CHECK(opened < CLIENTS);
    CHECK_WORKS(oyez_server_resume(server));
    hear_all(clients);
    end(server);
}

/* Those who wait when a stop comes are served, at every listener. */
static void a_stop(void)
{
    int port, clients[CLIENTS];
    oyez_server server = make_sharded("127.0.0.1:0", 20, &port);
    connect_all(port, clients);
    CHECK_WORKS(oyez_server_start(server));
    CHECK_WORKS(oyez_server_stop(server, 20000));
    hear_in_any_order(clients);
    CHECK_WORKS(oyez_server_wait(server, 20000));
    CHECK_EQ_INT(cut_of(server), 0);
    CHECK_WORKS(oyez_server_close(server));
}

static const check_case cases[] = {
    CASE(every_thread_accepts),
    CASE(one_that_is_added_while_it_runs),
    CASE(polled),
    CASE(limits_are_for_all),
    CASE(a_pause),
    CASE(a_stop),
};

CHECK_MAIN(cases)
