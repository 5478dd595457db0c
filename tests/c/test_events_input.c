/* Event servers on epoll and on io_uring: many connections, and the order of their input. */
#define _GNU_SOURCE
#include "backends.h"
#include "clients.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Many. */

static void many_at_once(int backend)
{
    struct rlimit limit;
    struct rlimit more;
    oyez_events events = backend_echo_events();
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    more = limit;
    more.rlim_cur = more.rlim_max < 4200 ? more.rlim_max : 4200;
    MUST(setrlimit(RLIMIT_NOFILE, &more));
    served server = backend_serve(backend, 2, &events, NULL);
    client_echo_many(server.port, more.rlim_cur < 4200 ? ((int)more.rlim_cur - 100) / 2 : 2000, 64 * KILOBYTE);
    serve_end(server);
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
}
ON_BOTH(many_at_once)

/* Each connection is aborted with output pending while the next one comes, which gets its descriptor. */

enum { REUSES = 3000, ANSWER = 200 * KILOBYTE };

static void abort_the_last(oyez_conn connection, void *last)
{
    if (*(oyez_conn *)last != 0)
        CHECK_WORKS(oyez_conn_abort(*(oyez_conn *)last));
    *(oyez_conn *)last = connection;
}

/* In one piece, or by many small ones. */
static size_t answer_with_its_byte(oyez_conn connection, const uint8_t *bytes, size_t size, void *last)
{
    static uint8_t answer[ANSWER];
    size_t part = bytes[0] % 2 != 0 ? ANSWER : 2000;
    (void)last;
    memset(answer, bytes[0], sizeof answer);
    for (size_t sent = 0; sent + part <= ANSWER; sent += part)
        CHECK_WORKS(oyez_conn_write(connection, answer, part));
    return size;
}

static void descriptors_used_again(int backend)
{
    oyez_conn last = 0;
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server_options options = backend_options(backend, 1);
    oyez_listen_options small = OYEZ_LISTEN_OPTIONS_INIT;
    int before = -1;
    int size = 4096;
    long memory = 0;
    events.on_open = abort_the_last;
    events.on_data = answer_with_its_byte;
    small.send_buffer = size;
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new_events(&events, &last, &options));
    int port = oyez_local_port((int)CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", &small)));
    CHECK_WORKS(oyez_server_start(server));
    for (int round = 0; round < REUSES; round++) {
        unsigned char byte = (unsigned char)round;
        memory = round == REUSES / 3 ? check_memory() : memory;
        int client = client_connect(port);
        MUST(setsockopt(client, SOL_SOCKET, SO_RCVBUF, &size, sizeof size));
        client_send(client, &byte, 1);
        client_expect_bytes(client, byte, 3 * KILOBYTE);
        if (before != -1)
            MUST(close(before));
        before = client;
    }
    CHECK(check_memory() - memory < 10 * KILOBYTE);
    MUST(close(before));
    CHECK_WORKS(oyez_server_stop(server, 0));
    CHECK_WORKS(oyez_server_close(server));
}
ON_BOTH(descriptors_used_again)

/* Input in its order: pausing, leaving some, and detaching. */

enum { STREAM = 100 * MEGABYTE };

typedef struct reader {
    seen all;
    size_t at; /* what on_data has consumed */
    unsigned state;
    int told[2]; /* a pipe: a byte for each pause, or a descriptor */
    int detached;
} reader;

typedef struct sender {
    int fd;
    size_t size;
    unsigned state;
} sender;

/* Sends the stream in parts of any size, and ends it. */
static void *send_stream(void *argument)
{
    static __thread unsigned char part[100000];
    sender *own = argument;
    for (size_t at = 0; at < own->size;) {
        size_t size = 1 + client_random(&own->state, sizeof part - 1);
        size = size < own->size - at ? size : own->size - at;
        for (size_t i = 0; i < size; i++)
            part[i] = client_byte(1, at + i);
        client_send(own->fd, part, size);
        at += size;
    }
    MUST(shutdown(own->fd, SHUT_WR));
    return NULL;
}

static size_t read_at_random(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    reader *own = user;
    size_t part = size;
    if (client_random(&own->state, 20) == 0) {
        part = client_random(&own->state, size);
        CHECK_WORKS(oyez_conn_pause(connection));
        MUST(write(own->told[1], "p", 1));
    }
    client_check_stream(bytes, part, own->at);
    own->at += part;
    return part;
}

static void tell_the_end(oyez_conn connection, const oyez_error *why, void *user)
{
    seen_close(connection, why, user);
    MUST(write(((reader *)user)->told[1], "e", 1));
}

static void pauses_at_random(int backend)
{
    reader own = { .state = 7 };
    char word = 'p';
    oyez_events events = seen_events();
    events.on_data = read_at_random;
    events.on_close = tell_the_end;
    MUST(pipe2(own.told, O_CLOEXEC));
    served server = backend_serve(backend, 1, &events, &own);
    sender from = { serve_client(server), STREAM, 5 };
    pthread_t thread = check_thread(send_stream, &from);
    while (MUST(read(own.told[0], &word, 1)) == 1 && word == 'p')
        CHECK_WORKS(oyez_conn_resume(SEEN(own.all.last)));
    check_thread_join(thread);
    CHECK_EQ_INT(own.at, STREAM);
    CHECK_EQ_INT(own.all.code, OYEZ_CLOSED);
    CHECK_EQ_INT(own.all.number, 0);
    MUST(close(from.fd));
    MUST(close(own.told[0]));
    MUST(close(own.told[1]));
    serve_end(server);
}
ON_BOTH(pauses_at_random)

/* Detaches as soon as it can, from some place in the stream on. */
static size_t detach_at_random(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    reader *own = user;
    client_check_stream(bytes, size, own->at);
    own->at += size;
    if (own->detached || own->at < 1 + (own->state % 50000))
        return size;
    int fd = oyez_conn_detach(connection);
    if (fd == -1) {
        expect_keep();
        CHECK_ERROR(OYEZ_INVALID_ARGUMENT, EBUSY);
        return size;
    }
    own->detached = 1;
    MUST(write(own->told[1], &fd, sizeof fd));
    return size;
}

/* What on_data has not seen is readable from the descriptor: nothing is lost, nothing comes twice. */
static void detach_in_a_stream(int backend, size_t max_input, int rounds)
{
    enum { SIZE = 300000 };
    static unsigned char rest[SIZE + 1];
    reader own = { .state = 3 };
    int fd = -1;
    oyez_events events = seen_events();
    oyez_server_options options = backend_options(backend, 1);
    options.max_input = max_input;
    events.on_data = detach_at_random;
    MUST(pipe2(own.told, O_CLOEXEC));
    served server = serve_events(OVER_TCP, &events, &own, &options);
    for (int round = 1; round <= rounds; round++) {
        (void)client_random(&own.state, 1);
        own.at = 0;
        own.detached = 0;
        sender from = { serve_client(server), SIZE, (unsigned)round };
        pthread_t thread = check_thread(send_stream, &from);
        CHECK_EQ_INT(MUST(read(own.told[0], &fd, sizeof fd)), sizeof fd);
        size_t size = client_receive(fd, rest, sizeof rest);
        CHECK_SOON(SEEN(own.all.closed) == round);
        client_check_stream(rest, size, own.at);
        CHECK_EQ_INT(own.at + size, SIZE);
        CHECK_EQ_INT(own.all.code, OYEZ_OK);
        check_thread_join(thread);
        MUST(close(fd));
        MUST(close(from.fd));
    }
    MUST(close(own.told[0]));
    MUST(close(own.told[1]));
    serve_end(server);
}

static void detached_in_a_stream(int backend)
{
    detach_in_a_stream(backend, 0, 500);
}
ON_BOTH(detached_in_a_stream)

static void detached_with_a_small_window(int backend)
{
    detach_in_a_stream(backend, 1000, 50);
}
ON_BOTH(detached_with_a_small_window)

/* Another connection's function detaches one that is paused and whose input goes on coming. */

typedef struct pair {
    seen all;
    gate at;
    oyez_conn other; /* the first that has said something: it waits at the gate, and detaches at its second word */
    oyez_conn paused;
    size_t at_byte;
    int told[2];
} pair;

static void detach_and_tell(pair *own)
{
    int fd = oyez_conn_detach(own->paused);
    if (fd != -1) {
        MUST(write(own->told[1], &fd, sizeof fd));
        return;
    }
    expect_keep();
    CHECK_ERROR(OYEZ_INVALID_ARGUMENT, EBUSY);
    CHECK_WORKS(oyez_conn_resume(own->paused));
}

static size_t pause_or_detach(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    pair *own = user;
    if (own->other == 0) {
        own->other = connection;
        gate_pass(&own->at);
    } else if (connection == own->other) {
        detach_and_tell(own);
    } else {
        client_check_stream(bytes, size, own->at_byte);
        own->at_byte += size;
        if (own->paused != 0)
            detach_and_tell(own);
        else
            CHECK_WORKS(oyez_conn_pause(connection));
        own->paused = connection;
    }
    return size;
}

static void detached_while_paused(int backend)
{
    enum { SIZE = 60000 };
    static unsigned char rest[SIZE + 1];
    pair own = { .at = gate_make() };
    oyez_events events = seen_events();
    int fd;
    events.on_data = pause_or_detach;
    MUST(pipe2(own.told, O_CLOEXEC));
    served server = backend_serve(backend, 1, &events, &own);
    int other = serve_client(server);
    sender from = { serve_client(server), SIZE, 1 };
    CHECK_SOON(SEEN(own.all.opened) == 2);
    client_send_text(other, "g");
    gate_await(&own.at, 1);
    send_stream(&from);
    client_await_arrival(from.fd);
    client_send_text(other, "!");
    client_await_arrival(other);
    gate_open(&own.at);
    CHECK_EQ_INT(MUST(read(own.told[0], &fd, sizeof fd)), sizeof fd);
    size_t size = client_receive(fd, rest, sizeof rest);
    client_check_stream(rest, size, own.at_byte);
    CHECK_EQ_INT(own.at_byte + size, SIZE);
    MUST(close(fd));
    MUST(close(from.fd));
    MUST(close(other));
    MUST(close(own.told[0]));
    MUST(close(own.told[1]));
    serve_end(server);
    gate_end(&own.at);
}
ON_BOTH(detached_while_paused)

static const check_case cases[] = {
    CASES(many_at_once),
    CASES(descriptors_used_again),
    CASES(pauses_at_random),
    CASES(detached_in_a_stream),
    CASES(detached_with_a_small_window),
    CASES(detached_while_paused),
};

CHECK_MAIN(cases)
