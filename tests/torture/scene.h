/* An echo server in each way of serving, and clients that tell what became of them. */
#ifndef SCENE_H
#define SCENE_H

#include "expect.h"

/* By hand, a thread of the program accepts and answers; a polled event server is driven by one. */
enum { THREADS, SEQUENTIAL, PROCESSES, BY_HAND, EPOLL, IO_URING, POLLED, SCENES };

const char *scene_name(int kind);
/* Whether connections are served by the functions of an event server. */
int scene_has_events(int kind);

typedef struct scene {
    int kind;
    oyez_server id; /* 0: none */
    int port;
    pthread_t driver; /* of a server that the program drives */
    int driven;
    int ended;  /* the server has ended, or its driver has given up */
    int number; /* why: the errno of the call that failed */
    int lines;  /* of the log */
    int errors; /* of them, those of OYEZ_LOG_ERROR */
    char last_error[200];
    int opened; /* connections: on_open and on_close */
    int closed;
} scene;

#define SCENE_SEEN(field) __atomic_load_n(&(field), __ATOMIC_SEQ_CST)

/* Makes the server and lets it serve. 0, or -1 where a call of oyez failed: what is said of it was checked, and what
   was made stays for scene_drop(). */
int scene_make(scene *at, int kind);
/* Gives back what scene_make() has made when it failed. */
void scene_drop(scene *at);
/* Stops the server, waits for it, and closes it. */
void scene_end(scene *at, int drain_ms);
/* Whether the server ends by itself within so many ms. */
int scene_ends(scene *at, int ms);
oyez_stats scene_stats(scene *at);

/* What became of a client that sent a line and waited for the answer and an orderly end. */
enum { SERVED, BROKEN, REFUSED, SILENT };

/* Connects and sends a line; -1 where that fails. */
int scene_call(scene *at);
/* The same, but its end stays open. */
int scene_call_open(scene *at);
/* What becomes of it; SILENT after so many ms, and then the client is still there. Otherwise it is closed. */
int scene_outcome(int client, int ms);
/* The two together. */
int scene_client(scene *at, int ms);

/* The next random number: by TORTURE_SEED, or by a fixed seed. */
unsigned scene_random(unsigned *state);
unsigned scene_seed(void);
/* Whether the cell of that name is to run: TORTURE_SHARE=n keeps one of n, which ones by the seed, and TORTURE_PART=i/n
   those of one of n programs. */
int scene_wants(const char *name);

#endif
