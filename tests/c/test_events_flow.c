/* Event servers: output that waits, slow readers, half-closed and lost peers, pausing. */
#define _GNU_SOURCE
#include "clients.h"
#include "serving.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MEGABYTE = 1024 * 1024, MUCH = 50 * MEGABYTE };

/* Checks that the next bytes are those of `who`, from `at` on. */
static void expect_bytes(int fd, int who, size_t at, size_t size)
{
    static unsigned char text[65536];
    while (size > 0) {
        size_t part = client_receive(fd, text, size < sizeof text ? size : sizeof text);
        CHECK(part > 0);
        for (size_t i = 0; i < part; i++)
            if (text[i] != client_byte(who, at + i))
                check_fail(__FILE__, __LINE__, "byte %zu is wrong", at + i);
        at += part;
        size -= part;
    }
}

static unsigned char *bytes_of(int who, size_t at, size_t size)
{
    unsigned char *bytes = malloc(size);
    CHECK(bytes != NULL);
    for (size_t i = 0; i < size; i++)
        bytes[i] = client_byte(who, at + i);
    return bytes;
}

/* Lets a client's kernel take next to nothing. */
static int narrow_client(served server)
{
    int small = 2048;
    int client = serve_client(server);
    MUST(setsockopt(client, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
    return client;
}

/* Bulk. */

/* The user of a server whose connections send what they are told. */
typedef struct source {
    seen all;
    size_t size;  /* how much is to be sent */
    size_t part;  /* how much at once */
    size_t sent;
    int ends;     /* then close */
} source;

/* Sends the next part; false where there is none, or no room. */
static int pour_part(oyez_conn connection, source *from)
{
    size_t part = from->size - from->sent < from->part ? from->size - from->sent : from->part;
    if (part == 0)
        return 0;
    unsigned char *bytes = bytes_of(0, from->sent, part);
    ssize_t count = oyez_conn_write(connection, bytes, part);
    free(bytes);
    if (count == -1)
        CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_LIMIT_REACHED);
    else
        from->sent += part;
    return count != -1;
}

/* As much as there is room for: where it is refused something waits, and on_drain goes on from here. */
static void pour(oyez_conn connection, void *user)
{
    source *from = user;
    seen_drain(connection, user);
    while (pour_part(connection, from))
        ;
    if (from->sent == from->size && from->ends)
        oyez_conn_close(connection);
}

static size_t pour_when_asked(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    pour(connection, user);
    return seen_data(connection, bytes, size, user);
}

static served serve_source(int over, source *from)
{
    oyez_events events = seen_events();
    events.on_data = pour_when_asked;
    events.on_drain = pour;
    return serve_events(over, &events, from, NULL);
}

/* 50 MB in parts larger than what the kernel takes. */
static void much_to_a_client(void)
{
    for (int over = OVER_TCP; over <= OVER_UNIX; over++) {
        source from = { { 0 }, MUCH, 8 * MEGABYTE, 0, 1 };
        served server = serve_source(over, &from);
        int client = serve_client(server);
        client_send_text(client, "go");
        expect_bytes(client, 0, 0, MUCH);
        CHECK_EQ_INT(client_ending(client), 0);
        MUST(close(client));
        serve_end(server);
        CHECK_EQ_INT(from.all.closed, 1);
        CHECK_EQ_INT(from.all.code, OYEZ_OK);
    }
}

static size_t compare(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    const seen *all = user;
    for (size_t i = 0; i < size; i++)
        CHECK(bytes[i] == client_byte(0, all->bytes + i));
    return seen_data(connection, bytes, size, user);
}

static void much_from_a_client(void)
{
    for (int over = OVER_TCP; over <= OVER_UNIX; over++) {
        seen all = { 0 };
        oyez_events events = seen_events();
        events.on_data = compare;
        served server = serve_events(over, &events, &all, NULL);
        int client = serve_client(server);
        for (size_t at = 0; at < MUCH; at += MEGABYTE) {
            unsigned char *bytes = bytes_of(0, at, MEGABYTE);
            client_send(client, bytes, MEGABYTE);
            free(bytes);
        }
        MUST(shutdown(client, SHUT_WR));
        CHECK_EQ_INT(client_ending(client), 0);
        MUST(close(client));
        serve_end(server);
        CHECK_EQ_INT(all.bytes, MUCH);
        CHECK_EQ_INT(all.code, OYEZ_CLOSED);
    }
}

static void much_both_ways(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    events.on_data = serve_echo_data;
    served server = serve_events(OVER_TCP, &events, NULL, NULL);
    client_echo_many(server.port, 2, MUCH / 2);
    serve_end(server);
}

/* Output. */

/* on_drain comes once, and only for what had to wait. */
static void drained_once(void)
{
    source from = { { 0 }, 10 * MEGABYTE, 10 * MEGABYTE, 0, 0 };
    served server = serve_source(OVER_TCP, &from);
    int client = serve_client(server);
    client_send_text(client, "x");
    CHECK_SOON(SEEN(from.all.bytes) == 1);
    expect_bytes(client, 0, 0, 10 * MEGABYTE);
    CHECK_SOON(SEEN(from.all.drained) == 2); /* the first by pour_when_asked itself */
    client_send_text(client, "x");
    CHECK_SOON(SEEN(from.all.bytes) == 2);
    CHECK_WORKS(oyez_conn_write(from.all.last, "small", 5));
    client_expect(client, "small");
    CHECK(!client_readable(client, 30));
    CHECK_EQ_INT(SEEN(from.all.drained), 3);
    MUST(close(client));
    serve_end(server);
}

enum { MOST_OUTPUT = 300000, PART = 7000 };

typedef struct bounded {
    seen all;
    size_t accepted;
    int refused;
} bounded;

/* Writes until it is refused; what is refused is not sent. */
static size_t write_until_refused(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    bounded *own = user;
    for (;;) {
        unsigned char *part = bytes_of(0, own->accepted, PART);
        ssize_t count = oyez_conn_write(connection, part, PART);
        free(part);
        if (count == -1)
            break;
        own->accepted += PART;
        CHECK(own->accepted < 100 * MEGABYTE);
    }
    expect_keep();
    CHECK_ERROR(OYEZ_LIMIT_REACHED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_write(connection, bytes, MOST_OUTPUT + 1), OYEZ_LIMIT_REACHED, ANY_ERRNO);
    __atomic_store_n(&own->refused, 1, __ATOMIC_SEQ_CST);
    return size;
}

static void too_much_output(void)
{
    for (int over = OVER_TCP; over <= OVER_UNIX; over++) {
        bounded own = { { 0 }, 0, 0 };
        oyez_events events = seen_events();
        oyez_server_options options = serve_workers(1);
        options.max_output = MOST_OUTPUT;
        events.on_data = write_until_refused;
        served server = serve_events(over, &events, &own, &options);
        int client = serve_client(server);
        client_send_text(client, "x");
        CHECK_SOON(SEEN(own.refused));
        CHECK_WORKS(oyez_conn_close(own.all.last)); /* sends all of it first */
        CHECK_FAILS(oyez_conn_write(own.all.last, "x", 1), OYEZ_CLOSED, ANY_ERRNO);
        CHECK_EQ_INT(SEEN(own.all.closed), 0);
        expect_bytes(client, 0, 0, own.accepted);
        CHECK_EQ_INT(client_ending(client), 0);
        MUST(close(client));
        serve_end(server);
        CHECK_EQ_INT(own.all.closed, 1);
        CHECK_EQ_INT(own.all.code, OYEZ_OK);
    }
}

/* Two threads near the limit: what was accepted arrives, whole and in each one's order. */

typedef struct racer {
    oyez_conn connection;
    int who;
    size_t accepted;
} racer;

enum { RACERS = 2, RECORD = 600, RECORDS = 4000 };

static void *write_records(void *argument)
{
    racer *own = argument;
    unsigned char record[RECORD];
    for (int i = 0; i < RECORDS; i++) {
        memset(record, 'A' + own->who, sizeof record);
        memcpy(record, &i, sizeof i);
        if (oyez_conn_write(own->connection, record, sizeof record) == RECORD) {
            own->accepted++;
            continue;
        }
        CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_LIMIT_REACHED);
        sched_yield();
    }
    return NULL;
}

static void accepted_is_sent(void)
{
    seen all = { 0 };
    racer racers[RACERS];
    pthread_t threads[RACERS];
    unsigned char record[RECORD];
    size_t arrived[RACERS] = { 0 };
    int next[RACERS] = { 0 };
    int number;
    oyez_events events = seen_events();
    oyez_server_options options = serve_workers(1);
    options.max_output = RECORD + RECORD / 2;
    served server = serve_events(OVER_TCP, &events, &all, &options);
    int client = serve_client(server);
    CHECK_SOON(SEEN(all.opened) == 1);
    for (int i = 0; i < RACERS; i++) {
        racers[i] = (racer){ all.last, i, 0 };
        threads[i] = check_thread(write_records, &racers[i]);
    }
    for (int i = 0; i < RACERS; i++)
        check_thread_join(threads[i]);
    CHECK_WORKS(oyez_conn_close(all.last));
    while (client_receive(client, record, sizeof record) == sizeof record) {
        int who = record[RECORD - 1] - 'A';
        CHECK(who >= 0 && who < RACERS);
        for (size_t at = sizeof number; at < sizeof record; at++)
            CHECK_EQ_INT(record[at], 'A' + who);
        memcpy(&number, record, sizeof number);
        CHECK(number >= next[who]);
        next[who] = number + 1;
        arrived[who]++;
    }
    for (int i = 0; i < RACERS; i++)
        CHECK_EQ_INT(arrived[i], racers[i].accepted);
    MUST(close(client));
    serve_end(server);
}

static void aborting(void)
{
    for (int over = OVER_TCP; over <= OVER_UNIX; over++) {
        seen all = { 0 };
        oyez_events events = seen_events();
        served server = serve_events(over, &events, &all, NULL);
        int client = serve_client(server);
        CHECK_SOON(SEEN(all.opened) == 1);
        CHECK_WORKS(oyez_conn_abort(all.last));
        CHECK_FAILS(oyez_conn_write(all.last, "x", 1), OYEZ_CLOSED, ANY_ERRNO);
        CHECK_EQ_INT(client_ending(client), over == OVER_UNIX ? 0 : ECONNRESET);
        CHECK_SOON(SEEN(all.closed) == 1);
        CHECK_EQ_INT(all.code, OYEZ_OK);
        MUST(close(client));
        serve_end(server);
    }
}

/* One that does not read costs nobody else: on the same thread others get their answers. */
static void a_slow_reader(void)
{
    source from = { { 0 }, 12 * MEGABYTE, 12 * MEGABYTE, 0, 0 };
    oyez_events events = seen_events();
    oyez_server_options options = serve_workers(1);
    events.on_data = pour_when_asked;
    served server = serve_events(OVER_TCP, &events, &from, &options);
    int slow = narrow_client(server);
    client_send_text(slow, "x");
    CHECK_SOON(SEEN(from.all.bytes) == 1);
    long cpu = check_cpu_ms();
    long long start = check_now_ms();
    for (int i = 0; i < 200; i++) {
        int client = serve_client(server);
        client_send_text(client, "hello");
        MUST(shutdown(client, SHUT_WR));
        CHECK_EQ_INT(client_ending(client), 0);
        MUST(close(client));
    }
    CHECK_TOOK(start, 0, 5000);
    CHECK(check_cpu_ms() - cpu < 2000);
    CHECK_EQ_INT(SEEN(from.all.closed), 200);
    client_reset(slow);
    serve_end(server);
}

/* The end of either side. */

/* The peer has ended its side, and gets everything, also what on_drain adds. */
static void half_closed(void)
{
    for (int over = OVER_TCP; over <= OVER_UNIX; over++) {
        source from = { { 0 }, 20 * MEGABYTE, 7 * MEGABYTE, 0, 0 };
        served server = serve_source(over, &from);
        int client = serve_client(server);
        client_send_text(client, "x");
        MUST(shutdown(client, SHUT_WR));
        expect_bytes(client, 0, 0, 20 * MEGABYTE);
        CHECK_EQ_INT(client_ending(client), 0);
        MUST(close(client));
        serve_end(server);
        CHECK_EQ_INT(from.all.code, OYEZ_CLOSED);
        CHECK_EQ_INT(from.all.number, 0);
    }
}

/* An answer that another thread has written is sent although the peer's end is seen before the answer. */

static size_t wait_at_gate(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)connection;
    (void)bytes;
    gate_pass(user);
    return size;
}

static oyez_conn gate_connection;

static void note_connection(oyez_conn connection, void *user)
{
    (void)user;
    gate_connection = connection;
}

static void answered_by_another_thread(void)
{
    for (int close_it = 0; close_it < 2; close_it++) {
        gate at = gate_make();
        oyez_events events = OYEZ_EVENTS_INIT;
        events.on_open = note_connection;
        events.on_data = wait_at_gate;
        served server = serve_events(OVER_TCP, &events, &at, NULL);
        int client = serve_client(server);
        client_send_text(client, "question");
        MUST(shutdown(client, SHUT_WR));
        gate_await(&at, 1);
        CHECK_WORKS(oyez_conn_write(gate_connection, "answer", 6));
        if (close_it)
            CHECK_WORKS(oyez_conn_close(gate_connection));
        gate_open(&at);
        client_expect(client, "answer");
        CHECK_EQ_INT(client_ending(client), 0);
        MUST(close(client));
        serve_end(server);
        gate_end(&at);
    }
}

/* Closed by the function that another thread's write came before. */
static size_t wait_and_close(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)bytes;
    gate_pass(user);
    CHECK_WORKS(oyez_conn_write(connection, "second", 6));
    CHECK_WORKS(oyez_conn_close(connection));
    return size;
}

static void what_was_written_before(void)
{
    gate at = gate_make();
    oyez_events events = OYEZ_EVENTS_INIT;
    events.on_open = note_connection;
    events.on_data = wait_and_close;
    served server = serve_events(OVER_TCP, &events, &at, NULL);
    int client = serve_client(server);
    client_send_text(client, "question");
    gate_await(&at, 1);
    CHECK_WORKS(oyez_conn_write(gate_connection, "first ", 6));
    gate_open(&at);
    client_expect(client, "first second");
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    serve_end(server);
    gate_end(&at);
}

static void a_reset_peer(void)
{
    seen all = { 0 };
    oyez_events events = seen_events();
    served server = serve_events(OVER_TCP, &events, &all, NULL);
    int client = serve_client(server);
    client_send_text(client, "x");
    CHECK_SOON(SEEN(all.bytes) == 1);
    client_reset(client);
    CHECK_SOON(SEEN(all.closed) == 1);
    CHECK_EQ_INT(all.code, OYEZ_CLOSED);
    CHECK_EQ_INT(all.number, ECONNRESET);
    serve_end(server);
}

/* Gone while output waits, in order or by a reset; paused or not. */
static void gone_in_the_middle(void)
{
    for (int way = 0; way < 4; way++) {
        source from = { { 0 }, 12 * MEGABYTE, 12 * MEGABYTE, 0, 0 };
        served server = serve_source(OVER_TCP, &from);
        int client = narrow_client(server);
        client_send_text(client, "x");
        CHECK_SOON(SEEN(from.all.bytes) == 1);
        if (way >= 2)
            CHECK_WORKS(oyez_conn_pause(from.all.last));
        if (way % 2 == 0)
            client_reset(client);
        else
            MUST(close(client));
        CHECK_SOON(SEEN(from.all.closed) == 1);
        CHECK_EQ_INT(from.all.code, OYEZ_CLOSED);
        CHECK(from.all.number != 0);
        serve_end(server);
    }
}

/* A reply, and a close without reading what the client still sends. */
static size_t reply_and_close(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    unsigned char *reply = bytes_of(0, 0, 200000);
    (void)bytes;
    (void)size;
    (void)user;
    CHECK_EQ_INT(CHECK_WORKS(oyez_conn_write(connection, reply, 200000)), 200000);
    free(reply);
    CHECK_WORKS(oyez_conn_close(connection));
    return 0;
}

static void unread_input_destroys_nothing(void)
{
    oyez_events events = seen_events();
    events.on_data = reply_and_close;
    for (int over = OVER_TCP; over <= OVER_UNIX; over++) {
        for (int round = 0; round < 20; round++) {
            seen all = { 0 };
            oyez_server_options options = serve_workers(1 + round % 4);
            served server = serve_events(over, &events, &all, &options);
            int client = serve_client(server);
            unsigned char *bytes = bytes_of(1, 0, MEGABYTE);
            for (size_t at = 0; at < MEGABYTE;) { /* as far as somebody takes it */
                ssize_t count = send(client, bytes + at, MEGABYTE - at, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (count == -1)
                    break;
                at += (size_t)count;
            }
            free(bytes);
            expect_bytes(client, 0, 0, 200000);
            if (over == OVER_TCP)
                CHECK_EQ_INT(client_ending(client), 0);
            MUST(close(client));
            serve_end(server);
            CHECK_EQ_INT(all.closed, 1);
            CHECK_EQ_INT(all.code, OYEZ_OK);
        }
    }
}

/* Pausing. */

static size_t pause_and_leave(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    seen *all = user;
    if (SEEN(all->bytes) > 0) /* the second time: all that came is there */
        return serve_echo_data(connection, bytes, size, user);
    CHECK_WORKS(oyez_conn_pause(connection));
    __atomic_store_n(&all->bytes, size, __ATOMIC_SEQ_CST);
    return 0;
}

/* What was left is given at once, also without any more behind it. */
static void resumed_by_another_thread(void)
{
    for (int way = 0; way < 4; way++) {
        int over = way / 2;
        int more = way % 2;
        seen all = { 0 };
        oyez_events events = seen_events();
        events.on_data = pause_and_leave;
        served server = serve_events(over, &events, &all, NULL);
        int client = serve_client(server);
        client_send_text(client, "first ");
        CHECK_SOON(SEEN(all.bytes) == 6);
        if (more) {
            client_send_text(client, "second");
            MUST(shutdown(client, SHUT_WR));
        }
        CHECK(!client_readable(client, 100));
        CHECK_EQ_INT(serve_stats(server).bytes_in, 6);
        CHECK_EQ_INT(SEEN(all.closed), 0); /* nor is its end noticed */
        CHECK_WORKS(oyez_conn_write(all.last, "answer ", 7));
        client_expect(client, "answer ");
        CHECK_WORKS(oyez_conn_resume(all.last));
        client_expect(client, more ? "first second" : "first ");
        CHECK(!more || client_ending(client) == 0);
        MUST(close(client));
        serve_end(server);
        CHECK_EQ_INT(all.closed, 1);
    }
}

/* The peer is held back: what it can send while paused is what kernels keep. */
static void paused_input_is_bounded(void)
{
    static char bytes[MEGABYTE];
    size_t total = 0;
    struct pollfd wait = { -1, POLLOUT, 0 };
    seen all = { 0 };
    oyez_events events = seen_events();
    served server = serve_events(OVER_TCP, &events, &all, NULL);
    int client = serve_client(server);
    CHECK_SOON(SEEN(all.opened) == 1);
    CHECK_WORKS(oyez_conn_pause(all.last));
    CHECK_WORKS(oyez_conn_pause(all.last));
    CHECK_WORKS(oyez_conn_write(all.last, "paused", 6)); /* behind the pause */
    client_expect(client, "paused");
    for (wait.fd = client; MUST(poll(&wait, 1, 200)) == 1;)
        total += (size_t)MUST(send(client, bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT));
    CHECK(total < 40 * MEGABYTE);
    CHECK_EQ_INT(SEEN(all.bytes), 0);
    CHECK_WORKS(oyez_conn_resume(all.last));
    CHECK_WORKS(oyez_conn_resume(all.last));
    CHECK_SOON(SEEN(all.bytes) == total);
    MUST(close(client));
    serve_end(server);
}

static const check_case cases[] = {
    CASE(much_to_a_client),
    CASE(much_from_a_client),
    CASE(much_both_ways),
    CASE(drained_once),
    CASE(too_much_output),
    CASE(accepted_is_sent),
    CASE(aborting),
    CASE(a_slow_reader),
    CASE(half_closed),
    CASE(answered_by_another_thread),
    CASE(what_was_written_before),
    CASE(a_reset_peer),
    CASE(gone_in_the_middle),
    CASE(unread_input_destroys_nothing),
    CASE(resumed_by_another_thread),
    CASE(paused_input_is_bounded),
};

CHECK_MAIN(cases)
