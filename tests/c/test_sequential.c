/* OYEZ_SEQUENTIAL: one connection at a time, on the thread that runs the server. */
#define _GNU_SOURCE
#include "clients.h"
#include "models.h"

#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

MODEL_TESTS(OYEZ_SEQUENTIAL)

static void thousands_in_a_row(void)
{
    model_many_in_a_row(OYEZ_SEQUENTIAL, 3000);
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
    model_expect_hello(clients, 5);
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
    model_no_more_than_workers(OYEZ_SEQUENTIAL, 1, 5, NULL);
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
    MODEL_CASES,
    CASE_WITHIN(60, thousands_in_a_row),
    CASE(it_runs_on_the_calling_thread),
    CASE(a_pending_sigpipe_is_gone_after_run),
    CASE(one_at_a_time),
    CASE(a_client_that_lingers_holds_nobody),
};

CHECK_MAIN(cases)
