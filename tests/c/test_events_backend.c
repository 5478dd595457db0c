/* Event servers on epoll and on io_uring: which of them it is, what happens where io_uring is refused, and that a
   program sees no difference. */
#define _GNU_SOURCE
#include "clients.h"
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KILOBYTE = 1024, MEGABYTE = 1024 * 1024, SERVED = 32 };

static oyez_server_options with(int backend, int workers)
{
    oyez_server_options options = serve_workers(workers);
    options.backend = backend;
    return options;
}

static served serve_with(int backend, int workers, const oyez_events *events, void *user)
{
    oyez_server_options options = with(backend, workers);
    return serve_events(OVER_TCP, events, user, &options);
}

static oyez_events echo_events(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    events.on_data = serve_echo_data;
    return events;
}

/* Ends the test as skipped where io_uring cannot be had. */
static void need_ring(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server_options options = with(OYEZ_BACKEND_IO_URING, 1);
    oyez_server server = oyez_server_new_events(&events, NULL, &options);
    if (server == -1)
        SKIP(oyez_error_message(NULL));
    CHECK_WORKS(oyez_server_close(server));
}

/* Whether it can be had, without a try in this process. */
static int a_child_has_a_ring(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server_options options = with(OYEZ_BACKEND_IO_URING, 1);
    int status;
    pid_t child = (pid_t)MUST(fork());
    if (child == 0)
        _exit(oyez_server_new_events(&events, NULL, &options) == -1);
    MUST(waitpid(child, &status, 0));
    return status == 0;
}

/* One test for each of the two. */
#define ON_BOTH(test)                                                                \
    static void test##_on_epoll(void)                                                \
    {                                                                                \
        test(OYEZ_BACKEND_EPOLL);                                                    \
    }                                                                                \
    static void test##_on_io_uring(void)                                             \
    {                                                                                \
        need_ring();                                                                 \
        test(OYEZ_BACKEND_IO_URING);                                                 \
    }
#define CASES(test) CASE(test##_on_epoll), CASE(test##_on_io_uring)

static void expect_all(int fd, int byte, size_t size)
{
    static unsigned char bytes[64 * KILOBYTE];
    while (size > 0) {
        size_t part = client_receive(fd, bytes, size < sizeof bytes ? size : sizeof bytes);
        CHECK(part > 0);
        for (size_t i = 0; i < part; i++)
            CHECK_EQ_INT(bytes[i], byte);
        size -= part;
    }
}

/* Waits until all that a client has sent is in the server's kernel. */
static void await_arrival(int client)
{
    int left = 1;
    CHECK_SOON(ioctl(client, SIOCOUTQ, &left) == 0 && left == 0);
}

/* A number of one's own sequence, from 0 to `most`. */
static size_t roll(unsigned *state, size_t most)
{
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % (most + 1);
}

/* Which it is. */

static int rings(void)
{
    char path[40];
    char target[40];
    int count = 0;
    for (int fd = 0; fd < 1000; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, target, sizeof target - 1);
        target[length > 0 ? length : 0] = '\0';
        count += strcmp(target, "anon_inode:[io_uring]") == 0;
    }
    return count;
}

static void expect_rings(int backend, const char *variable, int count)
{
    oyez_events events = echo_events();
    int clients[SERVED];
    if (variable != NULL)
        MUST(setenv("OYEZ_BACKEND", variable, 1));
    else
        MUST(unsetenv("OYEZ_BACKEND"));
    served server = serve_with(backend, 3, &events, NULL);
    for (int i = 0; i < SERVED; i++) {
        clients[i] = serve_client(server);
        client_send_text(clients[i], "x");
    }
    for (int i = 0; i < SERVED; i++)
        client_expect(clients[i], "x");
    CHECK_EQ_INT(rings(), count);
    for (int i = 0; i < SERVED; i++)
        MUST(close(clients[i]));
    serve_end(server);
    CHECK_EQ_INT(rings(), 0);
}

static void the_backend_that_was_asked_for(void)
{
    need_ring();
    expect_rings(OYEZ_BACKEND_EPOLL, NULL, 0);
    expect_rings(OYEZ_BACKEND_IO_URING, NULL, 3);
    expect_rings(OYEZ_BACKEND_AUTO, NULL, 3);
    expect_rings(OYEZ_BACKEND_AUTO, "", 3);
    expect_rings(OYEZ_BACKEND_AUTO, "auto", 3);
    expect_rings(OYEZ_BACKEND_AUTO, "io_uring", 3);
    expect_rings(OYEZ_BACKEND_AUTO, "epoll", 0);
    expect_rings(OYEZ_BACKEND_IO_URING, "epoll", 3);
    expect_rings(OYEZ_BACKEND_EPOLL, "io_uring", 0);
    expect_rings(OYEZ_BACKEND_EPOLL, "of no use", 0);
}

static void a_polled_server_has_epoll(void)
{
    oyez_events events = echo_events();
    char byte = 0;
    need_ring();
    oyez_server_options options = with(OYEZ_BACKEND_IO_URING, 2);
    served server = serve_events_polled(&events, NULL, &options);
    int client = serve_client(server);
    client_send_text(client, "x");
    while (recv(client, &byte, 1, MSG_DONTWAIT) == -1)
        CHECK_WORKS(oyez_server_poll(server.id, 1000));
    CHECK_EQ_INT(byte, 'x');
    CHECK_EQ_INT(rings(), 0);
    MUST(close(client));
    CHECK_WORKS(oyez_server_close(server.id));
}

static void words_that_are_no_backend(void)
{
    static const char *const wrong[] = { "kqueue", "EPOLL", " epoll", "io_uring ", "1", "uring\n" };
    oyez_events events = OYEZ_EVENTS_INIT;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        MUST(setenv("OYEZ_BACKEND", wrong[i], 1));
        CHECK_FAILS(oyez_server_new_events(&events, NULL, NULL), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
        MESSAGE_HAS("OYEZ_BACKEND is \"%.4s", wrong[i]);
        HINT_HAS("epoll, io_uring or auto");
    }
    for (int backend = -2; backend <= 8; backend++) {
        oyez_server_options options = with(backend, 1);
        if (backend >= OYEZ_BACKEND_AUTO && backend <= OYEZ_BACKEND_IO_URING)
            continue;
        CHECK_FAILS(oyez_server_new_events(&events, NULL, &options), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
        MESSAGE_HAS("backend is %d", backend);
    }
}

/* Where io_uring is refused. */

static void count_refusals(int level, const char *event, const char *text, void *count)
{
    (void)text;
    if (strcmp(event, "io_uring_refused") == 0) {
        CHECK_EQ_INT(level, OYEZ_LOG_INFO);
        __atomic_add_fetch((int *)count, 1, __ATOMIC_SEQ_CST);
    }
}

/* It serves, and says so once for each start. */
static void serve_without_ring(void)
{
    oyez_events events = echo_events();
    oyez_server_options options = with(OYEZ_BACKEND_AUTO, 4);
    int lines = 0;
    options.log = count_refusals;
    options.log_user = &lines;
    MUST(unsetenv("OYEZ_BACKEND"));
    for (int start = 1; start <= 2; start++) {
        served server = serve_events(OVER_TCP, &events, NULL, &options);
        client_echo_many(server.port, 10, 100 * KILOBYTE);
        serve_end(server);
        CHECK_EQ_INT(SEEN(lines), start);
    }
}

static void fail_without_ring(const char *why)
{
    oyez_events events = echo_events();
    oyez_server_options options = with(OYEZ_BACKEND_IO_URING, 4);
    CHECK_FAILS(oyez_server_new_events(&events, NULL, &options), OYEZ_UNSUPPORTED, ANY_ERRNO);
    CHECK(oyez_error_errno(NULL) != 0);
    MESSAGE_HAS("io_uring cannot be had");
    MESSAGE_HAS("%s", why);
    HINT_HAS("OYEZ_BACKEND_AUTO");
}

typedef struct refusal {
    int call;
    int number;
    const char *step;
    const char *why;
} refusal;

static void be_refused(void *argument)
{
    const refusal *of = argument;
    place_refuse_call(of->call, of->number);
    serve_without_ring();
    fail_without_ring(of->why);
    MESSAGE_HAS("%s failed", of->step);
    CHECK_EQ_INT(oyez_error_errno(NULL), of->number);
}

static void refused_by_a_sandbox(void)
{
    refusal all[] = {
        { SYS_io_uring_setup, ENOSYS, "io_uring_setup", "sandbox" },
        { SYS_io_uring_setup, EPERM, "io_uring_setup", "sandbox" },
        { SYS_io_uring_setup, EACCES, "io_uring_setup", "sandbox" },
        { SYS_io_uring_setup, ENOMEM, "io_uring_setup", "Cannot allocate memory" },
        { SYS_io_uring_enter, EPERM, "io_uring_enter", "sandbox" },
        { SYS_io_uring_register, EPERM, "io_uring_register", "sandbox" },
    };
    int has_more = a_child_has_a_ring(); /* than a first step */
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (has_more || all[i].call == SYS_io_uring_setup)
            check_join(check_fork(be_refused, &all[i]));
}

/* A sandbox that kills cannot be asked: whoever chooses epoll is safe there. */
static void be_killed(void *variable)
{
    oyez_events events = echo_events();
    fault_kill_at_call(SYS_io_uring_setup);
    MUST(setenv("OYEZ_BACKEND", variable, 1));
    served server = serve_with(*(char *)variable == '\0' ? OYEZ_BACKEND_EPOLL : OYEZ_BACKEND_AUTO, 2, &events, NULL);
    client_echo_many(server.port, 10, KILOBYTE);
    serve_end(server);
}

static void epoll_never_tries_io_uring(void)
{
    check_join(check_fork(be_killed, ""));
    check_join(check_fork(be_killed, "epoll"));
}

/* Either way is right, if it is clear. */
static void lock_no_memory(void *unused)
{
    struct rlimit none = { 0, 0 };
    oyez_events events = echo_events();
    oyez_server_options options = with(OYEZ_BACKEND_IO_URING, 4);
    (void)unused;
    MUST(setrlimit(RLIMIT_MEMLOCK, &none));
    place_user(NOBODY);
    oyez_server server = oyez_server_new_events(&events, NULL, &options);
    if (server == -1) {
        fail_without_ring(strerror(oyez_error_errno(NULL)));
        serve_without_ring();
        return;
    }
    CHECK_WORKS(oyez_server_close(server));
    for (int backend = OYEZ_BACKEND_AUTO; backend <= OYEZ_BACKEND_IO_URING; backend++) {
        served running = serve_with(backend, 4, &events, NULL);
        client_echo_many(running.port, 10, 100 * KILOBYTE);
        serve_end(running);
    }
}

static void no_memory_may_be_locked(void)
{
    check_join(check_fork(lock_no_memory, NULL));
}

static void no_descriptor_for_a_ring(void)
{
    oyez_events events = echo_events();
    oyez_server_options options = with(OYEZ_BACKEND_IO_URING, 1);
    int lines = 0;
    need_ring();
    served server = serve_events_polled(&events, NULL, &options); /* neither polled nor started so far */
    int limit = place_descriptors_left(0);
    CHECK_FAILS(oyez_server_run(server.id), OYEZ_LIMIT_REACHED, EMFILE);
    MESSAGE_HAS("io_uring_setup");
    place_descriptor_limit(limit);
    CHECK_WORKS(oyez_server_close(server.id));

    options = with(OYEZ_BACKEND_AUTO, 1);
    options.log = count_refusals;
    options.log_user = &lines;
    MUST(unsetenv("OYEZ_BACKEND"));
    server = serve_events_polled(&events, NULL, &options);
    limit = place_descriptors_left(0);
    CHECK_WORKS(oyez_server_start(server.id));
    CHECK_SOON(SEEN(lines) == 1);
    place_descriptor_limit(limit);
    client_echo_many(server.port, 10, 100 * KILOBYTE);
    CHECK_EQ_INT(rings(), 0);
    serve_end(server);
    CHECK_EQ_INT(SEEN(lines), 1);
}

/* Descriptors that are short when io_uring is tried for the first time are no reason to do without it for ever. */
static void try_with_few(void *descriptors)
{
    oyez_events events = echo_events();
    oyez_server_options options = with(OYEZ_BACKEND_IO_URING, 1);
    int limit = place_descriptors_left(*(int *)descriptors);
    oyez_server server = oyez_server_new_events(&events, NULL, &options);
    place_descriptor_limit(limit);
    if (server != -1)
        CHECK_WORKS(oyez_server_close(server));
    server = (oyez_server)CHECK_WORKS(oyez_server_new_events(&events, NULL, &options));
    CHECK_WORKS(oyez_server_close(server));
}

static void a_first_try_with_few_descriptors(void)
{
    if (!a_child_has_a_ring())
        SKIP("io_uring cannot be had");
    for (int descriptors = 0; descriptors < 10; descriptors++)
        check_join(check_fork(try_with_few, &descriptors));
}

/* Children. */

enum { FORKS = 30 };

/* Answers with what a child of its own has made of it. */
static size_t answer_from_a_child(oyez_conn connection, const uint8_t *bytes, size_t size, void *reads_input)
{
    int pipes[2];
    uint8_t copy[100];
    int status = -1;
    CHECK(size <= sizeof copy);
    MUST(pipe2(pipes, O_CLOEXEC));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        CHECK_FAILS(oyez_conn_write(connection, "no", 2), OYEZ_FORKED, ANY_ERRNO);
        CHECK_FAILS(oyez_conn_close(connection), OYEZ_FORKED, ANY_ERRNO);
        if (*(int *)reads_input)
            memcpy(copy, bytes, size);
        else
            memset(copy, 'x', size);
        MUST(write(pipes[1], copy, size));
        _exit(0);
    }
    MUST(waitpid(child, &status, 0));
    CHECK_EQ_INT(status, 0);
    CHECK_EQ_INT(MUST(read(pipes[0], copy, sizeof copy)), size);
    MUST(close(pipes[0]));
    MUST(close(pipes[1]));
    return serve_echo_data(connection, copy, size, NULL);
}

static void fork_in_on_data(int backend, int reads_input)
{
    oyez_events events = echo_events();
    events.on_data = answer_from_a_child;
    served server = serve_with(backend, 1, &events, &reads_input);
    int clients[FORKS];
    for (int i = 0; i < FORKS; i++)
        clients[i] = serve_client(server);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < FORKS; i++)
            client_send_text(clients[i], "xxx");
        for (int i = 0; i < FORKS; i++)
            client_expect(clients[i], "xxx");
    }
    for (int i = 0; i < FORKS; i++)
        MUST(close(clients[i]));
    serve_end(server);
}

static void a_child_has_no_connections(int backend)
{
    fork_in_on_data(backend, 0);
}
ON_BOTH(a_child_has_no_connections)

static void a_child_has_the_input(int backend)
{
    fork_in_on_data(backend, 1);
}
ON_BOTH(a_child_has_the_input)

/* A child that is made while another thread tries io_uring for the first time can make servers too. */

static void *try_io_uring(void *tried)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    __atomic_store_n((int *)tried, 1, __ATOMIC_SEQ_CST);
    CHECK_WORKS(oyez_server_close((oyez_server)CHECK_WORKS(oyez_server_new_events(&events, NULL, NULL))));
    return NULL;
}

static void try_in_a_child(void *unused)
{
    int tried = 0;
    (void)unused;
    alarm(10);
    try_io_uring(&tried);
}

static void fork_while_trying(void *delay)
{
    int tried = 0;
    volatile int turns = *(int *)delay;
    MUST(unsetenv("OYEZ_BACKEND"));
    pthread_t thread = check_thread(try_io_uring, &tried);
    while (!__atomic_load_n(&tried, __ATOMIC_SEQ_CST))
        ;
    while (turns > 0)
        turns--;
    check_join(check_fork(try_in_a_child, NULL));
    check_thread_join(thread);
}

static void forked_while_io_uring_is_tried(void)
{
    for (int delay = 0; delay < 100; delay++) {
        int turns = delay * 10000;
        check_join(check_fork(fork_while_trying, &turns));
    }
}

/* The thread that has run a server is not interrupted by what the kernel has left to do. */

static void *stop_soon(void *server)
{
    served *own = server;
    client_echo_many(own->port, 20, 1000);
    CHECK_WORKS(oyez_server_stop(own->id, 0));
    return NULL;
}

static void not_interrupted_afterwards(int backend)
{
    oyez_events events = echo_events();
    oyez_server_options options = with(backend, 1);
    int epoll = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event;
    for (int round = 0; round < 30; round++) {
        served server = serve_events_polled(&events, NULL, &options); /* neither polled nor started so far */
        pthread_t thread = check_thread(stop_soon, &server);
        CHECK_WORKS(oyez_server_run(server.id));
        CHECK_EQ_INT(MUST(epoll_wait(epoll, &event, 1, 20)), 0);
        CHECK_WORKS(oyez_server_close(server.id));
        CHECK_EQ_INT(MUST(epoll_wait(epoll, &event, 1, 20)), 0);
        check_thread_join(thread);
    }
    MUST(close(epoll));
}
ON_BOTH(not_interrupted_afterwards)

/* Many. */

static void many_at_once(int backend)
{
    struct rlimit limit;
    struct rlimit more;
    oyez_events events = echo_events();
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    more = limit;
    more.rlim_cur = more.rlim_max < 4200 ? more.rlim_max : 4200;
    MUST(setrlimit(RLIMIT_NOFILE, &more));
    served server = serve_with(backend, 2, &events, NULL);
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
    oyez_server_options options = with(backend, 1);
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
        expect_all(client, byte, 3 * KILOBYTE);
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

static void check_stream(const uint8_t *bytes, size_t size, size_t at)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != client_byte(1, at + i))
            check_fail(__FILE__, __LINE__, "byte %zu is wrong", at + i);
}

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
        size_t size = 1 + roll(&own->state, sizeof part - 1);
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
    if (roll(&own->state, 20) == 0) {
        part = roll(&own->state, size);
        CHECK_WORKS(oyez_conn_pause(connection));
        MUST(write(own->told[1], "p", 1));
    }
    check_stream(bytes, part, own->at);
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
    served server = serve_with(backend, 1, &events, &own);
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
    check_stream(bytes, size, own->at);
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
    oyez_server_options options = with(backend, 1);
    options.max_input = max_input;
    events.on_data = detach_at_random;
    MUST(pipe2(own.told, O_CLOEXEC));
    served server = serve_events(OVER_TCP, &events, &own, &options);
    for (int round = 1; round <= rounds; round++) {
        (void)roll(&own.state, 1);
        own.at = 0;
        own.detached = 0;
        sender from = { serve_client(server), SIZE, (unsigned)round };
        pthread_t thread = check_thread(send_stream, &from);
        CHECK_EQ_INT(MUST(read(own.told[0], &fd, sizeof fd)), sizeof fd);
        size_t size = client_receive(fd, rest, sizeof rest);
        CHECK_SOON(SEEN(own.all.closed) == round);
        check_stream(rest, size, own.at);
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
        check_stream(bytes, size, own->at_byte);
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
    served server = serve_with(backend, 1, &events, &own);
    int other = serve_client(server);
    sender from = { serve_client(server), SIZE, 1 };
    CHECK_SOON(SEEN(own.all.opened) == 2);
    client_send_text(other, "g");
    gate_await(&own.at, 1);
    send_stream(&from);
    await_arrival(from.fd);
    client_send_text(other, "!");
    await_arrival(other);
    gate_open(&own.at);
    CHECK_EQ_INT(MUST(read(own.told[0], &fd, sizeof fd)), sizeof fd);
    size_t size = client_receive(fd, rest, sizeof rest);
    check_stream(rest, size, own.at_byte);
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

/* The first that says something holds the thread; true for it. */
static int hold(oyez_conn connection, held *own)
{
    if (own->held == 0) {
        own->held = connection;
        gate_pass(&own->at);
    }
    return own->held == connection;
}

static void hold_start(held *own, int over, const oyez_events *events, const oyez_server_options *options)
{
    own->at = gate_make();
    own->server = serve_events(over, events, own, options);
    own->holder = serve_client(own->server);
}

static void hold_now(held *own)
{
    client_send_text(own->holder, "hold");
    gate_await(&own->at, 1);
}

static void hold_end(held *own)
{
    MUST(close(own->holder));
    serve_end(own->server);
    gate_end(&own->at);
}

static size_t hold_or_echo(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    return hold(connection, user) ? size : serve_echo_data(connection, bytes, size, NULL);
}

/* The end is noticed also where it has come together with the last bytes. */
static void data_and_end_at_once(int backend)
{
    enum { PEERS = 10 };
    for (int over = OVER_TCP; over <= OVER_UNIX; over++) {
        held own = { .held = 0 };
        oyez_events events = seen_events();
        oyez_server_options options = with(backend, 1);
        int clients[PEERS];
        events.on_data = hold_or_echo;
        hold_start(&own, over, &events, &options);
        for (int i = 0; i < PEERS; i++)
            clients[i] = serve_client(own.server);
        CHECK_SOON(SEEN(own.all.opened) == PEERS + 1);
        hold_now(&own);
        for (int i = 0; i < PEERS; i++) {
            client_send_text(clients[i], "last");
            MUST(shutdown(clients[i], SHUT_WR));
        }
        gate_open(&own.at);
        for (int i = 0; i < PEERS; i++) {
            client_expect(clients[i], "last");
            CHECK_EQ_INT(client_ending(clients[i]), 0);
            MUST(close(clients[i]));
        }
        hold_end(&own);
        CHECK_EQ_INT(own.all.closed, PEERS + 1);
    }
}
ON_BOTH(data_and_end_at_once)

/* Output. */

typedef struct flow {
    seen all;
    size_t size;
    size_t sent;
    unsigned state;
} flow;

static void flow_on(oyez_conn connection, void *user)
{
    flow *own = user;
    unsigned char part[9000];
    while (own->sent < own->size) {
        size_t size = 1 + roll(&own->state, sizeof part - 1);
        size = size < own->size - own->sent ? size : own->size - own->sent;
        for (size_t i = 0; i < size; i++)
            part[i] = client_byte(1, own->sent + i);
        if (oyez_conn_write(connection, part, size) == -1) {
            expect_keep();
            CHECK_ERROR(OYEZ_LIMIT_REACHED, ANY_ERRNO);
            return;
        }
        own->sent += size;
    }
    CHECK_WORKS(oyez_conn_close(connection));
}

static size_t begin_flow(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    seen_data(connection, bytes, size, user);
    flow_on(connection, user);
    return size;
}

static void written_until_it_is_refused(int backend)
{
    enum { SIZE = 8 * MEGABYTE };
    flow own = { .size = SIZE, .state = 11 };
    unsigned state = 12;
    unsigned char part[5000];
    int narrow = 32 * KILOBYTE;
    oyez_events events = seen_events();
    oyez_server_options options = with(backend, 1);
    options.max_output = 64 * KILOBYTE;
    events.on_data = begin_flow;
    events.on_drain = flow_on;
    served server = serve_events(OVER_TCP, &events, &own, &options);
    int client = serve_client(server);
    MUST(setsockopt(client, SOL_SOCKET, SO_RCVBUF, &narrow, sizeof narrow));
    client_send_text(client, "x");
    for (size_t at = 0, size; at < SIZE; at += size) {
        size = client_receive(client, part, at + 5000 > SIZE ? SIZE - at : 1 + roll(&state, 4999));
        check_stream(part, size, at);
        CHECK(size > 0);
    }
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    serve_end(server);
    CHECK_EQ_INT(own.all.code, OYEZ_OK);
}
ON_BOTH(written_until_it_is_refused)

/* Much input of others, and for each part of it a record to one of them, until that is refused: on_drain follows. */

static size_t write_to_target(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    static const char record[1000];
    held *own = user;
    (void)bytes;
    if (hold(connection, own))
        return size;
    own->bytes += size;
    if (own->refused || oyez_conn_write(own->target, record, sizeof record) != -1)
        return size;
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_LIMIT_REACHED);
    __atomic_store_n(&own->all.drained, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&own->refused, 1, __ATOMIC_SEQ_CST);
    return size;
}

static void keep_the_first(oyez_conn connection, void *user)
{
    held *own = user;
    if (own->target == 0)
        own->target = connection;
    seen_open(connection, user);
}

static void refuse_and_drain(int backend, size_t max_output)
{
    enum { PEERS = 18, SIZE = 130000 };
    static char bytes[SIZE];
    held own = { .held = 0 };
    oyez_events events = seen_events();
    oyez_server_options options = with(backend, 1);
    int clients[PEERS];
    options.max_output = max_output;
    events.on_open = keep_the_first;
    events.on_data = write_to_target;
    hold_start(&own, OVER_UNIX, &events, &options); /* the holder is the target too */
    for (int i = 0; i < PEERS; i++)
        clients[i] = serve_client(own.server);
    CHECK_SOON(SEEN(own.all.opened) == PEERS + 1);
    hold_now(&own);
    for (int i = 0; i < PEERS; i++)
        client_send(clients[i], bytes, SIZE);
    gate_open(&own.at);
    CHECK_SOON(SEEN(own.bytes) == PEERS * SIZE);
    /* Where nothing was refused there was room, which is right as well. */
    while (client_readable(own.holder, 50))
        MUST(recv(own.holder, bytes, sizeof bytes, 0));
    CHECK_SOON(!SEEN(own.refused) || SEEN(own.all.drained) > 0);
    for (int i = 0; i < PEERS; i++)
        MUST(close(clients[i]));
    hold_end(&own);
}

static void refused_and_then_drained(int backend)
{
    for (size_t max_output = 4500; max_output < 140000; max_output += 31000)
        refuse_and_drain(backend, max_output);
}
ON_BOTH(refused_and_then_drained)

/* What was answered arrives although the connection is closed for the input behind it. */
static size_t answer_and_leave_all(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)bytes;
    (void)size;
    (void)user;
    oyez_conn_write(connection, "no", 2);
    return 0;
}

static void answered_and_closed_for_its_input(int backend)
{
    seen all = { 0 };
    char text[100] = "";
    oyez_events events = seen_events();
    oyez_server_options options = with(backend, 1);
    options.max_input = 10;
    events.on_data = answer_and_leave_all;
    served server = serve_events(OVER_TCP, &events, &all, &options);
    int client = serve_client(server);
    client_send(client, text, 50);
    CHECK_EQ_INT(client_receive(client, text, 2), 2);
    CHECK_STR_EQ(text, "no");
    CHECK_EQ_INT(client_ending(client), 0);
    CHECK_SOON(SEEN(all.closed) == 1);
    CHECK_EQ_INT(all.code, OYEZ_LIMIT_REACHED);
    MUST(close(client));
    serve_end(server);
}
ON_BOTH(answered_and_closed_for_its_input)

/* A program that makes the descriptors it is shown non-blocking finds no thread that turns round and round. */
static void make_nonblocking(oyez_conn connection, void *user)
{
    int fd = (int)CHECK_WORKS(oyez_conn_fd(connection));
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    seen_open(connection, user);
}

static void nonblocking_descriptors(int backend)
{
    flow own = { .size = 4 * MEGABYTE, .state = 1 };
    static unsigned char bytes[4 * MEGABYTE];
    oyez_events events = seen_events();
    events.on_open = make_nonblocking;
    events.on_data = begin_flow;
    events.on_drain = flow_on;
    served server = serve_with(backend, 1, &events, &own);
    int client = serve_client(server);
    CHECK_SOON(SEEN(own.all.opened) == 1);
    long cpu = check_cpu_ms();
    CHECK(!client_readable(client, 300));
    client_send_text(client, "x");
    CHECK_SOON(SEEN(own.all.bytes) > 0); /* then what the kernel does not take waits */
    check_nap(200);
    CHECK(check_cpu_ms() - cpu < 200);
    CHECK_EQ_INT(client_receive(client, bytes, sizeof bytes), sizeof bytes);
    check_stream(bytes, sizeof bytes, 0);
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    serve_end(server);
}
ON_BOTH(nonblocking_descriptors)

/* Stopping. */

/* What the kernel has of a connection's input when the stop comes is served before that counts as idle. */
static size_t hold_or_count(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    held *own = user;
    if (!hold(connection, own))
        own->bytes += size;
    if (bytes[0] != 0)
        serve_echo_data(connection, bytes, 1, NULL);
    return size;
}

static void stop_with_input(int backend, int peers, size_t size)
{
    static char bytes[60 * KILOBYTE];
    held own = { .held = 0 };
    oyez_events events = seen_events();
    oyez_server_options options = with(backend, 1);
    int *clients = calloc((size_t)peers, sizeof *clients);
    events.on_data = hold_or_count;
    hold_start(&own, OVER_TCP, &events, &options);
    CHECK_SOON(SEEN(own.all.opened) == 1);
    hold_now(&own);
    gate_open(&own.at);
    client_expect(own.holder, "h");
    gate_end(&own.at);
    own.at = gate_make();
    for (int i = 0; i < peers; i++) {
        clients[i] = serve_client(own.server);
        client_send_text(clients[i], "x");
        expect_all(clients[i], 'x', 1);
    }
    own.bytes = 0;
    own.held = 0;
    hold_now(&own);
    for (int i = 0; i < peers; i++)
        client_send(clients[i], bytes, size);
    for (int i = 0; i < peers; i++)
        await_arrival(clients[i]);
    CHECK_WORKS(oyez_server_stop(own.server.id, 5000));
    gate_open(&own.at);
    CHECK_WORKS(oyez_server_wait(own.server.id, 20000));
    CHECK_EQ_INT(own.bytes, (size_t)peers * size);
    for (int i = 0; i < peers; i++) {
        CHECK_EQ_INT(client_ending(clients[i]), 0);
        MUST(close(clients[i]));
    }
    free(clients);
    hold_end(&own);
}

static void stopped_with_much_input(int backend)
{
    stop_with_input(backend, 3, 60 * KILOBYTE);
}
ON_BOTH(stopped_with_much_input)

static void stopped_with_input_of_many(int backend)
{
    stop_with_input(backend, 700, 5 * KILOBYTE);
}
ON_BOTH(stopped_with_input_of_many)

/* One of each kind, and how each ends. */

enum { IDLE, FRESH, BUSY, PAUSED, HALF_CLOSED, LINGERING, KINDS };

static size_t be_a_kind(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    static char much[4 * MEGABYTE];
    if (bytes[0] == '0' + BUSY || bytes[0] == '0' + HALF_CLOSED)
        CHECK_WORKS(oyez_conn_write(connection, much, sizeof much));
    if (bytes[0] == '0' + PAUSED)
        CHECK_WORKS(oyez_conn_pause(connection));
    if (bytes[0] == '0' + LINGERING)
        CHECK_WORKS(oyez_conn_close(connection));
    return seen_data(connection, bytes, size, user);
}

static void stopped_as_it_is(int backend)
{
    seen all = { 0 };
    int clients[KINDS];
    oyez_stats stats = OYEZ_STATS_INIT;
    oyez_events events = seen_events();
    events.on_data = be_a_kind;
    served server = serve_with(backend, 2, &events, &all);
    for (int kind = 0; kind < KINDS; kind++) {
        char word = (char)('0' + kind);
        clients[kind] = serve_client(server);
        if (kind != FRESH)
            client_send(clients[kind], &word, 1);
        if (kind == HALF_CLOSED)
            MUST(shutdown(clients[kind], SHUT_WR));
    }
    CHECK_SOON(SEEN(all.bytes) == KINDS - 1 && SEEN(all.opened) == KINDS);
    CHECK_EQ_INT(client_ending(clients[LINGERING]), 0);
    CHECK_SOON(SEEN(all.closed) == 1);
    CHECK_WORKS(oyez_server_stop(server.id, 1000));
    CHECK_EQ_INT(client_ending(clients[IDLE]), 0);
    expect_all(clients[BUSY], 0, 4 * MEGABYTE);
    CHECK_EQ_INT(client_ending(clients[BUSY]), 0);
    expect_all(clients[HALF_CLOSED], 0, 4 * MEGABYTE);
    CHECK_EQ_INT(client_ending(clients[HALF_CLOSED]), 0);
    CHECK_EQ_INT(client_ending(clients[FRESH]), ECONNRESET);
    CHECK_EQ_INT(client_ending(clients[PAUSED]), ECONNRESET);
    CHECK_WORKS(oyez_server_wait(server.id, 20000));
    CHECK_WORKS(oyez_server_stats(server.id, &stats));
    CHECK_EQ_INT(stats.cut, 2);
    CHECK_EQ_INT(stats.drained, 3);
    CHECK_EQ_INT(stats.active, 0);
    CHECK_EQ_INT(all.closed, KINDS);
    for (int kind = 0; kind < KINDS; kind++)
        MUST(close(clients[kind]));
    CHECK_WORKS(oyez_server_close(server.id));
}
ON_BOTH(stopped_as_it_is)

/* Other threads. */

enum { WRITERS = 3, TARGETS = 12, RECORDS = 3000 };

typedef struct record {
    int who;
    int number;
    char more[40];
} record;

typedef struct targets {
    seen all;
    int count;
    oyez_conn connections[TARGETS];
} targets;

typedef struct writer {
    const targets *to;
    int who;
} writer;

static void add_target(oyez_conn connection, void *user)
{
    targets *own = user;
    own->connections[__atomic_fetch_add(&own->count, 1, __ATOMIC_SEQ_CST)] = connection;
    seen_open(connection, user);
}

static void *write_to_targets(void *argument)
{
    const writer *own = argument;
    record one = { own->who, 0, "" };
    for (; one.number < RECORDS; one.number++)
        for (int i = 0; i < TARGETS; i++)
            CHECK_WORKS(oyez_conn_write(own->to->connections[i], &one, sizeof one));
    return NULL;
}

static void written_by_other_threads(int backend)
{
    targets to = { .count = 0 };
    writer writers[WRITERS];
    pthread_t threads[WRITERS];
    int clients[TARGETS];
    oyez_events events = seen_events();
    events.on_open = add_target;
    served server = serve_with(backend, 4, &events, &to);
    for (int i = 0; i < TARGETS; i++)
        clients[i] = serve_client(server);
    CHECK_SOON(SEEN(to.all.opened) == TARGETS);
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (writer){ &to, i };
        threads[i] = check_thread(write_to_targets, &writers[i]);
    }
    for (int i = 0; i < TARGETS; i++) {
        int next[WRITERS] = { 0 };
        for (int count = 0; count < WRITERS * RECORDS; count++) {
            record one;
            CHECK_EQ_INT(client_receive(clients[i], &one, sizeof one), sizeof one);
            CHECK(one.who >= 0 && one.who < WRITERS);
            CHECK_EQ_INT(one.number, next[one.who]++);
        }
        MUST(close(clients[i]));
    }
    for (int i = 0; i < WRITERS; i++)
        check_thread_join(threads[i]);
    serve_end(server);
}
ON_BOTH(written_by_other_threads)

static const check_case cases[] = {
    CASE(the_backend_that_was_asked_for),
    CASE(a_polled_server_has_epoll),
    CASE(words_that_are_no_backend),
    CASE(refused_by_a_sandbox),
    CASE(epoll_never_tries_io_uring),
    CASE(no_memory_may_be_locked),
    CASE(no_descriptor_for_a_ring),
    CASE(a_first_try_with_few_descriptors),
    CASES(a_child_has_no_connections),
    CASES(a_child_has_the_input),
    CASE(forked_while_io_uring_is_tried),
    CASES(not_interrupted_afterwards),
    CASES(many_at_once),
    CASES(descriptors_used_again),
    CASES(pauses_at_random),
    CASES(detached_in_a_stream),
    CASES(detached_with_a_small_window),
    CASES(detached_while_paused),
    CASES(data_and_end_at_once),
    CASES(written_until_it_is_refused),
    CASES(refused_and_then_drained),
    CASES(answered_and_closed_for_its_input),
    CASES(nonblocking_descriptors),
    CASES(stopped_with_much_input),
    CASES(stopped_with_input_of_many),
    CASES(stopped_as_it_is),
    CASES(written_by_other_threads),
};

CHECK_MAIN(cases)
