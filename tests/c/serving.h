/* Servers for tests. */
#ifndef SERVING_H
#define SERVING_H

#include "expect.h"

/* A server that runs on threads of its own, at 127.0.0.1. */
typedef struct served {
    oyez_server id;
    int listener;
    int port;
} served;

served serve(oyez_handler handler, void *user, const oyez_server_options *options);
/* At these addresses; the port is that of the last listener, 0 where it has none. */
served serve_at(const char *addresses, oyez_handler handler, void *user, const oyez_server_options *options);
/* Stops it, waits for all of its clients, and closes it. */
void serve_end(served server);
oyez_stats serve_stats(served server);

/* Options with a model. */
oyez_server_options serve_options(int model);

/* Sends back what comes, until the end. */
void serve_echo(oyez_conn connection, void *user);
/* Says "hello\n". */
void serve_hello(oyez_conn connection, void *user);

/* Event servers. */

enum { OVER_TCP, OVER_UNIX };

/* An event server that runs on threads of its own; user and options may be NULL. */
served serve_events(int over, const oyez_events *events, void *user, const oyez_server_options *options);
/* The same, not started: for oyez_server_poll(). */
served serve_events_polled(const oyez_events *events, void *user, const oyez_server_options *options);
/* A connected client of it. */
int serve_client(served server);
/* Options with so many threads. */
oyez_server_options serve_workers(int workers);
/* on_data: sends back what comes. */
size_t serve_echo_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user);
/* on_data: takes all and does nothing. */
size_t serve_drop_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user);

/* What an event server's functions have seen: the user of those below. Read it with SEEN. */
typedef struct seen {
    int opened;
    int closed;
    int drained;
    size_t bytes;
    oyez_conn last; /* the last that was opened */
    int code;       /* of the last on_close, and its errno */
    int number;
} seen;

#define SEEN(field) __atomic_load_n(&(field), __ATOMIC_SEQ_CST)

void seen_open(oyez_conn connection, void *user);
size_t seen_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user); /* takes all */
void seen_drain(oyez_conn connection, void *user);
void seen_close(oyez_conn connection, const oyez_error *why, void *user);
/* All four. */
oyez_events seen_events(void);

/* A gate that handlers wait at: it works across threads and processes, by a pipe. */
typedef struct gate {
    int in[2];  /* a byte for each handler that has arrived */
    int out[2]; /* a byte in it lets all go, now and later */
} gate;

gate gate_make(void);
/* For a handler: arrives, and waits until the gate is open. */
void gate_pass(const gate *at);
/* Waits until `count` handlers have arrived. */
void gate_await(const gate *at, int count);
/* How many have arrived and were not waited for. */
int gate_arrived(const gate *at);
void gate_open(gate *at);
/* Gives it back, when all have passed. */
void gate_end(gate *at);
/* A handler: passes the gate that is its user, then says "hello\n". */
void serve_hello_behind_gate(oyez_conn connection, void *user);

#endif
