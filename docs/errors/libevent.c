/* libevent: the function that failed, and the socket's error as a text. */
#define _GNU_SOURCE

#include "server.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <event2/util.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct event_base *base;
static struct evconnlistener *listener;

const char *version(void)
{
    return event_get_version();
}

void set_up(void)
{
    base = event_base_new();
    if (base == NULL)
        exit(1);
}

static void on_connection(struct evconnlistener *at, evutil_socket_t fd, struct sockaddr *peer, int length, void *user)
{
    (void)at;
    (void)peer;
    (void)length;
    (void)user;
    evutil_closesocket(fd);
}

static int listen_at(const struct sockaddr *address, int length)
{
    unsigned flags = LEV_OPT_CLOSE_ON_FREE;

    flags |= reuse_address ? LEV_OPT_REUSEABLE : 0;
    flags |= reuse_port ? LEV_OPT_REUSEABLE_PORT : 0;
    listener = evconnlistener_new_bind(base, on_connection, NULL, flags, -1, address, length);
    if (listener == NULL) {
        fprintf(stderr, "evconnlistener_new_bind: %s\n", evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR()));
        return -1;
    }
    return 0;
}

static int listen_unix(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "%s: %s\n", path, evutil_socket_error_to_string(ENAMETOOLONG));
        return -1;
    }
    strcpy(address.sun_path, path);
    return listen_at((struct sockaddr *)&address, sizeof address);
}

static int listen_name(const char *host, const char *port)
{
    struct evutil_addrinfo hints = { .ai_flags = EVUTIL_AI_PASSIVE, .ai_socktype = SOCK_STREAM }, *found;
    int error = evutil_getaddrinfo(host, port, &hints, &found), result;

    if (error != 0) {
        fprintf(stderr, "evutil_getaddrinfo: %s\n", evutil_gai_strerror(error));
        return -1;
    }
    result = listen_at(found->ai_addr, (int)found->ai_addrlen);
    evutil_freeaddrinfo(found);
    return result;
}

int start_listening(const char *text)
{
    struct sockaddr_storage address;
    char host[256], port[256];
    int length = sizeof address;

    if (unix_path(text) != NULL)
        return listen_unix(unix_path(text));
    split_address(text, host, port);
    if (is_name(host))
        return listen_name(host, port);
    if (evutil_parse_sockaddr_port(text, (struct sockaddr *)&address, &length) < 0) {
        fputs("evutil_parse_sockaddr_port failed\n", stderr); /* it tells no more */
        return -1;
    }
    return listen_at((struct sockaddr *)&address, length);
}

void stop_listening(void)
{
    evconnlistener_free(listener);
}
