/*
 Faults on demand: system calls and allocations of the library fail, and nobody else's do.

 oyez reaches the kernel through functions of the C library. This file has functions of the same names, which the
 dynamic linker finds first (link with -rdynamic). Each looks at its return address: a call out of liboyez.so is
 counted, and fails if that was asked for; any other goes on as if nothing was there. A call that fails is not made,
 but for close(2), which closes all the same.

 The counts are shared with child processes, so that the processes of OYEZ_PROCESSES count as well.
*/
#ifndef INJECT_H
#define INJECT_H

/* Those with the plain shape of a system call: their arguments are passed on as they are. */
#define INJECT_PLAIN(X)                                                                                   \
    X(socket) X(bind) X(listen) X(connect) X(getsockname) X(getpeername) X(getsockopt) X(setsockopt)      \
    X(shutdown) X(socketpair) X(accept) X(accept4) X(recv) X(recvmsg) X(send) X(read) X(write)            \
    X(epoll_create1) X(epoll_ctl) X(epoll_wait) X(timerfd_create) X(timerfd_settime) X(ppoll)  \
    X(fcntl) X(ioctl) X(waitid) X(mmap) X(mmap64) X(munmap) X(madvise) X(open64) X(openat64)              \
    X(readlink) X(readlinkat) X(flock) X(unlink) X(chmod) X(fchownat) X(nanosleep) X(sched_getaffinity)
/* Those that need a hand. eventfd, pidfd_open and the io_uring ones come by syscall(2); malloc is all that allocates. */
#define INJECT_SPECIAL(X)                                                                                 \
    X(close) X(fork) X(pthread_create) X(io_uring_setup) X(io_uring_enter) X(io_uring_register)           \
    X(pidfd_open) X(eventfd) X(malloc)

enum {
#define INJECT_NUMBER(name) CALL_##name,
    INJECT_PLAIN(INJECT_NUMBER) INJECT_SPECIAL(INJECT_NUMBER) CALLS
#undef INJECT_NUMBER
};

enum { FOR_EVER = 1000000000 };

const char *inject_name(int call);

/* Forgets everything; nothing fails. */
void inject_reset(void);
/* From now on, the calls of this kind number `first` to `last`, counted from 1, fail with `number`. */
void inject_arm(int call, long first, long last, int number);
/* From now on, the call number `n` of any kind but malloc fails, with the errno that `choose` says for its kind (0:
   it does not fail). */
void inject_arm_any(long n, int (*choose)(int call));
/* As long as it is on, recv, send, read and write take one byte at a time. */
void inject_short(int on);
/* Only the calling thread's calls count and fail from now on, or again those of all. */
void inject_only_here(int on);
/* Nothing fails any more; the counts stay. */
void inject_disarm(void);
/* How many calls there were since it was armed last, how many of them failed, and how many there were of any kind. */
long inject_count(int call);
long inject_failures(void);
long inject_all(void);
/* The kind that inject_arm_any() made fail last, or -1. */
int inject_hit(void);

#endif
