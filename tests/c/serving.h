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
