/* A port that is in use: who holds it, as far as that can be seen. */
#define _GNU_SOURCE
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Another program with a listener that it does not know of. */
static void other_program(void *address)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.close_on_exec = OYEZ_OFF;
    CHECK_WORKS(oyez_listen(address, &options));
    execlp("sleep", "sleep", "1000", (char *)NULL);
    SKIP("there is no sleep(1)");
}

/* In a process to which the holder is no child. */
static void find_stranger(void *argument)
{
    const char *name = ((const char **)argument)[0];
    const char *number = ((const char **)argument)[1];
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("%s (pid %s, user %s) listens on " HERE, name, number, fault_user((int)geteuid()));
    HINT_HAS("`kill %s`", number);
}

static void find_neighbour(const char *name, void (*holder)(void *))
{
    char number[20];
    const char *expected[] = { name, number };
    fault_network();
    pid_t neighbour = place_neighbour(holder, HERE);
    snprintf(number, sizeof number, "%d", (int)neighbour);
    check_join(check_fork(find_stranger, expected));
    place_neighbour_end(neighbour);
    MUST(close(fault_listen(HERE)));
}

static void held_by_another_process(void)
{
    find_neighbour("rival", fault_rival);
}

static void held_by_another_program(void)
{
    find_neighbour("sleep", other_program);
}

static void held_by_this_process(void)
{
    fault_network();
    int fd = fault_listen(HERE);
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("this process itself (pid %d, descriptor %d) listens on " HERE, (int)getpid(), fd);
    HINT_HAS("close descriptor %d", fd);
    MUST(close(fd));
}

static void held_by_a_child_that_inherited_it(void)
{
    fault_network();
    int fd = fault_listen(HERE);
    pid_t child = place_neighbour(fault_named, "heir");
    MUST(close(fd));
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("heir (pid %d, user %s, a child of this process", (int)child, fault_user((int)geteuid()));
    MESSAGE_HAS("descriptor %d) listens on " HERE, fd);
    HINT_HAS("`kill %d`", (int)child);
    HINT_HAS("descriptor %d", fd);
    place_neighbour_end(child);
}

static void held_by_this_process_and_a_child(void)
{
    fault_network();
    int fd = fault_listen(HERE);
    pid_t child = place_neighbour(fault_named, "heir");
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("this process itself (pid %d, descriptor %d", (int)getpid(), fd);
    MESSAGE_HAS("and one more process");
    HINT_HAS("close descriptor %d", fd);
    HINT_HAS("%d", (int)child); /* it would keep the port when this process has closed it */
    MUST(close(fd));
    place_neighbour_end(child);
}

static void held_by_several_children(void)
{
    enum { HEIRS = 4 };
    pid_t heirs[HEIRS];
    fault_network();
    int fd = fault_listen(HERE);
    for (int i = 0; i < HEIRS; i++)
        heirs[i] = place_neighbour(fault_named, "heir");
    MUST(close(fd));
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("heir (pid ");
    MESSAGE_HAS("and 3 more processes) listens on " HERE);
    for (int i = 0; i < HEIRS; i++)
        HINT_HAS("%d", (int)heirs[i]); /* each of them has to go */
    for (int i = 0; i < HEIRS; i++)
        place_neighbour_end(heirs[i]);
}

/* What this user may not see. */

static void look_as_nobody(void *unused)
{
    (void)unused;
    place_user(NOBODY);
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("a process of user %s", fault_user(0));
    MESSAGE_HAS("this user may not see) listens on " HERE);
    MESSAGE_LACKS("(pid ");
    HINT_HAS("ss -ltnp");
    HINT_HAS("root");
}

static void held_by_a_user_we_may_not_look_at(void)
{
    fault_network();
    pid_t neighbour = place_neighbour(fault_rival, HERE);
    check_join(check_fork(look_as_nobody, NULL));
    place_neighbour_end(neighbour);
}

static void look_as_the_same_user(void *number)
{
    place_user(NOBODY);
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("rival (pid %d, user %s) listens on " HERE, *(int *)number, fault_user(NOBODY));
}

static void an_unprivileged_user_finds_its_own(void)
{
    fault_network();
    int neighbour = (int)place_neighbour(fault_rival_of_nobody, HERE);
    check_join(check_fork(look_as_the_same_user, &neighbour));
    place_neighbour_end(neighbour);
}

static void look_alone(void *unused)
{
    (void)unused;
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("a process of user %s (not visible from here", fault_user((int)geteuid()));
    MESSAGE_HAS("pid namespace");
    MESSAGE_HAS("listens on " HERE);
    MESSAGE_LACKS("(pid ");
    HINT_HAS("ss -ltnp");
}

static void held_in_another_pid_namespace(void)
{
    fault_network();
    pid_t neighbour = place_neighbour(fault_rival, HERE);
    place_alone(look_alone, NULL);
    place_neighbour_end(neighbour);
}

/* Where /proc is not that of this pid namespace, the numbers in it mean other processes. */
static void look_by_other_numbers(void *unused)
{
    (void)unused;
    int fd = fault_listen("127.0.0.1:7001");
    CHECK_EQ_INT(getpid(), 1);
    CHECK_IN_USE("127.0.0.1:7001");
    MESSAGE_HAS("this process itself (");
    HINT_HAS("close descriptor %d", fd);
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("rival (pid ");
    MESSAGE_LACKS("child of this process");
    MUST(close(fd));
}

static void processes_by_other_numbers(void)
{
    fault_network();
    pid_t neighbour = place_neighbour(fault_rival, HERE);
    if (unshare(CLONE_NEWPID) == -1)
        SKIP("no pid namespace is permitted here");
    check_join(check_fork(look_by_other_numbers, NULL));
    place_neighbour_end(neighbour);
}

static void look_without_proc(void *unused)
{
    (void)unused;
    if (unshare(CLONE_NEWNS) == -1 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1)
        SKIP("no mount namespace is permitted here");
    MUST(mount("none", "/proc", "tmpfs", 0, NULL));
    CHECK_FAILS(oyez_listen(HERE, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    fault_parts("bind", HERE, EADDRINUSE);
    MESSAGE_HAS("a process of user %s", fault_user((int)geteuid()));
    MESSAGE_HAS("listens on " HERE);
    MESSAGE_HAS("/proc");
    MESSAGE_LACKS("pid namespace");
    HINT_HAS("ss -ltnp");
}

static void a_host_without_proc(void)
{
    fault_network();
    int fd = fault_listen(HERE);
    check_join(check_fork(look_without_proc, NULL));
    MUST(close(fd));
}

/* A process may call itself anything. */
static void hostile_rival(void *address)
{
    fault_rival(address);
    MUST(prctl(PR_SET_NAME, "a\nb\x1b[31m\xff\xc3(\t"));
}

static void a_hostile_name_is_escaped(void)
{
    fault_network();
    pid_t neighbour = place_neighbour(hostile_rival, HERE);
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("a\\nb\\u{1b}[31m\\xff\\xc3(");
    MESSAGE_HAS("(pid %d, user %s", (int)neighbour, fault_user((int)geteuid()));
    place_neighbour_end(neighbour);
}

/* The C library's, so that a rival can come between oyez's bind(2) and its listen(2). */
static void (*between)(void);

int listen(int fd, int backlog)
{
    void (*now)(void) = between;
    between = NULL;
    if (now != NULL)
        now();
    return (int)syscall(SYS_listen, fd, backlog);
}

static int overtaking;

static void overtake(void)
{
    MUST(listen(overtaking, 1));
}

static void overtaken_before_listen(void)
{
    fault_network();
    overtaking = fault_bind(SOCK_STREAM, 1);
    between = overtake;
    CHECK_FAILS(oyez_listen(HERE, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    CHECK(between == NULL);
    fault_parts("listen", HERE, EADDRINUSE);
    MESSAGE_HAS("this process itself (pid %d, descriptor %d) listens on " HERE, (int)getpid(), overtaking);
    HINT_HAS("close descriptor %d", overtaking);
    MUST(close(overtaking));
}

/* Bounds. */

enum { DESCRIPTORS = 5000, PROCESSES = 300 };

static void open_many(int *fds)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = DESCRIPTORS + 200;
    if (limit.rlim_max < limit.rlim_cur)
        SKIP("so many descriptors are not permitted here");
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    for (int i = 0; i < DESCRIPTORS; i++)
        fds[i] = (int)MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}

static void close_many(int *fds)
{
    for (int i = 0; i < DESCRIPTORS; i++)
        MUST(close(fds[i]));
}

/* They have this process's descriptors too, or none but what they wait for. */
static void crowd(pid_t *children, int *fds, int with_descriptors)
{
    int ready[2];
    char byte;
    MUST(pipe2(ready, O_CLOEXEC));
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = (pid_t)MUST(fork());
        if (children[i] == 0) {
            if (!with_descriptors)
                MUST(syscall(SYS_close_range, fds[0], fds[DESCRIPTORS - 1], 0));
            MUST(close(ready[1]));
            for (;;)
                pause();
        }
    }
    MUST(close(ready[1]));
    MUST(read(ready[0], &byte, 1)); /* ends when all have closed their ends */
    MUST(close(ready[0]));
}

static void check_bounded(int holder, const char *where)
{
    long long start = check_now_ms();
    CHECK_FAILS(oyez_listen(HERE, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    long long took = check_now_ms() - start;
    CHECK_TOOK(start, 0, 999);
    fault_parts("bind", HERE, EADDRINUSE);
    int is_cut_short = strstr(oyez_error_message(NULL), "in time") != NULL;
    check_note("%lld ms %s, the holder %s", took, where, is_cut_short ? "not found in time" : "found");
    if (!is_cut_short)
        MESSAGE_HAS("rival (pid %d", holder);
    else
        HINT_HAS("ss -ltnp");
}

static void look_in_a_crowd(int with_descriptors, const char *where)
{
    static int fds[DESCRIPTORS];
    static pid_t children[PROCESSES];
    struct rlimit before;
    fault_network();
    MUST(getrlimit(RLIMIT_NOFILE, &before));
    pid_t neighbour = place_neighbour(fault_rival, HERE);
    open_many(fds);
    crowd(children, fds, with_descriptors);
    check_bounded(neighbour, where);
    place_neighbour_end(neighbour);
    for (int i = 0; i < PROCESSES; i++)
        place_neighbour_end(children[i]);
    close_many(fds);
    MUST(setrlimit(RLIMIT_NOFILE, &before));
}

static void thousands_of_descriptors_and_hundreds_of_processes(void)
{
    look_in_a_crowd(0, "with 5,000 descriptors and 300 processes");
}

static void hundreds_of_processes_with_thousands_of_descriptors(void)
{
    look_in_a_crowd(1, "with 300 processes of 5,000 descriptors each");
}

static void descriptors_nearly_used_up(void)
{
    struct rlimit before;
    fault_network();
    int fd = fault_listen(HERE);
    MUST(getrlimit(RLIMIT_NOFILE, &before));
    for (int left = 1; left <= 4; left++) {
        place_descriptors_left(left);
        CHECK_FAILS(oyez_listen(HERE, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
        fault_parts("bind", HERE, EADDRINUSE);
        MESSAGE_LACKS("not visible from here");
        CHECK(oyez_error_hint(NULL)[0] != '\0');
        MUST(setrlimit(RLIMIT_NOFILE, &before));
    }
    MESSAGE_HAS("descriptor %d", fd);
    MUST(close(fd));
}

static const check_case cases[] = {
    CASE(held_by_another_process),
    CASE(held_by_another_program),
    CASE(held_by_this_process),
    CASE(held_by_a_child_that_inherited_it),
    CASE(held_by_this_process_and_a_child),
    CASE(held_by_several_children),
    CASE(held_by_a_user_we_may_not_look_at),
    CASE(an_unprivileged_user_finds_its_own),
    CASE(held_in_another_pid_namespace),
    CASE(processes_by_other_numbers),
    CASE(a_host_without_proc),
    CASE(a_hostile_name_is_escaped),
    CASE(overtaken_before_listen),
    CASE(thousands_of_descriptors_and_hundreds_of_processes),
    CASE(hundreds_of_processes_with_thousands_of_descriptors),
    CASE(descriptors_nearly_used_up),
};

CHECK_MAIN(cases)
