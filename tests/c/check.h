/*
 A small test harness.

 Each test runs in a process of its own with a time limit, so that a crash or a hang is one failed test. Around each
 test the harness compares, in that process: open descriptors, threads, children, signal dispositions and mask, umask,
 working directory and the descriptor limit; and nothing may have been written to standard output or error.

 CHECK and its kin may be used in threads and in forked children of a test too: the first failure is kept in shared
 memory, and the process it happened in ends.
*/
#ifndef CHECK_H
#define CHECK_H

#include <pthread.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct check_case {
    const char *name;
    void (*run)(void);
    int seconds;
} check_case;

#define CASE(test) { #test, test, 40 }
#define CASE_WITHIN(seconds, test) { #test, test, seconds }
#define CHECK_MAIN(cases)                                                            \
    int main(int argc, char **argv)                                                  \
    {                                                                                \
        return check_run(cases, sizeof(cases) / sizeof((cases)[0]), argc, argv);     \
    }

/* Runs all of them, or those named on the command line; returns main's exit code. */
int check_run(const check_case *cases, size_t count, int argc, char **argv);

#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition))                                                            \
            check_fail(__FILE__, __LINE__, "%s", #condition);                        \
    } while (0)
#define CHECK_EQ_INT(actual, expected)                                               \
    check_equal(__FILE__, __LINE__, #actual, (long long)(actual), (long long)(expected))
#define CHECK_STR_EQ(actual, expected) check_same(__FILE__, __LINE__, #actual, actual, expected)
#define CHECK_STR_CONTAINS(text, part) check_contains(__FILE__, __LINE__, #text, text, part)
/* For what has no event to wait for: becomes true within ten seconds. */
#define CHECK_SOON(condition)                                                        \
    do {                                                                             \
        long long check_end = check_now_ms() + 10000;                                \
        while (!(condition)) {                                                       \
            if (check_now_ms() > check_end)                                          \
                check_fail(__FILE__, __LINE__, "not in 10 s: %s", #condition);       \
            check_nap(2);                                                            \
        }                                                                            \
    } while (0)
/* The time since `start` is between the two, in milliseconds. */
#define CHECK_TOOK(start, least, most) check_took(__FILE__, __LINE__, start, least, most)
/* A system call of the test itself that has to work. */
#define MUST(call) check_must(__FILE__, __LINE__, #call, (long long)(call))
/* Ends the test as skipped. */
#define SKIP(reason) check_skip(reason)

#if defined(__GNUC__)
#define CHECK_PRINTF(text, first) __attribute__((format(printf, text, first)))
#define CHECK_NORETURN __attribute__((noreturn))
#else
#define CHECK_PRINTF(text, first)
#define CHECK_NORETURN
#endif

CHECK_NORETURN CHECK_PRINTF(3, 4) void check_fail(const char *file, int line, const char *format, ...);
CHECK_NORETURN void check_skip(const char *reason);
void check_equal(const char *file, int line, const char *text, long long actual, long long expected);
void check_same(const char *file, int line, const char *text, const char *actual, const char *expected);
void check_contains(const char *file, int line, const char *text, const char *actual, const char *part);
void check_took(const char *file, int line, long long start, int least, int most);
long long check_must(const char *file, int line, const char *text, long long result);

/* The name of the case that runs. */
const char *check_name(void);

/* Printed below the test's line, such as a time that was measured. */
CHECK_PRINTF(1, 2) void check_note(const char *format, ...);

long long check_now_ms(void);
void check_nap(int ms);

/* What this process has open, runs and waits for. */
int check_descriptors(void);
int check_threads(void);
int check_children(void);
/* Resident memory in kB; 0 under valgrind. */
long check_memory(void);
/* Processor time of this process in ms. */
long check_cpu_ms(void);

/* Whatever was written to standard output and error so far, terminated; and forgets it. */
size_t check_take_output(char *text, size_t size);

/* A folder of this test's own, removed with all it holds when the test has ended. */
const char *check_folder(void);

/* A child process that runs `body` and ends with 0; check_join waits for it and checks that it did. */
pid_t check_fork(void (*body)(void *), void *argument);
void check_join(pid_t child);

pthread_t check_thread(void *(*body)(void *), void *argument);
void check_thread_join(pthread_t thread);

#endif
