/* What a failed call may do: see expected.h. */
#include "expected.h"
#include "inject.h"
#include "scene.h"

#include <errno.h>
#include <stddef.h>

static const struct {
    int number;
    const char *name;
} errnos[] = {
#define ERRNO(name) { name, #name },
    /* The grid's. */
    ERRNO(EINTR) ERRNO(EMFILE) ERRNO(ENFILE) ERRNO(ENOBUFS) ERRNO(ENOMEM) ERRNO(ECONNABORTED) ERRNO(EPROTO)
    ERRNO(EPERM) ERRNO(ENETDOWN) ERRNO(EHOSTUNREACH) ERRNO(EOPNOTSUPP) ERRNO(EACCES) ERRNO(EADDRINUSE)
    ERRNO(EADDRNOTAVAIL) ERRNO(EAFNOSUPPORT) ERRNO(EPIPE) ERRNO(ECONNRESET) ERRNO(ETIMEDOUT) ERRNO(EBADF)
    ERRNO(ENOTSOCK) ERRNO(EINVAL)
    /* Those of accept(2) besides, EAGAIN, ENOSYS, and one that nothing knows. */
    ERRNO(ENOPROTOOPT) ERRNO(EHOSTDOWN) ERRNO(ENONET) ERRNO(ENETUNREACH) ERRNO(ECONNREFUSED) ERRNO(ENOTCONN)
    ERRNO(ENOSR) ERRNO(ESOCKTNOSUPPORT) ERRNO(EPROTONOSUPPORT) ERRNO(EFAULT) ERRNO(EAGAIN) ERRNO(ENOSYS)
    ERRNO(EIO) ERRNO(EBUSY) ERRNO(EEXIST) ERRNO(ENOENT) ERRNO(ENOSPC) ERRNO(EKEYEXPIRED)
#undef ERRNO
    { 0, "" },
};

int errno_at(int index)
{
    return errnos[index].number;
}

const char *errno_name(int number)
{
    int i = 0;
    while (errnos[i].number != 0 && errnos[i].number != number)
        i++;
    return errnos[i].name;
}

int expected_of_making(int call, int number, long first)
{
    switch (call) {
    case CALL_socket:
    case CALL_bind:
    case CALL_listen:
        return number == EINTR ? WORKS : FAILS;
    case CALL_setsockopt: /* the first is SO_REUSEADDR; without the others a server is only worse */
        return number == EINTR || first > 1 ? WORKS : FAILS;
    case CALL_epoll_create1:
    case CALL_timerfd_create:
    case CALL_eventfd:
    case CALL_pthread_create:
        return FAILS;
    default:
        return MAY_FAIL;
    }
}

int expected_errno(int call, int number)
{
    return call == CALL_getsockopt || call == CALL_mmap64 || call == CALL_mmap ? 0 : number;
}

static int of_accept(int number)
{
    return number == EBADF || number == ENOTSOCK || number == EINVAL || number == EFAULT ? ENDS : ALL_SERVED;
}

/* A shortage of memory is waited out, with a bound. */
static int of_transfer(int kind, int call, int number, int for_ever)
{
    if (number == EINTR || number == EAGAIN)
        return ALL_SERVED;
    if (for_ever || (number != ENOBUFS && number != ENOMEM))
        return OWN_LOST;
    return call == CALL_send || !scene_has_events(kind) ? ALL_SERVED : OWN_LOST;
}

int expected_of_serving(int kind, int call, int number, int for_ever)
{
    switch (call) {
    case CALL_accept4:
        return of_accept(number);
    case CALL_recv:
    case CALL_recvmsg:
    case CALL_send:
        return of_transfer(kind, call, number, for_ever);
    case CALL_ppoll:
        return number == EINTR ? ALL_SERVED : OWN_LOST;
    case CALL_epoll_ctl:
        return OWN_LOST;
    case CALL_epoll_wait:
        return number == EINTR ? ALL_SERVED : ENDS;
    case CALL_io_uring_enter:
        return number == EINTR || number == EAGAIN || number == ENOMEM || number == EBUSY ? ALL_SERVED : ENDS;
    case CALL_io_uring_register:
        return ANY;
    default:
        return ALL_SERVED;
    }
}

int is_worth_it(int phase, int call, int number)
{
    static const int columns[] = { CALL_socket, CALL_bind,    CALL_listen, CALL_setsockopt, CALL_getsockname, CALL_accept4,
                                   CALL_recv,   CALL_recvmsg, CALL_send,   CALL_epoll_ctl,  CALL_epoll_wait };
    static const int some[] = { EINTR, EMFILE, ENOMEM, EPERM, EBADF, EINVAL, EAGAIN, ENOSYS, EKEYEXPIRED };
    for (size_t i = 0; i < sizeof columns / sizeof columns[0] && phase != STOP; i++)
        if (columns[i] == call)
            return 1;
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++)
        if (some[i] == number)
            return 1;
    return 0;
}

const char *impossible(int kind, int phase, int call, int number, int for_ever)
{
    (void)phase;
    if (call == CALL_write)
        return "an eventfd that is written to without waiting fails only when it is full, and wakes all the same";
    if (call == CALL_waitid && number != EINTR)
        return "of a child that is there waitid(2) says nothing else but EINTR";
    if (call == CALL_epoll_ctl && for_ever && !scene_has_events(kind))
        return "a listener's place in the set is no matter of memory: changing it does not fail for ever";
    if (number == EAGAIN && (call == CALL_recv || call == CALL_recvmsg || call == CALL_send) && scene_has_events(kind))
        return "the kernel tells of a change once: it does not say EAGAIN while there is something";
    if (number == EAGAIN && for_ever && (call == CALL_accept4 || call == CALL_recv || call == CALL_send))
        return "the kernel does not say for ever that nothing is there and that something is";
    return NULL;
}
