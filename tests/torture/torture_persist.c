/*
 Accepting fails for ever: for three seconds in each way of serving and with each errno at once.

 At most 20 accepts a second, once the hundred retries at once that accept(2) asks for are over; a bounded number of log
 lines; next to no processor time; a client that is in already is served on. When the fault is over, those who waited are
 served. A listener that is none ends the server, and says so once; another listener goes on.
*/
#define _GNU_SOURCE
#include "clients.h"
#include "expected.h"
#include "inject.h"
#include "scene.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SECONDS = 3, PATIENCE = 8000, AT_ONCE = 101 };

static check_case cases[300];
static int kinds[300], numbers[300];
static size_t count;

static int is_answered(int client)
{
    char byte;
    client_send(client, "?", 1);
    return client_receive(client, &byte, 1) == 1 && byte == '?';
}

static void fails_for_ever(void)
{
    scene at;
    size_t i = 0;
    while (strcmp(cases[i].name, check_name()) != 0)
        i++;
    inject_reset();
    CHECK_EQ_INT(scene_make(&at, kinds[i]), 0);
    int alone = kinds[i] == SEQUENTIAL || kinds[i] == BY_HAND;
    int inside = alone ? -1 : client_connect(at.port);
    CHECK(inside == -1 || is_answered(inside));
    inject_arm(CALL_accept4, 1, FOR_EVER, numbers[i]);
    int waiting[5];
    for (int c = 0; c < 5; c++)
        waiting[c] = scene_call(&at);
    check_nap(300); /* the retries at once */
    long before = inject_failures(), cpu = check_cpu_ms();
    int lines = SCENE_SEEN(at.lines);
    CHECK(before > 0 && before <= AT_ONCE + 10);
    check_nap(SECONDS * 1000);
    long failures = inject_failures() - before, used = check_cpu_ms() - cpu;
    check_note("%ld accepts, %ld ms of processor time, %d lines of the log in all", failures, used, SCENE_SEEN(at.lines));
    CHECK(failures <= 20 * SECONDS);
    CHECK(failures >= SECONDS); /* and it does try again */
    CHECK(used <= 10 * SECONDS);
    CHECK(SCENE_SEEN(at.lines) - lines <= 1 && lines <= 3);
    CHECK(inside == -1 || is_answered(inside));
    inject_disarm();
    for (int c = 0; c < 5; c++)
        CHECK_EQ_INT(scene_outcome(waiting[c], PATIENCE), SERVED);
    if (inside != -1)
        client_close(inside);
    CHECK_SOON(scene_stats(&at).active == 0);
    scene_end(&at, 2000);
}

/* One listener of two is dead: the other one's clients are served, and it is said once. */
static void one_listener_of_two_is_dead(void)
{
    static const int dead[] = { EBADF, ENOTSOCK, EINVAL, EFAULT };
    for (int kind = 0; kind < SCENES; kind++) {
        for (int i = 0; i < 4; i++) {
            scene at;
            inject_reset();
            if (kind == IO_URING && scene_make(&at, kind) == -1)
                break;
            if (kind != IO_URING)
                CHECK_EQ_INT(scene_make(&at, kind), 0);
            CHECK_EQ_INT(scene_client(&at, PATIENCE), SERVED);
            CHECK_SOON(scene_stats(&at).active == 0);
            int other = oyez_local_port((int)CHECK_WORKS(oyez_server_listen(at.id, "127.0.0.1:0", NULL)));
            int first = at.port;
            /* Whichever is tried first: one client at one of them. */
            check_nap(20);
            inject_arm(CALL_accept4, 1, 1, dead[i]);
            int lost = scene_call(&at);
            for (int tries = 0; inject_failures() == 0 && tries < 1000; tries++)
                check_nap(1);
            inject_disarm();
            CHECK_SOON(SCENE_SEEN(at.errors) == 1);
            CHECK(strstr(at.last_error, "listener_dead") != NULL);
            int served = 0;
            for (int c = 0; c < 2; c++) {
                at.port = c == 0 ? first : other;
                int client = scene_call(&at), outcome = scene_outcome(client, 300);
                served += outcome == SERVED;
                if (outcome == SILENT)
                    MUST(close(client));
            }
            CHECK_EQ_INT(served, 1);
            CHECK(!scene_ends(&at, 0));
            if (scene_outcome(lost, 0) == SILENT)
                MUST(close(lost));
            CHECK_SOON(scene_stats(&at).active == 0);
            scene_end(&at, 500);
        }
    }
}

int main(int argc, char **argv)
{
    printf("seed %u (TORTURE_SEED)\n", scene_seed());
    if (scene_wants("one_listener_of_two_is_dead"))
        cases[count++] = (check_case){ "one_listener_of_two_is_dead", one_listener_of_two_is_dead, 120 };
    for (int kind = 0; kind < SCENES; kind++) {
        for (int i = 0; errno_at(i) != 0; i++) {
            char name[80];
            int failing = errno_at(i);
            if (expected_of_serving(kind, CALL_accept4, failing, 1) == ENDS || failing == EAGAIN || failing == ENOSYS)
                continue; /* dead; empty; another call is made instead */
            snprintf(name, sizeof name, "%s/accept_fails_for_ever/%s", scene_name(kind), errno_name(failing));
            if (!scene_wants(name))
                continue;
            kinds[count] = kind;
            numbers[count] = failing;
            cases[count++] = (check_case){ strdup(name), fails_for_ever, 40 };
        }
    }
    return check_run(cases, count, argc, argv);
}
