/*
 Every errno of every system call that a server makes, in each way of serving.

 A cell is "way/phase/call/errno/when". The phase is making the server, serving three clients, or stopping with a client
 under way. "When" is the first call of that phase, the second, a random one ("r7"; TORTURE_SEED), or for ever. Which
 calls there are is found out by a server that meets no fault. Around each cell the harness compares the process with
 itself; the cell looks at what the fault may do, and at what comes after it.
*/
#define _GNU_SOURCE
#include "expected.h"
#include "inject.h"
#include "scene.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CLIENTS = 3, PATIENCE = 4000, WINDOW = 150, MANY = 20 };

typedef struct cell {
    int kind;
    int phase;
    int call;
    int number;
    long first;
    long last;
} cell;

static check_case *cases;
static cell *cells;
static size_t count;

static const char *const phases[PHASES] = { "make", "serve", "stop" };

static const cell *running(void)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(cases[i].name, check_name()) == 0)
            return &cells[i];
    check_fail(__FILE__, __LINE__, "there is no such cell");
}

static void arm(const cell *of)
{
    inject_arm(of->call, of->first, of->last, of->number);
}

static void serve_and_end(scene *at)
{
    CHECK_EQ_INT(scene_client(at, PATIENCE), SERVED);
    CHECK_SOON(scene_stats(at).active == 0);
    scene_end(at, 2000);
}

/* Making it fails, or not; then there is another one. */
static void make_one(const cell *of)
{
    scene at, next;
    inject_only_here(1);
    arm(of);
    int made = scene_make(&at, of->kind);
    int number = errno;
    int failures = (int)inject_failures();
    inject_disarm();
    inject_only_here(0);
    CHECK(failures > 0);
    int expected = expected_of_making(of->call, of->number, of->first);
    if (expected == FAILS)
        CHECK_EQ_INT(made, -1);
    if (expected == WORKS)
        CHECK_EQ_INT(made, 0);
    if (made == -1) {
        CHECK(number == expected_errno(of->call, of->number) || expected_errno(of->call, of->number) == 0);
        scene_drop(&at);
        CHECK_EQ_INT(scene_make(&next, of->kind), 0);
        serve_and_end(&next);
    } else {
        serve_and_end(&at);
    }
}

/* The server has ended because of the fault, and says so. */
static void check_ended(scene *at, const cell *of)
{
    CHECK(scene_ends(at, PATIENCE));
    if (at->driven)
        CHECK_EQ_INT(SCENE_SEEN(at->number), of->number);
    else
        CHECK_SOON(SCENE_SEEN(at->errors) > 0);
}

/* Either it serves, or it ends, which may take a moment. */
static int has_ended(scene *at)
{
    return scene_client(at, PATIENCE) != SERVED && scene_ends(at, PATIENCE);
}

/* No processor time is used by a server that has nothing to do. */
static void check_idle(void)
{
    check_nap(5);
    long before = check_cpu_ms();
    check_nap(40);
    CHECK(check_cpu_ms() - before <= 12);
}

/* These two say what had to be expected, as far as the fault was met; ENDS where the server has ended. */
static int serve_for_ever(const cell *of, scene *at, int expected)
{
    int early = scene_call(at);
    int outcome = scene_outcome(early, WINDOW);
    long failures = inject_failures();
    int lines = SCENE_SEEN(at->lines);
    inject_disarm();
    if (of->call == CALL_accept4) /* a hundred at once, and then with growing rests */
        CHECK(failures <= 101 + 10);
    CHECK(lines <= 10);
    for (int left = PATIENCE; outcome == SILENT && left > 0 && !SCENE_SEEN(at->ended); left -= 10)
        outcome = scene_outcome(early, 10);
    CHECK(outcome != SILENT || SCENE_SEEN(at->ended));
    if (outcome == SILENT && early != -1)
        MUST(close(early));
    if (failures == 0)
        expected = ALL_SERVED;
    if (expected == ENDS)
        check_ended(at, of);
    if (expected == ENDS || (expected == ANY && has_ended(at)))
        return ENDS;
    CHECK_EQ_INT(scene_client(at, PATIENCE), SERVED);
    CHECK_SOON(scene_stats(at).active <= 1);
    check_idle();
    return expected;
}

static int serve_a_few(const cell *of, scene *at, int expected)
{
    int lost = 0;
    for (int i = 0; i < CLIENTS && !SCENE_SEEN(at->ended); i++) {
        int client = scene_call(at), outcome = SILENT;
        for (int left = PATIENCE; outcome == SILENT && left > 0 && !SCENE_SEEN(at->ended); left -= 10)
            outcome = scene_outcome(client, 10);
        /* Where the program has given up, nobody is there to accept. */
        CHECK(outcome != SILENT || SCENE_SEEN(at->ended));
        if (outcome == SILENT && client != -1)
            MUST(close(client));
        lost += outcome != SERVED;
    }
    long failures = inject_failures();
    inject_disarm();
    if (failures == 0)
        expected = ALL_SERVED;
    if (expected == ENDS)
        check_ended(at, of);
    if (expected == ENDS || (expected == ANY && has_ended(at)))
        return ENDS;
    CHECK(lost <= (expected == ALL_SERVED ? 0 : failures));
    CHECK_EQ_INT(scene_client(at, PATIENCE), SERVED);
    return expected;
}

static void end_bystander(int client, int expected)
{
    if (expected != ENDS)
        shutdown(client, SHUT_WR); /* one whose own call failed may be gone */
    int outcome = scene_outcome(client, PATIENCE);
    CHECK(outcome == SERVED || (outcome == BROKEN && expected != ALL_SERVED));
}

static void serve_one(const cell *of)
{
    scene at;
    CHECK_EQ_INT(scene_make(&at, of->kind), 0);
    /* A pool that has a thread makes no other; any other server is to have begun. */
    if (of->call != CALL_pthread_create || of->kind != THREADS) {
        CHECK_EQ_INT(scene_client(&at, PATIENCE), SERVED);
        CHECK_SOON(scene_stats(&at).active == 0);
    }
    int expected = expected_of_serving(of->kind, of->call, of->number, of->last == FOR_EVER);
    /* Whoever is in already is served on, where there is room beside him. */
    int bystander = of->kind == SEQUENTIAL || of->kind == BY_HAND ? -1 : scene_call_open(&at);
    if (bystander != -1)
        CHECK_SOON(scene_stats(&at).active == 1 && scene_stats(&at).bytes_out + (of->kind == PROCESSES) > 0);
    arm(of);
    if (of->last == FOR_EVER)
        expected = serve_for_ever(of, &at, expected);
    else
        expected = serve_a_few(of, &at, expected);
    if (bystander != -1 && expected != ENDS)
        end_bystander(bystander, expected);
    if (!scene_ends(&at, 0))
        CHECK_SOON(scene_stats(&at).active == 0);
    scene_end(&at, 2000);
    if (bystander != -1 && expected == ENDS)
        end_bystander(bystander, expected);
}

/* A client that has sent everything but the end is under way, and one more has just come. */
static void stop_one(const cell *of)
{
    scene at;
    CHECK_EQ_INT(scene_make(&at, of->kind), 0);
    CHECK_EQ_INT(scene_client(&at, PATIENCE), SERVED);
    int under_way = scene_call_open(&at);
    CHECK_SOON(scene_stats(&at).active == 1);
    int late = scene_call(&at);
    arm(of);
    scene_end(&at, 60);
    inject_disarm();
    CHECK(scene_outcome(late, PATIENCE) != SILENT);
    CHECK(scene_outcome(under_way, PATIENCE) != SILENT);
    CHECK_EQ_INT(scene_make(&at, of->kind), 0);
    serve_and_end(&at);
}

static void run_cell(void)
{
    const cell *of = running();
    const char *why = impossible(of->kind, of->phase, of->call, of->number, of->last == FOR_EVER);
    if (why != NULL)
        SKIP(why);
    cell now = *of;
    /* A signal that interrupts every call for ever is no signal. */
    if (now.number == EINTR && now.last == FOR_EVER)
        now.last = MANY;
    inject_reset();
    if (now.phase == MAKE)
        make_one(&now);
    else if (now.phase == SERVE)
        serve_one(&now);
    else
        stop_one(&now);
    inject_reset();
}

/* What calls there are. */

typedef long tally[SCENES][PHASES][CALLS];

static void keep_counts(long *kept)
{
    for (int call = 0; call < CALLS; call++)
        kept[call] = inject_count(call);
}

static void probe(int kind, long (*counts)[CALLS])
{
    scene at;
    inject_reset();
    inject_only_here(1);
    inject_arm(-1, 0, 0, 0);
    if (scene_make(&at, kind) == -1)
        _exit(3);
    keep_counts(counts[MAKE]);
    inject_only_here(0);
    inject_arm(-1, 0, 0, 0);
    for (int i = 0; i < CLIENTS; i++)
        CHECK_EQ_INT(scene_client(&at, PATIENCE), SERVED);
    CHECK_SOON(scene_stats(&at).active == 0);
    keep_counts(counts[SERVE]);
    int under_way = scene_call_open(&at);
    CHECK_SOON(scene_stats(&at).active == 1);
    int late = scene_call(&at);
    inject_arm(-1, 0, 0, 0);
    scene_end(&at, 60);
    keep_counts(counts[STOP]);
    scene_outcome(late, 0);
    scene_outcome(under_way, 0);
    _exit(0);
}

/* In processes of their own; an io_uring server that cannot be had has no calls. */
static int probe_all(tally *counts)
{
    for (int kind = 0; kind < SCENES; kind++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0)
            probe(kind, (*counts)[kind]);
        waitpid(child, &status, 0);
        if (status == 3 << 8 && kind == IO_URING)
            printf("skipped io_uring: this system has no io_uring for oyez\n");
        else if (status != 0) {
            printf("FAILED %s: a server that meets no fault does not work\n", scene_name(kind));
            return 0;
        }
    }
    return 1;
}

/* The cells. */

static void add(cell made)
{
    static size_t room;
    char name[120], when[20];
    snprintf(when, sizeof when, made.first > 2 ? "r%ld" : "%ld", made.first);
    snprintf(name, sizeof name, "%s/%s/%s/%s/%s", scene_name(made.kind), phases[made.phase], inject_name(made.call),
             errno_name(made.number), made.last == FOR_EVER ? "ever" : when);
    if (!scene_wants(name))
        return;
    if (count == room) {
        room = room == 0 ? 1024 : room * 2;
        cases = realloc(cases, room * sizeof *cases);
        cells = realloc(cells, room * sizeof *cells);
    }
    cells[count] = made;
    cases[count].name = strdup(name);
    cases[count].run = run_cell;
    cases[count].seconds = 40;
    count++;
}

static void add_all(int kind, int phase, int call, long calls, unsigned *random)
{
    for (int i = 0; errno_at(i) != 0; i++) {
        if (!is_worth_it(phase, call, errno_at(i)))
            continue;
        cell made = { kind, phase, call, errno_at(i), 1, 1 };
        add(made);
        if (calls > 1) {
            made.first = made.last = 2;
            add(made);
        }
        if (calls > 2) {
            made.first = made.last = 3 + (long)(scene_random(random) % (unsigned long)(calls - 2));
            add(made);
        }
        made.first = 1;
        made.last = FOR_EVER;
        add(made);
    }
}

int main(int argc, char **argv)
{
    unsigned random = scene_seed();
    tally *counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counts == MAP_FAILED || !probe_all(counts))
        return 1;
    printf("seed %u (TORTURE_SEED)\n", scene_seed());
    for (int kind = 0; kind < SCENES; kind++)
        for (int phase = 0; phase < PHASES; phase++)
            for (int call = 0; call < CALL_malloc; call++)
                if ((*counts)[kind][phase][call] > 0)
                    add_all(kind, phase, call, (*counts)[kind][phase][call], &random);
    return check_run(cases, count, argc, argv);
}
