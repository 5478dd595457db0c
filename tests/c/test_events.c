/* Event servers: echo, the order of calls, input, a loop of one's own, and what does not apply to them. */
#define _GNU_SOURCE
#include "clients.h"
#include "serving.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static oyez_events echo_events(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    events.on_data = serve_echo_data;
    return events;
}

/* Echo. */

static void echo_of_many_sizes(void)
{
    static const size_t sizes[] = { 1, 2, 100, 4095, 4096, 65535, 65536, 65537, 300000, 2000000 };
    oyez_events events = echo_events();
    for (int over = OVER_TCP; over <= OVER_UNIX; over++) {
        served server = serve_events(over, &events, NULL, NULL);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            unsigned char *sent = malloc(sizes[i]);
            unsigned char *received = malloc(sizes[i]);
            int client = serve_client(server);
            for (size_t at = 0; at < sizes[i]; at++)
                sent[at] = client_byte((int)i, at);
            client_send(client, sent, sizes[i]); /* beyond what the kernel keeps, the server does */
            CHECK_EQ_INT(client_receive(client, received, sizes[i]), sizes[i]);
            CHECK(memcmp(sent, received, sizes[i]) == 0);
            MUST(shutdown(client, SHUT_WR));
            CHECK_EQ_INT(client_ending(client), 0);
            MUST(close(client));
            free(sent);
            free(received);
        }
        serve_end(server);
    }
}

static void many_at_once(void)
{
    oyez_events events = echo_events();
    for (int workers = 1; workers <= 4; workers += 3) {
        oyez_server_options options = serve_workers(workers);
        served server = serve_events(OVER_TCP, &events, NULL, &options);
        client_echo_many(server.port, 200, 20000);
        CHECK_SOON(serve_stats(server).active == 0);
        oyez_stats stats = serve_stats(server);
        CHECK_EQ_INT(stats.accepted, 200);
        CHECK_EQ_INT(stats.bytes_in, 200 * 20000);
        CHECK_EQ_INT(stats.bytes_out, 200 * 20000);
        serve_end(server);
    }
}

static void pipelined(void)
{
    char line[40];
    oyez_events events = echo_events();
    served server = serve_events(OVER_TCP, &events, NULL, NULL);
    int client = serve_client(server);
    for (int i = 0; i < 2000; i++)
        client_send(client, line, (size_t)snprintf(line, sizeof line, "request %d\n", i));
    for (int i = 0; i < 2000; i++) {
        snprintf(line, sizeof line, "request %d\n", i);
        client_expect(client, line);
    }
    MUST(close(client));
    serve_end(server);
}

static void many_in_a_row(void)
{
    oyez_events events = echo_events();
    oyez_server_options options = serve_workers(2);
    served server = serve_events(OVER_TCP, &events, NULL, &options);
    client_echo_one_by_one(server.port, 1000);
    CHECK_SOON(serve_stats(server).active == 0);
    int descriptors = check_descriptors();
    int threads = check_threads();
    long memory = check_memory();
    client_echo_one_by_one(server.port, 10000);
    CHECK_SOON(serve_stats(server).active == 0 && check_descriptors() == descriptors);
    CHECK_EQ_INT(check_threads(), threads);
    CHECK(check_memory() - memory < 1000);
    serve_end(server);
}

/* The calls. */

/* What was called for one connection, in order, and on which thread. */
typedef struct story {
    char calls[64];
    int count;
    pthread_t thread;
} story;

static int stories_open;

static void tell(oyez_conn connection, char call)
{
    story *own = oyez_conn_user(connection);
    CHECK(own != NULL);
    CHECK(own->count == 0 || pthread_equal(own->thread, pthread_self()));
    own->thread = pthread_self();
    if (own->count == 0 || own->calls[own->count - 1] != call)
        own->calls[own->count++] = call;
    CHECK(own->count < 60);
}

static void story_open(oyez_conn connection, void *user)
{
    (void)user;
    __atomic_add_fetch(&stories_open, 1, __ATOMIC_SEQ_CST);
    CHECK_WORKS(oyez_conn_set_user(connection, calloc(1, sizeof(story))));
    tell(connection, 'o');
}

static size_t story_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    CHECK(size > 0);
    tell(connection, 'd');
    return serve_echo_data(connection, bytes, size, user);
}

static void story_close(oyez_conn connection, const oyez_error *why, void *user)
{
    char peer[64];
    story *own = oyez_conn_user(connection);
    (void)user;
    CHECK_EQ_INT(oyez_error_code(why), OYEZ_CLOSED);
    CHECK_EQ_INT(oyez_error_errno(why), 0);
    CHECK(oyez_error_message(why)[0] != '\0');
    CHECK(oyez_conn_peer(connection, peer, sizeof peer) > 0);
    CHECK_FAILS(oyez_conn_write(connection, "x", 1), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_close(connection), OYEZ_CLOSED, ANY_ERRNO);
    tell(connection, 'c');
    CHECK_STR_EQ(own->calls, "odc");
    free(own);
    __atomic_sub_fetch(&stories_open, 1, __ATOMIC_SEQ_CST);
}

static void in_order_and_on_one_thread(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    events.on_open = story_open;
    events.on_data = story_data;
    events.on_close = story_close;
    for (int workers = 1; workers <= 4; workers += 3) {
        oyez_server_options options = serve_workers(workers);
        served server = serve_events(OVER_TCP, &events, NULL, &options);
        client_echo_many(server.port, 100, 5000);
        serve_end(server);
        CHECK_EQ_INT(stories_open, 0);
    }
}

/* Each function may be NULL, and all of them. */
static void functions_that_are_null(void)
{
    for (int missing = 0; missing <= 4; missing++) {
        seen all = { 0 };
        oyez_events events = seen_events();
        if (missing == 0 || missing == 4)
            events.on_open = NULL;
        if (missing == 1 || missing == 4)
            events.on_data = NULL;
        if (missing == 2 || missing == 4)
            events.on_drain = NULL;
        if (missing == 3 || missing == 4)
            events.on_close = NULL;
        served server = serve_events(OVER_TCP, &events, &all, NULL);
        int client = serve_client(server);
        client_send_text(client, "some bytes");
        MUST(shutdown(client, SHUT_WR));
        CHECK_EQ_INT(client_ending(client), 0);
        MUST(close(client));
        serve_end(server);
        CHECK_EQ_INT(all.opened, events.on_open != NULL);
        CHECK_EQ_INT(all.bytes, events.on_data != NULL ? 10 : 0);
        CHECK_EQ_INT(all.closed, events.on_close != NULL);
    }
}

static void structs(void)
{
    union {
        oyez_events events;
        char bytes[sizeof(oyez_events) + 64];
    } newer;
    oyez_events events = echo_events();
    CHECK_FAILS(oyez_server_new_events(NULL, NULL, NULL), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    events.size = 0;
    CHECK_FAILS(oyez_server_new_events(&events, NULL, NULL), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    events.size = (size_t)-1;
    CHECK_FAILS(oyez_server_new_events(&events, NULL, NULL), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    events.size = sizeof events - 3;
    CHECK_FAILS(oyez_server_new_events(&events, NULL, NULL), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    memset(&newer, 0, sizeof newer);
    newer.events = echo_events();
    newer.events.size = sizeof newer;
    CHECK_WORKS(oyez_server_close((oyez_server)CHECK_WORKS(oyez_server_new_events(&newer.events, NULL, NULL))));
    newer.bytes[sizeof(oyez_events) + 8] = 1;
    CHECK_FAILS(oyez_server_new_events(&newer.events, NULL, NULL), OYEZ_UNSUPPORTED, ANY_ERRNO);
    events = echo_events();
    for (int workers = -1; workers <= 65537; workers += 65538) {
        oyez_server_options options = serve_workers(workers);
        CHECK_FAILS(oyez_server_new_events(&events, NULL, &options), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    }
}

/* Input. */

enum { MOST_INPUT = 1000 };

/* Consumes whole lines and sends each back; tells more than there was now and then. */
static size_t take_lines(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    size_t taken = 0;
    (void)user;
    for (size_t at = 0; at < size; at++)
        if (bytes[at] == '\n')
            taken = at + 1;
    if (taken > 0)
        CHECK_WORKS(oyez_conn_write(connection, bytes, taken));
    return taken == size && size % 2 == 0 ? size + 1000 : taken;
}

static oyez_events line_events(void)
{
    oyez_events events = seen_events();
    events.on_data = take_lines;
    return events;
}

/* Lines that are split at every offset. */
static void lines_in_pieces(void)
{
    static const char text[] = "first\n\nthe third line\nx\n";
    seen all = { 0 };
    oyez_events events = line_events();
    for (int over = OVER_TCP; over <= OVER_UNIX; over++) {
        size_t before = 0;
        served server = serve_events(over, &events, &all, NULL);
        int client = serve_client(server);
        for (size_t at = 0; at <= strlen(text); at++, before += strlen(text)) {
            client_send(client, text, at);
            CHECK_SOON(serve_stats(server).bytes_in == before + at);
            client_send_text(client, text + at);
            client_expect(client, text);
        }
        MUST(close(client));
        serve_end(server);
    }
}

/* What is left may be as much as max_input, and no more. */
static void too_much_input(void)
{
    char bytes[MOST_INPUT + 1];
    seen all = { 0 };
    oyez_events events = line_events();
    oyez_server_options options = serve_workers(1);
    options.max_input = MOST_INPUT;
    served server = serve_events(OVER_TCP, &events, &all, &options);
    memset(bytes, 'x', sizeof bytes);
    int client = serve_client(server);
    client_send(client, bytes, MOST_INPUT);
    CHECK_SOON(serve_stats(server).bytes_in == MOST_INPUT);
    CHECK(!client_readable(client, 50));
    client_send(client, "x", 1);
    CHECK_EQ_INT(client_ending(client), 0);
    CHECK_SOON(SEEN(all.closed) == 1);
    CHECK_EQ_INT(all.code, OYEZ_LIMIT_REACHED);
    MUST(close(client));
    serve_end(server);
}

/* The limit is for what is left, not for what comes: a full rest and many lines behind it are fine. */
static void much_input_that_is_consumed(void)
{
    char bytes[20 * MOST_INPUT];
    char back[sizeof bytes];
    seen all = { 0 };
    oyez_events events = line_events();
    oyez_server_options options = serve_workers(1);
    options.max_input = MOST_INPUT;
    served server = serve_events(OVER_TCP, &events, &all, &options);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = i >= MOST_INPUT && i % 50 == 49 ? '\n' : (char)('a' + i % 26);
    int client = serve_client(server);
    client_send(client, bytes, MOST_INPUT - 1);
    CHECK_SOON(serve_stats(server).bytes_in == MOST_INPUT - 1);
    client_send(client, bytes + MOST_INPUT - 1, sizeof bytes - MOST_INPUT + 1);
    CHECK_EQ_INT(client_receive(client, back, sizeof back), sizeof back);
    CHECK(memcmp(bytes, back, sizeof back) == 0);
    MUST(close(client));
    serve_end(server);
    CHECK_EQ_INT(all.code, OYEZ_CLOSED);
}

/* TCP's urgent data ends a read early; what is behind it comes too. */
static void urgent_input(void)
{
    seen all = { 0 };
    oyez_events events = seen_events();
    served server = serve_events(OVER_TCP, &events, &all, NULL);
    int client = serve_client(server);
    CHECK_SOON(SEEN(all.opened) == 1);
    CHECK_WORKS(oyez_conn_pause(all.last));
    CHECK_WORKS(oyez_conn_write(all.last, "paused", 6)); /* behind the pause */
    client_expect(client, "paused");
    client_send_text(client, "before");
    MUST(send(client, "!", 1, MSG_OOB));
    client_send_text(client, "behind");
    CHECK_WORKS(oyez_conn_resume(all.last));
    CHECK_SOON(SEEN(all.bytes) == 12);
    MUST(close(client));
    serve_end(server);
}

/* A loop of one's own. */

static void *poll_and_expect_busy(void *server)
{
    CHECK_FAILS(oyez_server_poll(*(oyez_server *)server, 0), OYEZ_INVALID_ARGUMENT, EBUSY);
    return NULL;
}

typedef struct polled {
    seen all;
    served server;
    int asked;
} polled;

/* From inside a call nobody polls, neither this thread nor another. */
static size_t poll_inside(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    polled *own = user;
    CHECK_FAILS(oyez_server_poll(own->server.id, 0), OYEZ_INVALID_ARGUMENT, EBUSY);
    CHECK_FAILS(oyez_server_wait(own->server.id, 0), OYEZ_INVALID_ARGUMENT, EDEADLK);
    check_thread_join(check_thread(poll_and_expect_busy, &own->server.id));
    own->asked++;
    return serve_echo_data(connection, bytes, size, NULL);
}

/* One turn whenever the descriptor says so, until `done` is as many as `count`. */
static void loop_until(served server, const int *done, int count)
{
    struct pollfd wait = { (int)CHECK_WORKS(oyez_server_poll_fd(server.id)), POLLIN, 0 };
    while (SEEN(*done) < count) {
        CHECK(MUST(poll(&wait, 1, 10000)) == 1);
        CHECK_WORKS(oyez_server_poll(server.id, 0));
    }
}

/* The same until the server has stopped. */
static void loop_to_the_end(served server)
{
    struct pollfd wait = { (int)CHECK_WORKS(oyez_server_poll_fd(server.id)), POLLIN, 0 };
    do
        CHECK(MUST(poll(&wait, 1, 10000)) == 1);
    while (oyez_server_poll(server.id, 0) == 0);
    expect_keep();
    CHECK_ERROR(OYEZ_STOPPED, ECANCELED);
}

static void in_a_foreign_loop(void)
{
    polled own = { 0 };
    oyez_events events = seen_events();
    events.on_data = poll_inside;
    own.server = serve_events_polled(&events, &own, NULL);
    int first = serve_client(own.server);
    client_send_text(first, "hello");
    loop_until(own.server, &own.asked, 1);
    client_expect(first, "hello");
    CHECK_FAILS(oyez_server_run(own.server.id), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_server_start(own.server.id), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    /* From outside of it, on the same thread: readable, and in this order. */
    CHECK_WORKS(oyez_conn_write(own.all.last, "one ", 4));
    client_send_text(first, "two");
    loop_until(own.server, &own.asked, 2);
    client_expect(first, "one two");
    MUST(close(first));
    loop_until(own.server, &own.all.closed, 1);
    CHECK_WORKS(oyez_server_stop(own.server.id, -1));
    loop_to_the_end(own.server);
    CHECK_FAILS(oyez_server_poll(own.server.id, 0), OYEZ_STOPPED, ECANCELED);
    CHECK_WORKS(oyez_server_wait(own.server.id, 0));
    CHECK_WORKS(oyez_server_close(own.server.id));
    CHECK_FAILS(oyez_server_poll(own.server.id, 0), OYEZ_CLOSED, ANY_ERRNO);
}

/* The end of the drain time makes it readable. */
static void a_stop_in_a_foreign_loop(void)
{
    seen all = { 0 };
    oyez_events events = seen_events();
    served server = serve_events_polled(&events, &all, NULL);
    int client = serve_client(server);
    loop_until(server, &all.opened, 1);
    long long start = check_now_ms();
    CHECK_WORKS(oyez_server_stop(server.id, 200));
    loop_to_the_end(server);
    CHECK_TOOK(start, 199, 2000);
    CHECK_EQ_INT(client_ending(client), ECONNRESET);
    CHECK_EQ_INT(serve_stats(server).cut, 1);
    CHECK_WORKS(oyez_server_close(server.id));
    MUST(close(client));
}

/* So does a connection's time. */
static void time_in_a_foreign_loop(void)
{
    seen all = { 0 };
    oyez_events events = seen_events();
    oyez_server_options options = serve_workers(1);
    options.idle_timeout_ms = 200;
    served server = serve_events_polled(&events, &all, &options);
    int client = serve_client(server);
    loop_until(server, &all.opened, 1);
    long long start = check_now_ms();
    loop_until(server, &all.closed, 1);
    CHECK_TOOK(start, 190, 2000);
    CHECK_EQ_INT(all.code, OYEZ_TIMED_OUT);
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(server.id));
}

static void *poll_for_ever(void *server)
{
    while (oyez_server_poll(*(oyez_server *)server, -1) == 0)
        ;
    return NULL;
}

/* Closing it polls what is left, or waits for the thread that does: nothing is called afterwards. */
static void closing_a_polled_server(void)
{
    for (int round = 0; round < 20; round++) {
        pthread_t thread = pthread_self();
        seen all = { 0 };
        oyez_events events = seen_events();
        oyez_server_options options = serve_workers(1);
        options.drain_ms = 20;
        served server = serve_events_polled(&events, &all, &options);
        int client = serve_client(server);
        if (round % 2 == 0)
            loop_until(server, &all.opened, 1);
        else
            thread = check_thread(poll_for_ever, &server.id);
        CHECK_SOON(SEEN(all.opened) == 1);
        CHECK_WORKS(oyez_server_close(server.id));
        CHECK_EQ_INT(SEEN(all.closed), 1);
        CHECK_EQ_INT(all.code, OYEZ_STOPPED);
        if (round % 2 == 1)
            check_thread_join(thread);
        MUST(close(client));
    }
}

static void polled_wrongly(void)
{
    oyez_conn connection = 0;
    oyez_events events = echo_events();
    served with_handler = serve(serve_echo, NULL, NULL);
    served by_hand = serve(NULL, NULL, NULL);
    served running = serve_events(OVER_TCP, &events, NULL, NULL);
    oyez_server nowhere = (oyez_server)CHECK_WORKS(oyez_server_new_events(&events, NULL, NULL));
    CHECK_FAILS(oyez_server_poll(with_handler.id, 0), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_server_poll(by_hand.id, 0), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_server_poll(running.id, 0), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_server_poll_fd(running.id), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_server_poll(nowhere, 0), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_server_run(nowhere), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_server_poll(0, 0), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_accept(running.id, &connection, 0), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_WORKS(oyez_server_listen(nowhere, "127.0.0.1:0", NULL));
    CHECK_FAILS(oyez_server_poll(nowhere, -2), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    long long start = check_now_ms();
    CHECK_WORKS(oyez_server_poll(nowhere, 0));
    CHECK_WORKS(oyez_server_poll(nowhere, 100));
    CHECK_TOOK(start, 99, 2000);
    CHECK_WORKS(oyez_server_close(nowhere));
    CHECK_WORKS(oyez_server_close(by_hand.id));
    serve_end(running);
    serve_end(with_handler);
}

/* Functions that are for other servers, and what remains of a connection. */

static void what_does_not_apply(void)
{
    char text[8];
    seen all = { 0 };
    oyez_events events = seen_events();
    served server = serve_events(OVER_TCP, &events, &all, NULL);
    int client = serve_client(server);
    CHECK_SOON(SEEN(all.opened) == 1);
    CHECK_FAILS(oyez_conn_read(all.last, text, sizeof text), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_read_line(all.last, text, sizeof text), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_write(all.last, NULL, 1), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_EQ_INT(CHECK_WORKS(oyez_conn_write(all.last, NULL, 0)), 0);
    CHECK_FAILS(oyez_conn_set_timeout(all.last, -2), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK(oyez_conn_fd(all.last) > 2);
    CHECK_FAILS(oyez_conn_detach(all.last), OYEZ_INVALID_ARGUMENT, ANY_ERRNO); /* not its thread */
    CHECK_WORKS(oyez_conn_close(all.last));
    CHECK_FAILS(oyez_conn_close(all.last), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    CHECK_SOON(SEEN(all.closed) == 1);
    CHECK_EQ_INT(all.code, OYEZ_OK);
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK_FAILS(oyez_conn_write(all.last, "x", 1), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_pause(all.last), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_resume(all.last), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_abort(all.last), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_set_timeout(all.last, 5), OYEZ_CLOSED, ANY_ERRNO);
    serve_end(server);
    /* And the other way round. */
    served by_hand = serve(NULL, NULL, NULL);
    oyez_conn connection = 0;
    client = client_connect(by_hand.port);
    CHECK_WORKS(oyez_server_accept(by_hand.id, &connection, 10000));
    CHECK_FAILS(oyez_conn_pause(connection), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_resume(connection), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_WORKS(oyez_conn_close(connection));
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(by_hand.id));
}

static int detached = -1;

static size_t detach_it(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)bytes;
    (void)user;
    __atomic_store_n(&detached, (int)CHECK_WORKS(oyez_conn_detach(connection)), __ATOMIC_SEQ_CST);
    CHECK_FAILS(oyez_conn_write(connection, "x", 1), OYEZ_CLOSED, ANY_ERRNO);
    return size;
}

static void detaching(void)
{
    for (int over = OVER_TCP; over <= OVER_UNIX; over++) {
        seen all = { 0 };
        oyez_events events = seen_events();
        events.on_data = detach_it;
        detached = -1;
        served server = serve_events(over, &events, &all, NULL);
        int client = serve_client(server);
        client_send_text(client, "x");
        CHECK_SOON(SEEN(all.closed) == 1);
        CHECK_EQ_INT(all.code, OYEZ_OK);
        CHECK_EQ_INT(MUST(fcntl(detached, F_GETFD)), FD_CLOEXEC);
        CHECK_EQ_INT(MUST(fcntl(detached, F_GETFL)) & O_NONBLOCK, 0);
        client_send_text(client, "mine");
        client_expect(detached, "mine");
        serve_end(server);
        client_send_text(detached, "still");
        client_expect(client, "still");
        MUST(close(detached));
        MUST(close(client));
    }
}

static const check_case cases[] = {
    CASE(echo_of_many_sizes),
    CASE(many_at_once),
    CASE(pipelined),
    CASE(many_in_a_row),
    CASE(in_order_and_on_one_thread),
    CASE(functions_that_are_null),
    CASE(structs),
    CASE(lines_in_pieces),
    CASE(too_much_input),
    CASE(much_input_that_is_consumed),
    CASE(urgent_input),
    CASE(in_a_foreign_loop),
    CASE(a_stop_in_a_foreign_loop),
    CASE(time_in_a_foreign_loop),
    CASE(closing_a_polled_server),
    CASE(polled_wrongly),
    CASE(what_does_not_apply),
    CASE(detaching),
};

CHECK_MAIN(cases)
