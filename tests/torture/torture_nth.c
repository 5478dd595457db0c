/*
 A whole life of a server, in which the n-th call fails, for each n: system calls of whatever kind, and allocations.

 A cell is "way/what/n". "Short" is the errno of a resource that is used up, "interrupted" EINTR, "forbidden" EPERM.
 Memory fails once; or from there on until two clients have come ("ever"), after which a server that did begin has to
 serve; or to the very end ("gone"); or as "ever" in a server that has served a client ("late"), which must not end. The n
 go on until a life has had no such call.

 An Arc of Rust cannot be made without memory but by ending the process: making a server has some, which
 making_has_few_aborts counts. Where a server runs there is none.
*/
#define _GNU_SOURCE
#include "inject.h"
#include "scene.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SHORT, INTERRUPTED, FORBIDDEN, MEMORY_ONCE, MEMORY_EVER, MEMORY_GONE, MEMORY_LATE, WAYS };

static const char *const ways[WAYS] = { "short",       "interrupted", "forbidden",  "memory",
                                        "memory-ever", "memory-gone", "memory-late" };

enum { CLIENTS = 2, PATIENCE = 4000, IMPATIENCE = 30 };

/* A write to an eventfd wakes whatever it says, and a child that is there can be waited for. */
static int cannot_fail(int call)
{
    return call == CALL_write || call == CALL_waitid;
}

static int choose_short(int call)
{
    switch (call) {
    case CALL_write:
    case CALL_waitid:
        return 0;
    case CALL_fork:
    case CALL_pthread_create:
        return EAGAIN;
    case CALL_socket:
    case CALL_accept4:
    case CALL_epoll_create1:
    case CALL_eventfd:
    case CALL_timerfd_create:
    case CALL_open64:
        return EMFILE;
    case CALL_recv:
    case CALL_recvmsg:
    case CALL_send:
        return ENOBUFS;
    default:
        return ENOMEM;
    }
}

static int choose_interrupted(int call)
{
    return cannot_fail(call) ? 0 : EINTR;
}

static int choose_forbidden(int call)
{
    return cannot_fail(call) ? 0 : EPERM;
}

static void arm(int way, long n)
{
    static int (*const choices[])(int) = { choose_short, choose_interrupted, choose_forbidden };
    if (way < MEMORY_ONCE)
        inject_arm_any(n, choices[way]);
    else
        inject_arm(CALL_malloc, n, way == MEMORY_ONCE ? n : FOR_EVER, ENOMEM);
}

/* Two clients; where nobody serves them any more that is said by an end. */
static void visit(scene *at, int way)
{
    int waiting[CLIENTS];
    int patience = way > MEMORY_ONCE ? IMPATIENCE : PATIENCE;
    for (int i = 0; i < CLIENTS; i++) {
        int client = scene_call(at), outcome = SILENT;
        for (int left = patience; outcome == SILENT && left > 0 && !SCENE_SEEN(at->ended); left -= 5)
            outcome = scene_outcome(client, 5);
        waiting[i] = outcome == SILENT ? client : -1; /* -1 too where it could not connect */
        CHECK(outcome != SILENT || SCENE_SEEN(at->ended) || patience == IMPATIENCE);
    }
    if (way != MEMORY_GONE)
        inject_disarm();
    for (int i = 0; i < CLIENTS; i++) {
        if (waiting[i] == -1)
            continue;
        int outcome = SILENT;
        for (int left = PATIENCE; outcome == SILENT && left > 0 && way != MEMORY_GONE && !SCENE_SEEN(at->ended); left -= 5)
            outcome = scene_outcome(waiting[i], 5);
        CHECK(outcome != SILENT || way == MEMORY_GONE || SCENE_SEEN(at->ended));
        if (outcome == SILENT)
            MUST(close(waiting[i]));
    }
}

/* Whether making a server ends the process here. */
static int aborts(int kind, int way, long n)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        scene at;
        int nothing = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(nothing, 2);
        arm(way, n);
        scene_make(&at, kind);
        _exit(0);
    }
    MUST(waitpid(child, &status, 0));
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void live(int kind, int way, long n)
{
    scene at;
    int first = -1;
    inject_reset();
    if (way != MEMORY_LATE)
        arm(way, n);
    if (scene_make(&at, kind) == -1) {
        inject_disarm();
        scene_drop(&at);
        int made = scene_make(&at, kind);
        /* What a sandbox forbids stays forbidden. */
        if (made == -1 && kind == IO_URING && way == FORBIDDEN)
            CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_UNSUPPORTED);
        else
            CHECK_EQ_INT(made, 0);
        if (made == -1)
            return;
    }
    if (way == MEMORY_LATE) {
        /* Two at once, which the threads of an event server share: each of them has begun, and will have a client. */
        first = scene_has_events(kind) ? scene_call_open(&at) : -1;
        CHECK_EQ_INT(scene_client(&at, PATIENCE), SERVED);
        CHECK_SOON(scene_stats(&at).active == (first != -1));
        arm(way, n);
    }
    visit(&at, way);
    if (first != -1) {
        MUST(shutdown(first, SHUT_WR));
        CHECK_EQ_INT(scene_outcome(first, PATIENCE), SERVED);
    }
    if ((way == MEMORY_EVER || way == MEMORY_LATE) && !SCENE_SEEN(at.ended)) {
        int outcome = scene_client(&at, PATIENCE);
        CHECK(outcome == SERVED || scene_ends(&at, PATIENCE));
    }
    if (way == MEMORY_LATE && scene_ends(&at, 0))
        check_fail(__FILE__, __LINE__, "a server that ran has ended: %s", at.last_error);
    scene_end(&at, 300);
}

/* The cells. */

typedef struct cell {
    int kind;
    int way;
    long n;
} cell;

static check_case *cases;
static cell *cells;
static size_t count;

/* The log's, the server's and the listener's; two lanes of an event server; and nothing else. */
static void making_has_few_aborts(int kind, int allocations)
{
    int found = 0;
    for (long n = 1; n <= allocations; n++)
        found += aborts(kind, MEMORY_ONCE, n);
    check_note("%d of %d", found, allocations);
    CHECK(found <= (scene_has_events(kind) ? 5 : 3));
}

static void run_cell(void)
{
    scene next;
    const cell *of = NULL;
    for (size_t i = 0; i < count; i++)
        if (strcmp(cases[i].name, check_name()) == 0)
            of = &cells[i];
    if (of->n == 0) {
        making_has_few_aborts(of->kind, of->way);
        return;
    }
    if (of->way >= MEMORY_ONCE && of->way < MEMORY_LATE && aborts(of->kind, of->way, of->n))
        SKIP("an Arc cannot be made without memory: making_has_few_aborts counts them");
    live(of->kind, of->way, of->n);
    inject_reset();
    if (scene_make(&next, of->kind) == -1) {
        CHECK(of->kind == IO_URING && of->way == FORBIDDEN);
        return;
    }
    CHECK_EQ_INT(scene_client(&next, PATIENCE), SERVED);
    scene_end(&next, 1000);
}

/* How many calls, and allocations, a life without faults has; some more, since no two are the same. */
static int probe(int kind, long *calls, long *allocations)
{
    int status = 0;
    long *told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0) {
        scene at;
        inject_reset();
        inject_arm(-1, 0, 0, 0);
        if (scene_make(&at, kind) == -1)
            _exit(3);
        visit(&at, MEMORY_ONCE);
        scene_end(&at, 300);
        told[0] = inject_all();
        told[1] = inject_count(CALL_malloc);
        _exit(0);
    }
    waitpid(child, &status, 0);
    *calls = told[0] + 5;
    *allocations = told[1] + 5;
    munmap(told, 4096);
    if (status == 3 << 8 && kind == IO_URING)
        printf("skipped io_uring: this system has no io_uring for oyez\n");
    else if (status != 0)
        printf("FAILED %s: a server that meets no fault does not work\n", scene_name(kind));
    return status == 0;
}

static void add(int kind, int way, long n)
{
    char name[100];
    if (n == 0)
        snprintf(name, sizeof name, "%s/making_has_few_aborts", scene_name(kind));
    else
        snprintf(name, sizeof name, "%s/%s/%ld", scene_name(kind), ways[way], n);
    if (!scene_wants(name))
        return;
    cases = realloc(cases, (count + 1) * sizeof *cases);
    cells = realloc(cells, (count + 1) * sizeof *cells);
    cells[count] = (cell){ kind, way, n };
    cases[count].name = strdup(name);
    cases[count].run = run_cell;
    cases[count].seconds = 30;
    count++;
}

int main(int argc, char **argv)
{
    printf("seed %u (TORTURE_SEED)\n", scene_seed());
    for (int kind = 0; kind < SCENES; kind++) {
        long calls, allocations;
        if (!probe(kind, &calls, &allocations))
            continue;
        add(kind, (int)allocations, 0);
        for (int way = 0; way < WAYS; way++)
            for (long n = 1; n <= (way < MEMORY_ONCE ? calls : allocations); n++)
                add(kind, way, n);
    }
    return check_run(cases, count, argc, argv);
}
