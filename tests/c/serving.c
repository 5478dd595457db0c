/* Servers for tests: see serving.h. */
#define _GNU_SOURCE
#include "serving.h"
#include "clients.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

served serve_at(const char *addresses, oyez_handler handler, void *user, const oyez_server_options *options)
{
    served server;
    server.id = (oyez_server)CHECK_WORKS(oyez_server_new(handler, user, options));
    server.listener = (int)CHECK_WORKS(oyez_server_listen(server.id, addresses, NULL));
    server.port = oyez_local_port(server.listener);
    if (server.port == -1)
        server.port = 0;
    if (handler != NULL)
        CHECK_WORKS(oyez_server_start(server.id));
    return server;
}

served serve(oyez_handler handler, void *user, const oyez_server_options *options)
{
    return serve_at("127.0.0.1:0", handler, user, options);
}

void serve_end(served server)
{
    CHECK_WORKS(oyez_server_stop(server.id, -1));
    CHECK_WORKS(oyez_server_wait(server.id, 20000));
    CHECK_WORKS(oyez_server_close(server.id));
}

oyez_stats serve_stats(served server)
{
    oyez_stats stats = OYEZ_STATS_INIT;
    CHECK_WORKS(oyez_server_stats(server.id, &stats));
    return stats;
}

oyez_server_options serve_options(int model)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.model = model;
    return options;
}

void serve_echo(oyez_conn connection, void *user)
{
    char text[4096];
    ssize_t count;
    (void)user;
    while ((count = oyez_conn_read(connection, text, sizeof text)) > 0)
        if (oyez_conn_write(connection, text, (size_t)count) != count)
            return;
}

void serve_hello(oyez_conn connection, void *user)
{
    (void)user;
    oyez_conn_write(connection, "hello\n", 6);
}

void serve_hello_behind_gate(oyez_conn connection, void *user)
{
    gate_pass(user);
    serve_hello(connection, NULL);
}

/* Event servers. */

served serve_events_polled(const oyez_events *events, void *user, const oyez_server_options *options)
{
    served server;
    server.id = (oyez_server)CHECK_WORKS(oyez_server_new_events(events, user, options));
    server.listener = (int)CHECK_WORKS(oyez_server_listen(server.id, "127.0.0.1:0", NULL));
    server.port = oyez_local_port(server.listener);
    return server;
}

served serve_events(int over, const oyez_events *events, void *user, const oyez_server_options *options)
{
    static int count;
    char address[60] = "127.0.0.1:0";
    served server;
    if (over == OVER_UNIX)
        snprintf(address, sizeof address, "unix:@oyez-events-%d-%d", (int)getpid(), count++);
    server.id = (oyez_server)CHECK_WORKS(oyez_server_new_events(events, user, options));
    server.listener = (int)CHECK_WORKS(oyez_server_listen(server.id, address, NULL));
    server.port = over == OVER_UNIX ? 0 : oyez_local_port(server.listener);
    CHECK_WORKS(oyez_server_start(server.id));
    return server;
}

int serve_client(served server)
{
    char address[128];
    if (server.port != 0)
        return client_connect(server.port);
    CHECK_WORKS(oyez_local_address(server.listener, address, sizeof address));
    return client_connect_unix(address + strlen("unix:"));
}

oyez_server_options serve_workers(int workers)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.workers = workers;
    return options;
}

size_t serve_echo_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)user;
    CHECK_EQ_INT(CHECK_WORKS(oyez_conn_write(connection, bytes, size)), size);
    return size;
}

size_t serve_drop_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)connection;
    (void)bytes;
    (void)user;
    return size;
}

void seen_open(oyez_conn connection, void *user)
{
    seen *all = user;
    __atomic_store_n(&all->last, connection, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&all->opened, 1, __ATOMIC_SEQ_CST);
}

size_t seen_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)connection;
    (void)bytes;
    __atomic_add_fetch(&((seen *)user)->bytes, size, __ATOMIC_SEQ_CST);
    return size;
}

void seen_drain(oyez_conn connection, void *user)
{
    (void)connection;
    __atomic_add_fetch(&((seen *)user)->drained, 1, __ATOMIC_SEQ_CST);
}

void seen_close(oyez_conn connection, const oyez_error *why, void *user)
{
    seen *all = user;
    (void)connection;
    __atomic_store_n(&all->code, oyez_error_code(why), __ATOMIC_SEQ_CST);
    __atomic_store_n(&all->number, oyez_error_errno(why), __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&all->closed, 1, __ATOMIC_SEQ_CST);
}

oyez_events seen_events(void)
{
    oyez_events events = OYEZ_EVENTS_INIT;
    events.on_open = seen_open;
    events.on_data = seen_data;
    events.on_drain = seen_drain;
    events.on_close = seen_close;
    return events;
}

gate gate_make(void)
{
    gate made;
    MUST(pipe2(made.in, O_CLOEXEC));
    MUST(pipe2(made.out, O_CLOEXEC));
    return made;
}

void gate_pass(const gate *at)
{
    struct pollfd wait = { at->out[0], POLLIN, 0 };
    MUST(write(at->in[1], "x", 1));
    while (poll(&wait, 1, -1) == -1 && errno == EINTR)
        ;
}

void gate_await(const gate *at, int count)
{
    char byte;
    struct pollfd wait = { at->in[0], POLLIN, 0 };
    for (; count > 0; count--) {
        CHECK(poll(&wait, 1, 20000) == 1);
        MUST(read(at->in[0], &byte, 1));
    }
}

int gate_arrived(const gate *at)
{
    int count = 0;
    MUST(ioctl(at->in[0], FIONREAD, &count));
    return count;
}

/* A byte that nobody takes: readable for all, also in processes that hold a copy of the other end. */
void gate_open(gate *at)
{
    MUST(write(at->out[1], "x", 1));
}

void gate_end(gate *at)
{
    for (int i = 0; i < 2; i++) {
        MUST(close(at->in[i]));
        MUST(close(at->out[i]));
    }
}
