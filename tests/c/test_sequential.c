/* OYEZ_SEQUENTIAL: one connection at a time, on the thread that runs the server. */
#define _GNU_SOURCE
#include "clients.h"
#include "models.h"

#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void many_at_once(void)
{
    model_many_at_once(OYEZ_SEQUENTIAL);
}

static void thousands_in_a_row(void)
{
    model_many_in_a_row(OYEZ_SEQUENTIAL, 3000);
}

static void plain_write_to_a_reset_peer(void)
{
    model_plain_write_to_a_reset_peer(OYEZ_SEQUENTIAL);
}

static void rude_clients(void)
{
    model_rude_clients(OYEZ_SEQUENTIAL);
}

static void serve_fails_as_a_whole(void)
{
    model_serve_fails_as_a_whole(OYEZ_SEQUENTIAL);
}

static void several_listeners(void)
{
    model_several_listeners(OYEZ_SEQUENTIAL);
}

static void serve_until_a_signal(void)
{
    model_serve_until_a_signal(OYEZ_SEQUENTIAL);
}

static void nothing_is_inherited(void)
{
    model_nothing_is_inherited(OYEZ_SEQUENTIAL);
}

static void in_a_storm(void)
{
    model_in_a_storm(OYEZ_SEQUENTIAL);
}

static void counts(void)
{
    model_counts(OYEZ_SEQUENTIAL);
}

/* On the calling thread, and without another. */

typedef struct visit {
    oyez_server server;
    long thread;
    int threads;
    int inside;
    int most_inside;
    int visits;
    int stop_after;
} visit;

static void visit_once(oyez_conn connection, void *user)
{
    visit *seen = user;
    seen->inside++;
    if (seen->inside > seen->most_inside)
        seen->most_inside = seen->inside;
    seen->thread = syscall(SYS_gettid);
    seen->threads = check_threads();
    seen->visits++;
    oyez_conn_write(connection, "hello\n", 6);
    seen->inside--;
    if (seen->visits == seen->stop_after)
        CHECK_WORKS(oyez_server_stop(seen->server, -1));
}

static void it_runs_on_the_calling_thread(void)
{
    int clients[5];
    visit seen = { 0 };
    oyez_server_options options = serve_options(OYEZ_SEQUENTIAL);
    seen.stop_after = 5;
    seen.server = (oyez_server)CHECK_WORKS(oyez_server_new(visit_once, &seen, &options));
    int listener = (int)CHECK_WORKS(oyez_server_listen(seen.server, "127.0.0.1:0", NULL));
    for (int i = 0; i < 5; i++)
        clients[i] = client_connect(oyez_local_port(listener));
    CHECK_EQ_INT(CHECK_WORKS(oyez_server_run(seen.server)), 0);
    CHECK_EQ_INT(seen.visits, 5);
    CHECK_EQ_INT(seen.most_inside, 1);
    CHECK_EQ_INT(seen.thread, syscall(SYS_gettid));
    CHECK_EQ_INT(seen.threads, 1);
    for (int i = 0; i < 5; i++) {
        client_expect(clients[i], "hello\n");
        CHECK_EQ_INT(client_ending(clients[i]), 0);
        MUST(close(clients[i]));
    }
    CHECK_WORKS(oyez_server_close(seen.server));
}

/* A SIGPIPE of a handler's plain write is not kept for later: run blocks it on the caller's thread for the while. */
static void write_to_nobody(oyez_conn connection, void *user)
{
    char byte;
    int fd = oyez_conn_fd(connection);
    while (read(fd, &byte, 1) == 1)
        ;
    for (int i = 0; i < 1000 && write(fd, "x", 1) == 1; i++)
        ;
    CHECK_WORKS(oyez_server_stop(*(oyez_server *)user, -1));
}

static void a_pending_sigpipe_is_gone_after_run(void)
{
    oyez_server server = 0;
    sigset_t waiting;
    oyez_server_options options = serve_options(OYEZ_SEQUENTIAL);
    server = (oyez_server)CHECK_WORKS(oyez_server_new(write_to_nobody, &server, &options));
    int listener = (int)CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
    client_reset(client_connect(oyez_local_port(listener)));
    CHECK_WORKS(oyez_server_run(server)); /* SIGPIPE is unblocked again behind it: this process lives */
    MUST(sigpending(&waiting));
    CHECK(!sigismember(&waiting, SIGPIPE));
    CHECK_WORKS(oyez_server_close(server));
}

/* A handler that waits holds the others; they are served then, in order. */
static void one_at_a_time(void)
{
    int clients[5];
    gate at = gate_make();
    oyez_server_options options = serve_options(OYEZ_SEQUENTIAL);
    served server = serve(serve_hello_behind_gate, &at, &options);
    for (int i = 0; i < 5; i++)
        clients[i] = client_connect(server.port);
    gate_await(&at, 1);
    check_nap(100);
    CHECK_EQ_INT(gate_arrived(&at), 0);
    gate_open(&at);
    for (int i = 0; i < 5; i++) {
        client_expect(clients[i], "hello\n");
        MUST(close(clients[i]));
    }
    serve_end(server);
    gate_end(&at);
}

/* The next client is not held up by one that has been answered and does not close. */
static void a_client_that_lingers_holds_nobody(void)
{
    int clients[10];
    oyez_server_options options = serve_options(OYEZ_SEQUENTIAL);
    served server = serve(serve_hello, NULL, &options);
    long long start = check_now_ms();
    for (int i = 0; i < 10; i++) {
        clients[i] = client_connect(server.port);
        client_send_text(clients[i], "never read");
        client_expect(clients[i], "hello\n");
    }
    CHECK_TOOK(start, 0, 3000);
    for (int i = 0; i < 10; i++)
        MUST(close(clients[i]));
    serve_end(server);
}

static const check_case cases[] = {
    CASE_WITHIN(100, many_at_once),
    CASE_WITHIN(60, thousands_in_a_row),
    CASE(plain_write_to_a_reset_peer),
    CASE(rude_clients),
    CASE(serve_fails_as_a_whole),
    CASE(several_listeners),
    CASE(serve_until_a_signal),
    CASE(nothing_is_inherited),
    CASE(in_a_storm),
    CASE(counts),
    CASE(it_runs_on_the_calling_thread),
    CASE(a_pending_sigpipe_is_gone_after_run),
    CASE(one_at_a_time),
    CASE(a_client_that_lingers_holds_nobody),
};

CHECK_MAIN(cases)
