/* The system's calls and perror(3), as a careful program uses them. */
#define _GNU_SOURCE

#include "server.h"

#include <errno.h>
#include <gnu/libc-version.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int listener = -1;

const char *version(void)
{
    return gnu_get_libc_version();
}

void set_up(void)
{
}

static int failed(const char *step)
{
    perror(step);
    if (listener >= 0)
        close(listener);
    return -1;
}

static int listen_at(int family, const struct sockaddr *address, socklen_t length)
{
    const int on = 1;

    listener = socket(family, SOCK_STREAM, 0);
    if (listener < 0)
        return failed("socket");
    if (reuse_address && setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        return failed("setsockopt");
    if (reuse_port && setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0)
        return failed("setsockopt");
    if (bind(listener, address, length) < 0)
        return failed("bind");
    if (listen(listener, SOMAXCONN) < 0)
        return failed("listen");
    return 0;
}

static int listen_unix(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return failed(path);
    }
    strcpy(address.sun_path, path);
    return listen_at(AF_UNIX, (struct sockaddr *)&address, sizeof address);
}

int start_listening(const char *address)
{
    struct addrinfo hints = { .ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM }, *found;
    char host[256], port[256];
    int error, result;

    if (unix_path(address) != NULL)
        return listen_unix(unix_path(address));
    split_address(address, host, port);
    error = getaddrinfo(host, port, &hints, &found);
    if (error == EAI_SYSTEM)
        return failed("getaddrinfo");
    if (error != 0) {
        fprintf(stderr, "getaddrinfo: %s\n", gai_strerror(error));
        return -1;
    }
    result = listen_at(found->ai_family, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return result;
}

void stop_listening(void)
{
    close(listener);
}
