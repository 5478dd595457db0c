/* OYEZ_THREADS: a bounded pool of threads. */
#define _GNU_SOURCE
#include "clients.h"
#include "models.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

MODEL_TESTS(OYEZ_THREADS)

static void ten_thousand_in_a_row(void)
{
    model_many_in_a_row(OYEZ_THREADS, 10000);
}

/* The first client's handler never returns by itself. */
static gate stuck;
static int first = 1;

static void stick_on_the_first(oyez_conn connection, void *user)
{
    if (__atomic_exchange_n(&first, 0, __ATOMIC_SEQ_CST))
        gate_pass(&stuck);
    serve_echo(connection, user);
}

static void a_handler_that_does_not_return_holds_one_thread(void)
{
    oyez_server_options options = serve_options(OYEZ_THREADS);
    options.workers = 4;
    stuck = gate_make();
    served server = serve(stick_on_the_first, NULL, &options);
    int held = client_connect(server.port);
    gate_await(&stuck, 1);
    client_echo_one_by_one(server.port, 200);
    client_echo_many(server.port, 50, 2000);
    CHECK_SOON(serve_stats(server).active == 1);
    gate_open(&stuck);
    MUST(close(held));
    serve_end(server);
    gate_end(&stuck);
}

static void three_threads(served server)
{
    CHECK(serve_stats(server).active >= 3);
    CHECK(check_threads() <= 1 + 1 + 3 + 1);
}

static void no_more_handlers_than_workers(void)
{
    model_no_more_than_workers(OYEZ_THREADS, 3, 20, three_threads);
}

/* Clients that are beyond the workers wait in the kernel, where the statistics see them. */
static void those_beyond_the_workers_wait_in_the_kernel(void)
{
    int clients[30];
    gate at = gate_make();
    oyez_server_options options = serve_options(OYEZ_THREADS);
    options.workers = 2;
    served server = serve(serve_hello_behind_gate, &at, &options);
    model_connect(server, clients, 30);
    gate_await(&at, 2);
    CHECK_SOON(serve_stats(server).queue >= 20);
    CHECK(serve_stats(server).accepted <= 10);
    gate_open(&at);
    model_expect_hello(clients, 30);
    CHECK_EQ_INT(serve_stats(server).accepted, 30);
    serve_end(server);
    gate_end(&at);
}

/* With the default there is room for many slow handlers. */
static void the_default_is_enough_for_two_hundred(void)
{
    int clients[200];
    gate at = gate_make();
    served server = serve(serve_hello_behind_gate, &at, NULL);
    model_connect(server, clients, 200);
    gate_await(&at, 200);
    CHECK_EQ_INT(serve_stats(server).active, 200);
    gate_open(&at);
    model_expect_hello(clients, 200);
    serve_end(server);
    gate_end(&at);
}

static void idle_threads_leave(void)
{
    int clients[20];
    gate at = gate_make();
    served server = serve(serve_hello_behind_gate, &at, NULL);
    int idle = check_threads();
    model_connect(server, clients, 20);
    gate_await(&at, 20);
    CHECK(check_threads() >= 20);
    gate_open(&at);
    model_expect_hello(clients, 20);
    long long start = check_now_ms();
    int most = idle + 1;
    CHECK_SOON(check_threads() <= most);
    check_note("idle threads left after %lld ms", check_now_ms() - start);
    /* And it serves on. */
    int fd = client_connect(server.port);
    client_expect(fd, "hello\n");
    MUST(close(fd));
    serve_end(server);
    gate_end(&at);
}

/* The pool's threads leave the program's signals to the program's threads. */
static unsigned long long blocked_in(const char *task)
{
    char path[320];
    char line[200];
    unsigned long long mask = 0;
    snprintf(path, sizeof path, "/proc/self/task/%s/status", task);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return ~0ull; /* it has just left */
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "SigBlk: %llx", &mask) == 1)
            break;
    fclose(file);
    return mask;
}

static void signals_are_left_to_the_program(void)
{
    static const int signals[] = { SIGPIPE, SIGALRM, SIGCHLD, SIGUSR1, SIGHUP, SIGTERM, SIGINT };
    char own[20];
    gate at = gate_make();
    served server = serve(serve_hello_behind_gate, &at, NULL);
    int fd = client_connect(server.port);
    gate_await(&at, 1);
    snprintf(own, sizeof own, "%d", (int)getpid());
    DIR *list = opendir("/proc/self/task");
    CHECK(list != NULL);
    for (struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list)) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, own) == 0)
            continue;
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
            if ((blocked_in(entry->d_name) >> (signals[i] - 1) & 1) == 0)
                check_fail(__FILE__, __LINE__, "a thread of the server does not block signal %d", signals[i]);
    }
    closedir(list);
    gate_open(&at);
    client_expect(fd, "hello\n");
    MUST(close(fd));
    serve_end(server);
    gate_end(&at);
}

/* More than one server in a process. */
static void servers_side_by_side(void)
{
    served servers[10];
    for (int i = 0; i < 10; i++)
        servers[i] = serve(serve_echo, NULL, NULL);
    for (int i = 0; i < 10; i++)
        client_echo_many(servers[i].port, 10, 1000);
    for (int i = 0; i < 10; i++)
        CHECK_EQ_INT(serve_stats(servers[i]).accepted, 10);
    for (int i = 0; i < 10; i++)
        serve_end(servers[(i * 7) % 10]);
}

/* A server's user pointer reaches its handler. */
static void say_user(oyez_conn connection, void *user)
{
    oyez_conn_write(connection, user, strlen(user));
}

static void the_user_pointer(void)
{
    char text[] = "from the user";
    served server = serve(say_user, text, NULL);
    int fd = client_connect(server.port);
    client_expect(fd, "from the user");
    CHECK_EQ_INT(client_ending(fd), 0);
    MUST(close(fd));
    serve_end(server);
}

/* Servers that come and go leave nothing. */
static void hundreds_of_servers(void)
{
    long memory = 0;
    for (int i = 0; i < 300; i++) {
        served server = serve(serve_echo, NULL, NULL);
        client_echo_one_by_one(server.port, 2);
        serve_end(server);
        if (i == 50)
            memory = check_memory();
    }
    CHECK(check_memory() - memory < 3000);
}

static void when_no_more_threads_can_be_made(void)
{
    model_few_threads(OYEZ_THREADS);
}

static const check_case cases[] = {
    MODEL_CASES,
    CASE_WITHIN(100, ten_thousand_in_a_row),
    CASE(when_no_more_threads_can_be_made),
    CASE(a_handler_that_does_not_return_holds_one_thread),
    CASE(no_more_handlers_than_workers),
    CASE(those_beyond_the_workers_wait_in_the_kernel),
    CASE(the_default_is_enough_for_two_hundred),
    CASE(idle_threads_leave),
    CASE(signals_are_left_to_the_program),
    CASE(servers_side_by_side),
    CASE(the_user_pointer),
    CASE(hundreds_of_servers),
};

CHECK_MAIN(cases)
