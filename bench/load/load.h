/*
 * What the parts of the generator share. main.c asks and tells, traffic.c makes and checks what is said, and an engine
 * carries it: epoll.c, or uring.c where liburing is.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

enum { WINDOW = 16, PERIOD = 8191, CHUNK = 256 * 1024, ONE_SOURCE = 20000, GIVE_UP_SECONDS = 10 };

/* What a message needs of it lies in one line of the cache, and is found without a division. */
struct connection {
    int fd;
    int sending;                    /* an engine's own: a send is under way */
    uint16_t send_at, receive_at;   /* where in the pattern the stream goes on */
    uint16_t newest, oldest;        /* of the messages under way, in `started` */
    uint64_t sent, goal, received;  /* positions in the stream */
    uint64_t end;                   /* of the message that comes back */
    uint64_t started[WINDOW];       /* when each message under way was sent */
} __attribute__((aligned(64)));

struct arguments {
    int port, connections, window, line, hold;
    const char *unix_path;
    size_t size;
    double warm, seconds;
    long messages;
    pid_t pid;
    const struct engine *engine;
};

struct engine {
    const char *name;
    void (*prepare)(void);
    void (*begin)(struct connection *);  /* a connection that is made and shall be read; in the mode of lines, makes one */
    void (*pump)(struct connection *);   /* sends what was started: to `goal` from `sent` */
    void (*turn)(void);                  /* waits for what comes next, handles it, and sets `now` */
};

extern const struct engine epoll_engine, uring_engine;

extern struct arguments asked;
extern struct connection *connections;
extern uint64_t now;        /* nanoseconds; an engine reads the clock before it tells what came */
extern uint64_t completed;  /* messages that were counted */
extern int served;          /* connections that have had their first message back */

void fail(const char *format, ...);
uint64_t clock_ns(clockid_t clock);
int connect_to(int number);              /* returns a blocking descriptor */
socklen_t server_address(struct sockaddr_storage *address);

void make_traffic(void);
void begin_stream(struct connection *connection, size_t at);
const unsigned char *to_send(const struct connection *connection);  /* CHUNK bytes at least */
void was_sent(struct connection *connection, size_t size);
int may_start(void);                     /* with --messages: is one left to be started? It is then. */
void start(struct connection *connection);
void arrived(struct connection *connection, const unsigned char *bytes, size_t size);
void line_arrived(struct connection *connection, const unsigned char *bytes, size_t size);
void line_ended(struct connection *connection);
void forget_times(void);
double quantile_us(double part);

#endif
