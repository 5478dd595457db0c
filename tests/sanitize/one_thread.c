/*
 ThreadSanitizer runs a thread of its own in each process, which tests that count threads, or look at what signals
 each of them blocks, would take for the library's. It only keeps memory down, and has a way to be ended: that which a
 program uses before it enters a sandbox. It starts with the process's first thread, and again in a child of one thread.
*/
#include <pthread.h>
#include <stddef.h>
#include <unistd.h>

extern void __sanitizer_sandbox_on_notify(void *arguments);

static void end_it(void)
{
    /* How to go on writing reports in a sandbox: as before. */
    struct {
        int coverage_sandboxed;
        ptrdiff_t coverage_fd;
        unsigned int coverage_max_block_size;
    } arguments = { 0, -1, 0 };
    __sanitizer_sandbox_on_notify(&arguments);
}

static void *nothing(void *unused)
{
    return unused;
}

__attribute__((constructor)) static void start_and_end_it(void)
{
    pthread_t first;
    if (pthread_create(&first, NULL, nothing, NULL) == 0)
        pthread_join(first, NULL);
    end_it();
}

pid_t __real_fork(void);
pid_t __wrap_fork(void)
{
    pid_t child = __real_fork();
    if (child == 0)
        end_it();
    return child;
}
