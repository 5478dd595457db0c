/* Stops under load: whoever is connected gets an answer. */
#define _GNU_SOURCE
#include "clients.h"
#include "places.h"
#include "serving.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NOBODY = 65534, CLIENTS = 4, STOPS = 10 };

/* Clients connect as fast as they can while servers stop. On a busy machine the kernel may complete a handshake so late
   that nothing can save it; without care it is one in every ten stops or so. */
enum { MOST_LOST = 1 };

typedef struct hurry {
    int port;
    int answered;
    int lost;
    int ending;
} hurry;

/* Connected, or -1: refused, or kept out by a server that stops. */
static int connect_soon(int port)
{
    struct timeval soon = { 0, 200000 };
    struct timeval late = { 20, 0 };
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon));
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &late, sizeof late));
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    MUST(close(fd));
    return -1;
}

static void *connect_in_a_hurry(void *argument)
{
    hurry *one = argument;
    char text[8];
    for (;;) {
        int fd = connect_soon(one->port);
        if (fd == -1)
            return NULL;
        ssize_t count = recv(fd, text, 6, MSG_WAITALL);
        if (count == 6) {
            __atomic_add_fetch(&one->answered, 1, __ATOMIC_SEQ_CST);
        } else {
            one->lost++;
            one->ending = count == -1 ? errno : 0;
        }
        MUST(close(fd));
    }
}

/* At a port that the kernel gives to no client: one that connects to a closed port could meet itself there. */
static int listen_below_the_ephemeral_ports(oyez_server server, const char *host, int *listener)
{
    char address[60];
    int port = 15000 + (int)getpid() % 10000;
    do
        snprintf(address, sizeof address, "%s:%d", host, ++port);
    while ((*listener = oyez_server_listen(server, address, NULL)) == -1 && port < 30000);
    CHECK_WORKS(*listener);
    return port;
}

/* How servers are made. */

static oyez_server make_threads(void)
{
    return (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
}

static oyez_server make_sequential(void)
{
    oyez_server_options options = serve_options(OYEZ_SEQUENTIAL);
    return (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, &options));
}

static oyez_server make_processes(void)
{
    oyez_server_options options = serve_options(OYEZ_PROCESSES);
    return (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, &options));
}

static oyez_server make_by_hand(void)
{
    return (oyez_server)CHECK_WORKS(oyez_server_new(NULL, NULL, NULL));
}

static void say_hello(oyez_conn connection, void *unused)
{
    (void)unused;
    oyez_conn_write(connection, "hello\n", 6);
    oyez_conn_close(connection);
}

static oyez_server make_events_with(int backend)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    oyez_server_options options = serve_workers(2);
    events.on_open = say_hello;
    options.backend = backend;
    return (oyez_server)CHECK_WORKS(oyez_server_new_events(&events, NULL, &options));
}

static oyez_server make_events_on_epoll(void)
{
    return make_events_with(OYEZ_BACKEND_EPOLL);
}

static oyez_server make_events(void)
{
    return make_events_with(OYEZ_BACKEND_AUTO);
}

/* What drives one, where that is not a thread of its own. */

static void *accept_by_hand(void *server)
{
    oyez_conn connection;
    while (oyez_server_accept(*(oyez_server *)server, &connection, -1) != -1) {
        oyez_conn_write(connection, "hello\n", 6);
        CHECK_WORKS(oyez_conn_close(connection));
    }
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_STOPPED);
    return NULL;
}

static void *poll_to_the_end(void *server)
{
    while (oyez_server_poll(*(oyez_server *)server, -1) != -1)
        ;
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_STOPPED);
    return NULL;
}

static int answered_by_now(hurry *all)
{
    int answered = 0;
    for (int i = 0; i < CLIENTS; i++)
        answered += __atomic_load_n(&all[i].answered, __ATOMIC_SEQ_CST);
    return answered;
}

/* One stop; `body`, where there is one, drives the server on a thread. */
static void stop_under_load(oyez_server (*make)(void), void *(*body)(void *), const char *host, hurry *sum)
{
    pthread_t threads[CLIENTS];
    pthread_t driver = 0;
    hurry all[CLIENTS];
    int listener;
    oyez_server server = make();
    int port = listen_below_the_ephemeral_ports(server, host, &listener);
    if (body != NULL)
        driver = check_thread(body, &server);
    else
        CHECK_WORKS(oyez_server_start(server));
    for (int i = 0; i < CLIENTS; i++) {
        all[i] = (hurry){ port, 0, 0, 0 };
        threads[i] = check_thread(connect_in_a_hurry, &all[i]);
    }
    CHECK_SOON(answered_by_now(all) > 50);
    CHECK_WORKS(oyez_server_stop(server, 20000));
    if (body != NULL)
        check_thread_join(driver);
    CHECK_WORKS(oyez_server_wait(server, 20000));
    for (int i = 0; i < CLIENTS; i++) {
        check_thread_join(threads[i]);
        sum->answered += all[i].answered;
        sum->lost += all[i].lost;
        sum->ending = all[i].lost > 0 ? all[i].ending : sum->ending;
    }
    oyez_stats stats = OYEZ_STATS_INIT;
    CHECK_WORKS(oyez_server_stats(server, &stats));
    CHECK_EQ_INT(stats.active, 0);
    CHECK_EQ_INT(stats.cut, 0);
    CHECK_WORKS(oyez_server_close(server));
}

static void stop_again_and_again(oyez_server (*make)(void), void *(*body)(void *), const char *host)
{
    hurry sum = { 0, 0, 0, 0 };
    for (int round = 0; round < STOPS; round++)
        stop_under_load(make, body, host, &sum);
    check_note("%d answered, %d lost", sum.answered, sum.lost);
    if (sum.lost > MOST_LOST)
        check_fail(__FILE__, __LINE__, "%d of %d connected clients were not answered (%s)", sum.lost,
                   sum.answered + sum.lost, strerror(sum.ending));
}

/* With privileges new clients are filtered out, and without them steered to a socket whose queue is full. */
#define LOAD_CASES(name, make, body)                                                  \
    static void name(void) { stop_again_and_again(make, body, "127.0.0.1"); }         \
    static void name##_without_privileges(void)                                       \
    {                                                                                 \
        place_user(NOBODY);                                                           \
        stop_again_and_again(make, body, "127.0.0.1");                                \
    }

LOAD_CASES(threads, make_threads, NULL)
LOAD_CASES(sequential, make_sequential, NULL)
LOAD_CASES(processes, make_processes, NULL)
LOAD_CASES(by_hand, make_by_hand, accept_by_hand)
LOAD_CASES(events, make_events, NULL)
LOAD_CASES(events_on_epoll, make_events_on_epoll, NULL)
LOAD_CASES(events_polled, make_events, poll_to_the_end)

/* Clients come by IPv4, and the socket beside the listener is one for both. */
static void dual_stack_without_privileges(void)
{
    place_user(NOBODY);
    stop_again_and_again(make_threads, NULL, "*");
}

/* Whether the kernel is in the middle of connecting somebody, in this network. */
static int handshake_under_way(void)
{
    char line[300];
    int found = 0;
    FILE *sockets = fopen("/proc/net/tcp", "r");
    CHECK(sockets != NULL);
    while (fgets(line, sizeof line, sockets) != NULL) {
        unsigned state = 0;
        if (sscanf(line, "%*s %*s %*s %x", &state) == 1 && state == TCP_SYN_RECV)
            found = 1;
    }
    fclose(sockets);
    return found;
}

/* A client does not hear that it is connected before its server has been asked to stop: the kernel's first answer is
   lost, and comes again after a second. */
static void a_client_in_mid_handshake_is_waited_for(void)
{
    struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog deaf = { 1, &nothing };
    place_network();
    place_loopback_up();
    gate at = gate_make();
    served server = serve(serve_hello_behind_gate, &at, NULL);
    int near = client_connect(server.port);
    gate_await(&at, 1);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)server.port) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int far = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    MUST(setsockopt(far, SOL_SOCKET, SO_ATTACH_FILTER, &deaf, sizeof deaf));
    CHECK(connect(far, (struct sockaddr *)&address, sizeof address) == -1 && errno == EINPROGRESS);
    CHECK_SOON(handshake_under_way());
    CHECK_WORKS(oyez_server_stop(server.id, 20000));
    MUST(setsockopt(far, SOL_SOCKET, SO_DETACH_FILTER, &deaf, sizeof deaf));
    gate_await(&at, 1);
    gate_open(&at);
    MUST(fcntl(far, F_SETFL, 0));
    client_expect(far, "hello\n");
    client_expect(near, "hello\n");
    CHECK_WORKS(oyez_server_wait(server.id, 20000));
    MUST(close(near));
    MUST(close(far));
    CHECK_WORKS(oyez_server_close(server.id));
    gate_end(&at);
}

/* The program has kept a copy of the listener for a successor: it shares its port with nobody, and clients are as before. */
static void a_copy_goes_on(int user)
{
    int on = 1, off = 0;
    socklen_t size = sizeof off;
    struct sockaddr_in address;
    if (user != 0)
        place_user(user);
    served server = serve(serve_hello, NULL, NULL);
    int copy = (int)MUST(fcntl(server.listener, F_DUPFD_CLOEXEC, 3));
    int client = client_connect(server.port);
    client_expect(client, "hello\n");
    serve_end(server);
    MUST(close(client));
    MUST(getsockopt(copy, SOL_SOCKET, SO_REUSEPORT, &off, &size));
    CHECK_EQ_INT(off, 0);
    size = sizeof address;
    MUST(getsockname(copy, (struct sockaddr *)&address, &size));
    int second = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(setsockopt(second, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    CHECK(bind(second, (struct sockaddr *)&address, size) == -1 || listen(second, 1) == -1);
    CHECK_EQ_INT(errno, EADDRINUSE);
    MUST(close(second));
    for (int i = 0; i < 20; i++) {
        client = client_connect(server.port);
        int accepted = (int)MUST(accept4(copy, NULL, NULL, SOCK_CLOEXEC));
        MUST(close(accepted));
        MUST(close(client));
    }
    MUST(close(copy));
}

static void a_copy_of_the_listener(void)
{
    a_copy_goes_on(0);
}

static void a_copy_of_the_listener_without_privileges(void)
{
    a_copy_goes_on(NOBODY);
}

/* The port is free when the server has ended, though a child that it made lives on and its parent was being asked for
   statistics at the fork. */
static void *ask_for_statistics(void *server)
{
    oyez_stats stats = OYEZ_STATS_INIT;
    while (oyez_server_stats(*(oyez_server *)server, &stats) == 0)
        ;
    return NULL;
}

static void children_keep_no_listener(void)
{
    enum { CHILDREN = 100 };
    int clients[CHILDREN];
    pthread_t asking[2];
    gate at = gate_make();
    oyez_server_options options = serve_options(OYEZ_PROCESSES);
    options.workers = CHILDREN;
    served server = serve(serve_hello_behind_gate, &at, &options);
    for (int i = 0; i < 2; i++)
        asking[i] = check_thread(ask_for_statistics, &server.id);
    for (int i = 0; i < CHILDREN; i++)
        clients[i] = client_connect(server.port);
    gate_await(&at, CHILDREN);
    CHECK_WORKS(oyez_server_stop(server.id, -1));
    CHECK_SOON(serve_stats(server).listeners == 0);
    CHECK(client_try(server.port) == -1 && errno == ECONNREFUSED);
    gate_open(&at);
    for (int i = 0; i < CHILDREN; i++) {
        client_expect(clients[i], "hello\n");
        MUST(close(clients[i]));
    }
    CHECK_WORKS(oyez_server_wait(server.id, 20000));
    CHECK_WORKS(oyez_server_close(server.id));
    for (int i = 0; i < 2; i++)
        check_thread_join(asking[i]);
    gate_end(&at);
}

/* By hand, a wait for the connections that are left takes its time, and no processor. */
static void a_wait_by_hand(void)
{
    oyez_conn connection, none;
    oyez_server server = make_by_hand();
    int port = oyez_local_port((int)CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL)));
    int client = client_connect(port);
    CHECK_WORKS(oyez_server_accept(server, &connection, -1));
    CHECK_WORKS(oyez_server_stop(server, -1));
    CHECK_FAILS(oyez_server_accept(server, &none, -1), OYEZ_STOPPED, ECANCELED);
    long before = check_cpu_ms();
    long long start = check_now_ms();
    CHECK_FAILS(oyez_server_wait(server, 300), OYEZ_TIMED_OUT, EAGAIN);
    CHECK_TOOK(start, 299, 5000);
    CHECK(check_cpu_ms() - before < 150);
    CHECK_WORKS(oyez_conn_close(connection));
    MUST(close(client));
    CHECK_WORKS(oyez_server_wait(server, 20000));
    CHECK_WORKS(oyez_server_close(server));
}

#define LOAD_CASE(name) CASE_WITHIN(90, name), CASE_WITHIN(90, name##_without_privileges)

static const check_case cases[] = {
    LOAD_CASE(threads),
    LOAD_CASE(sequential),
    LOAD_CASE(processes),
    LOAD_CASE(by_hand),
    LOAD_CASE(events),
    LOAD_CASE(events_on_epoll),
    LOAD_CASE(events_polled),
    CASE_WITHIN(90, dual_stack_without_privileges),
    CASE(a_client_in_mid_handshake_is_waited_for),
    CASE(a_copy_of_the_listener),
    CASE(a_copy_of_the_listener_without_privileges),
    CASE(children_keep_no_listener),
    CASE(a_wait_by_hand),
};

CHECK_MAIN(cases)
