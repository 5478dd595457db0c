/* Servers of every kind whose connections stay until their clients let them go, and what such a server logs. */
#ifndef HOLDING_H
#define HOLDING_H

#include "serving.h"

typedef enum hold_kind {
    HOLD_THREADS,
    HOLD_SEQUENTIAL,
    HOLD_PROCESSES,
    HOLD_BY_HAND, /* several threads that accept and serve */
    HOLD_EVENTS,  /* on the default backend */
    HOLD_POLLED,  /* a thread with a loop of its own */
    HOLD_KINDS
} hold_kind;

/* What the server's connections have come to, in memory that children share. */
typedef struct hold_counts {
    int begun;
    int active;
    int most; /* the highest that `active` ever was, as those who were active saw it */
} hold_counts;

enum { HOLD_HANDS = 8 };

typedef struct holding {
    served server;
    hold_kind kind;
    hold_counts *counts;
    pthread_t threads[HOLD_HANDS];
    int joined;
} holding;

const char *hold_name(hold_kind kind);
/* Such a server, running; options may be NULL. Its log is kept, see below. Each connection is held until its client
   sends a byte; then it gets "bye\n" and the end. */
holding *hold(hold_kind kind, const oyez_server_options *options);
holding *hold_at(hold_kind kind, const char *addresses, const oyez_server_options *options);
/* Stops it, waits for all of its clients, and closes it. */
void hold_end(holding *server);
/* Asks it to stop, and waits for the end of its threads. */
void hold_stop(holding *server, int drain_ms);
void hold_close(holding *server);

int hold_begun(const holding *server);
int hold_active(const holding *server);
int hold_most(const holding *server);
oyez_stats hold_stats(const holding *server);

/* The client asks to be let go; it is served, to the end. */
void hold_ask(int client);
void hold_served(int client);
/* Both, and it is closed. */
void hold_release(int client);
/* The client sees the end, or a reset, and nothing else; it is closed. */
void hold_refused(int client);

/* The log: how many lines of an event there were, and the last of them. */
void log_kept(oyez_server_options *options);
int log_lines(const char *event);
void log_last(const char *event, char *text, size_t size);
#define CHECK_LOGGED(event, part)                                                    \
    do {                                                                             \
        char check_line[600];                                                        \
        log_last(event, check_line, sizeof check_line);                              \
        CHECK_STR_CONTAINS(check_line, part);                                        \
        CHECK(strchr(check_line, '\n') == NULL);                                     \
    } while (0)

/* Nearly no processor time for a while. */
void check_idle(const char *what);

#endif
