/* Event servers on epoll and on io_uring, and one whose only thread is held. */
#ifndef BACKENDS_H
#define BACKENDS_H

#include "serving.h"

enum { KILOBYTE = 1024, MEGABYTE = 1024 * 1024 };

/* Options with a backend and so many threads. */
oyez_server_options backend_options(int backend, int workers);
/* A server with those, over TCP. */
served backend_serve(int backend, int workers, const oyez_events *events, void *user);
/* One that sends back what comes. */
oyez_events backend_echo_events(void);
/* Ends the test as skipped where io_uring cannot be had. */
void backend_need_ring(void);

/* One test for each of the two. */
#define ON_BOTH(test)                                                                \
    static void test##_on_epoll(void)                                                \
    {                                                                                \
        test(OYEZ_BACKEND_EPOLL);                                                    \
    }                                                                                \
    static void test##_on_io_uring(void)                                             \
    {                                                                                \
        backend_need_ring();                                                         \
        test(OYEZ_BACKEND_IO_URING);                                                 \
    }
#define CASES(test) CASE(test##_on_epoll), CASE(test##_on_io_uring)

/* Held: one connection holds the only thread, while others send what they like. */

typedef struct held {
    seen all;
    gate at;
    int holder; /* its client */
    served server;
    size_t bytes; /* of the others */
    oyez_conn held;
    oyez_conn target;
    int refused;
} held;

/* A server of this kind, and the client that is going to hold it. */
void held_start(held *own, int over, const oyez_events *events, const oyez_server_options *options);
/* For on_data: the first that says something holds the thread until own->at is open; true for it. */
int held_at(oyez_conn connection, held *own);
/* The holder says something; returns when it holds the thread. */
void held_now(held *own);
void held_end(held *own);

#endif
