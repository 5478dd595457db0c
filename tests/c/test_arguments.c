/* Every wrong argument is an error with a message: NULL, sizes, ranges, handles that are gone or never were. */
#define _GNU_SOURCE
#include "clients.h"
#include "places.h"
#include "serving.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* One connection, from a server that accepts by hand. */
typedef struct by_hand {
    oyez_server server;
    oyez_conn connection;
    int client;
} by_hand;

static by_hand connect_by_hand(void)
{
    by_hand made;
    made.server = (oyez_server)CHECK_WORKS(oyez_server_new(NULL, NULL, NULL));
    int listener = (int)CHECK_WORKS(oyez_server_listen(made.server, "127.0.0.1:0", NULL));
    made.client = client_connect(oyez_local_port(listener));
    CHECK_WORKS(oyez_server_accept(made.server, &made.connection, 10000));
    return made;
}

static void end_by_hand(by_hand made)
{
    CHECK_WORKS(oyez_conn_abort(made.connection));
    MUST(close(made.client));
    CHECK_WORKS(oyez_server_close(made.server));
}

static void null_for_every_pointer(void)
{
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    int client = client_connect(oyez_local_port(fd));
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
    CHECK_FAILS(oyez_listen(NULL, NULL), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_local_address(fd, NULL, 10), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_peer_address(accepted, NULL, 10), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_accept(fd, NULL, 64, 0), OYEZ_TIMED_OUT, EAGAIN); /* NULL: not wanted */
    CHECK_FAILS(oyez_read(accepted, NULL, 10, 0), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_write(accepted, NULL, 10, 0), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_error_text(NULL, 10), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_serve(NULL, serve_hello, NULL, NULL), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_serve("127.0.0.1:0", NULL, NULL, NULL), OYEZ_INVALID_ARGUMENT, EINVAL);
    MUST(close(accepted));
    MUST(close(client));
    MUST(close(fd));
}

static void null_for_every_pointer_of_servers(void)
{
    by_hand made = connect_by_hand();
    CHECK_FAILS(oyez_server_listen(made.server, NULL, NULL), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_server_stats(made.server, NULL), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_server_accept(made.server, NULL, 0), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_conn_peer(made.connection, NULL, 10), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_conn_local(made.connection, NULL, 10), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_conn_read(made.connection, NULL, 10), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_conn_read_line(made.connection, NULL, 10), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_conn_write(made.connection, NULL, 10), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK(CHECK_WORKS(oyez_conn_peer(made.connection, NULL, 0)) > 10);
    CHECK(CHECK_WORKS(oyez_conn_local(made.connection, NULL, 0)) > 10);
    CHECK_EQ_INT(oyez_conn_read(made.connection, NULL, 0), 0);
    CHECK_EQ_INT(oyez_conn_write(made.connection, NULL, 0), 0);
    CHECK_EQ_INT(oyez_conn_set_user(made.connection, NULL), 0);
    CHECK(oyez_conn_user(made.connection) == NULL);
    end_by_hand(made);
}

static void sizes_of_a_line(void)
{
    char line[4] = "";
    by_hand made = connect_by_hand();
    client_send_text(made.client, "a\n");
    CHECK_FAILS(oyez_conn_read_line(made.connection, line, 0), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_conn_read_line(made.connection, line, 1), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_EQ_INT(oyez_conn_read_line(made.connection, line, 4), 1);
    CHECK_STR_EQ(line, "a");
    end_by_hand(made);
}

/* Struct sizes. */

typedef union any_options {
    oyez_listen_options listen;
    oyez_server_options server;
    oyez_stats stats;
    size_t size;
    unsigned char bytes[1024];
} any_options;

/* Uses a struct with the function that takes it; gives back what it made. */
static int use_listen_options(any_options *options)
{
    int fd = oyez_listen("127.0.0.1:0", &options->listen);
    return fd == -1 ? -1 : close(fd);
}

static int use_listen_options_of_a_server(any_options *options)
{
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    int fd = oyez_server_listen(server, "127.0.0.1:0", &options->listen);
    CHECK_WORKS(oyez_server_close(server));
    return fd == -1 ? -1 : 0;
}

static int use_server_options(any_options *options)
{
    oyez_server server = oyez_server_new(serve_hello, NULL, &options->server);
    return server == -1 ? -1 : oyez_server_close(server);
}

static int use_stats(any_options *options)
{
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    int result = oyez_server_stats(server, &options->stats);
    CHECK_WORKS(oyez_server_close(server));
    return result;
}

typedef struct sized {
    size_t size;
    int (*use)(any_options *);
    int is_output;
} sized;

static const sized structs[] = {
    { sizeof(oyez_listen_options), use_listen_options, 0 },
    { sizeof(oyez_listen_options), use_listen_options_of_a_server, 0 },
    { sizeof(oyez_server_options), use_server_options, 0 },
    { sizeof(oyez_stats), use_stats, 1 },
};

enum { STRUCTS = 4 };

static void wrong_sizes(void)
{
    static const size_t sizes[] = { 0, 1, 3, 7, 9, 1 << 20, SIZE_MAX / 2, SIZE_MAX };
    for (int i = 0; i < STRUCTS; i++) {
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            any_options options;
            memset(&options, 0, sizeof options);
            options.size = sizes[s];
            CHECK_FAILS(structs[i].use(&options), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
            CHECK(oyez_error_hint(NULL)[0] != '\0');
        }
    }
}

/* An older program's struct ends earlier; what lies behind its end is not looked at. */
static void older_structs(void)
{
    static const size_t listen_sizes[] = {
        offsetof(oyez_listen_options, reuse_address), offsetof(oyez_listen_options, no_delay),
        offsetof(oyez_listen_options, interface), offsetof(oyez_listen_options, before_bind),
    };
    static const size_t server_sizes[] = {
        offsetof(oyez_server_options, workers), offsetof(oyez_server_options, drain_ms),
        offsetof(oyez_server_options, log), offsetof(oyez_server_options, log_user),
    };
    for (int i = 0; i < 8; i++) {
        any_options options;
        size_t size = i < 4 ? listen_sizes[i] : server_sizes[i - 4];
        memset(&options, 0, sizeof options);
        memset(options.bytes + size, 0xee, sizeof options - size);
        options.size = size;
        CHECK_WORKS(i < 4 ? use_listen_options(&options) : use_server_options(&options));
    }
}

static void newer_structs(void)
{
    for (int i = 0; i < STRUCTS; i++) {
        for (size_t more = 8; more <= 64; more += 8) {
            any_options options;
            memset(&options, 0, sizeof options);
            options.size = structs[i].size + more;
            CHECK_WORKS(structs[i].use(&options));
            if (structs[i].is_output)
                continue;
            memset(&options, 0, sizeof options);
            options.size = structs[i].size + more;
            options.bytes[structs[i].size + more - 1] = 1;
            CHECK_EQ_INT(structs[i].use(&options), -1);
            CHECK(oyez_error_code(NULL) == OYEZ_UNSUPPORTED || oyez_error_code(NULL) == OYEZ_INVALID_ARGUMENT);
            CHECK_STR_CONTAINS(oyez_error_message(NULL), "byte");
        }
    }
}

/* Statistics are written as far as the caller's struct goes, and no further; what is beyond the library's is 0. */
static void stats_of_every_size(void)
{
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
    for (size_t size = 16; size <= sizeof(oyez_stats) + 32; size += 8) {
        any_options options;
        memset(&options, 0xee, sizeof options);
        options.size = size;
        CHECK_WORKS(oyez_server_stats(server, &options.stats));
        CHECK_EQ_INT(options.size, size);
        for (size_t at = size; at < sizeof options; at++)
            CHECK_EQ_INT(options.bytes[at], 0xee);
        for (size_t at = sizeof(oyez_stats); at < size; at++)
            CHECK_EQ_INT(options.bytes[at], 0);
        CHECK_EQ_INT(options.stats.accepted, 0);
    }
    CHECK_WORKS(oyez_server_close(server));
}

/* Ranges. */

typedef struct range {
    const char *name;
    size_t field;
    int value;
} range;

#define LISTEN(name) #name, offsetof(oyez_listen_options, name)
#define SERVER(name) #name, offsetof(oyez_server_options, name)

static const range listen_ranges[] = {
    { LISTEN(backlog), -1 },           { LISTEN(backlog), INT_MIN },     { LISTEN(reuse_address), 2 },
    { LISTEN(reuse_address), -2 },     { LISTEN(reuse_port), 7 },        { LISTEN(nonblocking), INT_MAX },
    { LISTEN(close_on_exec), INT_MIN },{ LISTEN(no_delay), 2 },          { LISTEN(keep_alive_seconds), -2 },
    { LISTEN(keep_alive_seconds), 32768 }, { LISTEN(defer_accept_seconds), -2 }, { LISTEN(fast_open), -2 },
    { LISTEN(receive_buffer), -1 },    { LISTEN(send_buffer), INT_MIN }, { LISTEN(free_bind), 3 },
    { LISTEN(multipath), -3 },         { LISTEN(unix_mode), -1 },        { LISTEN(unix_mode), 010000 },
};

static const range server_ranges[] = {
    { SERVER(model), 3 },              { SERVER(model), -1 },            { SERVER(model), INT_MAX },
    { SERVER(workers), -1 },           { SERVER(workers), 65537 },       { SERVER(workers), INT_MAX },
    { SERVER(idle_timeout_ms), -2 },   { SERVER(read_timeout_ms), -2 },  { SERVER(write_timeout_ms), INT_MIN },
    { SERVER(lifetime_ms), -2 },       { SERVER(drain_ms), -2 },         { SERVER(drain_ms), INT_MIN },
    { SERVER(stop_on_signals), 2 },    { SERVER(stop_on_signals), -2 },
};

static void check_range(const range *one, int result)
{
    expect_keep();
    if (result != -1)
        check_fail(__FILE__, __LINE__, "%s = %d was taken", one->name, one->value);
    CHECK_ERROR(OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), one->name);
}

static void options_out_of_range(void)
{
    int before = check_descriptors();
    for (size_t i = 0; i < sizeof listen_ranges / sizeof listen_ranges[0]; i++) {
        any_options options;
        memset(&options, 0, sizeof options);
        options.size = sizeof(oyez_listen_options);
        memcpy(options.bytes + listen_ranges[i].field, &listen_ranges[i].value, sizeof(int));
        errno = 0;
        check_range(&listen_ranges[i], use_listen_options(&options));
    }
    for (size_t i = 0; i < sizeof server_ranges / sizeof server_ranges[0]; i++) {
        any_options options;
        memset(&options, 0, sizeof options);
        options.size = sizeof(oyez_server_options);
        memcpy(options.bytes + server_ranges[i].field, &server_ranges[i].value, sizeof(int));
        errno = 0;
        check_range(&server_ranges[i], use_server_options(&options));
        errno = 0;
        check_range(&server_ranges[i], oyez_serve("127.0.0.1:0", serve_hello, NULL, &options.server));
    }
    CHECK_EQ_INT(check_descriptors(), before);
}

static void negative_timeouts(void)
{
    static const int timeouts[] = { -2, -1000, INT_MIN };
    char byte = 'x';
    oyez_conn connection = 77;
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    by_hand made = connect_by_hand();
    int client = client_connect(oyez_local_port(fd));
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
    for (size_t i = 0; i < 3; i++) {
        CHECK_FAILS(oyez_accept(fd, NULL, 0, timeouts[i]), OYEZ_INVALID_ARGUMENT, EINVAL);
        CHECK_FAILS(oyez_read(accepted, &byte, 1, timeouts[i]), OYEZ_INVALID_ARGUMENT, EINVAL);
        CHECK_FAILS(oyez_write(accepted, &byte, 1, timeouts[i]), OYEZ_INVALID_ARGUMENT, EINVAL);
        CHECK_FAILS(oyez_server_wait(made.server, timeouts[i]), OYEZ_INVALID_ARGUMENT, EINVAL);
        CHECK_FAILS(oyez_server_accept(made.server, &connection, timeouts[i]), OYEZ_INVALID_ARGUMENT, EINVAL);
        CHECK_FAILS(oyez_server_stop(made.server, timeouts[i]), OYEZ_INVALID_ARGUMENT, EINVAL);
        CHECK_FAILS(oyez_conn_set_timeout(made.connection, timeouts[i]), OYEZ_INVALID_ARGUMENT, EINVAL);
    }
    MUST(close(accepted));
    MUST(close(client));
    MUST(close(fd));
    end_by_hand(made);
}

/* The longest timeouts do not overflow into the past. */
static void longest_timeouts(void)
{
    char text[8] = "";
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    int client = client_connect(oyez_local_port(fd));
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, INT_MAX));
    client_send_text(client, "x");
    CHECK_EQ_INT(oyez_read(accepted, text, sizeof text, INT_MAX), 1);
    CHECK_EQ_INT(oyez_write(accepted, text, 1, INT_MAX), 1);
    MUST(close(accepted));
    MUST(close(client));
    MUST(close(fd));
}

/* Sizes that no memory has: bounded by what there is, or refused; never a crash. */
static void huge_sizes(void)
{
    char text[128] = "";
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    int client = client_connect(oyez_local_port(fd));
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
    by_hand made = connect_by_hand();
    client_send_text(client, "abc");
    client_send_text(made.client, "abc\n");
    CHECK(client_readable(accepted, 10000));
    ssize_t count = oyez_read(accepted, text, SIZE_MAX, 1000);
    CHECK(count == 3 || (count == -1 && oyez_error_code(NULL) == OYEZ_INVALID_ARGUMENT));
    count = oyez_conn_read(made.connection, text, SIZE_MAX);
    CHECK(count == 4 || (count == -1 && oyez_error_code(NULL) == OYEZ_INVALID_ARGUMENT));
    CHECK_EQ_INT(oyez_write(accepted, text, SIZE_MAX, 0), -1);
    CHECK_EQ_INT(oyez_conn_write(made.connection, text, SIZE_MAX), -1);
    int length = oyez_local_address(fd, text, SIZE_MAX);
    CHECK(length == (int)strlen(text) || (length == -1 && oyez_error_code(NULL) == OYEZ_INVALID_ARGUMENT));
    CHECK_EQ_INT(oyez_conn_abort(made.connection), 0);
    MUST(close(made.client));
    CHECK_WORKS(oyez_server_close(made.server));
    MUST(close(accepted));
    MUST(close(client));
    MUST(close(fd));
}

/* Handles. */

static void check_no_server(oyez_server server)
{
    oyez_conn connection = 0;
    oyez_stats stats = OYEZ_STATS_INIT;
    CHECK_FAILS(oyez_server_listen(server, "127.0.0.1:0", NULL), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_adopt(server, 0), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_run(server), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_start(server), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_wait(server, -1), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_pause(server), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_resume(server), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_stop(server, 0), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_stats(server, &stats), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_accept(server, &connection, -1), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_poll_fd(server), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_close(server), OYEZ_CLOSED, ANY_ERRNO);
}

static void check_no_connection(oyez_conn connection)
{
    char text[8];
    CHECK_FAILS(oyez_conn_fd(connection), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_peer(connection, text, sizeof text), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_local(connection, text, sizeof text), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_read(connection, text, sizeof text), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_read_line(connection, text, sizeof text), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_write(connection, text, sizeof text), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_set_user(connection, text), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_set_timeout(connection, 5), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_detach(connection), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_abort(connection), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_close(connection), OYEZ_CLOSED, ANY_ERRNO);
    errno = 0;
    CHECK(oyez_conn_user(connection) == NULL);
    expect_keep();
    CHECK_ERROR(OYEZ_CLOSED, ANY_ERRNO);
}

static void *check_no_handles(void *argument)
{
    by_hand *made = argument;
    check_no_server(made->server);
    check_no_connection(made->connection);
    return NULL;
}

static void handles_that_are_gone(void)
{
    by_hand made = connect_by_hand();
    CHECK_WORKS(oyez_conn_close(made.connection));
    check_no_connection(made.connection);
    MUST(close(made.client));
    CHECK_WORKS(oyez_server_close(made.server));
    check_no_handles(&made);
    check_thread_join(check_thread(check_no_handles, &made));
}

static void handles_that_never_were(void)
{
    by_hand made = connect_by_hand(); /* so that something is there to be mistaken */
    const int servers[] = { 0, -1, 2, 255, 65536, INT_MAX, INT_MIN, made.server + 1, -made.server };
    const oyez_conn connections[] = {
        0, 1, 2, 255, 65536, UINT64_MAX, UINT64_MAX / 2, 1ull << 63, made.connection + 1, made.connection - 1,
        made.connection ^ 1ull << 32, made.connection ^ 1ull << 63, (uint32_t)made.connection, ~made.connection,
    };
    for (size_t i = 0; i < sizeof servers / sizeof servers[0]; i++)
        if (servers[i] != made.server)
            check_no_server(servers[i]);
    for (size_t i = 0; i < sizeof connections / sizeof connections[0]; i++)
        if (connections[i] != made.connection)
            check_no_connection(connections[i]);
    client_send_text(made.client, "still there\n");
    char line[20];
    CHECK_EQ_INT(oyez_conn_read_line(made.connection, line, sizeof line), 11);
    end_by_hand(made);
}

static void numbers_of_servers_are_not_used_twice(void)
{
    enum { SERVERS = 300 };
    static oyez_server all[SERVERS];
    for (int i = 0; i < SERVERS; i++) {
        all[i] = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
        CHECK(all[i] > 0);
        for (int j = 0; j < i; j++)
            CHECK(all[j] != all[i]);
        CHECK_WORKS(oyez_server_close(all[i]));
        CHECK_FAILS(oyez_server_close(all[i / 2]), OYEZ_CLOSED, ANY_ERRNO);
    }
}

/* More servers than there may be at once: an error, and all can be given back. */
static void too_many_servers(void)
{
    static oyez_server all[3000];
    int count = 0;
    while (count < 3000 && (all[count] = oyez_server_new(serve_hello, NULL, NULL)) > 0)
        count++;
    expect_keep();
    if (count < 3000)
        CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_LIMIT_REACHED);
    CHECK(count >= 100);
    while (count > 0)
        CHECK_WORKS(oyez_server_close(all[--count]));
    oyez_server again = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    CHECK_WORKS(oyez_server_close(again));
}

static const check_case cases[] = {
    CASE(null_for_every_pointer),
    CASE(null_for_every_pointer_of_servers),
    CASE(sizes_of_a_line),
    CASE(wrong_sizes),
    CASE(older_structs),
    CASE(newer_structs),
    CASE(stats_of_every_size),
    CASE(options_out_of_range),
    CASE(negative_timeouts),
    CASE(longest_timeouts),
    CASE(huge_sizes),
    CASE(handles_that_are_gone),
    CASE(handles_that_never_were),
    CASE(numbers_of_servers_are_not_used_twice),
    CASE(too_many_servers),
};

CHECK_MAIN(cases)
