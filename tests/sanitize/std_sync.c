/*
 What ThreadSanitizer cannot see, because Rust's standard library comes compiled without it.

 Most of std's synchronisation is inline and so is instrumented where it is used: locking a free mutex, unlocking one,
 the fast path of OnceLock, every atomic, the counts of Arc. What remains are the five functions below and fences, which
 ThreadSanitizer does not know at all. The linker (--wrap) leads the library's calls through this file, which tells what
 each of them orders, and no more than that: no report is suppressed anywhere. The last, connect(2), is not std's.

 run.sh finds the mangled names and makes them the macros REAL_... and WRAP_....
*/
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void __tsan_acquire(void *address);
extern void __tsan_release(void *address);

/* Rust passes up to six words as C does; more than a function takes does no harm. */
typedef uintptr_t word;
typedef word passed_on(word, word, word, word, word, word);

/* std::sys::sync::mutex::futex::Mutex::lock_contended(&self): the mutex is held when it returns. */
passed_on real_lock __asm__(REAL_LOCK);
passed_on wrap_lock __asm__(WRAP_LOCK);

word wrap_lock(word mutex, word b, word c, word d, word e, word f)
{
    word result = real_lock(mutex, b, c, d, e, f);
    __tsan_acquire((void *)mutex);
    return result;
}

/* std::sys::sync::condvar::futex::Condvar::wait(&self, &Mutex) unlocks the mutex and locks it again. */
passed_on real_wait __asm__(REAL_WAIT);
passed_on wrap_wait __asm__(WRAP_WAIT);

word wrap_wait(word condvar, word mutex, word c, word d, word e, word f)
{
    __tsan_release((void *)mutex);
    word result = real_wait(condvar, mutex, c, d, e, f);
    __tsan_acquire((void *)mutex);
    return result;
}

/* The same with a time: wait_timeout(&self, &Mutex, Duration) -> bool. */
passed_on real_wait_timeout __asm__(REAL_WAIT_TIMEOUT);
passed_on wrap_wait_timeout __asm__(WRAP_WAIT_TIMEOUT);

word wrap_wait_timeout(word condvar, word mutex, word c, word d, word e, word f)
{
    __tsan_release((void *)mutex);
    word result = real_wait_timeout(condvar, mutex, c, d, e, f);
    __tsan_acquire((void *)mutex);
    return result;
}

/*
 std::sys::sync::once::futex::Once::call(&self, bool, &mut dyn FnMut(&OnceState), ...) runs the function or waits for
 the thread that does. What the function did is released before the state says that it is done, so it is given another
 table of functions: drop, size, alignment, call_once, call_mut.
*/
typedef struct first_call {
    word table[5];
    word data;
    word once;
    void (*call)(word data, word state);
} first_call;

static void call_and_release(first_call *of, word state)
{
    of->call(of->data, state);
    __tsan_release((void *)of->once);
}

passed_on real_once __asm__(REAL_ONCE);
passed_on wrap_once __asm__(WRAP_ONCE);

word wrap_once(word once, word ignore_poison, word data, word table, word e, word f)
{
    const word *known = (const word *)table;
    first_call of = { { known[0], known[1], known[2], known[3], (word)call_and_release }, data, once,
        (void (*)(word, word))known[4] };
    word result = real_once(once, ignore_poison, (word)&of, (word)of.table, e, f);
    __tsan_acquire((void *)once);
    return result;
}

/*
 Arc lets go of its value by fetch_sub(Release) on a count, and fence(Acquire) where that was the last: the fence
 acquires what the count has released. Other fences are not in use; an acquire of the last count is then too little,
 which would be reported as a race and not hide one.
*/
static __thread void *last_count;

uint64_t __real___tsan_atomic64_fetch_sub(volatile uint64_t *count, uint64_t by, int order);
uint64_t __wrap___tsan_atomic64_fetch_sub(volatile uint64_t *count, uint64_t by, int order)
{
    last_count = (void *)count;
    return __real___tsan_atomic64_fetch_sub(count, by, order);
}

void __real___tsan_atomic_thread_fence(int order);
void __wrap___tsan_atomic_thread_fence(int order)
{
    __real___tsan_atomic_thread_fence(order);
    if (last_count != 0)
        __tsan_acquire(last_count);
}

/*
 To ThreadSanitizer connect(2) begins a descriptor's life. To AF_UNSPEC it ends a connection under those who use it, on
 purpose, and orders nothing: that goes past the sanitizer.
*/
int __real_connect(int fd, const struct sockaddr *address, socklen_t size);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    if (address->sa_family == AF_UNSPEC)
        return (int)syscall(SYS_connect, fd, address, size);
    return __real_connect(fd, address, size);
}
