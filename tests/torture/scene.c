/* An echo server in each way of serving: see scene.h. */
#define _GNU_SOURCE
#include "scene.h"
#include "clients.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char line[] = "hello, torturer\n";
enum { LINE = sizeof line - 1 };

const char *scene_name(int kind)
{
    static const char *const names[SCENES] = { "threads", "sequential", "processes", "by_hand",
                                               "epoll",   "io_uring",   "polled" };
    return names[kind];
}

int scene_has_events(int kind)
{
    return kind == EPOLL || kind == IO_URING || kind == POLLED;
}

/* Every failure says what it is. */
static void check_failure(void)
{
    CHECK(errno != 0);
    CHECK(oyez_error_code(NULL) != OYEZ_OK && oyez_error_code(NULL) != OYEZ_INTERNAL);
    CHECK(oyez_error_operation(NULL)[0] != '\0');
    CHECK(oyez_error_message(NULL)[0] != '\0' && strchr(oyez_error_message(NULL), '\n') == NULL);
}

static void keep_line(int32_t level, const char *event, const char *text, void *user)
{
    scene *at = user;
    __atomic_add_fetch(&at->lines, 1, __ATOMIC_SEQ_CST);
    if (level < OYEZ_LOG_ERROR)
        return;
    snprintf(at->last_error, sizeof at->last_error, "%s: %s", event, text);
    __atomic_add_fetch(&at->errors, 1, __ATOMIC_SEQ_CST);
}

/* The connections. */

static void echo(oyez_conn connection, void *user)
{
    char text[512];
    ssize_t count;
    (void)user;
    while ((count = oyez_conn_read(connection, text, sizeof text)) > 0)
        if (oyez_conn_write(connection, text, (size_t)count) == -1)
            break;
    if (count == -1)
        CHECK(oyez_error_code(NULL) != OYEZ_OK);
}

static void note_open(oyez_conn connection, void *user)
{
    (void)connection;
    __atomic_add_fetch(&((scene *)user)->opened, 1, __ATOMIC_SEQ_CST);
}

static size_t echo_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)user;
    oyez_conn_write(connection, bytes, size);
    return size;
}

static void note_close(oyez_conn connection, const oyez_error *why, void *user)
{
    (void)connection;
    CHECK(oyez_error_code(why) != OYEZ_INTERNAL);
    __atomic_add_fetch(&((scene *)user)->closed, 1, __ATOMIC_SEQ_CST);
}

/* Servers that the program drives. */

/* A call that failed tells its errno's code, whatever it is about. */
static int is_over(void)
{
    if (strcmp(oyez_error_operation(NULL), "epoll_wait") == 0 || strcmp(oyez_error_operation(NULL), "accept") == 0)
        return 0;
    return oyez_error_code(NULL) == OYEZ_STOPPED || oyez_error_code(NULL) == OYEZ_CLOSED;
}

static void *drive_polled(void *argument)
{
    scene *at = argument;
    int was = 0;
    int busy = 0;
    while (was == 0 || busy) { /* in the end oyez_server_wait() polls as well */
        was = oyez_server_poll(at->id, -1) == 0 ? 0 : errno;
        busy = was == EBUSY && strcmp(oyez_error_operation(NULL), "oyez_server_poll") == 0;
        if (busy)
            check_nap(1);
    }
    check_failure();
    if (!is_over())
        __atomic_store_n(&at->number, was, __ATOMIC_SEQ_CST);
    __atomic_store_n(&at->ended, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

/* Each third connection is taken over, and then the program's own. */
static void answer_by_hand(oyez_conn connection, int turn)
{
    echo(connection, NULL);
    if (turn % 3 == 0) {
        int fd = oyez_conn_detach(connection);
        if (fd != -1) {
            shutdown(fd, SHUT_WR);
            MUST(close(fd));
            return;
        }
    }
    oyez_conn_close(connection);
}

/* A shortage is no reason to give up. */
static void *drive_by_hand(void *argument)
{
    scene *at = argument;
    for (int turn = 1;; turn++) {
        oyez_conn connection = 0;
        int fd = oyez_server_accept(at->id, &connection, -1);
        int was = errno;
        if (fd != -1) {
            answer_by_hand(connection, turn);
            continue;
        }
        check_failure();
        if (is_over())
            break;
        if (oyez_error_code(NULL) != OYEZ_LIMIT_REACHED || strcmp(oyez_error_operation(NULL), "accept") != 0) {
            __atomic_store_n(&at->number, was, __ATOMIC_SEQ_CST);
            break;
        }
    }
    __atomic_store_n(&at->ended, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

/* The server. */

static oyez_server make(scene *at)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    oyez_events events = OYEZ_EVENTS_INIT;
    options.drain_ms = 500;
    options.log = keep_line;
    options.log_user = at;
    options.model = at->kind < BY_HAND ? at->kind : 0;
    if (!scene_has_events(at->kind)) {
        options.workers = at->kind == BY_HAND ? 0 : 8;
        return oyez_server_new(at->kind == BY_HAND ? NULL : echo, NULL, &options);
    }
    options.backend = at->kind == IO_URING ? OYEZ_BACKEND_IO_URING : OYEZ_BACKEND_EPOLL;
    options.workers = 2;
    events.on_open = note_open;
    events.on_data = echo_data;
    events.on_close = note_close;
    return oyez_server_new_events(&events, at, &options);
}

static int failed(void)
{
    check_failure();
    return -1;
}

int scene_make(scene *at, int kind)
{
    memset(at, 0, sizeof *at);
    at->kind = kind;
    errno = 0;
    at->id = make(at);
    if (at->id == -1) {
        at->id = 0;
        return failed();
    }
    errno = 0;
    int listener = oyez_server_listen(at->id, "127.0.0.1:0", NULL);
    if (listener == -1)
        return failed();
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    MUST(getsockname(listener, (struct sockaddr *)&address, &size));
    at->port = ntohs(address.sin_port);
    errno = 0;
    if (kind == BY_HAND || kind == POLLED) {
        if (oyez_server_poll_fd(at->id) == -1)
            return failed();
    } else if (oyez_server_start(at->id) == -1) {
        return failed();
    }
    if (kind == BY_HAND || kind == POLLED) {
        at->driver = check_thread(kind == BY_HAND ? drive_by_hand : drive_polled, at);
        at->driven = 1;
    }
    return 0;
}

void scene_drop(scene *at)
{
    if (at->id > 0)
        CHECK_WORKS(oyez_server_close(at->id));
    at->id = 0;
}

int scene_ends(scene *at, int ms)
{
    if (at->kind != BY_HAND && at->kind != POLLED)
        return oyez_server_wait(at->id, ms) == 0;
    for (long long end = check_now_ms() + ms; !SCENE_SEEN(at->ended) && check_now_ms() < end;)
        check_nap(1);
    return SCENE_SEEN(at->ended);
}

oyez_stats scene_stats(scene *at)
{
    oyez_stats stats = OYEZ_STATS_INIT;
    CHECK_WORKS(oyez_server_stats(at->id, &stats));
    return stats;
}

void scene_end(scene *at, int drain_ms)
{
    CHECK_WORKS(oyez_server_stop(at->id, drain_ms));
    /* A call of the program that an injected fault meets; then the stop is for oyez_server_close() to finish. */
    if (oyez_server_wait(at->id, 10000) == -1)
        CHECK(at->driven
              && (oyez_error_code(NULL) != OYEZ_TIMED_OUT || strcmp(oyez_error_operation(NULL), "epoll_wait") == 0));
    CHECK_WORKS(oyez_server_close(at->id));
    if (at->driven)
        check_thread_join(at->driver);
    CHECK_EQ_INT(SCENE_SEEN(at->opened), SCENE_SEEN(at->closed));
    at->id = 0;
}

/* Clients. */

int scene_call_open(scene *at)
{
    int fd = client_try(at->port);
    /* A server that is gone by now resets it: the outcome tells. */
    if (fd != -1)
        send(fd, line, LINE, MSG_NOSIGNAL);
    return fd;
}

int scene_call(scene *at)
{
    int fd = scene_call_open(at);
    if (fd != -1)
        shutdown(fd, SHUT_WR);
    return fd;
}

/* What was told stays in the socket until the end comes, so that a later look finds all of it. */
int scene_outcome(int client, int ms)
{
    char text[LINE + 8];
    struct pollfd wait = { client, POLLRDHUP, 0 };
    long long end = check_now_ms() + ms;
    int ready = -1;
    if (client == -1)
        return REFUSED;
    while (ready == -1) {
        long long left = end - check_now_ms();
        ready = poll(&wait, 1, left < 0 ? 0 : (int)left);
    }
    if (ready == 0)
        return SILENT;
    ssize_t got = recv(client, text, sizeof text, MSG_DONTWAIT);
    int whole = got == LINE && memcmp(text, line, LINE) == 0 && recv(client, text, sizeof text, MSG_DONTWAIT) == 0;
    MUST(close(client));
    return whole ? SERVED : BROKEN;
}

int scene_client(scene *at, int ms)
{
    return scene_outcome(scene_call(at), ms);
}

/* Random numbers: xorshift. */

unsigned scene_seed(void)
{
    const char *text = getenv("TORTURE_SEED");
    unsigned seed = text == NULL ? 1 : (unsigned)strtoul(text, NULL, 10);
    return seed == 0 ? 1 : seed;
}

unsigned scene_random(unsigned *state)
{
    unsigned word = *state;
    word ^= word << 13;
    word ^= word >> 17;
    word ^= word << 5;
    return *state = word;
}

/* By a hash of the name, since no two programs count the same calls. */
int scene_wants(const char *name)
{
    const char *share = getenv("TORTURE_SHARE");
    const char *part = getenv("TORTURE_PART");
    unsigned own = 0, all = 1, hash = scene_seed() * 2654435761u;
    for (; *name != '\0'; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    hash = scene_random(&hash);
    if (share != NULL && atoi(share) > 1 && (hash & 0xffff) % (unsigned)atoi(share) != 0)
        return 0;
    return part == NULL || sscanf(part, "%u/%u", &own, &all) != 2 || all == 0 || (hash >> 16) % all == own;
}
