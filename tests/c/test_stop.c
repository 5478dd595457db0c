/* Stopping: from anywhere, fast, and without losing anybody. */
#define _GNU_SOURCE
#include "clients.h"
#include "models.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const int models[] = { OYEZ_THREADS, OYEZ_SEQUENTIAL, OYEZ_PROCESSES };

static long long now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void an_idle_server_stops_at_once(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        long long longest = 0;
        for (int round = 0; round < 20; round++) {
            served server = serve(serve_hello, NULL, &options);
            int client = client_connect(server.port);
            client_expect(client, "hello\n");
            MUST(close(client));
            CHECK_SOON(serve_stats(server).active == 0);
            long long start = now_us();
            CHECK_WORKS(oyez_server_stop(server.id, 1000));
            CHECK_WORKS(oyez_server_wait(server.id, 20000));
            long long took = now_us() - start;
            longest = took > longest ? took : longest;
            CHECK_WORKS(oyez_server_close(server.id));
        }
        CHECK(longest < 1000000);
        check_note("model %d: %lld us at most", models[m], longest);
    }
}

/* From where a stop may come. */

/* The first handler stops the server; a second stop would end the drain time. */
static void stop_and_say(oyez_conn connection, void *user)
{
    oyez_server server = __atomic_exchange_n((oyez_server *)user, 0, __ATOMIC_SEQ_CST);
    if (server != 0)
        CHECK_WORKS(oyez_server_stop(server, -1));
    serve_hello(connection, NULL);
}

static void from_a_handler(void)
{
    for (int m = 0; m < 2; m++) { /* a handler in a process of its own has nothing to stop */
        oyez_server to_stop = 0;
        oyez_server_options options = serve_options(models[m]);
        oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(stop_and_say, &to_stop, &options));
        to_stop = server;
        int listener = (int)CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
        int client = client_connect(oyez_local_port(listener));
        int second = client_connect(oyez_local_port(listener)); /* queued: served all the same */
        CHECK_EQ_INT(CHECK_WORKS(oyez_server_run(server)), 0);
        client_expect(client, "hello\n");
        client_expect(second, "hello\n");
        CHECK_EQ_INT(client_ending(client), 0);
        CHECK_EQ_INT(client_ending(second), 0);
        MUST(close(client));
        MUST(close(second));
        CHECK_WORKS(oyez_server_close(server));
    }
}

static oyez_server stopped_by_signal;

static void stop_on_alarm(int number)
{
    int before = errno;
    (void)number;
    oyez_server_stop(stopped_by_signal, -1);
    errno = before;
}

static void from_a_signal_handler(void)
{
    struct sigaction before;
    struct sigaction action = { 0 };
    action.sa_handler = stop_on_alarm;
    MUST(sigaction(SIGUSR1, &action, &before));
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        served server = serve(serve_hello, NULL, &options);
        stopped_by_signal = server.id;
        MUST(raise(SIGUSR1));
        CHECK_WORKS(oyez_server_wait(server.id, 10000));
        CHECK_WORKS(oyez_server_close(server.id));
    }
    MUST(sigaction(SIGUSR1, &before, NULL));
}

static void *stop_soon(void *server)
{
    check_nap(30);
    CHECK_WORKS(oyez_server_stop(*(oyez_server *)server, -1));
    return NULL;
}

static void from_another_thread(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, &options));
        CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
        pthread_t thread = check_thread(stop_soon, &server);
        CHECK_EQ_INT(CHECK_WORKS(oyez_server_run(server)), 0);
        check_thread_join(thread);
        CHECK_WORKS(oyez_server_close(server));
    }
}

/* Whom the kernel has connected is served. */
static void queued_clients_are_served(void)
{
    for (int m = 0; m < 3; m++) {
        int clients[40];
        gate at = gate_make();
        oyez_server_options options = serve_options(models[m]);
        options.workers = models[m] == OYEZ_SEQUENTIAL ? 0 : 2;
        served server = serve(serve_hello_behind_gate, &at, &options);
        for (int i = 0; i < 40; i++)
            clients[i] = client_connect(server.port);
        gate_await(&at, 1);
        CHECK_WORKS(oyez_server_stop(server.id, -1));
        CHECK_FAILS(oyez_server_wait(server.id, 50), OYEZ_TIMED_OUT, EAGAIN);
        gate_open(&at);
        for (int i = 0; i < 40; i++) {
            client_expect(clients[i], "hello\n");
            CHECK_EQ_INT(client_ending(clients[i]), 0);
            MUST(close(clients[i]));
        }
        CHECK_WORKS(oyez_server_wait(server.id, 20000));
        oyez_stats stats = serve_stats(server);
        CHECK_EQ_INT(stats.accepted, 40);
        CHECK_EQ_INT(stats.cut, 0);
        CHECK_EQ_INT(stats.active, 0);
        CHECK_EQ_INT(stats.listeners, 0);
        CHECK(client_try(server.port) == -1 && errno == ECONNREFUSED);
        CHECK_WORKS(oyez_server_close(server.id));
        gate_end(&at);
    }
}

/* Draining. */

static void a_drain_waits(void)
{
    for (int m = 0; m < 3; m++) {
        gate at = gate_make();
        oyez_server_options options = serve_options(models[m]);
        served server = serve(serve_hello_behind_gate, &at, &options);
        int client = client_connect(server.port);
        gate_await(&at, 1);
        CHECK_WORKS(oyez_server_stop(server.id, 20000));
        CHECK_FAILS(oyez_server_wait(server.id, 100), OYEZ_TIMED_OUT, EAGAIN);
        gate_open(&at);
        CHECK_WORKS(oyez_server_wait(server.id, 20000));
        client_expect(client, "hello\n");
        CHECK_EQ_INT(client_ending(client), 0);
        CHECK_EQ_INT(serve_stats(server).drained, 1);
        CHECK_EQ_INT(serve_stats(server).cut, 0);
        CHECK_WORKS(oyez_server_close(server.id));
        MUST(close(client));
        gate_end(&at);
    }
}

static int code_of_the_cut;

static void read_until_cut(oyez_conn connection, void *unused)
{
    char byte;
    (void)unused;
    while (oyez_conn_read(connection, &byte, 1) > 0)
        ;
    __atomic_store_n(&code_of_the_cut, oyez_error_code(NULL), __ATOMIC_SEQ_CST);
}

static void what_is_cut_is_reset(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        served server = serve(read_until_cut, NULL, &options);
        int client = client_connect(server.port);
        client_send_text(client, "x");
        CHECK_SOON(serve_stats(server).active == 1);
        __atomic_store_n(&code_of_the_cut, OYEZ_OK, __ATOMIC_SEQ_CST);
        long long start = check_now_ms();
        CHECK_WORKS(oyez_server_stop(server.id, 200));
        CHECK_WORKS(oyez_server_wait(server.id, 20000));
        CHECK_TOOK(start, 199, 5000);
        CHECK_EQ_INT(client_ending(client), ECONNRESET);
        CHECK_EQ_INT(serve_stats(server).cut, 1);
        CHECK_EQ_INT(serve_stats(server).drained, 0);
        if (models[m] != OYEZ_PROCESSES)
            CHECK_EQ_INT(__atomic_load_n(&code_of_the_cut, __ATOMIC_SEQ_CST), OYEZ_STOPPED);
        CHECK_WORKS(oyez_server_close(server.id));
        MUST(close(client));
    }
}

static void zero_cuts_at_once(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        served server = serve(read_until_cut, NULL, &options);
        int client = client_connect(server.port);
        CHECK_SOON(serve_stats(server).active == 1);
        long long start = check_now_ms();
        CHECK_WORKS(oyez_server_stop(server.id, 0));
        CHECK_WORKS(oyez_server_wait(server.id, 20000));
        CHECK_TOOK(start, 0, 2000);
        CHECK_EQ_INT(client_ending(client), ECONNRESET);
        CHECK_WORKS(oyez_server_close(server.id));
        MUST(close(client));
    }
}

static void a_second_stop_is_immediate(void)
{
    for (int m = 0; m < 3; m++) {
        oyez_server_options options = serve_options(models[m]);
        served server = serve(read_until_cut, NULL, &options);
        int client = client_connect(server.port);
        CHECK_SOON(serve_stats(server).active == 1);
        CHECK_WORKS(oyez_server_stop(server.id, -1));
        CHECK_FAILS(oyez_server_wait(server.id, 100), OYEZ_TIMED_OUT, EAGAIN);
        long long start = check_now_ms();
        CHECK_WORKS(oyez_server_stop(server.id, -1));
        CHECK_WORKS(oyez_server_wait(server.id, 20000));
        CHECK_TOOK(start, 0, 2000);
        CHECK_EQ_INT(client_ending(client), ECONNRESET);
        CHECK_EQ_INT(serve_stats(server).cut, 1);
        CHECK_WORKS(oyez_server_close(server.id));
        MUST(close(client));
    }
}

/* A handler that does not notice: its client is reset in time all the same, and the server ends without it. */
static void a_handler_that_does_not_notice(void)
{
    gate at = gate_make();
    served server = serve(serve_hello_behind_gate, &at, NULL);
    int client = client_connect(server.port);
    gate_await(&at, 1);
    long long start = check_now_ms();
    CHECK_WORKS(oyez_server_stop(server.id, 100));
    CHECK_EQ_INT(client_ending(client), ECONNRESET);
    CHECK_TOOK(start, 99, 5000);
    CHECK_WORKS(oyez_server_wait(server.id, 20000));
    CHECK_EQ_INT(serve_stats(server).cut, 1);
    gate_open(&at);
    CHECK_WORKS(oyez_server_close(server.id));
    CHECK_SOON(check_threads() == 1);
    MUST(close(client));
    gate_end(&at);
}

/* A client that has been connected, and said nothing yet, is in flight: not idle, and not thrown out. */
static void an_accepted_client_is_served_first(void)
{
    served server = serve(serve_echo, NULL, NULL);
    int client = client_connect(server.port);
    CHECK_WORKS(oyez_server_stop(server.id, 20000));
    check_nap(100);
    client_send_text(client, "late");
    client_expect(client, "late");
    MUST(shutdown(client, SHUT_WR));
    CHECK_EQ_INT(client_ending(client), 0);
    CHECK_WORKS(oyez_server_wait(server.id, 20000));
    CHECK_WORKS(oyez_server_close(server.id));
    MUST(close(client));
}

/* Lingering is for what is unread; a client that has everything, and just does not close, holds no stop. */
static void a_client_that_keeps_its_end_open(void)
{
    for (int m = 0; m < 3; m++) {
        for (int finished_before = 0; finished_before < 2; finished_before++) {
            gate at = gate_make();
            oyez_server_options options = serve_options(models[m]);
            served server = serve(serve_hello_behind_gate, &at, &options);
            int client = client_connect(server.port);
            gate_await(&at, 1);
            if (finished_before)
                gate_open(&at);
            else
                CHECK_WORKS(oyez_server_stop(server.id, -1));
            gate_open(&at);
            client_expect(client, "hello\n");
            CHECK_EQ_INT(client_ending(client), 0);
            long long start = check_now_ms();
            if (finished_before)
                CHECK_WORKS(oyez_server_stop(server.id, -1));
            CHECK_WORKS(oyez_server_wait(server.id, 20000));
            CHECK_TOOK(start, 0, 3000);
            CHECK_WORKS(oyez_server_close(server.id));
            MUST(close(client));
            gate_end(&at);
        }
    }
}

/* stop_on_signals. */

static volatile sig_atomic_t own_signals;

static void count_own(int number)
{
    (void)number;
    own_signals++;
}

static void signals_stop_and_are_put_back(void)
{
    struct sigaction before;
    struct sigaction action = { 0 };
    struct sigaction after;
    oyez_server_options options = serve_options(OYEZ_THREADS);
    options.stop_on_signals = OYEZ_ON;
    action.sa_handler = count_own;
    action.sa_flags = SA_RESTART;
    sigaddset(&action.sa_mask, SIGUSR2);
    MUST(sigaction(SIGTERM, &action, &before));
    for (int round = 0; round < 3; round++) {
        served server = serve(serve_hello, NULL, &options);
        int client = client_connect(server.port);
        client_expect(client, "hello\n");
        MUST(close(client));
        MUST(kill(getpid(), round == 1 ? SIGINT : SIGTERM));
        CHECK_WORKS(oyez_server_wait(server.id, 10000));
        CHECK_EQ_INT(own_signals, 0);
        CHECK_WORKS(oyez_server_close(server.id));
    }
    MUST(sigaction(SIGTERM, &before, &after));
    CHECK(after.sa_handler == count_own);
    CHECK_EQ_INT(after.sa_flags & SA_RESTART, SA_RESTART);
    CHECK(sigismember(&after.sa_mask, SIGUSR2));
}

static void a_second_signal_is_immediate(void)
{
    oyez_server_options options = serve_options(OYEZ_THREADS);
    options.stop_on_signals = OYEZ_ON;
    options.drain_ms = -1;
    served server = serve(read_until_cut, NULL, &options);
    int client = client_connect(server.port);
    CHECK_SOON(serve_stats(server).active == 1);
    MUST(kill(getpid(), SIGTERM));
    CHECK_FAILS(oyez_server_wait(server.id, 150), OYEZ_TIMED_OUT, EAGAIN);
    MUST(kill(getpid(), SIGTERM));
    CHECK_WORKS(oyez_server_wait(server.id, 10000));
    CHECK_EQ_INT(client_ending(client), ECONNRESET);
    CHECK_WORKS(oyez_server_close(server.id));
    MUST(close(client));
}

static void the_drain_time_of_a_signal(void)
{
    oyez_server_options options = serve_options(OYEZ_THREADS);
    options.stop_on_signals = OYEZ_ON;
    options.drain_ms = 200;
    served server = serve(read_until_cut, NULL, &options);
    int client = client_connect(server.port);
    CHECK_SOON(serve_stats(server).active == 1);
    long long start = check_now_ms();
    MUST(kill(getpid(), SIGINT));
    CHECK_WORKS(oyez_server_wait(server.id, 10000));
    CHECK_TOOK(start, 199, 5000);
    CHECK_EQ_INT(client_ending(client), ECONNRESET);
    CHECK_WORKS(oyez_server_close(server.id));
    MUST(close(client));
}

/* Once oyez_server_start has returned a signal stops the server; before, it would end the program. */
static void a_signal_right_after_the_start(void)
{
    oyez_server_options options = serve_options(OYEZ_THREADS);
    options.stop_on_signals = OYEZ_ON;
    for (int round = 0; round < 50; round++) {
        served server = serve(serve_hello, NULL, &options);
        MUST(kill(getpid(), SIGTERM));
        CHECK_WORKS(oyez_server_wait(server.id, 10000));
        CHECK_WORKS(oyez_server_close(server.id));
    }
}

/* Two servers at once: a signal stops both, and the dispositions come back with the last. */
static void signals_stop_every_server_that_asked(void)
{
    oyez_server_options options = serve_options(OYEZ_THREADS);
    options.stop_on_signals = OYEZ_ON;
    served first = serve(serve_hello, NULL, &options);
    served second = serve(serve_hello, NULL, &options);
    served other = serve(serve_hello, NULL, NULL);
    MUST(kill(getpid(), SIGTERM));
    CHECK_WORKS(oyez_server_wait(first.id, 10000));
    CHECK_WORKS(oyez_server_wait(second.id, 10000));
    CHECK_FAILS(oyez_server_wait(other.id, 50), OYEZ_TIMED_OUT, EAGAIN);
    CHECK_WORKS(oyez_server_close(second.id));
    CHECK_WORKS(oyez_server_close(first.id));
    serve_end(other);
}

static void *serve_on_a_thread(void *options)
{
    CHECK_EQ_INT(CHECK_WORKS(oyez_serve("127.0.0.1:0", serve_hello, NULL, options)), 0);
    return NULL;
}

/* oyez_serve on a thread of the program's, and the signal reaches another, or one thread alone. */
static void whichever_thread_serves(void)
{
    sigset_t both;
    struct sigaction now;
    oyez_server_options options = serve_options(OYEZ_THREADS);
    options.stop_on_signals = OYEZ_ON;
    for (int round = 0; round < 3; round++) {
        pthread_t thread = check_thread(serve_on_a_thread, &options);
        do {
            check_nap(1);
            MUST(sigaction(SIGTERM, NULL, &now));
        } while (now.sa_handler == SIG_DFL);
        sigemptyset(&both);
        sigaddset(&both, SIGTERM);
        if (round == 0)
            MUST(kill(getpid(), SIGTERM));
        else if (round == 1)
            CHECK_EQ_INT(pthread_kill(thread, SIGTERM), 0);
        else
            CHECK_EQ_INT(pthread_kill(pthread_self(), SIGTERM), 0);
        check_thread_join(thread);
    }
}

static const check_case cases[] = {
    CASE(an_idle_server_stops_at_once),
    CASE(from_a_handler),
    CASE(from_a_signal_handler),
    CASE(from_another_thread),
    CASE(queued_clients_are_served),
    CASE(a_drain_waits),
    CASE(what_is_cut_is_reset),
    CASE(zero_cuts_at_once),
    CASE(a_second_stop_is_immediate),
    CASE(a_handler_that_does_not_notice),
    CASE(an_accepted_client_is_served_first),
    CASE(a_client_that_keeps_its_end_open),
    CASE(signals_stop_and_are_put_back),
    CASE(a_second_signal_is_immediate),
    CASE(the_drain_time_of_a_signal),
    CASE(a_signal_right_after_the_start),
    CASE(signals_stop_every_server_that_asked),
    CASE(whichever_thread_serves),
};

CHECK_MAIN(cases)
