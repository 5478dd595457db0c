/*
 Peers and handlers that behave as badly as they can, for each way of serving: crowds, floods, one byte at a time, and
 every function of oyez called from every function of the program. What tests/c has of that is not here again:
 matrix.txt tells where each fault is met.
*/
#define _GNU_SOURCE
#include "clients.h"
#include "inject.h"
#include "scene.h"
#include "storm.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE = 15000 };

/* Each way; io_uring where it can be had. */
static int begin(scene *at, int kind)
{
    inject_reset();
    if (scene_make(at, kind) == 0)
        return 1;
    CHECK(kind == IO_URING && oyez_error_code(NULL) == OYEZ_UNSUPPORTED);
    scene_drop(at);
    check_note("io_uring: this system has none for oyez");
    return 0;
}

static void for_each_way(void (*body)(scene *))
{
    for (int kind = 0; kind < SCENES; kind++) {
        scene at;
        if (!begin(&at, kind))
            continue;
        body(&at);
        CHECK_EQ_INT(scene_client(&at, PATIENCE), SERVED);
        CHECK_SOON(scene_stats(&at).active == 0);
        scene_end(&at, 5000);
    }
}

/* As many at once as the limit of descriptors allows, of which the clients' process has one each, and the server. */
enum { CROWD = 10000 };

static int crowd_size(void)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    long room = (long)limit.rlim_max - 200;
    return room < CROWD ? (int)room : CROWD;
}

static void raise_limit(void)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max < 20000 ? limit.rlim_max : 20000;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
}

/* They connect, and when all are there each sends its line and is served. */
static void be_a_crowd(void *argument)
{
    scene *at = argument;
    int size = crowd_size();
    int *all = malloc((size_t)size * sizeof *all);
    for (int i = 0; i < size; i++)
        CHECK((all[i] = scene_call_open(at)) != -1);
    for (int i = 0; i < size; i++)
        MUST(shutdown(all[i], SHUT_WR));
    for (int i = 0; i < size; i++)
        CHECK_EQ_INT(scene_outcome(all[i], PATIENCE), SERVED);
    free(all);
}

/* Event servers have them all at once; the others have as many as there are workers, and the rest in turn. */
static void a_crowd(void)
{
    struct rlimit before;
    MUST(getrlimit(RLIMIT_NOFILE, &before));
    raise_limit();
    for (int kind = EPOLL; kind <= POLLED; kind++) {
        scene at;
        if (!begin(&at, kind))
            continue;
        long long start = check_now_ms();
        pid_t crowd = check_fork(be_a_crowd, &at);
        long most = 0;
        int status;
        while (waitpid(crowd, &status, WNOHANG) == 0) {
            long active = (long)scene_stats(&at).active;
            most = active > most ? active : most;
            check_nap(5);
        }
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        check_note("%s: %d clients, %ld at once, in %lld ms", scene_name(kind), crowd_size(), most,
                   check_now_ms() - start);
        CHECK(most > crowd_size() / 2);
        CHECK_EQ_INT(scene_stats(&at).accepted, crowd_size());
        CHECK_SOON(scene_stats(&at).active == 0);
        scene_end(&at, 5000);
    }
    MUST(setrlimit(RLIMIT_NOFILE, &before));
}

/* Short connections as fast as they come, for a second, while one client has its answers all the time. */
static void flood(void *argument)
{
    scene *at = argument;
    for (long long end = check_now_ms() + 700; check_now_ms() < end;) {
        int client = scene_call_open(at);
        if (client != -1)
            client_reset(client);
    }
}

static void be_flooded(scene *at)
{
    pid_t others[2];
    int served = 0;
    for (int i = 0; i < 2; i++)
        others[i] = check_fork(flood, at);
    for (long long end = check_now_ms() + 600; check_now_ms() < end; served++)
        CHECK_EQ_INT(scene_client(at, PATIENCE), SERVED);
    for (int i = 0; i < 2; i++)
        check_join(others[i]);
    check_note("%s: %d served beside a flood of %d", scene_name(at->kind), served, (int)scene_stats(at).accepted - served);
    CHECK(served > 0);
}

static void a_flood(void)
{
    for_each_way(be_flooded);
}

/* A byte at a time, and rubbish: it comes back as it is. */
static void send_slowly(scene *at)
{
    unsigned char sent[64];
    unsigned char got[sizeof sent];
    int client = client_connect(at->port);
    for (size_t i = 0; i < sizeof sent; i++) {
        sent[i] = (unsigned char)(i * 37);
        client_send(client, &sent[i], 1);
        CHECK_EQ_INT(client_receive(client, &got[i], 1), 1);
    }
    CHECK(memcmp(sent, got, sizeof sent) == 0);
    MUST(shutdown(client, SHUT_WR));
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
}

static void a_byte_at_a_time(void)
{
    for_each_way(send_slowly);
}

/* The kernel gives and takes one byte at a time: handlers, whose calls go on where it left off. */
static void a_kernel_that_takes_one_byte(void)
{
    for (int kind = THREADS; kind <= BY_HAND; kind++) {
        scene at;
        CHECK(begin(&at, kind));
        inject_short(1);
        for (int i = 0; i < 5; i++)
            CHECK_EQ_INT(scene_client(&at, PATIENCE), SERVED);
        inject_short(0);
        CHECK_SOON(scene_stats(&at).active == 0);
        scene_end(&at, 5000);
    }
}

/* The process stands still for a while, in the middle of clients: nobody is lost. */
static void wake_parent(void *argument)
{
    check_nap(*(int *)argument);
    MUST(kill(getppid(), SIGCONT));
}

static void stand_still(scene *at)
{
    int ms = 150, under_way = scene_call_open(at);
    CHECK_SOON(scene_stats(at).active == 1);
    pid_t waker = check_fork(wake_parent, &ms);
    MUST(raise(SIGSTOP));
    check_join(waker);
    MUST(shutdown(under_way, SHUT_WR));
    CHECK_EQ_INT(scene_outcome(under_way, PATIENCE), SERVED);
}

static void stopped_and_continued(void)
{
    for_each_way(stand_still);
}

/* Signals without SA_RESTART interrupt every call there is, for as long as the server lives. */
static void a_storm_from_the_beginning_to_the_end(void)
{
    for (int kind = 0; kind < SCENES; kind++) {
        scene at;
        storm_start();
        if (begin(&at, kind)) {
            for (long long end = check_now_ms() + 100; check_now_ms() < end;)
                CHECK_EQ_INT(scene_client(&at, PATIENCE), SERVED);
            CHECK_SOON(scene_stats(&at).active == 0);
            scene_end(&at, 2000);
        }
        check_nap(30);
        storm_end();
    }
}

static const check_case cases[] = {
    CASE_WITHIN(120, a_crowd),
    CASE(a_flood),
    CASE(a_byte_at_a_time),
    CASE(a_kernel_that_takes_one_byte),
    CASE(stopped_and_continued),
    CASE(a_storm_from_the_beginning_to_the_end),
};

CHECK_MAIN(cases)
