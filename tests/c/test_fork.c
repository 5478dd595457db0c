/* Children that the program forks: the parent's handles are OYEZ_FORKED there, at once, and all else works. */
#define _GNU_SOURCE
#include "clients.h"
#include "models.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct handles {
    oyez_server server;
    oyez_server running;
    oyez_conn connection;
} handles;

static void check_server_of_the_parent(oyez_server server)
{
    oyez_conn connection = 0;
    oyez_stats stats = OYEZ_STATS_INIT;
    CHECK_FAILS(oyez_server_listen(server, "127.0.0.1:0", NULL), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_adopt(server, 0), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_run(server), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_start(server), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_wait(server, -1), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_pause(server), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_resume(server), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_stop(server, 0), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_stats(server, &stats), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_accept(server, &connection, -1), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_poll_fd(server), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_close(server), OYEZ_FORKED, ANY_ERRNO);
}

static void check_connection_of_the_parent(oyez_conn connection)
{
    char text[8] = "";
    CHECK_FAILS(oyez_conn_fd(connection), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_peer(connection, text, sizeof text), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_local(connection, text, sizeof text), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_read(connection, text, sizeof text), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_read_line(connection, text, sizeof text), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_write(connection, text, sizeof text), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_set_user(connection, text), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_set_timeout(connection, 5), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_detach(connection), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_abort(connection), OYEZ_FORKED, ANY_ERRNO);
    CHECK_FAILS(oyez_conn_close(connection), OYEZ_FORKED, ANY_ERRNO);
    errno = 0;
    CHECK(oyez_conn_user(connection) == NULL);
    expect_keep();
    CHECK_ERROR(OYEZ_FORKED, ANY_ERRNO);
}

static void check_handles_of_the_parent(void *argument)
{
    const handles *of = argument;
    long long start = check_now_ms();
    check_server_of_the_parent(of->server);
    check_server_of_the_parent(of->running);
    check_connection_of_the_parent(of->connection);
    CHECK_TOOK(start, 0, 3000);
}

static void check_as_grandchild(void *argument)
{
    check_join(check_fork(check_handles_of_the_parent, argument));
    check_handles_of_the_parent(argument);
}

static void the_parents_handles(void)
{
    handles of;
    served by_hand = serve(NULL, NULL, NULL);
    served running = serve(serve_echo, NULL, NULL);
    int client = client_connect(by_hand.port);
    of.server = by_hand.id;
    of.running = running.id;
    CHECK_WORKS(oyez_server_accept(by_hand.id, &of.connection, 10000));
    for (int i = 0; i < 5; i++)
        check_join(check_fork(check_as_grandchild, &of));
    /* In the parent all is as it was. */
    client_send_text(client, "x\n");
    char line[4];
    CHECK_EQ_INT(oyez_conn_read_line(of.connection, line, sizeof line), 1);
    client_echo_many(running.port, 10, 1000);
    CHECK_WORKS(oyez_conn_close(of.connection));
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(by_hand.id));
    serve_end(running);
}

/* While others hammer the library, whose locks a child would find taken. */

static int hammering = 1;

static void *hammer(void *unused)
{
    char text[200];
    (void)unused;
    while (__atomic_load_n(&hammering, __ATOMIC_SEQ_CST)) {
        oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(NULL, NULL, NULL));
        int listener = (int)CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
        oyez_conn connection;
        int client = client_connect(oyez_local_port(listener));
        CHECK_WORKS(oyez_server_accept(server, &connection, 10000));
        oyez_conn_peer(connection, text, sizeof text);
        oyez_listen("127.0.0.1:99999", NULL);
        oyez_error_text(text, sizeof text);
        CHECK_WORKS(oyez_conn_close(connection));
        MUST(close(client));
        CHECK_WORKS(oyez_server_close(server));
    }
    return NULL;
}

static void serve_in_the_child(void *argument)
{
    check_handles_of_the_parent(argument);
    served server = serve(serve_echo, NULL, NULL);
    client_echo_one_by_one(server.port, 2);
    serve_end(server);
}

static void while_others_hammer(void)
{
    pthread_t threads[4];
    handles of;
    served by_hand = serve(NULL, NULL, NULL);
    served running = serve(serve_echo, NULL, NULL);
    int client = client_connect(by_hand.port);
    of.server = by_hand.id;
    of.running = running.id;
    CHECK_WORKS(oyez_server_accept(by_hand.id, &of.connection, 10000));
    for (int i = 0; i < 4; i++)
        threads[i] = check_thread(hammer, NULL);
    for (int i = 0; i < 200; i++)
        check_join(check_fork(serve_in_the_child, &of));
    __atomic_store_n(&hammering, 0, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 4; i++)
        check_thread_join(threads[i]);
    CHECK_WORKS(oyez_conn_close(of.connection));
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(by_hand.id));
    serve_end(running);
}

/* Servers of the child's own, in each model, and its ids are not the parent's. */
static void serve_every_model(void *parents_server)
{
    for (int model = 0; model < 3; model++) {
        oyez_server_options options = serve_options(model);
        served server = serve(serve_echo, NULL, &options);
        CHECK(server.id != *(oyez_server *)parents_server);
        client_echo_one_by_one(server.port, 3);
        serve_end(server);
    }
    CHECK_FAILS(oyez_server_close(*(oyez_server *)parents_server), OYEZ_FORKED, ANY_ERRNO);
}

static void a_child_has_servers_of_its_own(void)
{
    served server = serve(serve_echo, NULL, NULL);
    client_echo_one_by_one(server.port, 3);
    check_join(check_fork(serve_every_model, &server.id));
    client_echo_one_by_one(server.port, 3);
    serve_end(server);
}

/* A listener is a plain descriptor: parent and child may both accept from it. */
static void accept_one(void *listener)
{
    int fd = (int)CHECK_WORKS(oyez_accept(*(int *)listener, NULL, 0, 10000));
    CHECK_EQ_INT(oyez_write(fd, "child\n", 6, 10000), 6);
    MUST(close(fd));
}

static void a_listener_works_on_in_the_child(void)
{
    int listener = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    pid_t child = check_fork(accept_one, &listener);
    int client = client_connect(oyez_local_port(listener));
    client_expect(client, "child\n");
    MUST(close(client));
    check_join(child);
    MUST(close(listener));
}

/* A child that ends, even by exit(3), closes nothing of its parent's. */
static void end_by_exit(void *unused)
{
    (void)unused;
    oyez_listen("127.0.0.1:99999", NULL);
    exit(0);
}

static void a_child_that_exits(void)
{
    char address[200];
    snprintf(address, sizeof address, "unix:%s/a.sock", check_folder());
    served server = serve_at(address, serve_hello, NULL, NULL);
    for (int i = 0; i < 5; i++)
        check_join(check_fork(end_by_exit, NULL));
    int client = client_connect_unix(address + 5);
    client_expect(client, "hello\n");
    MUST(close(client));
    serve_end(server);
}

/* The child's copies do not hold the parent's clients: what the parent ends, ends for the client. */
static void wait_for_a_byte(void *pipe)
{
    char byte;
    MUST(read(*(int *)pipe, &byte, 1));
}

static void a_child_does_not_hold_the_parents_clients(void)
{
    int pipes[2];
    oyez_conn connection;
    served server = serve(NULL, NULL, NULL);
    MUST(pipe2(pipes, O_CLOEXEC));
    for (int aborts = 0; aborts < 2; aborts++) {
        int client = client_connect(server.port);
        CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
        pid_t child = check_fork(wait_for_a_byte, &pipes[0]);
        CHECK_WORKS(aborts ? oyez_conn_abort(connection) : oyez_conn_close(connection));
        CHECK(client_readable(client, 10000));
        CHECK_EQ_INT(client_ending(client), aborts ? ECONNRESET : 0);
        MUST(write(pipes[1], "x", 1));
        check_join(child);
        MUST(close(client));
    }
    MUST(close(pipes[0]));
    MUST(close(pipes[1]));
    CHECK_WORKS(oyez_server_close(server.id));
}

/* A handler that forks: its connection is the parent's there too. */
static void fork_inside(oyez_conn connection, void *unused)
{
    char answer[20];
    int status = 0;
    (void)unused;
    pid_t child = fork();
    if (child == 0) {
        int forked = oyez_conn_write(connection, "never\n", 6) == -1 && oyez_error_code(NULL) == OYEZ_FORKED;
        _exit(forked ? 7 : 8);
    }
    waitpid(child, &status, 0);
    snprintf(answer, sizeof answer, "%d\n", WEXITSTATUS(status));
    oyez_conn_write(connection, answer, strlen(answer));
}

static void a_handler_that_forks(void)
{
    for (int model = 0; model < 3; model++) {
        oyez_server_options options = serve_options(model);
        served server = serve(fork_inside, NULL, &options);
        int client = client_connect(server.port);
        client_expect(client, "7\n");
        MUST(close(client));
        serve_end(server);
    }
}

/* A daemon: forks after it has listened, and serves in the child what the parent opened. */
static void serve_adopted(void *listener)
{
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_echo, NULL, NULL));
    int port = oyez_local_port(*(int *)listener);
    CHECK_WORKS(oyez_server_adopt(server, *(int *)listener));
    CHECK_WORKS(oyez_server_start(server));
    client_echo_one_by_one(port, 5);
    CHECK_WORKS(oyez_server_close(server));
}

static void a_daemon(void)
{
    int listener = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    check_join(check_fork(serve_adopted, &listener));
    MUST(close(listener));
}

static const check_case cases[] = {
    CASE(the_parents_handles),
    CASE_WITHIN(90, while_others_hammer),
    CASE(a_child_has_servers_of_its_own),
    CASE(a_listener_works_on_in_the_child),
    CASE(a_child_that_exits),
    CASE(a_child_does_not_hold_the_parents_clients),
    CASE(a_handler_that_forks),
    CASE(a_daemon),
};

CHECK_MAIN(cases)
