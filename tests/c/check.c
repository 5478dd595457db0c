/* The harness: see check.h. Where it looks from the inside is watch.c. */
#define _GNU_SOURCE
#include "check.h"
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RUNNING, FAILED, SKIPPED, PASSED };

/* Shared between the harness and the processes of one test. */
typedef struct outcome {
    int state;
    char text[4000];
    char notes[1000];
    char folder[200];
} outcome;

static outcome *result;
static const char *running = "";
static int output = -1; /* a memory file: what the test writes to standard output and error */

long long check_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void check_nap(int ms)
{
    struct timespec time = { ms / 1000, (ms % 1000) * 1000000L };
    while (nanosleep(&time, &time) == -1 && errno == EINTR)
        ;
}

/* The first word counts. */
static void settle(int state, const char *text)
{
    int running = RUNNING;
    if (__atomic_compare_exchange_n(&result->state, &running, state, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        snprintf(result->text, sizeof result->text, "%s", text);
}

void check_fail(const char *file, int line, const char *format, ...)
{
    char text[3500];
    char all[4000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const char *name = strrchr(file, '/');
    snprintf(all, sizeof all, "%s:%d: %s", name != NULL ? name + 1 : file, line, text);
    settle(FAILED, all);
    _exit(1);
}

void check_skip(const char *reason)
{
    settle(SKIPPED, reason);
    _exit(0);
}

void check_equal(const char *file, int line, const char *text, long long actual, long long expected)
{
    if (actual != expected)
        check_fail(file, line, "%s is %lld, not %lld", text, actual, expected);
}

void check_same(const char *file, int line, const char *text, const char *actual, const char *expected)
{
    if (actual == NULL || strcmp(actual, expected) != 0)
        check_fail(file, line, "%s is \"%s\", not \"%s\"", text, actual == NULL ? "(NULL)" : actual, expected);
}

void check_contains(const char *file, int line, const char *text, const char *actual, const char *part)
{
    if (actual == NULL || strstr(actual, part) == NULL)
        check_fail(file, line, "%s is \"%s\", without \"%s\"", text, actual == NULL ? "(NULL)" : actual, part);
}

void check_took(const char *file, int line, long long start, int least, int most)
{
    long long took = check_now_ms() - start;
    if (took < least || took > most)
        check_fail(file, line, "took %lld ms, not %d to %d", took, least, most);
}

long long check_must(const char *file, int line, const char *text, long long value)
{
    if (value == -1)
        check_fail(file, line, "%s: %s", text, strerror(errno));
    return value;
}

const char *check_name(void)
{
    return running;
}

void check_note(const char *format, ...)
{
    char text[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t used = strlen(result->notes);
    snprintf(result->notes + used, sizeof result->notes - used, "    %s\n", text);
}

size_t check_take_output(char *text, size_t size)
{
    fflush(stdout);
    ssize_t count = MUST(pread(output, text, size - 1, 0));
    text[count] = '\0';
    MUST(ftruncate(output, 0));
    MUST(lseek(output, 0, SEEK_SET));
    return (size_t)count;
}

const char *check_folder(void)
{
    if (result->folder[0] == '\0') {
        const char *place = getenv("TMPDIR");
        snprintf(result->folder, sizeof result->folder, "%.150s/oyez-XXXXXX", place != NULL ? place : "/tmp");
        CHECK(mkdtemp(result->folder) != NULL);
    }
    return result->folder;
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about;
    (void)kind;
    (void)where;
    return remove(path);
}

/* Children and threads. */

pid_t check_fork(void (*body)(void *), void *argument)
{
    pid_t child = fork();
    MUST(child);
    if (child == 0) {
        body(argument);
        _exit(0);
    }
    return child;
}

void check_join(pid_t child)
{
    int status = 0;
    while (waitpid(child, &status, 0) == -1)
        CHECK_EQ_INT(errno, EINTR);
    if (WIFSIGNALED(status))
        check_fail(__FILE__, __LINE__, "a child was ended by signal %d", WTERMSIG(status));
    CHECK_EQ_INT(WEXITSTATUS(status), 0);
}

pthread_t check_thread(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    CHECK_EQ_INT(pthread_create(&thread, NULL, body, argument), 0);
    return thread;
}

void check_thread_join(pthread_t thread)
{
    CHECK_EQ_INT(pthread_join(thread, NULL), 0);
}

/* One test. */

static void become_test(void)
{
    struct rlimit no_core = { 0, 0 };
    setpgid(0, 0);
    setrlimit(RLIMIT_CORE, &no_core);
    /* Kept above what tests use, so that the lowest numbers are theirs. */
    int kept = MUST(fcntl(output, F_DUPFD_CLOEXEC, 90));
    MUST(dup2(kept, 1));
    MUST(dup2(kept, 2));
    watch_close_others(kept);
    output = kept;
}

static void run_case(const check_case *test)
{
    become_test();
    running = test->name;
    watch_start();
    test->run();
    watch_end();
    settle(PASSED, "");
    exit(0);
}

/* How long a test may take: CHECK_SLOWLY in the environment is a factor, for valgrind. */
static long long limit_ms(const check_case *test)
{
    const char *factor = getenv("CHECK_SLOWLY");
    return test->seconds * 1000LL * (factor != NULL && atoi(factor) > 0 ? atoi(factor) : 1);
}

/* Waits on a descriptor for the end of a process; where there is no such descriptor, by asking. */
static int ends_in_time(pid_t child, long long end)
{
    int handle = (int)syscall(SYS_pidfd_open, child, 0);
    struct pollfd wait = { handle, POLLIN, 0 };
    siginfo_t info;
    int in_time;
    if (handle != -1) {
        while ((in_time = poll(&wait, 1, (int)(end - check_now_ms()))) == -1 && errno == EINTR)
            ;
        close(handle);
        return in_time == 1;
    }
    for (info.si_pid = 0; info.si_pid == 0 && check_now_ms() < end; check_nap(5))
        waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT);
    return info.si_pid == child;
}

/* Waits for the end of the test's process; false where it had to be killed. */
static int wait_for(pid_t child, long long ms, int *status)
{
    int in_time = ends_in_time(child, check_now_ms() + ms);
    if (!in_time)
        kill(child, SIGKILL);
    waitpid(child, status, 0);
    kill(-child, SIGKILL); /* its own children, if it left any */
    return in_time;
}

static void judge(const check_case *test, int in_time, int status)
{
    char text[300] = "";
    struct stat written = { 0 };
    if (!in_time)
        snprintf(text, sizeof text, "no end within %lld s", limit_ms(test) / 1000);
    else if (WIFSIGNALED(status))
        snprintf(text, sizeof text, "ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 0 || result->state == RUNNING)
        snprintf(text, sizeof text, "ended with exit code %d", WEXITSTATUS(status));
    else if (result->state == PASSED && fstat(output, &written) == 0 && written.st_size > 0)
        snprintf(text, sizeof text, "something was written to standard output or error");
    if (text[0] != '\0' && result->state != FAILED) {
        result->state = FAILED;
        snprintf(result->text, sizeof result->text, "harness:0: %s", text);
    }
}

/* What the test wrote, as a help to find out why it failed. */
static void show_output(void)
{
    char text[1500];
    ssize_t count = pread(output, text, sizeof text - 1, 0);
    if (count > 0) {
        text[count] = '\0';
        printf("    it wrote: %s\n", text);
    }
}

static int report(const check_case *test)
{
    if (result->state == PASSED)
        printf("ok %s\n", test->name);
    else if (result->state == SKIPPED)
        printf("skipped %s: %s\n", test->name, result->text);
    else
        printf("FAILED %s: %s\n", test->name, result->text);
    printf("%s", result->notes);
    if (result->state == FAILED)
        show_output();
    fflush(stdout);
    return result->state;
}

static int run_and_report(const check_case *test)
{
    int status = 0;
    memset(result, 0, sizeof *result);
    output = memfd_create("output", MFD_CLOEXEC);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        run_case(test);
    int in_time = wait_for(child, limit_ms(test), &status);
    judge(test, in_time, status);
    int state = report(test);
    if (result->folder[0] != '\0')
        nftw(result->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    close(output);
    return state;
}

static int wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return 1;
    return argc < 2;
}

/* CHECK_SKIP in the environment names, between spaces, tests that cannot run under some tool. */
static int unable(const char *name)
{
    const char *names = getenv("CHECK_SKIP");
    const char *at = names == NULL ? NULL : strstr(names, name);
    size_t size = strlen(name);
    return at != NULL && (at == names || at[-1] == ' ') && (at[size] == ' ' || at[size] == '\0');
}

static int skip(const char *name)
{
    printf("skipped %s: CHECK_SKIP names it\n", name);
    return SKIPPED;
}

int check_run(const check_case *cases, size_t count, int argc, char **argv)
{
    int states[PASSED + 1] = { 0 };
    result = mmap(NULL, sizeof *result, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (result == MAP_FAILED)
        return 2;
    for (size_t i = 0; i < count; i++)
        if (wanted(cases[i].name, argc, argv))
            states[unable(cases[i].name) ? skip(cases[i].name) : run_and_report(&cases[i])]++;
    printf("%d passed, %d failed, %d skipped\n", states[PASSED], states[FAILED], states[SKIPPED]);
    return states[FAILED] > 0 ? 1 : 0;
}
