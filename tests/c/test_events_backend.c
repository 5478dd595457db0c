/* Event servers on epoll and on io_uring: which of them it is, what happens where io_uring is refused, and what is with
   the children of a program. */
#define _GNU_SOURCE
#include "backends.h"
#include "clients.h"
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SERVED = 32 };

/* Whether it can be had, without a try in this process. */
static int a_child_has_a_ring(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server_options options = backend_options(OYEZ_BACKEND_IO_URING, 1);
    int status;
    pid_t child = (pid_t)MUST(fork());
    if (child == 0)
        _exit(oyez_server_new_events(&events, NULL, &options) == -1);
    MUST(waitpid(child, &status, 0));
    return status == 0;
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
    oyez_events events = backend_echo_events();
    int clients[SERVED];
    if (variable != NULL)
        MUST(setenv("OYEZ_BACKEND", variable, 1));
    else
        MUST(unsetenv("OYEZ_BACKEND"));
    served server = backend_serve(backend, 3, &events, NULL);
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
    backend_need_ring();
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
    oyez_events events = backend_echo_events();
    char byte = 0;
    backend_need_ring();
    oyez_server_options options = backend_options(OYEZ_BACKEND_IO_URING, 2);
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
        oyez_server_options options = backend_options(backend, 1);
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
    oyez_events events = backend_echo_events();
    oyez_server_options options = backend_options(OYEZ_BACKEND_AUTO, 4);
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
    oyez_events events = backend_echo_events();
    oyez_server_options options = backend_options(OYEZ_BACKEND_IO_URING, 4);
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
    oyez_events events = backend_echo_events();
    fault_kill_at_call(SYS_io_uring_setup);
    MUST(setenv("OYEZ_BACKEND", variable, 1));
    served server = backend_serve(*(char *)variable == '\0' ? OYEZ_BACKEND_EPOLL : OYEZ_BACKEND_AUTO, 2, &events, NULL);
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
    oyez_events events = backend_echo_events();
    oyez_server_options options = backend_options(OYEZ_BACKEND_IO_URING, 4);
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
        served running = backend_serve(backend, 4, &events, NULL);
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
    oyez_events events = backend_echo_events();
    oyez_server_options options = backend_options(OYEZ_BACKEND_IO_URING, 1);
    int lines = 0;
    backend_need_ring();
    served server = serve_events_polled(&events, NULL, &options); /* neither polled nor started so far */
    int limit = place_descriptors_left(0);
    CHECK_FAILS(oyez_server_run(server.id), OYEZ_LIMIT_REACHED, EMFILE);
    MESSAGE_HAS("io_uring_setup");
    place_descriptor_limit(limit);
    CHECK_WORKS(oyez_server_close(server.id));

    options = backend_options(OYEZ_BACKEND_AUTO, 1);
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
    oyez_events events = backend_echo_events();
    oyez_server_options options = backend_options(OYEZ_BACKEND_IO_URING, 1);
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
    oyez_events events = backend_echo_events();
    events.on_data = answer_from_a_child;
    served server = backend_serve(backend, 1, &events, &reads_input);
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
    oyez_events events = backend_echo_events();
    oyez_server_options options = backend_options(backend, 1);
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
};

CHECK_MAIN(cases)
