/* Faults on demand: see inject.h. */
#define _GNU_SOURCE
#include "inject.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

enum { READ_AND_WRITE = 3, SHARED_ANONYMOUS = 0x21 };
int gettid(void);
extern void *__libc_malloc(size_t size);
extern void *__libc_realloc(void *block, size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

typedef long (*plain)(long, long, long, long, long, long);

typedef struct faults {
    long counts[CALLS];
    long all;
    long failures;
    int call; /* the kind that fails; -1: none, CALLS: any */
    long first;
    long last;
    int number;
    int (*choose)(int call);
    int hit;
    int thread; /* 0: all */
    int one_byte;
} faults;

static faults *state;
static plain real[CALLS];
static uintptr_t library_start;
static uintptr_t library_end;
static int traced;

static const char *const names[CALLS] = {
#define INJECT_STRING(name) #name,
    INJECT_PLAIN(INJECT_STRING) INJECT_SPECIAL(INJECT_STRING)
#undef INJECT_STRING
};

const char *inject_name(int call)
{
    return names[call];
}

static int find_library(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size;
    (void)unused;
    if (strstr(info->dlpi_name, "liboyez.so") == NULL)
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X))
            continue;
        library_start = info->dlpi_addr + part->p_vaddr;
        library_end = library_start + part->p_memsz;
    }
    return 1;
}

/* dlsym(3) gives a pointer to an object, which ISO C does not turn into one to a function. */
static plain find(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    plain function;
    memcpy(&function, &found, sizeof function);
    return function;
}

__attribute__((constructor)) static void prepare(void)
{
    for (int i = 0; i < CALLS; i++)
        real[i] = find(names[i]);
    faults *made = (faults *)find("mmap")(0, sizeof *made, READ_AND_WRITE, SHARED_ANONYMOUS, -1, 0);
    made->call = made->hit = -1;
    dl_iterate_phdr(find_library, NULL);
    traced = getenv("TORTURE_TRACE") != NULL;
    state = made;
}

void inject_reset(void)
{
    memset(state, 0, sizeof *state);
    state->call = state->hit = -1;
}

void inject_disarm(void)
{
    __atomic_store_n(&state->call, -1, __ATOMIC_SEQ_CST);
    state->one_byte = 0;
}

static void begin(void)
{
    inject_disarm();
    memset(state->counts, 0, sizeof state->counts);
    state->all = state->failures = 0;
    state->hit = -1;
}

void inject_arm(int call, long first, long last, int number)
{
    begin();
    state->first = first;
    state->last = last;
    state->number = number;
    __atomic_store_n(&state->call, call, __ATOMIC_SEQ_CST);
}

void inject_arm_any(long n, int (*choose)(int call))
{
    begin();
    state->first = n;
    state->choose = choose;
    __atomic_store_n(&state->call, CALLS, __ATOMIC_SEQ_CST);
}

void inject_short(int on)
{
    state->one_byte = on;
}

void inject_only_here(int on)
{
    state->thread = on ? gettid() : 0;
}

long inject_count(int call)
{
    return __atomic_load_n(&state->counts[call], __ATOMIC_SEQ_CST);
}

long inject_failures(void)
{
    return __atomic_load_n(&state->failures, __ATOMIC_SEQ_CST);
}

long inject_all(void)
{
    return __atomic_load_n(&state->all, __ATOMIC_SEQ_CST);
}

int inject_hit(void)
{
    return state->hit;
}

/* Whether a call that returns to `from` is one of the library's. */
static int is_ours(const void *from)
{
    uintptr_t at = (uintptr_t)from;
    return state != NULL && at >= library_start && at < library_end && (state->thread == 0 || state->thread == gettid());
}

/* With TORTURE_TRACE in the environment, where the call that fails came from. */
static void show(void)
{
    void *frames[30];
    if (traced)
        backtrace_symbols_fd(frames, backtrace(frames, 30), 2);
}

/* Counts a call of the library; the errno with which it is to fail, or 0. */
static int fault(int call, const void *from)
{
    if (!is_ours(from))
        return 0;
    long mine = __atomic_add_fetch(&state->counts[call], 1, __ATOMIC_SEQ_CST);
    long of_all = call == CALL_malloc ? 0 : __atomic_add_fetch(&state->all, 1, __ATOMIC_SEQ_CST);
    int armed = __atomic_load_n(&state->call, __ATOMIC_SEQ_CST);
    int number = 0;
    if (armed == call && mine >= state->first && mine <= state->last)
        number = state->number;
    else if (armed == CALLS && of_all == state->first)
        number = state->choose(call);
    if (number != 0) {
        __atomic_add_fetch(&state->failures, 1, __ATOMIC_SEQ_CST);
        state->hit = call;
        show();
    }
    return number;
}

static long fail(int number)
{
    errno = number;
    return -1;
}

static int moves_bytes(int call)
{
    return call == CALL_recv || call == CALL_send || call == CALL_read || call == CALL_write;
}

static long pass(int call, const void *from, long a, long b, long c, long d, long e, long f)
{
    int number = fault(call, from);
    if (number != 0)
        return fail(number);
    /* eventfd(2) takes eight bytes or none. */
    if (moves_bytes(call) && c > 1 && c != 8 && is_ours(from) && state->one_byte)
        c = 1;
    return (real[call] != NULL ? real[call] : find(names[call]))(a, b, c, d, e, f);
}

/* Integers and pointers are passed in the same registers whatever their sizes, on all that oyez is tested on. The
   linker's name is given apart from that of C, which some header declares with another type. */
#define INJECT_DEFINE(name)                                                                               \
    long seam_##name(long a, long b, long c, long d, long e, long f) __asm__(#name);                      \
    long seam_##name(long a, long b, long c, long d, long e, long f)                                      \
    {                                                                                                     \
        return pass(CALL_##name, __builtin_return_address(0), a, b, c, d, e, f);                          \
    }
INJECT_PLAIN(INJECT_DEFINE)

long close(int fd);
long close(int fd)
{
    int number = fault(CALL_close, __builtin_return_address(0));
    long outcome = real[CALL_close](fd, 0, 0, 0, 0, 0);
    return number != 0 ? fail(number) : outcome;
}

int fork(void);
int fork(void)
{
    int number = fault(CALL_fork, __builtin_return_address(0));
    return number != 0 ? (int)fail(number) : (int)real[CALL_fork](0, 0, 0, 0, 0, 0);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument)
{
    static int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    int number = fault(CALL_pthread_create, __builtin_return_address(0));
    if (number != 0)
        return number;
    memcpy(&create, &real[CALL_pthread_create], sizeof create);
    return create(thread, attributes, body, argument);
}

static int call_of(long number)
{
    switch (number) {
    case SYS_io_uring_setup:
        return CALL_io_uring_setup;
    case SYS_io_uring_enter:
        return CALL_io_uring_enter;
    case SYS_io_uring_register:
        return CALL_io_uring_register;
    case SYS_pidfd_open:
        return CALL_pidfd_open;
    case SYS_eventfd2:
        return CALL_eventfd;
    default:
        return -1;
    }
}

long syscall(long number, ...)
{
    static long (*call)(long, long, long, long, long, long, long);
    plain next = find("syscall");
    long given[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        given[i] = va_arg(arguments, long);
    va_end(arguments);
    int kind = call_of(number);
    int failing = kind == -1 ? 0 : fault(kind, __builtin_return_address(0));
    if (failing != 0)
        return fail(failing);
    memcpy(&call, &next, sizeof call);
    return call(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}

/* Memory. */

static int short_of_memory(const void *from)
{
    int number = fault(CALL_malloc, from);
    if (number != 0)
        errno = number;
    return number != 0;
}

void *malloc(size_t size)
{
    return short_of_memory(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return short_of_memory(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    return short_of_memory(__builtin_return_address(0)) ? NULL : __libc_realloc(block, size);
}

int posix_memalign(void **place, size_t alignment, size_t size)
{
    if (short_of_memory(__builtin_return_address(0)))
        return ENOMEM;
    *place = __libc_memalign(alignment, size);
    return *place == NULL ? ENOMEM : 0;
}
