/* Event servers on epoll and on io_uring: input that comes while the thread is busy, and output. */
#define _GNU_SOURCE
#include "backends.h"
#include "clients.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

static size_t hold_or_echo(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    return held_at(connection, user) ? size : serve_echo_data(connection, bytes, size, NULL);
}

/* The end is noticed also where it has come together with the last bytes. */
static void data_and_end_at_once(int backend)
{
    enum { PEERS = 10 };
    for (int over = OVER_TCP; over <= OVER_UNIX; over++) {
        held own = { .held = 0 };
        oyez_events events = seen_events();
        oyez_server_options options = backend_options(backend, 1);
        int clients[PEERS];
        events.on_data = hold_or_echo;
        held_start(&own, over, &events, &options);
        for (int i = 0; i < PEERS; i++)
            clients[i] = serve_client(own.server);
        CHECK_SOON(SEEN(own.all.opened) == PEERS + 1);
        held_now(&own);
        for (int i = 0; i < PEERS; i++) {
            client_send_text(clients[i], "last");
            MUST(shutdown(clients[i], SHUT_WR));
        }
        gate_open(&own.at);
        for (int i = 0; i < PEERS; i++) {
            client_expect(clients[i], "last");
            CHECK_EQ_INT(client_ending(clients[i]), 0);
            MUST(close(clients[i]));
        }
        held_end(&own);
        CHECK_EQ_INT(own.all.closed, PEERS + 1);
    }
}
ON_BOTH(data_and_end_at_once)

/* Output. */

typedef struct flow {
    seen all;
    size_t size;
    size_t sent;
    unsigned state;
} flow;

static void flow_on(oyez_conn connection, void *user)
{
    flow *own = user;
    unsigned char part[9000];
    while (own->sent < own->size) {
        size_t size = 1 + client_random(&own->state, sizeof part - 1);
        size = size < own->size - own->sent ? size : own->size - own->sent;
        for (size_t i = 0; i < size; i++)
            part[i] = client_byte(1, own->sent + i);
        if (oyez_conn_write(connection, part, size) == -1) {
            expect_keep();
            CHECK_ERROR(OYEZ_LIMIT_REACHED, ANY_ERRNO);
            return;
        }
        own->sent += size;
    }
    CHECK_WORKS(oyez_conn_close(connection));
}

static size_t begin_flow(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    seen_data(connection, bytes, size, user);
    flow_on(connection, user);
    return size;
}

static void written_until_it_is_refused(int backend)
{
    enum { SIZE = 8 * MEGABYTE };
    flow own = { .size = SIZE, .state = 11 };
    unsigned state = 12;
    unsigned char part[5000];
    int narrow = 32 * KILOBYTE;
    oyez_events events = seen_events();
    oyez_server_options options = backend_options(backend, 1);
    options.max_output = 64 * KILOBYTE;
    events.on_data = begin_flow;
    events.on_drain = flow_on;
    served server = serve_events(OVER_TCP, &events, &own, &options);
    int client = serve_client(server);
    MUST(setsockopt(client, SOL_SOCKET, SO_RCVBUF, &narrow, sizeof narrow));
    client_send_text(client, "x");
    for (size_t at = 0, size; at < SIZE; at += size) {
        size = client_receive(client, part, at + 5000 > SIZE ? SIZE - at : 1 + client_random(&state, 4999));
        client_check_stream(part, size, at);
        CHECK(size > 0);
    }
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    serve_end(server);
    CHECK_EQ_INT(own.all.code, OYEZ_OK);
}
ON_BOTH(written_until_it_is_refused)

/* Much input of others, and for each part of it a record to one of them, until that is refused: on_drain follows. */

static size_t write_to_target(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    static const char record[1000];
    held *own = user;
    (void)bytes;
    if (held_at(connection, own))
        return size;
    own->bytes += size;
    if (own->refused || oyez_conn_write(own->target, record, sizeof record) != -1)
        return size;
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_LIMIT_REACHED);
    __atomic_store_n(&own->all.drained, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&own->refused, 1, __ATOMIC_SEQ_CST);
    return size;
}

static void keep_the_first(oyez_conn connection, void *user)
{
    held *own = user;
    if (own->target == 0)
        own->target = connection;
    seen_open(connection, user);
}

static void refuse_and_drain(int backend, size_t max_output)
{
    enum { PEERS = 18, SIZE = 130000 };
    static char bytes[SIZE];
    held own = { .held = 0 };
    oyez_events events = seen_events();
    oyez_server_options options = backend_options(backend, 1);
    int clients[PEERS];
    options.max_output = max_output;
    events.on_open = keep_the_first;
    events.on_data = write_to_target;
    held_start(&own, OVER_UNIX, &events, &options); /* the holder is the target too */
    for (int i = 0; i < PEERS; i++)
        clients[i] = serve_client(own.server);
    CHECK_SOON(SEEN(own.all.opened) == PEERS + 1);
    held_now(&own);
    for (int i = 0; i < PEERS; i++)
        client_send(clients[i], bytes, SIZE);
    gate_open(&own.at);
    CHECK_SOON(SEEN(own.bytes) == PEERS * SIZE);
    /* Where nothing was refused there was room, which is right as well. */
    while (client_readable(own.holder, 50))
        MUST(recv(own.holder, bytes, sizeof bytes, 0));
    CHECK_SOON(!SEEN(own.refused) || SEEN(own.all.drained) > 0);
    for (int i = 0; i < PEERS; i++)
        MUST(close(clients[i]));
    held_end(&own);
}

static void refused_and_then_drained(int backend)
{
    for (size_t max_output = 4500; max_output < 140000; max_output += 31000)
        refuse_and_drain(backend, max_output);
}
ON_BOTH(refused_and_then_drained)

/* What was answered arrives although the connection is closed for the input behind it. */
static size_t answer_and_leave_all(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)bytes;
    (void)size;
    (void)user;
    oyez_conn_write(connection, "no", 2);
    return 0;
}

static void answered_and_closed_for_its_input(int backend)
{
    seen all = { 0 };
    char text[100] = "";
    oyez_events events = seen_events();
    oyez_server_options options = backend_options(backend, 1);
    options.max_input = 10;
    events.on_data = answer_and_leave_all;
    served server = serve_events(OVER_TCP, &events, &all, &options);
    int client = serve_client(server);
    client_send(client, text, 50);
    CHECK_EQ_INT(client_receive(client, text, 2), 2);
    CHECK_STR_EQ(text, "no");
    CHECK_EQ_INT(client_ending(client), 0);
    CHECK_SOON(SEEN(all.closed) == 1);
    CHECK_EQ_INT(all.code, OYEZ_LIMIT_REACHED);
    MUST(close(client));
    serve_end(server);
}
ON_BOTH(answered_and_closed_for_its_input)

/* A program that makes the descriptors it is shown non-blocking finds no thread that turns round and round. */
static void make_nonblocking(oyez_conn connection, void *user)
{
    int fd = (int)CHECK_WORKS(oyez_conn_fd(connection));
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    seen_open(connection, user);
}

static void nonblocking_descriptors(int backend)
{
    flow own = { .size = 4 * MEGABYTE, .state = 1 };
    static unsigned char bytes[4 * MEGABYTE];
    oyez_events events = seen_events();
    events.on_open = make_nonblocking;
    events.on_data = begin_flow;
    events.on_drain = flow_on;
    served server = backend_serve(backend, 1, &events, &own);
    int client = serve_client(server);
    CHECK_SOON(SEEN(own.all.opened) == 1);
    long cpu = check_cpu_ms();
    CHECK(!client_readable(client, 300));
    client_send_text(client, "x");
    CHECK_SOON(SEEN(own.all.bytes) > 0); /* then what the kernel does not take waits */
    check_nap(200);
    CHECK(check_cpu_ms() - cpu < 200);
    CHECK_EQ_INT(client_receive(client, bytes, sizeof bytes), sizeof bytes);
    client_check_stream(bytes, sizeof bytes, 0);
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    serve_end(server);
}
ON_BOTH(nonblocking_descriptors)

static const check_case cases[] = {
    CASES(data_and_end_at_once),
    CASES(written_until_it_is_refused),
    CASES(refused_and_then_drained),
    CASES(answered_and_closed_for_its_input),
    CASES(nonblocking_descriptors),
};

CHECK_MAIN(cases)
