/* The library loaded at run time: loading does nothing, and unloading while threads end is safe.
   This program is not linked with it; its path is in the environment variable OYEZ_LIBRARY. */
#define _GNU_SOURCE
#include "check.h"
#include "oyez.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>

static void *load(void)
{
    const char *path = getenv("OYEZ_LIBRARY");
    if (path == NULL)
        SKIP("OYEZ_LIBRARY is not set");
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        check_fail(__FILE__, __LINE__, "%s", dlerror());
    return library;
}

/* A function of the library; memcpy because ISO C has no cast from an object pointer to a function's. */
static void find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    if (symbol == NULL)
        check_fail(__FILE__, __LINE__, "%s", dlerror());
    memcpy(function, &symbol, sizeof symbol);
}

static void loading_does_nothing(void)
{
    int descriptors = check_descriptors();
    int threads = check_threads();
    void *library = load();
    CHECK_EQ_INT(check_descriptors(), descriptors);
    CHECK_EQ_INT(check_threads(), threads);
    CHECK_EQ_INT(dlclose(library), 0);
}

static void the_version(void)
{
    const char *(*version)(void);
    void *library = load();
    find(library, "oyez_version", &version);
    CHECK_STR_EQ(version(), OYEZ_VERSION);
    CHECK_EQ_INT(dlclose(library), 0);
}

/* A thread that has used the library ends after the library has been closed. */

typedef struct meeting {
    void *library;
    int used[2];
    int closed[2];
} meeting;

static void *use_and_end_later(void *argument)
{
    meeting *at = argument;
    char byte;
    int (*listen_at)(const char *, const oyez_listen_options *);
    const char *(*message)(const oyez_error *);
    find(at->library, "oyez_listen", &listen_at);
    find(at->library, "oyez_error_message", &message);
    CHECK_EQ_INT(listen_at("no address", NULL), -1); /* makes this thread's error */
    CHECK(message(NULL)[0] != '\0');
    MUST(write(at->used[1], "x", 1));
    MUST(read(at->closed[0], &byte, 1));
    return NULL;
}

static void a_thread_that_ends_after_dlclose(void)
{
    for (int round = 0; round < 20; round++) {
        meeting at;
        char byte;
        at.library = load();
        MUST(pipe(at.used));
        MUST(pipe(at.closed));
        pthread_t thread = check_thread(use_and_end_later, &at);
        MUST(read(at.used[0], &byte, 1));
        CHECK_EQ_INT(dlclose(at.library), 0);
        MUST(write(at.closed[1], "x", 1));
        check_thread_join(thread);
        for (int i = 0; i < 2; i++) {
            MUST(close(at.used[i]));
            MUST(close(at.closed[i]));
        }
    }
}

/* Serve, stop, close, unload; again. */

typedef struct functions {
    oyez_server (*server_new)(oyez_handler, void *, const oyez_server_options *);
    int (*server_listen)(oyez_server, const char *, const oyez_listen_options *);
    int (*server_start)(oyez_server);
    int (*server_close)(oyez_server);
    int (*local_port)(int);
    ssize_t (*conn_write)(oyez_conn, const void *, size_t);
} functions;

static functions loaded;

static void say_hello(oyez_conn connection, void *unused)
{
    (void)unused;
    loaded.conn_write(connection, "hello\n", 6);
}

static void connect_and_expect_hello(int port)
{
    char text[8] = "";
    struct sockaddr_in address = { 0 };
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(connect(fd, (struct sockaddr *)&address, sizeof address));
    CHECK_EQ_INT(recv(fd, text, 6, MSG_WAITALL), 6);
    CHECK_STR_EQ(text, "hello\n");
    MUST(close(fd));
}

static void serve_and_unload(void)
{
    for (int round = 0; round < 10; round++) {
        void *library = load();
        find(library, "oyez_server_new", &loaded.server_new);
        find(library, "oyez_server_listen", &loaded.server_listen);
        find(library, "oyez_server_start", &loaded.server_start);
        find(library, "oyez_server_close", &loaded.server_close);
        find(library, "oyez_local_port", &loaded.local_port);
        find(library, "oyez_conn_write", &loaded.conn_write);
        oyez_server server = loaded.server_new(say_hello, NULL, NULL);
        CHECK(server > 0);
        int listener = loaded.server_listen(server, "127.0.0.1:0", NULL);
        CHECK(listener >= 0);
        CHECK_EQ_INT(loaded.server_start(server), 0);
        connect_and_expect_hello(loaded.local_port(listener));
        if (round % 2 == 0)
            CHECK_EQ_INT(loaded.server_close(server), 0);
        CHECK_EQ_INT(dlclose(library), 0);
        if (round % 2 == 1) { /* unloaded while it serves */
            connect_and_expect_hello(loaded.local_port(listener));
            CHECK_EQ_INT(loaded.server_close(server), 0);
        }
    }
}

static const check_case cases[] = {
    CASE(loading_does_nothing),
    CASE(the_version),
    CASE(a_thread_that_ends_after_dlclose),
    CASE(serve_and_unload),
};

CHECK_MAIN(cases)
