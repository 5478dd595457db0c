/* Running out of descriptors: no spinning, no client lost, one line in the log, and it goes on as soon as it can. */
#define _GNU_SOURCE
#include "clients.h"
#include "models.h"
#include "places.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const int models[] = { OYEZ_THREADS, OYEZ_SEQUENTIAL, OYEZ_PROCESSES };

/* Counted without /proc, which takes a descriptor to read. */
static int check_open(void)
{
    int count = 0;
    for (int fd = 0; fd < 200; fd++)
        count += fcntl(fd, F_GETFD) != -1;
    return count;
}

static int limit_now(void)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    return (int)limit.rlim_cur;
}

/* The log. */

static int warnings;
static int ends;
static int lines;
static char last_warning[400];
static char last_event[60];

static void count_lines(int32_t level, const char *event, const char *text, void *user)
{
    (void)user;
    __atomic_add_fetch(&lines, 1, __ATOMIC_SEQ_CST);
    if (strcmp(event, "accepting_again") == 0)
        __atomic_add_fetch(&ends, 1, __ATOMIC_SEQ_CST);
    if (level < OYEZ_LOG_WARNING)
        return;
    snprintf(last_warning, sizeof last_warning, "%s", text);
    snprintf(last_event, sizeof last_event, "%s", event);
    __atomic_add_fetch(&warnings, 1, __ATOMIC_SEQ_CST);
}

static served serve_logged(int model, oyez_handler handler, void *user)
{
    oyez_server_options options = serve_options(model);
    options.log = count_lines;
    warnings = ends = lines = 0;
    return serve(handler, user, &options);
}

/* Clients in a process of their own, which the limit of this one does not touch. */

typedef struct crowd {
    int port;
    int count;
    int told[2]; /* a pipe that hears when all are connected */
} crowd;

static void connect_and_wait(void *argument)
{
    crowd *all = argument;
    int *clients = calloc((size_t)all->count, sizeof *clients);
    place_descriptor_limit(500);
    for (int i = 0; i < all->count; i++)
        clients[i] = client_connect(all->port);
    MUST(write(all->told[1], "c", 1));
    for (int i = 0; i < all->count; i++) {
        client_expect(clients[i], "hello\n");
        CHECK_EQ_INT(client_ending(clients[i]), 0);
    }
}

/* Starts the clients, and waits until the kernel has connected them all. */
static pid_t gather(crowd *all, served server, int count)
{
    char byte;
    all->port = server.port;
    all->count = count;
    MUST(pipe2(all->told, O_CLOEXEC));
    pid_t child = check_fork(connect_and_wait, all);
    CHECK(client_readable(all->told[0], 20000));
    MUST(read(all->told[0], &byte, 1));
    MUST(close(all->told[0]));
    MUST(close(all->told[1]));
    return child;
}

/* For a second nearly no processor time, and hardly a line in the log. */
static void check_quiet(const char *what)
{
    check_nap(100);
    long cpu = check_cpu_ms();
    int said = __atomic_load_n(&lines, __ATOMIC_SEQ_CST);
    check_nap(1000);
    long used = check_cpu_ms() - cpu;
    check_note("%s: %ld ms of processor time in a second", what, used);
    CHECK(used <= 60);
    CHECK(__atomic_load_n(&lines, __ATOMIC_SEQ_CST) - said <= 2);
}

static const char *name_of(int model)
{
    return model == OYEZ_THREADS ? "threads" : model == OYEZ_SEQUENTIAL ? "sequential" : "processes";
}

/* None left at all: everybody waits in the kernel's queue, and is served when the limit rises. */
static void it_waits_until_the_limit_rises(void)
{
    for (int m = 0; m < 3; m++) {
        crowd all;
        served server = serve_logged(models[m], serve_hello, NULL);
        CHECK_WORKS(oyez_server_pause(server.id));
        pid_t child = gather(&all, server, 50);
        int before = place_descriptors_left(0);
        CHECK_WORKS(oyez_server_resume(server.id));
        check_quiet(name_of(models[m]));
        oyez_stats stats = serve_stats(server);
        CHECK_EQ_INT(stats.accepted, 0);
        CHECK_EQ_INT(stats.queue, 50);
        CHECK(stats.descriptor_pauses >= 1);
        CHECK_EQ_INT(warnings, 1);
        long long start = check_now_ms();
        place_descriptor_limit(before);
        check_join(child);
        CHECK_TOOK(start, 0, 5000);
        check_note("%s: 50 clients served %lld ms after the limit rose", name_of(models[m]), check_now_ms() - start);
        CHECK_STR_EQ(last_event, "descriptors_used_up");
        CHECK_EQ_INT(warnings, 1);
        CHECK_SOON(serve_stats(server).active == 0);
        CHECK_EQ_INT(serve_stats(server).accepted, 50);
        CHECK_EQ_INT(serve_stats(server).cut, 0);
        serve_end(server);
    }
}

/* The line in the log names the limit. */
static void the_log_names_the_limit(void)
{
    crowd all;
    char limit[20];
    served server = serve_logged(OYEZ_THREADS, serve_hello, NULL);
    CHECK_WORKS(oyez_server_pause(server.id));
    pid_t child = gather(&all, server, 5);
    int before = place_descriptors_left(0);
    snprintf(limit, sizeof limit, "%d", limit_now());
    CHECK_WORKS(oyez_server_resume(server.id));
    CHECK_SOON(__atomic_load_n(&warnings, __ATOMIC_SEQ_CST) == 1);
    CHECK_STR_CONTAINS(last_warning, limit);
    place_descriptor_limit(before);
    check_join(child);
    serve_end(server);
}

/* Some left: those who got in are served, and as each leaves the next gets in. The limit never rises. */
static void it_goes_on_as_descriptors_are_freed(void)
{
    crowd all;
    gate at = gate_make();
    served server = serve_logged(OYEZ_THREADS, serve_hello_behind_gate, &at);
    CHECK_WORKS(oyez_server_pause(server.id));
    pid_t child = gather(&all, server, 60);
    int before = place_descriptors_left(8);
    CHECK_WORKS(oyez_server_resume(server.id));
    gate_await(&at, 6);
    check_quiet("some left");
    CHECK(serve_stats(server).accepted <= 8);
    CHECK(serve_stats(server).accepted >= 6);
    long long start = check_now_ms();
    gate_open(&at);
    check_join(child);
    CHECK_TOOK(start, 0, 10000);
    check_note("the rest were served within %lld ms, %d lines in the log", check_now_ms() - start,
        __atomic_load_n(&lines, __ATOMIC_SEQ_CST));
    CHECK_EQ_INT(serve_stats(server).accepted, 60);
    CHECK_EQ_INT(warnings, 1);
    place_descriptor_limit(before);
    serve_end(server);
    gate_end(&at);
}

/* One descriptor is freed by the program itself, not by a connection: noticed all the same. */
static void it_notices_a_descriptor_that_the_program_frees(void)
{
    crowd all;
    served server = serve_logged(OYEZ_THREADS, serve_hello, NULL);
    int spare[2] = { (int)MUST(dup(0)), (int)MUST(dup(0)) };
    CHECK_WORKS(oyez_server_pause(server.id));
    pid_t child = gather(&all, server, 3);
    int before = place_descriptors_left(0);
    CHECK_WORKS(oyez_server_resume(server.id));
    CHECK_SOON(serve_stats(server).descriptor_pauses >= 1);
    long long start = check_now_ms();
    MUST(close(spare[0]));
    MUST(close(spare[1]));
    check_join(child);
    CHECK_TOOK(start, 0, 3000);
    place_descriptor_limit(before);
    serve_end(server);
}

/* For a moment there is no descriptor; then all are served. */
static void run_short(served server, int ms)
{
    crowd all;
    CHECK_WORKS(oyez_server_pause(server.id));
    pid_t child = gather(&all, server, 5);
    int before = place_descriptors_left(0);
    CHECK_WORKS(oyez_server_resume(server.id));
    check_nap(ms);
    place_descriptor_limit(before);
    check_join(child);
    CHECK_SOON(serve_stats(server).active == 0);
}

/* Each episode is told once; a shortage that comes and goes is one. */
static void each_episode_is_told_once(void)
{
    served server = serve_logged(OYEZ_THREADS, serve_hello, NULL);
    for (int i = 0; i < 4; i++)
        run_short(server, 150);
    CHECK_EQ_INT(warnings, 1);
    CHECK(__atomic_load_n(&lines, __ATOMIC_SEQ_CST) <= 2);
    check_nap(2500); /* calm enough to be over */
    run_short(server, 150);
    CHECK_EQ_INT(warnings, 2);
    CHECK(serve_stats(server).descriptor_pauses >= 2);
    serve_end(server);
}

/* Connections that are there go on while others wait. */
static void those_who_are_in_go_on(void)
{
    crowd all;
    served server = serve_logged(OYEZ_THREADS, serve_echo, NULL);
    int inside = client_connect(server.port);
    client_send_text(inside, "in");
    client_expect(inside, "in");
    served other = serve_logged(OYEZ_THREADS, serve_hello, NULL);
    CHECK_WORKS(oyez_server_pause(other.id));
    pid_t child = gather(&all, other, 5);
    int before = place_descriptors_left(0);
    CHECK_WORKS(oyez_server_resume(other.id));
    CHECK_SOON(serve_stats(other).descriptor_pauses >= 1);
    for (int i = 0; i < 200; i++) {
        long long start = check_now_ms();
        client_send_text(inside, "x");
        client_expect(inside, "x");
        CHECK_TOOK(start, 0, 1000);
    }
    place_descriptor_limit(before);
    check_join(child);
    MUST(close(inside));
    serve_end(other);
    serve_end(server);
}

/* A stop works meanwhile, and loses nobody when the limit rises in time. */
static void stopping_while_there_are_none(void)
{
    for (int m = 0; m < 3; m++) {
        crowd all;
        served server = serve_logged(models[m], serve_hello, NULL);
        CHECK_WORKS(oyez_server_pause(server.id));
        pid_t child = gather(&all, server, 5);
        int before = place_descriptors_left(0);
        CHECK_WORKS(oyez_server_resume(server.id));
        CHECK_SOON(serve_stats(server).descriptor_pauses >= 1);
        CHECK_WORKS(oyez_server_stop(server.id, 20000));
        CHECK_FAILS(oyez_server_wait(server.id, 200), OYEZ_TIMED_OUT, EAGAIN);
        place_descriptor_limit(before);
        check_join(child);
        CHECK_WORKS(oyez_server_wait(server.id, 10000));
        CHECK_WORKS(oyez_server_close(server.id));
    }
}

static void stopping_at_once_while_there_are_none(void)
{
    served server = serve_logged(OYEZ_THREADS, serve_hello, NULL);
    int client = client_connect(server.port);
    client_expect(client, "hello\n");
    CHECK_SOON(serve_stats(server).active == 0);
    CHECK_WORKS(oyez_server_pause(server.id));
    int queued = client_connect(server.port);
    int before = place_descriptors_left(0);
    CHECK_WORKS(oyez_server_resume(server.id));
    CHECK_SOON(serve_stats(server).descriptor_pauses >= 1);
    long long start = check_now_ms();
    CHECK_WORKS(oyez_server_stop(server.id, 0));
    CHECK_WORKS(oyez_server_wait(server.id, 10000));
    CHECK_TOOK(start, 0, 3000);
    place_descriptor_limit(before);
    CHECK_EQ_INT(client_ending(queued), ECONNRESET);
    MUST(close(queued));
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(server.id));
}

/* Calls that need a descriptor say so, and leave nothing behind at any number that is left. */
static void calls_that_need_descriptors(void)
{
    for (int left = 0; left < 8; left++) {
        int before = place_descriptors_left(left);
        int open = check_open();
        int fd = oyez_listen("127.0.0.1:0", NULL);
        expect_keep();
        if (fd == -1)
            CHECK_ERROR(OYEZ_LIMIT_REACHED, EMFILE);
        else
            MUST(close(fd));
        CHECK((fd == -1) == (left == 0));
        oyez_server server = oyez_server_new(serve_hello, NULL, NULL);
        expect_keep();
        if (server == -1) {
            CHECK_ERROR(OYEZ_LIMIT_REACHED, EMFILE);
        } else {
            int listener = oyez_server_listen(server, "127.0.0.1:0,127.0.0.1:0", NULL);
            expect_keep();
            if (listener == -1)
                CHECK_ERROR(OYEZ_LIMIT_REACHED, EMFILE);
            else
                oyez_server_start(server);
            CHECK_WORKS(oyez_server_close(server));
        }
        oyez_serve("127.0.0.1:0,127.0.0.1:99999", serve_hello, NULL, NULL);
        CHECK_EQ_INT(check_open(), open);
        place_descriptor_limit(before);
    }
}

/* A Unix address needs more than one while it looks for a stale file; with too few it fails, and leaves no file. */
static void unix_addresses_with_few_descriptors(void)
{
    char address[200];
    snprintf(address, sizeof address, "unix:%s/a.sock", check_folder());
    for (int left = 0; left < 6; left++) {
        int before = place_descriptors_left(left);
        int fd = oyez_listen(address, NULL);
        expect_keep();
        if (fd == -1)
            CHECK_ERROR(OYEZ_LIMIT_REACHED, EMFILE);
        else
            CHECK_WORKS(oyez_unlisten(fd));
        place_descriptor_limit(before);
        CHECK_EQ_INT(place_entries(check_folder()), 0);
    }
}

static const check_case cases[] = {
    CASE(it_waits_until_the_limit_rises),
    CASE(the_log_names_the_limit),
    CASE(it_goes_on_as_descriptors_are_freed),
    CASE(it_notices_a_descriptor_that_the_program_frees),
    CASE(each_episode_is_told_once),
    CASE(those_who_are_in_go_on),
    CASE(stopping_while_there_are_none),
    CASE(stopping_at_once_while_there_are_none),
    CASE(calls_that_need_descriptors),
    CASE(unix_addresses_with_few_descriptors),
};

CHECK_MAIN(cases)
