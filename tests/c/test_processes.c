/* OYEZ_PROCESSES: a child process for each connection. */
#define _GNU_SOURCE
#include "clients.h"
#include "models.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

MODEL_TESTS(OYEZ_PROCESSES)

static void a_thousand_in_a_row(void)
{
    model_many_in_a_row(OYEZ_PROCESSES, 1000);
}

/* Does what the client's line says. */
static void obey(oyez_conn connection, void *unused)
{
    char line[40];
    volatile int *nowhere = NULL;
    (void)unused;
    if (oyez_conn_read_line(connection, line, sizeof line) < 0)
        return;
    if (strcmp(line, "crash") == 0)
        *nowhere = 1;
    if (strcmp(line, "abort") == 0)
        abort();
    if (strcmp(line, "exit 3") == 0)
        exit(3);
    if (strcmp(line, "exit 0") == 0)
        exit(0);
    oyez_conn_write(connection, "done\n", 5);
}

/* Whether the client was answered. */
static int order(served server, const char *line)
{
    char answer[6] = "";
    int fd = client_connect(server.port);
    client_send_text(fd, line);
    size_t have = 0;
    while (have < 5) {
        ssize_t count = recv(fd, answer + have, 5 - have, 0);
        if (count == 0 || (count == -1 && errno == ECONNRESET))
            break;
        if (count == -1)
            CHECK_EQ_INT(errno, EINTR);
        else
            have += (size_t)count;
    }
    MUST(close(fd));
    return strcmp(answer, "done\n") == 0;
}

static void crashes_are_counted_and_others_go_on(void)
{
    oyez_server_options options = serve_options(OYEZ_PROCESSES);
    served server = serve(obey, NULL, &options);
    int witness = client_connect(server.port);
    for (int i = 0; i < 3; i++) {
        CHECK(!order(server, "crash\n"));
        CHECK(order(server, "work\n"));
        CHECK(!order(server, "abort\n"));
        CHECK(!order(server, "exit 3\n"));
    }
    CHECK_SOON(serve_stats(server).handler_failures == 9);
    CHECK(!order(server, "exit 0\n"));
    client_send_text(witness, "work\n");
    client_expect(witness, "done\n");
    MUST(close(witness));
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK_EQ_INT(serve_stats(server).handler_failures, 9);
    CHECK_EQ_INT(check_children(), 0);
    serve_end(server);
}

/* What a handler changes in memory, it changes in its own. */
static int counter;

static void count_here(oyez_conn connection, void *unused)
{
    char text[20];
    (void)unused;
    counter++;
    snprintf(text, sizeof text, "%d %d\n", counter, getpid() != getppid());
    oyez_conn_write(connection, text, strlen(text));
}

static void memory_is_its_own(void)
{
    oyez_server_options options = serve_options(OYEZ_PROCESSES);
    served server = serve(count_here, NULL, &options);
    for (int i = 0; i < 3; i++) {
        int fd = client_connect(server.port);
        client_expect(fd, "1 1\n");
        MUST(close(fd));
    }
    CHECK_EQ_INT(counter, 0);
    serve_end(server);
}

static void three_processes(served server)
{
    (void)server;
    CHECK_EQ_INT(check_children(), 3);
}

static void no_more_processes_than_workers(void)
{
    model_no_more_than_workers(OYEZ_PROCESSES, 3, 12, three_processes);
}

/* SIGCHLD belongs to the program. */

static volatile sig_atomic_t sigchlds;

static void count_sigchld(int number)
{
    (void)number;
    sigchlds++;
}

static void serve_a_few(void)
{
    oyez_server_options options = serve_options(OYEZ_PROCESSES);
    int children = check_children();
    served server = serve(obey, NULL, &options);
    for (int i = 0; i < 10; i++)
        CHECK(order(server, "work\n"));
    CHECK(!order(server, "crash\n"));
    CHECK_SOON(serve_stats(server).handler_failures == 1);
    CHECK_SOON(check_children() == children);
    serve_end(server);
}

static void the_disposition_of_sigchld_is_left_alone(void)
{
    struct sigaction before;
    struct sigaction action = { 0 };
    struct sigaction after;
    action.sa_handler = count_sigchld;
    action.sa_flags = SA_RESTART;
    MUST(sigaction(SIGCHLD, &action, &before));
    serve_a_few();
    MUST(sigaction(SIGCHLD, &before, &after));
    CHECK(after.sa_handler == count_sigchld);
    serve_a_few(); /* with the default */
}

static void with_sigchld_ignored(void)
{
    struct sigaction before;
    struct sigaction action = { 0 };
    action.sa_handler = SIG_IGN;
    MUST(sigaction(SIGCHLD, &action, &before));
    serve_a_few();
    MUST(sigaction(SIGCHLD, &before, NULL));
}

static void with_no_zombies_wanted(void)
{
    struct sigaction before;
    struct sigaction action = { 0 };
    action.sa_handler = SIG_DFL;
    action.sa_flags = SA_NOCLDWAIT;
    MUST(sigaction(SIGCHLD, &action, &before));
    serve_a_few();
    MUST(sigaction(SIGCHLD, &before, NULL));
}

/* The program's own child is not waited for by anybody else. */
static void end_with_7(void *unused)
{
    (void)unused;
    _exit(7);
}

static void children_of_the_program_are_its_own(void)
{
    int status = 0;
    pid_t child = check_fork(end_with_7, NULL);
    serve_a_few();
    CHECK_EQ_INT(MUST(waitpid(child, &status, 0)), child);
    CHECK_EQ_INT(WEXITSTATUS(status), 7);
}

/* A program that waits for any child must not take the server's, or if it does, nothing may break. */
static int waiting = 1;

static void *wait_for_anybody(void *unused)
{
    (void)unused;
    while (__atomic_load_n(&waiting, __ATOMIC_SEQ_CST)) {
        int status;
        waitpid(-1, &status, WNOHANG);
        check_nap(1);
    }
    return NULL;
}

static void beside_a_program_that_waits_for_any_child(void)
{
    pthread_t thread = check_thread(wait_for_anybody, NULL);
    oyez_server_options options = serve_options(OYEZ_PROCESSES);
    served server = serve(obey, NULL, &options);
    for (int i = 0; i < 50; i++)
        CHECK(order(server, "work\n"));
    for (int i = 0; i < 5; i++)
        CHECK(!order(server, "crash\n"));
    CHECK_SOON(serve_stats(server).handler_failures == 5);
    CHECK_SOON(serve_stats(server).active == 0);
    serve_end(server);
    __atomic_store_n(&waiting, 0, __ATOMIC_SEQ_CST);
    check_thread_join(thread);
}

/* What is not finished when the drain time is over is ended: client and child. That is no crash of the handler. */
static void a_child_that_does_not_end_is_cut(void)
{
    gate at = gate_make();
    oyez_server_options options = serve_options(OYEZ_PROCESSES);
    served server = serve(serve_hello_behind_gate, &at, &options);
    int fd = client_connect(server.port);
    gate_await(&at, 1);
    CHECK_WORKS(oyez_server_stop(server.id, 100));
    CHECK_WORKS(oyez_server_wait(server.id, 20000));
    CHECK_EQ_INT(client_ending(fd), ECONNRESET);
    CHECK_EQ_INT(serve_stats(server).cut, 1);
    CHECK_EQ_INT(serve_stats(server).handler_failures, 0);
    CHECK_WORKS(oyez_server_close(server.id));
    CHECK_EQ_INT(check_children(), 0);
    MUST(close(fd));
    gate_end(&at);
}

/* A crash is seen by its client at once, whatever other processes there are that were forked meanwhile. */

static void check_crash_is_seen(served server, served other)
{
    int crashing = client_connect(server.port);
    CHECK_SOON(serve_stats(server).active == 1);
    int waiting = client_connect(other.port); /* its process is made while that connection is open */
    CHECK_SOON(serve_stats(other).accepted >= 1 + (other.id == server.id));
    CHECK_SOON(check_children() == 2);
    client_send_text(crashing, "crash\n");
    CHECK(client_readable(crashing, 10000));
    CHECK_EQ_INT(client_ending(crashing), ECONNRESET);
    client_send_text(waiting, "work\n");
    client_expect(waiting, "done\n");
    MUST(close(crashing));
    MUST(close(waiting));
}

static void a_crash_is_seen_beside_another_client(void)
{
    oyez_server_options options = serve_options(OYEZ_PROCESSES);
    served server = serve(obey, NULL, &options);
    check_crash_is_seen(server, server);
    serve_end(server);
}

static void a_crash_is_seen_beside_another_server(void)
{
    oyez_server_options options = serve_options(OYEZ_PROCESSES);
    served server = serve(obey, NULL, &options);
    served other = serve(obey, NULL, &options);
    check_crash_is_seen(server, other);
    serve_end(other);
    serve_end(server);
}

static void when_no_more_processes_can_be_made(void)
{
    model_few_threads(OYEZ_PROCESSES);
}

static const check_case cases[] = {
    MODEL_CASES,
    CASE_WITHIN(100, a_thousand_in_a_row),
    CASE(when_no_more_processes_can_be_made),
    CASE(crashes_are_counted_and_others_go_on),
    CASE(memory_is_its_own),
    CASE(no_more_processes_than_workers),
    CASE(the_disposition_of_sigchld_is_left_alone),
    CASE(with_sigchld_ignored),
    CASE(with_no_zombies_wanted),
    CASE(children_of_the_program_are_its_own),
    CASE(beside_a_program_that_waits_for_any_child),
    CASE(a_child_that_does_not_end_is_cut),
    CASE(a_crash_is_seen_beside_another_client),
    CASE(a_crash_is_seen_beside_another_server),
};

CHECK_MAIN(cases)
