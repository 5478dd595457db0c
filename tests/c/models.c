/* What holds for a server in each model: see models.h. */
#define _GNU_SOURCE
#include "models.h"
#include "clients.h"
#include "places.h"
#include "storm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void model_many_at_once(int model)
{
    oyez_server_options options = serve_options(model);
    served server = serve(serve_echo, NULL, &options);
    client_echo_many(server.port, 200, 30000);
    client_echo_many(server.port, 200, 1);
    CHECK_EQ_INT(serve_stats(server).accepted, 400);
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK_EQ_INT(serve_stats(server).handler_failures, 0);
    serve_end(server);
}

void model_many_in_a_row(int model, int clients)
{
    oyez_server_options options = serve_options(model);
    served server = serve(serve_echo, NULL, &options);
    client_echo_one_by_one(server.port, clients / 10);
    CHECK_SOON(serve_stats(server).active == 0);
    long memory = check_memory();
    int descriptors = check_descriptors();
    long long start = check_now_ms();
    client_echo_one_by_one(server.port, clients - clients / 10);
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK_SOON(check_descriptors() <= descriptors);
    CHECK(check_memory() - memory < 3000);
    CHECK_EQ_INT(serve_stats(server).accepted, clients);
    check_note("%d clients, %lld us each", clients - clients / 10,
               (check_now_ms() - start) * 1000 / (clients - clients / 10));
    serve_end(server);
}

/* The process, and SIGPIPE. */

typedef struct told {
    int pipe[2];
} told;

static void write_until_it_fails(oyez_conn connection, void *user)
{
    const told *to = user;
    int fd = oyez_conn_fd(connection);
    char answer = '?';
    ssize_t count = 1;
    char byte;
    while (read(fd, &byte, 1) == 1) /* until the client's reset has come */
        ;
    for (int i = 0; i < 1000 && count > 0; i++)
        count = write(fd, "xxxxxxxx", 8);
    answer = count == -1 && errno == EPIPE ? '+' : '-';
    MUST(write(to->pipe[1], &answer, 1));
}

static void connect_and_reset(void *port)
{
    client_reset(client_connect(*(int *)port));
}

void model_plain_write_to_a_reset_peer(int model)
{
    told to;
    char answer;
    struct sigaction action;
    MUST(sigaction(SIGPIPE, NULL, &action));
    CHECK(action.sa_handler == SIG_DFL);
    MUST(pipe2(to.pipe, O_CLOEXEC));
    oyez_server_options options = serve_options(model);
    served server = serve(write_until_it_fails, &to, &options);
    for (int i = 0; i < 5; i++) {
        /* In a process of its own: a handler's process would have a copy of the client otherwise. */
        check_join(check_fork(connect_and_reset, &server.port));
        CHECK(client_readable(to.pipe[0], 20000));
        MUST(read(to.pipe[0], &answer, 1));
        CHECK_EQ_INT(answer, '+');
    }
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK_EQ_INT(serve_stats(server).handler_failures, 0);
    serve_end(server);
    MUST(close(to.pipe[0]));
    MUST(close(to.pipe[1]));
}

static void be_rude(void *argument)
{
    static char junk[50000];
    int port = *(int *)argument;
    for (int i = 0; i < 60; i++) {
        int fd = client_connect(port);
        if (i % 3 > 0)
            client_send(fd, junk, (size_t)(i % 5) * 10000);
        if (i % 2 == 0)
            client_reset(fd);
        else
            MUST(close(fd));
        if (i % 10 == 0)
            client_echo_one_by_one(port, 2);
    }
    client_echo_many(port, 20, 5000);
}

void model_rude_clients(int model)
{
    oyez_server_options options = serve_options(model);
    served server = serve(serve_echo, NULL, &options);
    /* In a process of their own: a handler's process would have copies of them otherwise. */
    check_join(check_fork(be_rude, &server.port));
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK_EQ_INT(serve_stats(server).handler_failures, 0);
    serve_end(server);
}

void model_serve_fails_as_a_whole(int model)
{
    char list[300];
    char path[180];
    oyez_server_options options = serve_options(model);
    int taken = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    int before = check_descriptors();
    snprintf(path, sizeof path, "%s/a.sock", check_folder());
    snprintf(list, sizeof list, "127.0.0.1:0,unix:%s,127.0.0.1:%d", path, oyez_local_port(taken));
    for (int i = 0; i < 5; i++) {
        CHECK_FAILS(oyez_serve(list, serve_hello, NULL, &options), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
        CHECK_EQ_INT(check_descriptors(), before);
        CHECK_EQ_INT(access(path, F_OK), -1);
    }
    MUST(close(taken));
}

void model_several_listeners(int model)
{
    char list[250];
    char path[180];
    oyez_server_options options = serve_options(model);
    snprintf(path, sizeof path, "%s/a.sock", check_folder());
    snprintf(list, sizeof list, "127.0.0.1:0,unix:%s,127.0.0.2:0", path);
    served server = serve_at(list, serve_hello, NULL, &options);
    CHECK_EQ_INT(serve_stats(server).listeners, 3);
    int fd = client_connect_unix(path);
    client_expect(fd, "hello\n");
    CHECK_EQ_INT(client_ending(fd), 0);
    MUST(close(fd));
    int later = (int)CHECK_WORKS(oyez_server_listen(server.id, "127.0.0.1:0", NULL));
    CHECK_EQ_INT(serve_stats(server).listeners, 4);
    fd = client_connect(oyez_local_port(later));
    client_expect(fd, "hello\n");
    CHECK_EQ_INT(client_ending(fd), 0);
    MUST(close(fd));
    CHECK_SOON(serve_stats(server).active == 0);
    serve_end(server);
    CHECK_EQ_INT(access(path, F_OK), -1);
}

/* oyez_serve in a child process of this test's own, as a program has it. */

static void serve_unix_path(void *argument)
{
    char address[200];
    const oyez_server_options *options = ((void **)argument)[0];
    snprintf(address, sizeof address, "unix:%s", (const char *)((void **)argument)[1]);
    int before = check_descriptors();
    CHECK_EQ_INT(CHECK_WORKS(oyez_serve(address, serve_echo, NULL, options)), 0);
    CHECK_EQ_INT(check_descriptors(), before);
    CHECK_EQ_INT(check_threads(), 1);
}

static int connect_when_there(const char *path)
{
    int fd = -1;
    CHECK_SOON((fd = client_try_unix(path)) != -1);
    return fd;
}

void model_serve_until_a_signal(int model)
{
    static const int signals[] = { SIGTERM, SIGINT };
    char path[180];
    oyez_server_options options = serve_options(model);
    options.stop_on_signals = OYEZ_ON;
    snprintf(path, sizeof path, "%s/serve.sock", check_folder());
    for (int i = 0; i < 2; i++) {
        void *arguments[2] = { &options, path };
        pid_t child = check_fork(serve_unix_path, arguments);
        int fd = connect_when_there(path);
        client_send_text(fd, "before");
        client_expect(fd, "before");
        MUST(kill(child, signals[i]));
        client_send_text(fd, "after"); /* what is under way is finished */
        client_expect(fd, "after");
        MUST(shutdown(fd, SHUT_WR));
        CHECK_EQ_INT(client_ending(fd), 0);
        MUST(close(fd));
        check_join(child);
        CHECK_EQ_INT(access(path, F_OK), -1);
    }
}

/* Descriptors. */

static void tell_descriptors(oyez_conn connection, void *unused)
{
    char text[30];
    int open_for_exec = 0;
    (void)unused;
    DIR *list = opendir("/proc/self/fd");
    for (struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list)) {
        int fd = atoi(entry->d_name);
        open_for_exec += fd > 2 && fcntl(fd, F_GETFD) == 0;
    }
    closedir(list);
    snprintf(text, sizeof text, "%d %d\n", open_for_exec, oyez_conn_fd(connection) > 2);
    oyez_conn_write(connection, text, strlen(text));
}

void model_nothing_is_inherited(int model)
{
    oyez_server_options options = serve_options(model);
    int kept = (int)MUST(fcntl(0, F_DUPFD_CLOEXEC, 50));
    served server = serve(tell_descriptors, NULL, &options);
    int fd = client_connect(server.port);
    client_expect(fd, "0 1\n");
    MUST(close(fd));
    CHECK_WORKS(oyez_server_pause(server.id));
    fd = client_connect(server.port);
    MUST(close(0)); /* whoever is accepted now must not become standard input */
    CHECK_WORKS(oyez_server_resume(server.id));
    client_expect(fd, "0 1\n");
    CHECK_EQ_INT(client_ending(fd), 0);
    while (dup2(kept, 0) == -1)
        CHECK(errno == EBUSY); /* an accept that is giving the number back just now */
    MUST(close(kept));
    MUST(close(fd));
    serve_end(server);
}

void model_in_a_storm(int model)
{
    oyez_server_options options = serve_options(model);
    storm_start();
    served server = serve(serve_echo, NULL, &options);
    for (long long start = check_now_ms(); check_now_ms() < start + 300;)
        client_echo_one_by_one(server.port, 1);
    CHECK_SOON(serve_stats(server).active == 0);
    storm_end();
    CHECK_EQ_INT(serve_stats(server).handler_failures, 0);
    serve_end(server);
}

void model_counts(int model)
{
    oyez_server_options options = serve_options(model);
    served server = serve(serve_echo, NULL, &options);
    client_echo_one_by_one(server.port, 10); /* "client 0\n" ... "client 9\n" */
    CHECK_SOON(serve_stats(server).active == 0);
    oyez_stats stats = serve_stats(server);
    CHECK_EQ_INT(stats.accepted, 10);
    CHECK_EQ_INT(stats.listeners, 1);
    CHECK_EQ_INT(stats.queue, 0);
    CHECK_EQ_INT(stats.cut, 0);
    CHECK_EQ_INT(stats.accept_errors, 0);
    CHECK_EQ_INT(stats.timeouts, 0);
    if (model != OYEZ_PROCESSES) {
        CHECK_EQ_INT(stats.bytes_in, 90);
        CHECK_EQ_INT(stats.bytes_out, 90);
    }
    serve_end(server);
}

void model_connect(served server, int *clients, int count)
{
    for (int i = 0; i < count; i++)
        clients[i] = client_connect(server.port);
}

void model_expect_hello(const int *clients, int count)
{
    for (int i = 0; i < count; i++) {
        client_expect(clients[i], "hello\n");
        CHECK_EQ_INT(client_ending(clients[i]), 0);
        MUST(close(clients[i]));
    }
}

void model_no_more_than_workers(int model, int workers, int clients, void (*held)(served server))
{
    int fds[20];
    gate at = gate_make();
    oyez_server_options options = serve_options(model);
    CHECK(clients <= 20);
    if (model != OYEZ_SEQUENTIAL)
        options.workers = workers;
    served server = serve(serve_hello_behind_gate, &at, &options);
    model_connect(server, fds, clients);
    gate_await(&at, workers);
    check_nap(200);
    CHECK_EQ_INT(gate_arrived(&at), 0);
    if (held != NULL)
        held(server);
    gate_open(&at);
    model_expect_hello(fds, clients);
    serve_end(server);
    gate_end(&at);
}

static void serve_with_few(void *model)
{
    int clients[8];
    gate at = gate_make();
    oyez_server_options options = serve_options(*(int *)model);
    place_few_threads(4); /* this one, the server's, and two for handlers */
    served server = serve(serve_hello_behind_gate, &at, &options);
    model_connect(server, clients, 8);
    gate_await(&at, 1);
    check_nap(200);
    CHECK(gate_arrived(&at) <= 1);
    long cpu = check_cpu_ms();
    check_nap(500);
    CHECK(check_cpu_ms() - cpu < 100);
    gate_open(&at);
    model_expect_hello(clients, 8);
    CHECK_EQ_INT(serve_stats(server).accepted, 8);
    serve_end(server);
    gate_end(&at);
}

void model_few_threads(int model)
{
    check_join(check_fork(serve_with_few, &model));
}
