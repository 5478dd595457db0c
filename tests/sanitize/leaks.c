/*
 Looks for leaks where a test has ended, and in no process below it.

 LeakSanitizer stops the process's threads by another one and reads all they can reach. In a child that fork(2) made it
 looks for the parent's threads, and takes what hung on them for lost; and tests take its means away on purpose, such as
 the right to have another thread. So it is turned off (leak_check_at_exit=0) and asked here.
*/
#include <pthread.h>
#include <unistd.h>

extern int __lsan_do_recoverable_leak_check(void);

enum { PROGRAM, TEST, LEAKED = 23 };

static int depth = PROGRAM;

static void go_down(void)
{
    depth++;
}

__attribute__((constructor)) static void start(void)
{
    pthread_atfork(NULL, NULL, go_down);
}

__attribute__((destructor)) static void end(void)
{
    if (depth <= TEST && __lsan_do_recoverable_leak_check() != 0)
        _exit(LEAKED);
}
