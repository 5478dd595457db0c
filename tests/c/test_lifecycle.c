/* The life of a server: run, wait, close, pause and resume, in every order. */
#define _GNU_SOURCE
#include "clients.h"
#include "models.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const int models[] = { OYEZ_THREADS, OYEZ_SEQUENTIAL, OYEZ_PROCESSES };

static void without_a_listener(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, &options));
        CHECK_FAILS(oyez_server_run(server), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
        CHECK(oyez_error_hint(NULL)[0] != '\0' || strstr(oyez_error_message(NULL), "listen") != NULL);
        CHECK_FAILS(oyez_server_start(server), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
        /* It is as good as new. */
        int listener = (int)CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
        CHECK_WORKS(oyez_server_start(server));
        int client = client_connect(oyez_local_port(listener));
        client_expect(client, "hello\n");
        MUST(close(client));
        CHECK_WORKS(oyez_server_close(server));
    }
}

static void without_a_handler(void)
{
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(NULL, NULL, NULL));
    CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
    CHECK_FAILS(oyez_server_run(server), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_server_start(server), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_WORKS(oyez_server_close(server));
}

static void once_at_a_time(void)
{
    served server = serve(serve_hello, NULL, NULL);
    CHECK_FAILS(oyez_server_run(server.id), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_FAILS(oyez_server_start(server.id), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_WORKS(oyez_server_stop(server.id, -1));
    CHECK_WORKS(oyez_server_wait(server.id, 10000));
    CHECK_FAILS(oyez_server_run(server.id), OYEZ_STOPPED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_start(server.id), OYEZ_STOPPED, ANY_ERRNO);
    CHECK_FAILS(oyez_server_listen(server.id, "127.0.0.1:0", NULL), OYEZ_STOPPED, ANY_ERRNO);
    int listener = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    CHECK_FAILS(oyez_server_adopt(server.id, listener), OYEZ_STOPPED, ANY_ERRNO);
    MUST(close(listener));
    CHECK_WORKS(oyez_server_close(server.id));
}

static void stopped_before_it_ran(void)
{
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
    CHECK_WORKS(oyez_server_stop(server, 1000));
    long long start = check_now_ms();
    int result = oyez_server_run(server); /* refused, or over at once */
    CHECK(result == 0 || oyez_error_code(NULL) == OYEZ_STOPPED);
    CHECK_TOOK(start, 0, 5000);
    CHECK_WORKS(oyez_server_close(server));
}

static void waiting(void)
{
    oyez_server fresh = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    CHECK_FAILS(oyez_server_wait(fresh, -1), OYEZ_INVALID_ARGUMENT, ANY_ERRNO); /* it would be for ever */
    CHECK_WORKS(oyez_server_close(fresh));
    served server = serve(serve_hello, NULL, NULL);
    long long start = check_now_ms();
    CHECK_FAILS(oyez_server_wait(server.id, 0), OYEZ_TIMED_OUT, EAGAIN);
    CHECK_TOOK(start, 0, 500);
    start = check_now_ms();
    CHECK_FAILS(oyez_server_wait(server.id, 120), OYEZ_TIMED_OUT, EAGAIN);
    CHECK_TOOK(start, 119, 2000);
    CHECK_WORKS(oyez_server_stop(server.id, -1));
    for (int i = 0; i < 3; i++)
        CHECK_EQ_INT(CHECK_WORKS(oyez_server_wait(server.id, i == 0 ? -1 : 0)), 0);
    CHECK_WORKS(oyez_server_stop(server.id, -1)); /* to stop what has stopped is no error */
    CHECK_WORKS(oyez_server_close(server.id));
}

static void *wait_for_the_end(void *server)
{
    int result = oyez_server_wait(*(oyez_server *)server, 20000);
    CHECK(result == 0 || oyez_error_code(NULL) == OYEZ_CLOSED);
    return NULL;
}

/* Whoever waits gets an end, also when another thread closes the server meanwhile. */
static void closing_while_others_wait(void)
{
    for (int m = 0; m < 3; m++) {
        pthread_t threads[4];
        oyez_server_options options = serve_options(models[m]);
        served server = serve(serve_hello, NULL, &options);
        for (int i = 0; i < 4; i++)
            threads[i] = check_thread(wait_for_the_end, &server.id);
        check_nap(30);
        long long start = check_now_ms();
        CHECK_WORKS(oyez_server_close(server.id));
        for (int i = 0; i < 4; i++)
            check_thread_join(threads[i]);
        CHECK_TOOK(start, 0, 5000);
    }
}

/* Of many that close the same server one succeeds. */
static int closed;

static void *close_once(void *server)
{
    if (oyez_server_close(*(oyez_server *)server) == 0)
        __atomic_add_fetch(&closed, 1, __ATOMIC_SEQ_CST);
    else
        CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_CLOSED);
    return NULL;
}

static void closing_from_many_threads(void)
{
    for (int round = 0; round < 30; round++) {
        pthread_t threads[6];
        served server = serve(serve_hello, NULL, NULL);
        closed = 0;
        for (int i = 0; i < 6; i++)
            threads[i] = check_thread(close_once, &server.id);
        for (int i = 0; i < 6; i++)
            check_thread_join(threads[i]);
        CHECK_EQ_INT(closed, 1);
    }
}

/* A server that runs is stopped first, with its own drain time. */
static void closing_a_server_that_serves(void)
{
    gate at = gate_make();
    oyez_server_options options = serve_options(OYEZ_THREADS);
    options.drain_ms = -1;
    served server = serve(serve_hello_behind_gate, &at, &options);
    int client = client_connect(server.port);
    gate_await(&at, 1);
    pthread_t thread = check_thread(close_once, &server.id);
    CHECK(!client_readable(client, 100));
    gate_open(&at);
    client_expect(client, "hello\n");
    CHECK_EQ_INT(client_ending(client), 0);
    check_thread_join(thread);
    MUST(close(client));
    gate_end(&at);
}

static void wait_in_vain(oyez_conn connection, void *user)
{
    char byte;
    oyez_conn_read(connection, &byte, 1);
    (void)user;
}

static void closing_cuts_after_the_drain_time(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        options.drain_ms = 150;
        served server = serve(wait_in_vain, NULL, &options);
        int client = client_connect(server.port);
        CHECK_SOON(serve_stats(server).active == 1);
        long long start = check_now_ms();
        CHECK_WORKS(oyez_server_close(server.id));
        CHECK_TOOK(start, 149, 5000);
        CHECK_EQ_INT(client_ending(client), ECONNRESET);
        MUST(close(client));
    }
}

/* From inside a handler. */

static int closes;

static int is_open(int port)
{
    int client = client_try(port);
    return client != -1 && close(client) == 0;
}

static void close_own_server(oyez_conn connection, void *user)
{
    if (__atomic_exchange_n(&closes, 0, __ATOMIC_SEQ_CST) == 0)
        return; /* somebody who came before the listener was closed */
    oyez_server server = *(oyez_server *)user;
    CHECK_FAILS(oyez_server_wait(server, -1), OYEZ_INVALID_ARGUMENT, EDEADLK);
    CHECK_WORKS(oyez_server_close(server));
    CHECK_FAILS(oyez_server_close(server), OYEZ_CLOSED, ANY_ERRNO);
    serve_hello(connection, NULL); /* the connection goes on */
}

static void closing_from_a_handler(void)
{
    for (int m = 0; m < 2; m++) {
        oyez_server server = 0;
        oyez_server_options options = serve_options(models[m]);
        closes = 1;
        server = (oyez_server)CHECK_WORKS(oyez_server_new(close_own_server, &server, &options));
        int listener = (int)CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
        int port = oyez_local_port(listener);
        CHECK_WORKS(oyez_server_start(server));
        int client = client_connect(port);
        client_expect(client, "hello\n");
        CHECK_EQ_INT(client_ending(client), 0);
        MUST(close(client));
        CHECK_SOON(!is_open(port));
    }
}

static void closing_from_a_handler_while_running_here(void)
{
    for (int m = 0; m < 2; m++) {
        oyez_server server = 0;
        oyez_server_options options = serve_options(models[m]);
        closes = 1;
        server = (oyez_server)CHECK_WORKS(oyez_server_new(close_own_server, &server, &options));
        int listener = (int)CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
        int client = client_connect(oyez_local_port(listener));
        CHECK_EQ_INT(CHECK_WORKS(oyez_server_run(server)), 0);
        client_expect(client, "hello\n");
        MUST(close(client));
        CHECK_FAILS(oyez_server_close(server), OYEZ_CLOSED, ANY_ERRNO);
    }
}

/* A handler may use other servers as it likes. */
static void serve_inside(oyez_conn connection, void *unused)
{
    (void)unused;
    served inner = serve(serve_hello, NULL, NULL);
    int client = client_connect(inner.port);
    client_expect(client, "hello\n");
    MUST(close(client));
    serve_end(inner);
    serve_hello(connection, NULL);
}

static void a_server_inside_a_handler(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        served server = serve(serve_inside, NULL, &options);
        int client = client_connect(server.port);
        client_expect(client, "hello\n");
        CHECK_EQ_INT(client_ending(client), 0);
        MUST(close(client));
        CHECK_SOON(serve_stats(server).active == 0);
        CHECK_EQ_INT(serve_stats(server).handler_failures, 0);
        serve_end(server);
    }
}

static void pausing(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        served server = serve(serve_echo, NULL, &options);
        int before = client_connect(server.port);
        client_send_text(before, "one");
        client_expect(before, "one");
        if (models[m] == OYEZ_SEQUENTIAL) {
            MUST(shutdown(before, SHUT_WR));
            CHECK_EQ_INT(client_ending(before), 0);
            CHECK_SOON(serve_stats(server).active == 0);
        }
        CHECK_WORKS(oyez_server_pause(server.id));
        CHECK_WORKS(oyez_server_pause(server.id));
        int waits = client_connect(server.port); /* the kernel connects it */
        client_send_text(waits, "two");
        CHECK(!client_readable(waits, 200));
        CHECK_EQ_INT(serve_stats(server).accepted, 1);
        CHECK_EQ_INT(serve_stats(server).queue, 1);
        if (models[m] != OYEZ_SEQUENTIAL) { /* what was there goes on */
            client_send_text(before, "three");
            client_expect(before, "three");
        }
        CHECK_WORKS(oyez_server_resume(server.id));
        CHECK_WORKS(oyez_server_resume(server.id));
        client_expect(waits, "two");
        client_close(before);
        client_close(waits);
        CHECK_SOON(serve_stats(server).active == 0);
        serve_end(server);
    }
}

static void a_paused_server_does_nothing(void)
{
    served server = serve(serve_hello, NULL, NULL);
    CHECK_WORKS(oyez_server_pause(server.id));
    int client = client_connect(server.port);
    check_nap(50);
    long cpu = check_cpu_ms();
    check_nap(500);
    CHECK(check_cpu_ms() - cpu < 100);
    CHECK_WORKS(oyez_server_stop(server.id, -1)); /* whoever is connected is served, paused or not */
    client_expect(client, "hello\n");
    CHECK_EQ_INT(client_ending(client), 0);
    CHECK_WORKS(oyez_server_wait(server.id, 10000));
    CHECK_WORKS(oyez_server_close(server.id));
    MUST(close(client));
}

static void an_idle_server_costs_nothing(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        served server = serve(serve_echo, NULL, &options);
        int client = client_connect(server.port);
        client_send_text(client, "x");
        client_expect(client, "x");
        long cpu = check_cpu_ms();
        check_nap(300);
        CHECK(check_cpu_ms() - cpu < 50);
        client_close(client);
        serve_end(server);
    }
}

/* A server that was never started gives everything back, with clients in its queue and all. */
static void closing_what_never_ran(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, &options));
        int listener = (int)CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0,127.0.0.1:0", NULL));
        int client = client_connect(oyez_local_port(listener));
        long long start = check_now_ms();
        CHECK_WORKS(oyez_server_close(server));
        CHECK_TOOK(start, 0, 2000);
        MUST(close(client));
    }
}

/* exit(3) in a handler, while others are served and lines are read: the process ends, and does not hang. */
static void exit_inside(oyez_conn connection, void *unused)
{
    char line[8];
    (void)unused;
    if (oyez_conn_read_line(connection, line, sizeof line) == 4)
        exit(0);
}

static void serve_until_exit(void *path)
{
    char address[200];
    snprintf(address, sizeof address, "unix:%s", (const char *)path);
    oyez_serve(address, exit_inside, NULL, NULL);
    CHECK(!"reached");
}

static void a_handler_that_exits(void)
{
    char path[180];
    snprintf(path, sizeof path, "%s/a.sock", check_folder());
    for (int round = 0; round < 10; round++) {
        int clients[5];
        pid_t child = check_fork(serve_until_exit, path);
        for (int i = 0; i < 5; i++)
            CHECK_SOON((clients[i] = client_try_unix(path)) != -1);
        client_send_text(clients[2], "exit\n");
        check_join(child);
        for (int i = 0; i < 5; i++)
            MUST(close(clients[i]));
    }
}

static const check_case cases[] = {
    CASE(without_a_listener),
    CASE(without_a_handler),
    CASE(once_at_a_time),
    CASE(stopped_before_it_ran),
    CASE(waiting),
    CASE(closing_while_others_wait),
    CASE(closing_from_many_threads),
    CASE(closing_a_server_that_serves),
    CASE(closing_cuts_after_the_drain_time),
    CASE(closing_from_a_handler),
    CASE(closing_from_a_handler_while_running_here),
    CASE(a_server_inside_a_handler),
    CASE(pausing),
    CASE(a_paused_server_does_nothing),
    CASE(an_idle_server_costs_nothing),
    CASE(closing_what_never_ran),
    CASE(a_handler_that_exits),
};

CHECK_MAIN(cases)
