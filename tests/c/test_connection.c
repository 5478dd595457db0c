/* A connection: its id, reading and writing, lines, timeouts, and how it ends. */
#define _GNU_SOURCE
#include "clients.h"
#include "models.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* Most tests take a connection by hand, and use it on this thread. */
typedef struct taken {
    served server;
    oyez_conn connection;
    int fd;
    int client;
} taken;

static taken take_with(const oyez_server_options *options)
{
    taken made;
    made.server = serve(NULL, NULL, options);
    made.client = client_connect(made.server.port);
    made.fd = (int)CHECK_WORKS(oyez_server_accept(made.server.id, &made.connection, 10000));
    return made;
}

static taken take(void)
{
    return take_with(NULL);
}

/* The connection is gone already. */
static void give_back(taken made)
{
    MUST(close(made.client));
    CHECK_WORKS(oyez_server_close(made.server.id));
}

static void close_and_give_back(taken made)
{
    CHECK_WORKS(oyez_conn_close(made.connection));
    give_back(made);
}

static void reading_and_writing(void)
{
    char text[16] = "";
    taken made = take();
    CHECK_EQ_INT(oyez_conn_fd(made.connection), made.fd);
    CHECK_EQ_INT(MUST(fcntl(made.fd, F_GETFD)), FD_CLOEXEC);
    CHECK_EQ_INT(MUST(fcntl(made.fd, F_GETFL)) & O_NONBLOCK, 0);
    client_send_text(made.client, "hello");
    CHECK_EQ_INT(oyez_conn_read(made.connection, text, sizeof text), 5);
    CHECK_STR_EQ(text, "hello");
    CHECK_EQ_INT(oyez_conn_write(made.connection, "answer", 6), 6);
    client_expect(made.client, "answer");
    MUST(shutdown(made.client, SHUT_WR));
    CHECK_EQ_INT(oyez_conn_read(made.connection, text, sizeof text), 0);
    CHECK_EQ_INT(oyez_conn_write(made.connection, "more", 4), 4); /* half-closed is not closed */
    client_expect(made.client, "more");
    CHECK_WORKS(oyez_conn_close(made.connection));
    CHECK_EQ_INT(client_ending(made.client), 0);
    give_back(made);
}

static void both_addresses(void)
{
    char text[64];
    char expected[64];
    taken made = take();
    snprintf(expected, sizeof expected, "127.0.0.1:%d", client_own_port(made.client));
    CHECK_EQ_INT(oyez_conn_peer(made.connection, text, sizeof text), (long long)strlen(expected));
    CHECK_STR_EQ(text, expected);
    snprintf(expected, sizeof expected, "127.0.0.1:%d", made.server.port);
    CHECK_EQ_INT(oyez_conn_local(made.connection, text, sizeof text), (long long)strlen(expected));
    CHECK_STR_EQ(text, expected);
    CHECK_EQ_INT(oyez_conn_peer(made.connection, text, 5), oyez_conn_peer(made.connection, NULL, 0));
    CHECK_STR_EQ(text, "127.");
    close_and_give_back(made);
}

/* The peer is known also when the kernel has forgotten it, and IPv4 is shown as IPv4 on a dual-stack listener. */
static void the_peer_after_a_reset(void)
{
    char text[64];
    char expected[64];
    served server = serve_at(":0", NULL, NULL, NULL);
    oyez_conn connection;
    int client = client_connect(server.port);
    snprintf(expected, sizeof expected, "127.0.0.1:%d", client_own_port(client));
    client_reset(client);
    CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
    CHECK_WORKS(oyez_conn_peer(connection, text, sizeof text));
    CHECK_STR_EQ(text, expected);
    CHECK_FAILS(oyez_conn_read(connection, text, 1), OYEZ_CLOSED, ECONNRESET);
    CHECK_WORKS(oyez_conn_close(connection));
    CHECK_WORKS(oyez_server_close(server.id));
}

/* Ids. */

static uint64_t ids[600];
static int id_count;

static void remember_id(oyez_conn connection, void *unused)
{
    (void)unused;
    ids[__atomic_fetch_add(&id_count, 1, __ATOMIC_SEQ_CST)] = connection;
    serve_echo(connection, NULL);
}

static void *check_ids_are_gone(void *unused)
{
    (void)unused;
    for (int i = 0; i < id_count; i++)
        CHECK_FAILS(oyez_conn_fd(ids[i]), OYEZ_CLOSED, ANY_ERRNO);
    return NULL;
}

static int compare_ids(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one;
    uint64_t b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

static void ids_are_never_used_twice(void)
{
    served server = serve(remember_id, NULL, NULL);
    client_echo_one_by_one(server.port, 300);
    client_echo_many(server.port, 100, 100);
    client_echo_one_by_one(server.port, 200);
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK_EQ_INT(id_count, 600);
    check_ids_are_gone(NULL);
    check_thread_join(check_thread(check_ids_are_gone, NULL));
    qsort(ids, 600, sizeof ids[0], compare_ids);
    CHECK(ids[0] != 0);
    for (int i = 1; i < 600; i++)
        CHECK(ids[i] != ids[i - 1]);
    serve_end(server);
    check_ids_are_gone(NULL);
}

static void a_pointer_of_the_programs(void)
{
    int something;
    taken made = take();
    CHECK(oyez_conn_user(made.connection) == NULL);
    CHECK_EQ_INT(oyez_conn_set_user(made.connection, &something), 0);
    CHECK(oyez_conn_user(made.connection) == &something);
    CHECK_EQ_INT(oyez_conn_set_user(made.connection, NULL), 0);
    CHECK(oyez_conn_user(made.connection) == NULL);
    CHECK_EQ_INT(oyez_conn_set_user(made.connection, &something), 0);
    close_and_give_back(made);
    CHECK(oyez_conn_user(made.connection) == NULL);
}

/* Lines. */

static void check_line(taken made, size_t size, const char *expected)
{
    char line[64];
    memset(line, '#', sizeof line);
    CHECK_EQ_INT(oyez_conn_read_line(made.connection, line, size), (long long)strlen(expected));
    CHECK_STR_EQ(line, expected);
}

static void lines(void)
{
    char text[8] = "";
    taken made = take();
    client_send_text(made.client, "one\ntwo\r\n\n\r\nwith \r inside\r\r\nlast one\nrest");
    check_line(made, 64, "one");
    check_line(made, 64, "two");
    check_line(made, 64, "");
    check_line(made, 64, "");
    check_line(made, 64, "with \r inside\r");
    check_line(made, 64, "last one");
    CHECK_EQ_INT(oyez_conn_read(made.connection, text, 2), 2); /* what is behind the line is still there */
    CHECK_STR_EQ(text, "re");
    CHECK_EQ_INT(read(made.fd, text, sizeof text), 2);
    CHECK_EQ_INT(strncmp(text, "st", 2), 0);
    close_and_give_back(made);
}

static void the_last_line(void)
{
    char line[64];
    taken made = take();
    client_send_text(made.client, "first\nno ending");
    MUST(shutdown(made.client, SHUT_WR));
    check_line(made, 64, "first");
    check_line(made, 64, "no ending");
    for (int i = 0; i < 3; i++) {
        memset(line, '#', sizeof line);
        CHECK_FAILS(oyez_conn_read_line(made.connection, line, sizeof line), OYEZ_CLOSED, ANY_ERRNO);
        CHECK_STR_EQ(line, "");
    }
    close_and_give_back(made);
}

static void lines_that_are_too_long(void)
{
    char line[64];
    taken made = take();
    client_send_text(made.client, "0123456789\nab\ncd\r\n");
    CHECK_FAILS(oyez_conn_read_line(made.connection, line, 5), OYEZ_LIMIT_REACHED, EMSGSIZE);
    CHECK_STR_EQ(line, "0123");
    CHECK_FAILS(oyez_conn_read_line(made.connection, line, 4), OYEZ_LIMIT_REACHED, EMSGSIZE);
    CHECK_STR_EQ(line, "456");
    check_line(made, 64, "789"); /* the next call goes on behind what was read */
    check_line(made, 4, "ab"); /* with its ending, and the NUL in place of that, it fits */
    check_line(made, 64, "cd");
    close_and_give_back(made);
}

/* A line as long as there is room for, at every size. */
static void lines_that_just_fit(void)
{
    char text[64];
    for (size_t length = 0; length < 30; length++) {
        taken made = take();
        memset(text, 'x', length);
        text[length] = '\n';
        client_send(made.client, text, length + 1);
        text[length] = '\0';
        check_line(made, length + 2, text);
        close_and_give_back(made);
    }
}

static void a_line_with_nul_bytes(void)
{
    char line[16];
    taken made = take();
    client_send(made.client, "a\0b\n\0\n", 6);
    CHECK_EQ_INT(oyez_conn_read_line(made.connection, line, sizeof line), 3);
    CHECK_EQ_INT(memcmp(line, "a\0b", 4), 0);
    CHECK_EQ_INT(oyez_conn_read_line(made.connection, line, sizeof line), 1);
    CHECK_EQ_INT(memcmp(line, "\0", 2), 0);
    close_and_give_back(made);
}

static void *send_byte_by_byte(void *argument)
{
    static const char text[] = "slow line\r\nnext\n";
    for (size_t i = 0; i < sizeof text - 1; i++) {
        client_send(*(int *)argument, text + i, 1);
        check_nap(3);
    }
    return NULL;
}

static void a_line_that_comes_byte_by_byte(void)
{
    taken made = take();
    pthread_t thread = check_thread(send_byte_by_byte, &made.client);
    check_line(made, 64, "slow line");
    check_line(made, 64, "next");
    check_thread_join(thread);
    close_and_give_back(made);
}

enum { LINES = 20000 };

static void *send_many_lines(void *argument)
{
    char *all = malloc(LINES * 16);
    size_t size = 0;
    for (int i = 0; i < LINES; i++)
        size += (size_t)sprintf(all + size, "line %d\n", i);
    client_send(*(int *)argument, all, size);
    free(all);
    return NULL;
}

static void many_lines(void)
{
    char expected[32];
    taken made = take();
    pthread_t thread = check_thread(send_many_lines, &made.client);
    for (int i = 0; i < LINES; i++) {
        snprintf(expected, sizeof expected, "line %d", i);
        check_line(made, 64, expected);
    }
    check_thread_join(thread);
    close_and_give_back(made);
}

/* Timeouts. */

static void check_read_times_out(taken made, int least, int most)
{
    char byte;
    long long start = check_now_ms();
    CHECK_FAILS(oyez_conn_read(made.connection, &byte, 1), OYEZ_TIMED_OUT, EAGAIN);
    CHECK_TOOK(start, least, most);
}

static void the_idle_timeout(void)
{
    char line[16];
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.idle_timeout_ms = 100;
    taken made = take_with(&options);
    check_read_times_out(made, 99, 2000);
    CHECK_EQ_INT(serve_stats(made.server).timeouts, 1);
    CHECK_EQ_INT(oyez_conn_set_timeout(made.connection, 250), 0);
    check_read_times_out(made, 249, 2000);
    CHECK_EQ_INT(oyez_conn_set_timeout(made.connection, 0), 0); /* the server's again */
    check_read_times_out(made, 99, 2000);
    CHECK_FAILS(oyez_conn_read_line(made.connection, line, sizeof line), OYEZ_TIMED_OUT, EAGAIN);
    client_send_text(made.client, "in time");
    CHECK_EQ_INT(oyez_conn_read(made.connection, line, 7), 7);
    CHECK_EQ_INT(oyez_conn_set_timeout(made.connection, -1), 0);
    CHECK_EQ_INT(serve_stats(made.server).timeouts, 4);
    close_and_give_back(made);
}

/* Plain read(2) on the descriptor keeps to it too. */
static void the_idle_timeout_of_the_descriptor(void)
{
    struct timeval time = { 0, 0 };
    socklen_t size = sizeof time;
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.idle_timeout_ms = 150;
    taken made = take_with(&options);
    MUST(getsockopt(made.fd, SOL_SOCKET, SO_RCVTIMEO, &time, &size));
    CHECK(time.tv_sec == 0 && time.tv_usec >= 145000 && time.tv_usec <= 160000);
    char byte;
    CHECK(read(made.fd, &byte, 1) == -1 && errno == EAGAIN);
    close_and_give_back(made);
}

static void *trickle(void *argument)
{
    for (int i = 0; i < 100 && send(*(int *)argument, "x", 1, MSG_NOSIGNAL) == 1; i++)
        check_nap(20);
    return NULL;
}

/* read_timeout_ms is for a whole line: a client that sends a byte now and then does not prolong it. */
static void the_read_timeout_of_a_line(void)
{
    char line[200];
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.read_timeout_ms = 200;
    taken made = take_with(&options);
    pthread_t thread = check_thread(trickle, &made.client);
    long long start = check_now_ms();
    CHECK_FAILS(oyez_conn_read_line(made.connection, line, sizeof line), OYEZ_TIMED_OUT, EAGAIN);
    CHECK_TOOK(start, 199, 1500);
    CHECK_EQ_INT(line[0], 'x');
    CHECK_EQ_INT(strspn(line, "x"), (long long)strlen(line));
    CHECK_WORKS(oyez_conn_abort(made.connection));
    check_thread_join(thread);
    give_back(made);
}

static void the_write_timeout(void)
{
    enum { BIG = 32 << 20 };
    char *bytes = calloc(1, BIG);
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.write_timeout_ms = 200;
    taken made = take_with(&options);
    long long start = check_now_ms();
    CHECK_FAILS(oyez_conn_write(made.connection, bytes, BIG), OYEZ_TIMED_OUT, EAGAIN);
    CHECK_TOOK(start, 199, 3000);
    CHECK(serve_stats(made.server).timeouts >= 1);
    CHECK_WORKS(oyez_conn_abort(made.connection));
    give_back(made);
    free(bytes);
}

/* lifetime_ms ends a connection that is busy all the time. */
static void the_lifetime(void)
{
    char text[64];
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.lifetime_ms = 300;
    taken made = take_with(&options);
    pthread_t thread = check_thread(trickle, &made.client);
    long long start = check_now_ms();
    while (oyez_conn_read(made.connection, text, sizeof text) > 0)
        ;
    CHECK_TOOK(start, 200, 3000);
    CHECK(oyez_error_code(NULL) == OYEZ_TIMED_OUT || oyez_error_code(NULL) == OYEZ_CLOSED);
    CHECK_EQ_INT(oyez_conn_write(made.connection, "x", 1), -1);
    oyez_conn_abort(made.connection);
    check_thread_join(thread);
    give_back(made);
}

static void *send_all_the_time(void *argument)
{
    char bytes[4096] = "";
    while (send(*(int *)argument, bytes, sizeof bytes, MSG_NOSIGNAL) > 0)
        ;
    return NULL;
}

/* However busy: there is always something to read here, so that no call ever has to wait. */
static void a_busy_client_does_not_outlive_its_time(void)
{
    char text[512];
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.lifetime_ms = 300;
    taken made = take_with(&options);
    pthread_t thread = check_thread(send_all_the_time, &made.client);
    long long start = check_now_ms();
    while (check_now_ms() < start + 3000 && oyez_conn_read(made.connection, text, sizeof text) > 0)
        ;
    long long took = check_now_ms() - start;
    oyez_conn_abort(made.connection);
    check_thread_join(thread);
    CHECK(took >= 200 && took < 2500);
    give_back(made);
}

static const check_case cases[] = {
    CASE(reading_and_writing),
    CASE(both_addresses),
    CASE(the_peer_after_a_reset),
    CASE(ids_are_never_used_twice),
    CASE(a_pointer_of_the_programs),
    CASE(lines),
    CASE(the_last_line),
    CASE(lines_that_are_too_long),
    CASE(lines_that_just_fit),
    CASE(a_line_with_nul_bytes),
    CASE(a_line_that_comes_byte_by_byte),
    CASE(many_lines),
    CASE(the_idle_timeout),
    CASE(the_idle_timeout_of_the_descriptor),
    CASE(the_read_timeout_of_a_line),
    CASE(the_write_timeout),
    CASE(the_lifetime),
    CASE(a_busy_client_does_not_outlive_its_time),
};

CHECK_MAIN(cases)
