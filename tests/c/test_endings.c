/* How a connection ends: closed without losing anything, reset, taken over, broken, and used while it ends. */
#define _GNU_SOURCE
#include "clients.h"
#include "models.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const int models[] = { OYEZ_THREADS, OYEZ_SEQUENTIAL, OYEZ_PROCESSES };

enum { REPLY = 5000000, REQUEST = 200000 };

static void reply_without_reading(oyez_conn connection, void *unused)
{
    char *reply = malloc(REPLY);
    (void)unused;
    for (size_t i = 0; i < REPLY; i++)
        reply[i] = (char)client_byte(9, i);
    oyez_conn_write(connection, reply, REPLY);
    free(reply);
}

static void *send_request(void *argument)
{
    static char request[REQUEST];
    size_t sent = 0;
    while (sent < REQUEST) { /* whatever the server takes; the rest is dropped by it */
        ssize_t count = send(*(int *)argument, request + sent, REQUEST - sent, MSG_NOSIGNAL);
        if (count <= 0)
            return NULL;
        sent += (size_t)count;
    }
    return NULL;
}

/* Unread input would make close(2) destroy the reply that is under way: it has to arrive whole. */
static void a_reply_over_unread_input(void)
{
    unsigned char *text = malloc(REPLY + 1);
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        served server = serve(reply_without_reading, NULL, &options);
        for (int round = 0; round < 4; round++) {
            int client = client_connect(server.port);
            pthread_t thread = check_thread(send_request, &client);
            check_nap(round % 2 * 50);
            CHECK_EQ_INT(client_receive(client, text, REPLY + 1), REPLY);
            for (size_t i = 0; i < REPLY; i += 997)
                CHECK_EQ_INT(text[i], client_byte(9, i));
            check_thread_join(thread);
            client_close(client);
        }
        CHECK_SOON(serve_stats(server).active == 0);
        serve_end(server);
    }
    free(text);
}

/* Closing does not wait for the client. */
static void closing_does_not_wait(void)
{
    oyez_conn connection;
    served server = serve(NULL, NULL, NULL);
    int client = client_connect(server.port);
    client_send_text(client, "never read");
    CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
    CHECK_EQ_INT(oyez_conn_write(connection, "reply", 5), 5);
    long long start = check_now_ms();
    CHECK_WORKS(oyez_conn_close(connection));
    CHECK_TOOK(start, 0, 1000);
    CHECK_FAILS(oyez_conn_close(connection), OYEZ_CLOSED, ANY_ERRNO);
    client_expect(client, "reply");
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(server.id));
}

static void abort_at_once(oyez_conn connection, void *unused)
{
    (void)unused;
    oyez_conn_write(connection, "x", 1);
    CHECK_WORKS(oyez_conn_abort(connection));
    CHECK_FAILS(oyez_conn_abort(connection), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_write(connection, "x", 1), OYEZ_CLOSED, ANY_ERRNO);
}

static void an_abort_is_a_reset(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        served server = serve(abort_at_once, NULL, &options);
        for (int i = 0; i < 10; i++) {
            int client = client_connect(server.port);
            CHECK_EQ_INT(client_ending(client), ECONNRESET);
            MUST(close(client));
        }
        CHECK_SOON(serve_stats(server).active == 0);
        CHECK_EQ_INT(serve_stats(server).handler_failures, 0);
        serve_end(server);
    }
}

static void an_abort_of_a_unix_connection(void)
{
    char address[200];
    snprintf(address, sizeof address, "unix:%s/a.sock", check_folder());
    served server = serve_at(address, abort_at_once, NULL, NULL);
    int client = client_connect_unix(address + 5);
    int ending = client_ending(client);
    CHECK(ending == 0 || ending == ECONNRESET);
    MUST(close(client));
    serve_end(server);
}

/* Taking over. */

static int taken_over[2];

static void take_over(oyez_conn connection, void *unused)
{
    (void)unused;
    int fd = (int)CHECK_WORKS(oyez_conn_detach(connection));
    CHECK_FAILS(oyez_conn_detach(connection), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_close(connection), OYEZ_CLOSED, ANY_ERRNO);
    MUST(write(taken_over[1], &fd, sizeof fd));
}

static void detaching(void)
{
    for (int m = 0; m < 2; m++) {
        int fd;
        oyez_server_options options = serve_options(models[m]);
        MUST(pipe2(taken_over, O_CLOEXEC));
        served server = serve(take_over, NULL, &options);
        int client = client_connect(server.port);
        MUST(read(taken_over[0], &fd, sizeof fd));
        CHECK_SOON(serve_stats(server).active == 0);
        serve_end(server); /* which does not wait for it */
        CHECK_EQ_INT(MUST(fcntl(fd, F_GETFD)), FD_CLOEXEC);
        CHECK_EQ_INT(MUST(fcntl(fd, F_GETFL)) & O_NONBLOCK, 0);
        client_send_text(client, "still");
        client_expect(fd, "still");
        MUST(close(fd));
        CHECK_EQ_INT(client_ending(client), 0);
        MUST(close(client));
        MUST(close(taken_over[0]));
        MUST(close(taken_over[1]));
    }
}

/* While another thread is in a call on it a connection cannot be taken over, and is as it was. */

static oyez_conn shared_connection;
static int reader_code;
static ssize_t reader_count;

static void *read_shared(void *unused)
{
    char byte;
    (void)unused;
    reader_count = oyez_conn_read(shared_connection, &byte, 1);
    reader_code = oyez_error_code(NULL);
    return NULL;
}

typedef struct shared {
    served server;
    int client;
    pthread_t reader;
} shared;

static shared share(void)
{
    shared made;
    made.server = serve(NULL, NULL, NULL);
    made.client = client_connect(made.server.port);
    CHECK_WORKS(oyez_server_accept(made.server.id, &shared_connection, 10000));
    made.reader = check_thread(read_shared, NULL);
    check_nap(50);
    return made;
}

static void detaching_under_a_reader(void)
{
    shared made = share();
    CHECK_FAILS(oyez_conn_detach(shared_connection), OYEZ_INVALID_ARGUMENT, EBUSY);
    client_send_text(made.client, "xy");
    check_thread_join(made.reader);
    CHECK_EQ_INT(reader_count, 1);
    int fd = (int)CHECK_WORKS(oyez_conn_detach(shared_connection));
    client_expect(fd, "y");
    MUST(close(fd));
    MUST(close(made.client));
    CHECK_WORKS(oyez_server_close(made.server.id));
}

static void closing_wakes_a_reader(void)
{
    for (int aborts = 0; aborts < 2; aborts++) {
        shared made = share();
        long long start = check_now_ms();
        CHECK_WORKS(aborts ? oyez_conn_abort(shared_connection) : oyez_conn_close(shared_connection));
        check_thread_join(made.reader);
        CHECK_TOOK(start, 0, 3000);
        CHECK_EQ_INT(reader_count, -1);
        CHECK_EQ_INT(reader_code, OYEZ_CLOSED);
        CHECK_EQ_INT(client_ending(made.client), aborts ? ECONNRESET : 0);
        MUST(close(made.client));
        CHECK_WORKS(oyez_server_close(made.server.id));
    }
}

static void *write_shared(void *unused)
{
    enum { BIG = 64 << 20 };
    char *bytes = calloc(1, BIG);
    (void)unused;
    reader_count = oyez_conn_write(shared_connection, bytes, BIG);
    reader_code = oyez_error_code(NULL);
    free(bytes);
    return NULL;
}

static void closing_wakes_a_writer(void)
{
    served server = serve(NULL, NULL, NULL);
    int client = client_connect(server.port);
    CHECK_WORKS(oyez_server_accept(server.id, &shared_connection, 10000));
    pthread_t writer = check_thread(write_shared, NULL);
    check_nap(100);
    long long start = check_now_ms();
    CHECK_WORKS(oyez_conn_abort(shared_connection));
    check_thread_join(writer);
    CHECK_TOOK(start, 0, 3000);
    CHECK_EQ_INT(reader_count, -1);
    CHECK_EQ_INT(reader_code, OYEZ_CLOSED);
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(server.id));
}

/* A handler's connection, closed by another thread while the handler reads. */
static oyez_conn handlers_connection;
static int handler_code;

static void publish_and_read(oyez_conn connection, void *unused)
{
    char byte;
    (void)unused;
    __atomic_store_n(&handlers_connection, connection, __ATOMIC_SEQ_CST);
    CHECK_EQ_INT(oyez_conn_read(connection, &byte, 1), -1);
    __atomic_store_n(&handler_code, oyez_error_code(NULL), __ATOMIC_SEQ_CST);
}

static void closing_wakes_a_handler(void)
{
    for (int m = 0; m < 2; m++) {
        oyez_server_options options = serve_options(models[m]);
        handlers_connection = 0;
        handler_code = OYEZ_OK;
        served server = serve(publish_and_read, NULL, &options);
        int client = client_connect(server.port);
        CHECK_SOON(__atomic_load_n(&handlers_connection, __ATOMIC_SEQ_CST) != 0);
        check_nap(20);
        CHECK_WORKS(oyez_conn_close(handlers_connection));
        CHECK_EQ_INT(client_ending(client), 0);
        CHECK_SOON(__atomic_load_n(&handler_code, __ATOMIC_SEQ_CST) == OYEZ_CLOSED);
        MUST(close(client));
        serve_end(server);
    }
}

/* Threads that use and close the same connections all the time: an answer or an error, never a crash, and never
   another's connection. */

static oyez_conn pool[16];
static int hammering = 1;

static void *hammer(void *number)
{
    unsigned seed = *(unsigned *)number;
    char text[64];
    while (__atomic_load_n(&hammering, __ATOMIC_SEQ_CST)) {
        oyez_conn connection = __atomic_load_n(&pool[rand_r(&seed) % 16], __ATOMIC_SEQ_CST);
        switch (rand_r(&seed) % 8) {
        case 0:
            oyez_conn_close(connection);
            break;
        case 1:
            oyez_conn_abort(connection);
            break;
        case 2:
            oyez_conn_peer(connection, text, sizeof text);
            break;
        case 3:
            oyez_conn_set_user(connection, text);
            break;
        case 4:
            oyez_conn_user(connection);
            break;
        case 5:
            oyez_conn_write(connection, "hello", 5);
            break;
        default:
            oyez_conn_local(connection, text, sizeof text);
        }
    }
    return NULL;
}

static void used_from_many_threads_while_it_closes(void)
{
    pthread_t threads[4];
    unsigned numbers[4];
    served server = serve(NULL, NULL, NULL);
    for (unsigned i = 0; i < 4; i++) {
        numbers[i] = i;
        threads[i] = check_thread(hammer, &numbers[i]);
    }
    for (int i = 0; i < 2000; i++) {
        oyez_conn connection;
        int client = client_connect(server.port);
        CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
        oyez_conn_close(__atomic_exchange_n(&pool[i % 16], connection, __ATOMIC_SEQ_CST));
        MUST(close(client));
    }
    __atomic_store_n(&hammering, 0, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 4; i++)
        check_thread_join(threads[i]);
    for (int i = 0; i < 16; i++)
        oyez_conn_close(pool[i]);
    CHECK_WORKS(oyez_server_close(server.id));
}

/* Broken by the peer. */
static void writing_to_a_peer_that_is_gone(void)
{
    char bytes[1000] = "";
    for (int resets = 0; resets < 2; resets++) {
        oyez_conn connection;
        served server = serve(NULL, NULL, NULL);
        int client = client_connect(server.port);
        CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
        if (resets)
            client_reset(client);
        else
            MUST(close(client));
        ssize_t count = 1;
        for (int i = 0; i < 10000 && count > 0; i++)
            count = oyez_conn_write(connection, bytes, sizeof bytes);
        expect_keep();
        CHECK_EQ_INT(count, -1);
        CHECK_ERROR(OYEZ_CLOSED, ANY_ERRNO);
        CHECK_FAILS(oyez_conn_write(connection, bytes, sizeof bytes), OYEZ_CLOSED, EPIPE);
        CHECK_WORKS(oyez_conn_close(connection));
        CHECK_WORKS(oyez_server_close(server.id));
    }
}

/* A handler that closes the descriptor itself breaks the rules; nobody else may suffer. */
static void close_the_descriptor(oyez_conn connection, void *unused)
{
    (void)unused;
    CHECK_EQ_INT(close(oyez_conn_fd(connection)), 0);
}

static void a_handler_that_closes_the_descriptor(void)
{
    served server = serve(close_the_descriptor, NULL, NULL);
    for (int i = 0; i < 20; i++) {
        int client = client_connect(server.port);
        client_ending(client);
        MUST(close(client));
    }
    CHECK_SOON(serve_stats(server).active == 0);
    serve_end(server);
}

static const check_case cases[] = {
    CASE(a_reply_over_unread_input),
    CASE(closing_does_not_wait),
    CASE(an_abort_is_a_reset),
    CASE(an_abort_of_a_unix_connection),
    CASE(detaching),
    CASE(detaching_under_a_reader),
    CASE(closing_wakes_a_reader),
    CASE(closing_wakes_a_writer),
    CASE(closing_wakes_a_handler),
    CASE(used_from_many_threads_while_it_closes),
    CASE(writing_to_a_peer_that_is_gone),
    CASE(a_handler_that_closes_the_descriptor),
};

CHECK_MAIN(cases)
