/* Compares a process with itself, before and after a test. */
#define _GNU_SOURCE
#include "watch.h"
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SETTLE_MS = 4000, SIGNALS = 65 };

typedef struct view {
    char descriptors[8000]; /* "3 socket:[123]" a line each */
    int threads;
    int children;
    void (*handlers[SIGNALS])(int);
    sigset_t mask;
    mode_t umask;
    char folder[PATH_MAX];
    struct rlimit limit;
} view;

static view before;

/* Calls `each` with every number in a folder of /proc, except the descriptor that reads it. */
static int for_each_number(const char *folder, void (*each)(int number, void *argument), void *argument)
{
    int count = 0;
    DIR *list = opendir(folder);
    CHECK(list != NULL);
    for (struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list)) {
        int number = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || (strstr(folder, "/fd") != NULL && number == dirfd(list)))
            continue;
        if (each != NULL)
            each(number, argument);
        count++;
    }
    closedir(list);
    return count;
}

int check_descriptors(void)
{
    return for_each_number("/proc/self/fd", NULL, NULL);
}

int check_threads(void)
{
    return for_each_number("/proc/self/task", NULL, NULL);
}

static void count_child(int process, void *count)
{
    char path[64];
    char line[300];
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", process);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return;
    const char *rest = fgets(line, sizeof line, file) != NULL ? strrchr(line, ')') : NULL;
    if (rest != NULL && sscanf(rest, ") %*c %d", &parent) == 1 && parent == (int)getpid())
        ++*(int *)count;
    fclose(file);
}

/* Those that have ended and were not waited for too. */
int check_children(void)
{
    int count = 0;
    siginfo_t info;
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == -1 && errno == ECHILD)
        return 0;
    for_each_number("/proc", count_child, &count);
    return count;
}

long check_memory(void)
{
    char line[200];
    long size = 0;
    if (getenv("CHECK_SLOWLY") != NULL)
        return 0; /* valgrind's own memory would be counted */
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "VmRSS: %ld", &size) == 1)
            break;
    fclose(file);
    return size;
}

long check_cpu_ms(void)
{
    struct rusage used;
    MUST(getrusage(RUSAGE_SELF, &used));
    return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000L
        + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
}

static void list_descriptor(int number, void *text)
{
    char path[64];
    char target[200];
    size_t used = strlen(text);
    snprintf(path, sizeof path, "/proc/self/fd/%d", number);
    ssize_t length = readlink(path, target, sizeof target - 1);
    target[length > 0 ? length : 0] = '\0';
    snprintf((char *)text + used, sizeof before.descriptors - used, "%d %s\n", number, target);
}

static void close_descriptor(int number, void *kept)
{
    if (number > 2 && number != *(int *)kept)
        close(number);
}

void watch_close_others(int kept)
{
    for_each_number("/proc/self/fd", close_descriptor, &kept);
}

static void look(view *now)
{
    memset(now, 0, sizeof *now);
    for_each_number("/proc/self/fd", list_descriptor, now->descriptors);
    now->threads = check_threads();
    now->children = check_children();
    for (int i = 1; i < SIGNALS; i++) {
        struct sigaction action;
        if (sigaction(i, NULL, &action) == 0)
            now->handlers[i] = action.sa_handler;
    }
    pthread_sigmask(SIG_SETMASK, NULL, &now->mask);
    now->umask = umask(0);
    umask(now->umask);
    CHECK(getcwd(now->folder, sizeof now->folder) != NULL);
    MUST(getrlimit(RLIMIT_NOFILE, &now->limit));
}

/* Where "what is left" needs the library's threads or the kernel to finish something. */
static int settled(const view *now)
{
    return strcmp(now->descriptors, before.descriptors) == 0 && now->threads == before.threads
        && now->children == before.children;
}

static void compare_signals(const view *now)
{
    for (int i = 1; i < SIGNALS; i++) {
        if (now->handlers[i] != before.handlers[i])
            check_fail("harness", 0, "the disposition of signal %d was changed", i);
        if (sigismember(&now->mask, i) != sigismember(&before.mask, i))
            check_fail("harness", 0, "signal %d is %s now", i, sigismember(&now->mask, i) ? "blocked" : "unblocked");
    }
}

void watch_start(void)
{
    look(&before);
}

void watch_end(void)
{
    static view now;
    long long end = check_now_ms() + SETTLE_MS;
    for (look(&now); !settled(&now) && check_now_ms() < end; look(&now))
        check_nap(2);
    if (strcmp(now.descriptors, before.descriptors) != 0)
        check_fail("harness", 0, "descriptors before:\n%sand after:\n%s", before.descriptors, now.descriptors);
    if (now.threads != before.threads)
        check_fail("harness", 0, "%d threads, and %d before", now.threads, before.threads);
    if (now.children != before.children)
        check_fail("harness", 0, "%d children are left", now.children);
    compare_signals(&now);
    if (now.umask != before.umask)
        check_fail("harness", 0, "umask %03o, and %03o before", (unsigned)now.umask, (unsigned)before.umask);
    if (strcmp(now.folder, before.folder) != 0)
        check_fail("harness", 0, "working directory %.1000s, and %.1000s before", now.folder, before.folder);
    if (now.limit.rlim_cur != before.limit.rlim_cur)
        check_fail("harness", 0, "the descriptor limit was changed");
}
