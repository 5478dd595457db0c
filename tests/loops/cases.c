/* An event server driven by a foreign loop. Nothing polls it but that, and only where its descriptor is readable. */
#define _GNU_SOURCE
#include "clients.h"
#include "loop.h"
#include "serving.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 100, BYTES = 20000, MUCH = 15000000, IDLE_MS = 200, DRAIN_MS = 200 };

static void stop(void *server)
{
    CHECK_WORKS(oyez_server_stop(((served *)server)->id, -1));
}

/* on_data: sends back whole lines, and leaves the rest. */
static size_t echo_lines(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    seen *all = user;
    size_t whole = size;
    while (whole > 0 && bytes[whole - 1] != '\n')
        whole--;
    if (whole > 0)
        CHECK_WORKS(oyez_conn_write(connection, bytes, whole));
    __atomic_add_fetch(&all->bytes, size, __ATOMIC_SEQ_CST);
    return whole;
}

static oyez_events line_events(void)
{
    oyez_events events = seen_events();
    events.on_data = echo_lines;
    return events;
}

/* Clients on a thread of their own. */

static void *echo_and_stop(void *server)
{
    client_echo_many(((served *)server)->port, CLIENTS, BYTES);
    stop(server);
    return NULL;
}

static void a_hundred_clients(void)
{
    seen all = { 0 };
    oyez_events events = seen_events();
    events.on_data = serve_echo_data;
    served server = serve_events_polled(&events, &all, NULL);
    pthread_t clients = check_thread(echo_and_stop, &server);
    loop_drive(server.id, 0, NULL, NULL);
    check_thread_join(clients);
    oyez_stats stats = serve_stats(server);
    CHECK_EQ_INT(stats.accepted, CLIENTS);
    CHECK_EQ_INT(stats.active, 0);
    CHECK_EQ_INT(stats.cut, 0);
    CHECK_EQ_INT(stats.bytes_in, CLIENTS * BYTES);
    CHECK_EQ_INT(stats.bytes_out, CLIENTS * BYTES);
    CHECK_EQ_INT(all.opened, CLIENTS);
    CHECK_EQ_INT(all.closed, CLIENTS);
    CHECK_WORKS(oyez_server_close(server.id));
}

/* A client that waits in the kernel's queue before there is a loop, and more output than the kernel keeps. */

static int written;

/* Reads when all is written: the kernel keeps less than that, so that the rest waits. */
static void *read_late(void *client)
{
    int fd = *(int *)client;
    size_t rest = MUCH;
    char bytes[65536];
    CHECK_SOON(SEEN(written));
    while (rest > 0) {
        size_t size = client_receive(fd, bytes, rest < sizeof bytes ? rest : sizeof bytes);
        CHECK(size > 0);
        rest -= size;
    }
    MUST(close(fd));
    return NULL;
}

static void send_much(oyez_conn connection, void *user)
{
    static char bytes[MUCH];
    (void)user;
    CHECK_WORKS(oyez_conn_write(connection, bytes, sizeof bytes));
    __atomic_store_n(&written, 1, __ATOMIC_SEQ_CST);
}

static void stop_at_drain(oyez_conn connection, void *user)
{
    (void)connection;
    CHECK_WORKS(oyez_server_stop(*(oyez_server *)user, -1));
}

static void output_that_waits(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server id = 0;
    events.on_open = send_much;
    events.on_drain = stop_at_drain;
    served server = serve_events_polled(&events, &id, NULL);
    id = server.id;
    int client = serve_client(server);
    pthread_t reader = check_thread(read_late, &client);
    loop_drive(server.id, 0, NULL, NULL);
    check_thread_join(reader);
    CHECK_EQ_INT(serve_stats(server).cut, 0);
    CHECK_WORKS(oyez_server_close(server.id));
}

/* Time. */

static void stop_at_close(oyez_conn connection, const oyez_error *why, void *user)
{
    (void)connection;
    CHECK_EQ_INT(oyez_error_code(why), OYEZ_TIMED_OUT);
    CHECK_WORKS(oyez_server_stop(*(oyez_server *)user, -1));
}

static void *say_hello_and_wait(void *port)
{
    int client = client_connect(*(int *)port);
    client_send_text(client, "hello");
    client_expect(client, "hello");
    long long start = check_now_ms();
    CHECK_EQ_INT(client_ending(client), 0);
    CHECK_TOOK(start, IDLE_MS - 10, 5000);
    MUST(close(client));
    return NULL;
}

static void an_idle_timeout(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    oyez_server id = 0;
    events.on_data = serve_echo_data;
    events.on_close = stop_at_close;
    options.idle_timeout_ms = IDLE_MS;
    served server = serve_events_polled(&events, &id, &options);
    id = server.id;
    pthread_t client = check_thread(say_hello_and_wait, &server.port);
    /* The server's own timer has the loop look, and nothing has it spin. */
    CHECK(loop_drive(server.id, 0, NULL, NULL) < 25);
    check_thread_join(client);
    CHECK_EQ_INT(serve_stats(server).timeouts, 1);
    CHECK_WORKS(oyez_server_close(server.id));
}

/* The stop. */

/* Half a line has arrived when the server is told to stop, and somebody waits in the kernel's queue. */
static void *stop_in_a_line(void *argument)
{
    void **given = argument;
    served *server = given[0];
    seen *all = given[1];
    int idle = client_connect(server->port);
    client_send_text(idle, "served\n");
    client_expect(idle, "served\n");
    int busy = client_connect(server->port);
    client_send_text(busy, "half of ");
    CHECK_SOON(SEEN(all->bytes) == strlen("served\nhalf of "));
    int late = client_connect(server->port);
    stop(server);
    CHECK_EQ_INT(client_ending(idle), 0);
    client_send_text(late, "late\n");
    client_expect(late, "late\n");
    CHECK_EQ_INT(client_ending(late), 0);
    client_send_text(busy, "a line\n");
    client_expect(busy, "half of a line\n");
    CHECK_EQ_INT(client_ending(busy), 0);
    CHECK_EQ_INT(client_try(server->port), -1);
    MUST(close(idle));
    MUST(close(busy));
    MUST(close(late));
    return NULL;
}

static void a_stop_drains(void)
{
    seen all = { 0 };
    oyez_events events = line_events();
    served server = serve_events_polled(&events, &all, NULL);
    void *given[] = { &server, &all };
    pthread_t clients = check_thread(stop_in_a_line, given);
    loop_drive(server.id, 0, NULL, NULL);
    check_thread_join(clients);
    CHECK_EQ_INT(serve_stats(server).accepted, 3);
    CHECK_EQ_INT(serve_stats(server).cut, 0);
    CHECK_EQ_INT(all.closed, 3);
    CHECK_WORKS(oyez_server_close(server.id));
}

static void stop_soon(void *server)
{
    CHECK_WORKS(oyez_server_stop(((served *)server)->id, DRAIN_MS));
}

/* The client never ends its line, so that only time ends the stop. */
static void the_end_of_the_drain_time(void)
{
    seen all = { 0 };
    oyez_events events = line_events();
    served server = serve_events_polled(&events, &all, NULL);
    int client = serve_client(server);
    client_send_text(client, "never a whole line");
    long long start = check_now_ms();
    loop_drive(server.id, 100, stop_soon, &server);
    CHECK_TOOK(start, 100 + DRAIN_MS - 10, 3000);
    CHECK_EQ_INT(all.bytes, strlen("never a whole line"));
    CHECK_EQ_INT(all.code, OYEZ_STOPPED);
    CHECK_EQ_INT(serve_stats(server).cut, 1);
    CHECK_EQ_INT(client_ending(client), ECONNRESET);
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(server.id));
}

/* Told by a timer of the loop itself, between two polls. */
static void an_idle_server_stops_at_once(void)
{
    oyez_events events = seen_events();
    seen all = { 0 };
    served server = serve_events_polled(&events, &all, NULL);
    long long start = check_now_ms();
    CHECK(loop_drive(server.id, 100, stop, &server) < 5);
    CHECK_TOOK(start, 90, 2000);
    CHECK_WORKS(oyez_server_close(server.id));
}

/* Calls on the loop's thread, but outside of a poll, are looked after as those of other threads. */

static void write_and_stop(void *argument)
{
    void **given = argument;
    seen *all = given[1];
    CHECK_WORKS(oyez_conn_write(all->last, "from the loop\n", 14));
    CHECK_WORKS(oyez_conn_close(all->last));
    stop(given[0]);
}

static void calls_outside_of_a_poll(void)
{
    seen all = { 0 };
    oyez_events events = seen_events();
    served server = serve_events_polled(&events, &all, NULL);
    void *given[] = { &server, &all };
    int client = serve_client(server);
    loop_drive(server.id, 100, write_and_stop, given);
    client_expect(client, "from the loop\n");
    CHECK_EQ_INT(client_ending(client), 0);
    CHECK_EQ_INT(all.code, OYEZ_OK);
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(server.id));
}

static const check_case cases[] = {
    CASE(a_hundred_clients),
    CASE(output_that_waits),
    CASE(an_idle_timeout),
    CASE(a_stop_drains),
    CASE(the_end_of_the_drain_time),
    CASE(an_idle_server_stops_at_once),
    CASE(calls_outside_of_a_poll),
};

CHECK_MAIN(cases)
