/* Accepting by hand: oyez_server_accept, oyez_server_poll_fd and oyez_server_adopt. */
#define _GNU_SOURCE
#include "clients.h"
#include "places.h"
#include "serving.h"
#include "storm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static served by_hand(const char *addresses)
{
    return serve_at(addresses, NULL, NULL, NULL);
}

static void accepting(void)
{
    char peer[64];
    char expected[64];
    oyez_conn connection = 0;
    served server = by_hand("127.0.0.1:0");
    int client = client_connect(server.port);
    int fd = (int)CHECK_WORKS(oyez_server_accept(server.id, &connection, -1));
    CHECK(connection != 0);
    CHECK(fd > 2);
    CHECK_EQ_INT(fd, oyez_conn_fd(connection));
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFD)), FD_CLOEXEC);
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFL)) & O_NONBLOCK, 0);
    CHECK_WORKS(oyez_conn_peer(connection, peer, sizeof peer));
    snprintf(expected, sizeof expected, "127.0.0.1:%d", client_own_port(client));
    CHECK_STR_EQ(peer, expected);
    CHECK_EQ_INT(serve_stats(server).accepted, 1);
    CHECK_EQ_INT(serve_stats(server).active, 1);
    MUST(write(fd, "plain", 5));
    client_expect(client, "plain");
    CHECK_WORKS(oyez_conn_close(connection));
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK_WORKS(oyez_server_close(server.id));
}

static void owning_it(void)
{
    oyez_conn connection;
    served server = by_hand("127.0.0.1:0");
    int client = client_connect(server.port);
    int fd = (int)CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
    CHECK_EQ_INT(CHECK_WORKS(oyez_conn_detach(connection)), fd);
    CHECK_FAILS(oyez_conn_fd(connection), OYEZ_CLOSED, ANY_ERRNO);
    CHECK_EQ_INT(serve_stats(server).active, 0);
    CHECK_WORKS(oyez_server_close(server.id));
    client_send_text(client, "mine");
    client_expect(fd, "mine");
    MUST(close(fd));
    MUST(close(client));
}

static void timeouts(void)
{
    oyez_conn connection = 77;
    served server = by_hand("127.0.0.1:0");
    long long start = check_now_ms();
    CHECK_FAILS(oyez_server_accept(server.id, &connection, 0), OYEZ_TIMED_OUT, EAGAIN);
    CHECK_TOOK(start, 0, 500);
    start = check_now_ms();
    CHECK_FAILS(oyez_server_accept(server.id, &connection, 150), OYEZ_TIMED_OUT, EAGAIN);
    CHECK_TOOK(start, 149, 2000);
    storm_start();
    start = check_now_ms();
    CHECK_FAILS(oyez_server_accept(server.id, &connection, 200), OYEZ_TIMED_OUT, EAGAIN);
    CHECK_TOOK(start, 199, 2000);
    storm_end();
    CHECK_EQ_INT(connection, 77);
    CHECK_WORKS(oyez_server_close(server.id));
}

static void from_whichever_listener(void)
{
    char list[250];
    char path[180];
    char local[256];
    oyez_conn connection;
    snprintf(path, sizeof path, "%s/a.sock", check_folder());
    snprintf(list, sizeof list, "unix:%s,127.0.0.1:0", path);
    served server = by_hand(list);
    int later = (int)CHECK_WORKS(oyez_server_listen(server.id, "127.0.0.1:0", NULL));
    int clients[3] = { client_connect_unix(path), client_connect(server.port),
                       client_connect(oyez_local_port(later)) };
    int unix_ones = 0;
    for (int i = 0; i < 3; i++) {
        CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
        CHECK_WORKS(oyez_conn_local(connection, local, sizeof local));
        unix_ones += strncmp(local, "unix:", 5) == 0;
        CHECK_WORKS(oyez_conn_close(connection));
    }
    CHECK_EQ_INT(unix_ones, 1);
    CHECK_EQ_INT(serve_stats(server).listeners, 3);
    for (int i = 0; i < 3; i++)
        MUST(close(clients[i]));
    CHECK_WORKS(oyez_server_close(server.id));
    CHECK_EQ_INT(access(path, F_OK), -1);
}

static int readable(int fd, int ms)
{
    struct pollfd wait = { fd, POLLIN, 0 };
    return MUST(poll(&wait, 1, ms)) == 1;
}

/* Until there is nothing left to tidy up. */
static void check_becomes_quiet(oyez_server server, int fd)
{
    oyez_conn connection;
    for (int i = 0; readable(fd, 50); i++) {
        CHECK(i < 10);
        CHECK_FAILS(oyez_server_accept(server, &connection, 0), OYEZ_TIMED_OUT, EAGAIN);
    }
}

/* A loop of one's own: readable while somebody waits, and not when nobody does. */
static void one_descriptor_to_poll(void)
{
    oyez_conn connection;
    served server = by_hand("127.0.0.1:0,127.0.0.1:0");
    int fd = (int)CHECK_WORKS(oyez_server_poll_fd(server.id));
    CHECK_EQ_INT(CHECK_WORKS(oyez_server_poll_fd(server.id)), fd);
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFD)), FD_CLOEXEC);
    check_becomes_quiet(server.id, fd);
    for (int i = 0; i < 20; i++) {
        int client = client_connect(server.port);
        CHECK(readable(fd, 10000));
        CHECK_WORKS(oyez_server_accept(server.id, &connection, 0));
        client_send_text(client, "x");
        client_expect(oyez_conn_fd(connection), "x");
        CHECK_WORKS(oyez_conn_abort(connection));
        MUST(close(client));
    }
    check_becomes_quiet(server.id, fd);
    CHECK_WORKS(oyez_server_close(server.id));
}

static void in_an_epoll_loop(void)
{
    struct epoll_event event = { .events = EPOLLIN };
    oyez_conn connection;
    int clients[50];
    int served_clients = 0;
    served server = by_hand("127.0.0.1:0");
    int loop = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    MUST(epoll_ctl(loop, EPOLL_CTL_ADD, (int)CHECK_WORKS(oyez_server_poll_fd(server.id)), &event));
    for (int i = 0; i < 50; i++)
        clients[i] = client_connect(server.port);
    while (served_clients < 50) {
        CHECK_EQ_INT(MUST(epoll_wait(loop, &event, 1, 10000)), 1);
        if (oyez_server_accept(server.id, &connection, 0) == -1)
            continue;
        CHECK_EQ_INT(oyez_conn_write(connection, "hello\n", 6), 6);
        CHECK_WORKS(oyez_conn_close(connection));
        served_clients++;
    }
    for (int i = 0; i < 50; i++) {
        client_expect(clients[i], "hello\n");
        CHECK_EQ_INT(client_ending(clients[i]), 0);
        MUST(close(clients[i]));
    }
    MUST(close(loop));
    CHECK_WORKS(oyez_server_close(server.id));
}

/* Threads that wait at the same server. */

static oyez_server shared_server;
static int accepted_by_all;

static void *accept_until_stopped(void *unused)
{
    oyez_conn connection;
    (void)unused;
    while (oyez_server_accept(shared_server, &connection, -1) != -1) {
        __atomic_add_fetch(&accepted_by_all, 1, __ATOMIC_SEQ_CST);
        oyez_conn_write(connection, "hello\n", 6);
        CHECK_WORKS(oyez_conn_close(connection));
    }
    expect_keep();
    CHECK_ERROR(OYEZ_STOPPED, ANY_ERRNO);
    return NULL;
}

static void several_threads_accept(void)
{
    pthread_t threads[5];
    served server = by_hand("127.0.0.1:0");
    shared_server = server.id;
    for (int i = 0; i < 5; i++)
        threads[i] = check_thread(accept_until_stopped, NULL);
    for (int i = 0; i < 500; i++) {
        int client = client_connect(server.port);
        client_expect(client, "hello\n");
        MUST(close(client));
    }
    CHECK_WORKS(oyez_server_stop(server.id, -1));
    for (int i = 0; i < 5; i++)
        check_thread_join(threads[i]);
    CHECK_EQ_INT(accepted_by_all, 500);
    CHECK_WORKS(oyez_server_close(server.id));
}

/* Stopped: those who are queued are still handed out, then it is over. */
static void stopping(void)
{
    int clients[10];
    oyez_conn connection;
    served server = by_hand("127.0.0.1:0");
    for (int i = 0; i < 10; i++)
        clients[i] = client_connect(server.port);
    CHECK_WORKS(oyez_server_stop(server.id, -1));
    for (int i = 0; i < 10; i++) {
        CHECK_WORKS(oyez_server_accept(server.id, &connection, 1000));
        CHECK_EQ_INT(oyez_conn_write(connection, "hello\n", 6), 6);
        CHECK_WORKS(oyez_conn_close(connection));
    }
    CHECK_FAILS(oyez_server_accept(server.id, &connection, -1), OYEZ_STOPPED, ANY_ERRNO);
    CHECK(client_try(server.port) == -1 && errno == ECONNREFUSED);
    for (int i = 0; i < 10; i++) {
        client_expect(clients[i], "hello\n");
        CHECK_EQ_INT(client_ending(clients[i]), 0);
        MUST(close(clients[i]));
    }
    CHECK_WORKS(oyez_server_close(server.id));
}

/* The stop itself wakes who polls. */
static void a_stop_is_seen_in_a_loop(void)
{
    oyez_conn connection;
    served server = by_hand("127.0.0.1:0");
    int fd = (int)CHECK_WORKS(oyez_server_poll_fd(server.id));
    check_becomes_quiet(server.id, fd);
    CHECK_WORKS(oyez_server_stop(server.id, 0));
    CHECK(readable(fd, 5000));
    CHECK_FAILS(oyez_server_accept(server.id, &connection, 0), OYEZ_STOPPED, ANY_ERRNO);
    CHECK_WORKS(oyez_server_close(server.id));
}

/* Closing a server ends the connections that it still has. */
static void closing_with_connections_open(void)
{
    oyez_conn connection;
    char byte;
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.drain_ms = 100;
    served server = serve_at("127.0.0.1:0", NULL, NULL, &options);
    int client = client_connect(server.port);
    CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
    long long start = check_now_ms();
    CHECK_WORKS(oyez_server_close(server.id));
    CHECK_TOOK(start, 0, 3000);
    CHECK_EQ_INT(client_ending(client), ECONNRESET);
    CHECK_EQ_INT(oyez_conn_read(connection, &byte, 1), -1);
    CHECK(oyez_error_code(NULL) == OYEZ_CLOSED || oyez_error_code(NULL) == OYEZ_STOPPED);
    MUST(close(client));
}

static void pausing(void)
{
    oyez_conn connection;
    served server = by_hand("127.0.0.1:0");
    CHECK_WORKS(oyez_server_pause(server.id));
    int client = client_connect(server.port);
    CHECK_FAILS(oyez_server_accept(server.id, &connection, 150), OYEZ_TIMED_OUT, EAGAIN);
    CHECK(!readable((int)CHECK_WORKS(oyez_server_poll_fd(server.id)), 50)
          || oyez_server_accept(server.id, &connection, 0) == -1);
    CHECK_WORKS(oyez_server_resume(server.id));
    CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
    CHECK_WORKS(oyez_conn_close(connection));
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(server.id));
}

static void out_of_descriptors(void)
{
    oyez_conn connection;
    served server = by_hand("127.0.0.1:0");
    int client = client_connect(server.port);
    int before = place_descriptors_left(0);
    CHECK_FAILS(oyez_server_accept(server.id, &connection, 0), OYEZ_LIMIT_REACHED, EMFILE);
    long long start = check_now_ms();
    long cpu = check_cpu_ms();
    CHECK_FAILS(oyez_server_accept(server.id, &connection, 500), OYEZ_LIMIT_REACHED, EMFILE);
    CHECK_TOOK(start, 400, 3000);
    CHECK(check_cpu_ms() - cpu < 100);
    place_descriptor_limit(before);
    int fd = (int)CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
    client_send_text(client, "waited");
    client_expect(fd, "waited");
    CHECK_WORKS(oyez_conn_close(connection));
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(server.id));
}

static void with_a_handler_there_is_nothing_by_hand(void)
{
    oyez_conn connection;
    served server = serve(serve_hello, NULL, NULL);
    CHECK_FAILS(oyez_server_accept(server.id, &connection, 0), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_server_poll_fd(server.id), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    serve_end(server);
    oyez_server nowhere = (oyez_server)CHECK_WORKS(oyez_server_new(NULL, NULL, NULL));
    CHECK_FAILS(oyez_server_accept(nowhere, &connection, -1), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_WORKS(oyez_server_close(nowhere));
}

/* Adopting. */

static void adopting_a_listener(void)
{
    int listener = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    int copy = (int)MUST(dup(listener));
    int port = oyez_local_port(listener);
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    MUST(fcntl(listener, F_SETFD, 0));
    CHECK_EQ_INT(CHECK_WORKS(oyez_server_adopt(server, listener)), listener);
    CHECK_EQ_INT(MUST(fcntl(listener, F_GETFD)), FD_CLOEXEC);
    CHECK_EQ_INT(MUST(fcntl(listener, F_GETFL)) & O_NONBLOCK, O_NONBLOCK);
    CHECK_FAILS(oyez_server_adopt(server, listener), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_WORKS(oyez_server_start(server));
    int client = client_connect(port);
    client_expect(client, "hello\n");
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(server));
    CHECK_EQ_INT(fcntl(listener, F_GETFD), -1);
    /* Whoever has another copy goes on with it. */
    client = client_connect(port);
    int fd = (int)CHECK_WORKS(oyez_accept(copy, NULL, 0, 10000));
    client_send_text(client, "copy");
    client_expect(fd, "copy");
    MUST(close(fd));
    MUST(close(client));
    MUST(close(copy));
}

static void what_is_no_listener_stays_the_callers(void)
{
    int pipes[2];
    MUST(pipe2(pipes, O_CLOEXEC));
    int plain = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int datagrams = (int)CHECK_WORKS(oyez_listen("udp:127.0.0.1:0", NULL));
    int flags = (int)MUST(fcntl(pipes[0], F_GETFL));
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    CHECK_FAILS(oyez_server_adopt(server, pipes[0]), OYEZ_INVALID_ARGUMENT, ENOTSOCK);
    CHECK_FAILS(oyez_server_adopt(server, plain), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_server_adopt(server, datagrams), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_server_adopt(server, -1), OYEZ_INVALID_ARGUMENT, EBADF);
    CHECK_FAILS(oyez_server_adopt(server, 999), OYEZ_INVALID_ARGUMENT, EBADF);
    CHECK_EQ_INT(MUST(fcntl(pipes[0], F_GETFL)), flags);
    CHECK_WORKS(oyez_server_close(server));
    MUST(close(plain));
    MUST(close(datagrams));
    MUST(close(pipes[0]));
    MUST(close(pipes[1]));
}

static void the_file_of_an_adopted_listener_stays(void)
{
    char address[200];
    snprintf(address, sizeof address, "unix:%s/a.sock", check_folder());
    int listener = (int)CHECK_WORKS(oyez_listen(address, NULL));
    int passed = (int)MUST(dup(listener));
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(NULL, NULL, NULL));
    CHECK_WORKS(oyez_server_adopt(server, passed));
    CHECK_WORKS(oyez_server_close(server));
    CHECK_EQ_INT(access(address + 5, F_OK), 0);
    MUST(close(client_connect_unix(address + 5)));
    CHECK_WORKS(oyez_unlisten(listener));
}

/* Many by hand, none astray. */
static void thousands_in_a_row(void)
{
    long memory = 0;
    served server = by_hand("127.0.0.1:0");
    for (int i = 0; i < 5000; i++) {
        oyez_conn connection;
        int client = client_connect(server.port);
        CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
        MUST(close(client));
        CHECK_WORKS(oyez_conn_close(connection));
        if (i == 1000)
            memory = check_memory();
    }
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK(check_memory() - memory < 2000);
    CHECK_EQ_INT(serve_stats(server).accepted, 5000);
    CHECK_WORKS(oyez_server_close(server.id));
}

static const check_case cases[] = {
    CASE(accepting),
    CASE(owning_it),
    CASE(timeouts),
    CASE(from_whichever_listener),
    CASE(one_descriptor_to_poll),
    CASE(in_an_epoll_loop),
    CASE(several_threads_accept),
    CASE(stopping),
    CASE(a_stop_is_seen_in_a_loop),
    CASE(closing_with_connections_open),
    CASE(pausing),
    CASE(out_of_descriptors),
    CASE(with_a_handler_there_is_nothing_by_hand),
    CASE(adopting_a_listener),
    CASE(what_is_no_listener_stays_the_callers),
    CASE(the_file_of_an_adopted_listener_stays),
    CASE(thousands_in_a_row),
};

CHECK_MAIN(cases)
