/*
 Every function of oyez, called from every function of the program: handlers, the functions of event servers, the log,
 and the hook before bind(2); on the connection and the server that the call is about. Each may fail, and says why; none
 may hang, crash, or hold anybody else up.
*/
#define _GNU_SOURCE
#include "clients.h"
#include "inject.h"
#include "scene.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static oyez_server own;
static int calls;
static int ending; /* whether what ends the connection is called as well */

/* A result of -1 has its error. */
static int look(long long value)
{
    __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (value == -1) {
        CHECK(errno != 0);
        CHECK(oyez_error_code(NULL) != OYEZ_OK && oyez_error_code(NULL) != OYEZ_INTERNAL);
    }
    return value != -1;
}

static void call_texts(int fd)
{
    char text[300];
    CHECK(oyez_version() != NULL && oyez_last_error() != NULL && oyez_code_name(3) != NULL);
    look(oyez_error_text(text, sizeof text));
    look(oyez_local_port(fd));
    look(oyez_local_address(fd, text, sizeof text));
    look(oyez_peer_address(fd, text, sizeof text));
    look(oyez_check("127.0.0.1:0,unix:@oyez-torture", text, sizeof text));
}

/* A listener and a client of its own, from beginning to end. */
static void call_verbs(void)
{
    char peer[64], byte;
    int listener = oyez_listen("127.0.0.1:0", NULL);
    if (!look(listener))
        return;
    int client = client_try(oyez_local_port(listener));
    int accepted = oyez_accept(listener, peer, sizeof peer, 1000);
    if (look(accepted)) {
        look(oyez_write(accepted, "x", 1, 1000));
        look(oyez_read(client, &byte, 1, 1000));
        look(close(accepted));
    }
    look(oyez_accept(listener, NULL, 0, 0));
    MUST(close(client));
    CHECK_WORKS(oyez_unlisten(listener));
}

static void serve_nothing(oyez_conn connection, void *user)
{
    (void)connection;
    (void)user;
}

/* Another server, that starts and ends here. */
static void call_another_server(void)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    oyez_conn none = 0;
    options.workers = 1;
    oyez_server other = oyez_server_new(serve_nothing, NULL, &options);
    if (look(other)) {
        int listener = oyez_server_listen(other, "127.0.0.1:0", NULL);
        if (look(listener) && look(oyez_server_start(other))) {
            int client = client_try(oyez_local_port(listener));
            CHECK(client_ending(client) == 0);
            MUST(close(client));
            look(oyez_server_stop(other, 1000));
            CHECK(look(oyez_server_wait(other, 5000)));
        }
        CHECK(look(oyez_server_close(other)));
    }
    look(oyez_serve("127.0.0.1:99999", serve_nothing, NULL, NULL));
    look(oyez_server_accept(own, &none, 0));
}

/* The server that the program's function belongs to. */
static void call_own_server(void)
{
    oyez_stats stats = OYEZ_STATS_INIT;
    look(oyez_server_stats(own, &stats));
    look(oyez_server_pause(own));
    look(oyez_server_resume(own));
    int listener = oyez_server_listen(own, "127.0.0.1:0", NULL);
    look(listener);
    look(oyez_server_adopt(own, listener));
    look(oyez_server_poll_fd(own));
    CHECK(!look(oyez_server_start(own)));
    CHECK(!look(oyez_server_run(own)));
    CHECK(!look(oyez_server_poll(own, 0)));
    CHECK(!look(oyez_server_wait(own, 0)));
}

static void call_connection(oyez_conn connection)
{
    char text[100];
    look(oyez_conn_fd(connection));
    look(oyez_conn_peer(connection, text, sizeof text));
    look(oyez_conn_local(connection, text, sizeof text));
    look(oyez_conn_set_user(connection, &own));
    oyez_conn_user(connection);
    look(oyez_conn_set_timeout(connection, 5000));
    look(oyez_conn_pause(connection));
    look(oyez_conn_resume(connection));
    look(oyez_conn_write(connection, "x", 1));
}

/* All of the above; a log may be called while the server is made, and then has no server yet. */
static void call_everything(oyez_conn connection)
{
    static __thread int inside;
    if (inside)
        return;
    inside = 1;
    if (connection != 0)
        call_connection(connection);
    call_texts(connection == 0 ? -1 : oyez_conn_fd(connection));
    call_verbs();
    call_another_server();
    if (own != 0)
        call_own_server();
    inside = 0;
}

static void end_connection(oyez_conn connection)
{
    look(oyez_conn_close(connection));
    CHECK(!look(oyez_conn_close(connection)));
    CHECK(!look(oyez_conn_abort(connection)));
    CHECK(!look(oyez_conn_write(connection, "x", 1)));
    look(oyez_conn_detach(connection));
}

static void handle(oyez_conn connection, void *user)
{
    (void)user;
    call_everything(connection);
    if (ending)
        end_connection(connection);
}

static size_t handle_data(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    (void)bytes;
    handle(connection, user);
    return size;
}

static void handle_open(oyez_conn connection, void *user)
{
    (void)user;
    call_everything(connection);
}

static void handle_close(oyez_conn connection, const oyez_error *why, void *user)
{
    (void)why;
    handle_open(connection, user);
}

static void handle_log(int32_t level, const char *event, const char *text, void *user)
{
    (void)level;
    (void)event;
    (void)text;
    (void)user;
    call_everything(0);
}

static void meet(const char *what)
{
    CHECK_WORKS(own);
    int listener = (int)CHECK_WORKS(oyez_server_listen(own, "127.0.0.1:0", NULL));
    int port = oyez_local_port(listener);
    CHECK_WORKS(oyez_server_start(own));
    for (int i = 0; i < 3; i++) {
        int client = client_connect(port);
        client_send_text(client, "hello\n");
        shutdown(client, SHUT_WR);
        client_ending(client);
        MUST(close(client));
    }
    oyez_stats stats = OYEZ_STATS_INIT;
    do {
        CHECK_WORKS(oyez_server_stats(own, &stats));
        check_nap(2);
    } while (stats.active > 0);
    CHECK_EQ_INT(stats.accepted, 3);
    CHECK_EQ_INT(stats.handler_failures, 0);
    CHECK_WORKS(oyez_server_stop(own, 5000));
    CHECK_WORKS(oyez_server_wait(own, 10000));
    CHECK_WORKS(oyez_server_close(own));
    check_note("%s: %d calls", what, calls);
    CHECK(calls > 20 || strcmp(what, "processes") == 0); /* which count in processes of their own */
    own = 0;
}

static void from_handlers(void)
{
    for (int model = OYEZ_THREADS; model <= OYEZ_PROCESSES; model++) {
        for (ending = 0; ending < 2; ending++) {
            oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
            options.model = model;
            own = oyez_server_new(handle, NULL, &options);
            meet(scene_name(model));
        }
    }
}

static void from_event_functions(void)
{
    for (int backend = OYEZ_BACKEND_EPOLL; backend <= OYEZ_BACKEND_IO_URING; backend++) {
        for (ending = 0; ending < 2; ending++) {
            oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
            oyez_events events = OYEZ_EVENTS_INIT;
            options.backend = backend;
            events.on_open = handle_open;
            events.on_data = handle_data;
            events.on_drain = handle_open;
            events.on_close = handle_close;
            own = oyez_server_new_events(&events, NULL, &options);
            if (own == -1 && oyez_error_code(NULL) == OYEZ_UNSUPPORTED) {
                check_note("io_uring: this system has none for oyez");
                continue;
            }
            meet(backend == OYEZ_BACKEND_EPOLL ? "epoll" : "io_uring");
        }
    }
}

static void from_the_log(void)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    options.log = handle_log;
    own = oyez_server_new(serve_nothing, NULL, &options);
    meet("log");
}

static int32_t handle_bind(int32_t fd, void *user)
{
    (void)fd;
    (void)user;
    call_everything(0);
    return 0;
}

static void from_the_hook(void)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.before_bind = handle_bind;
    int listener = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", &options));
    CHECK(calls > 5);
    CHECK_WORKS(oyez_unlisten(listener));
}

static const check_case cases[] = {
    CASE(from_handlers),
    CASE(from_event_functions),
    CASE(from_the_log),
    CASE(from_the_hook),
};

CHECK_MAIN(cases)
