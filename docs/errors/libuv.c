/* libuv: the function that failed, and uv_strerror. */
#define _GNU_SOURCE

#include "server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <uv.h>

/* Listening twice takes two; nothing is given back before the end. */
static union {
    uv_tcp_t tcp;
    uv_pipe_t pipe;
    uv_stream_t stream;
    uv_handle_t handle;
} servers[2], *server;
static int started = 0;

const char *version(void)
{
    return uv_version_string();
}

void set_up(void)
{
    if (uv_default_loop() == NULL)
        exit(1);
}

static int failed(const char *function, int error)
{
    fprintf(stderr, "%s: %s\n", function, uv_strerror(error));
    return -1;
}

static void on_connection(uv_stream_t *stream, int status)
{
    (void)stream;
    (void)status;
}

static int find(const char *host, const char *port, struct sockaddr_storage *address)
{
    struct addrinfo hints = { .ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM };
    uv_getaddrinfo_t request;
    int error;

    if (is_name(host)) {
        error = uv_getaddrinfo(uv_default_loop(), &request, NULL, host, port, &hints);
        if (error < 0)
            return failed("uv_getaddrinfo", error);
        memcpy(address, request.addrinfo->ai_addr, request.addrinfo->ai_addrlen);
        uv_freeaddrinfo(request.addrinfo);
        return 0;
    }
    if (uv_ip6_addr(host, atoi(port), (struct sockaddr_in6 *)address) == 0)
        return 0;
    error = uv_ip4_addr(host, atoi(port), (struct sockaddr_in *)address);
    return error < 0 ? failed("uv_ip4_addr", error) : 0;
}

static int listen_inet(const char *text)
{
    struct sockaddr_storage address;
    char host[256], port[256];
    const int on = 1;
    uv_os_fd_t fd;
    int error;

    split_address(text, host, port);
    if (find(host, port, &address) < 0)
        return -1;
    error = uv_tcp_init_ex(uv_default_loop(), &server->tcp, address.ss_family);
    if (error < 0)
        return failed("uv_tcp_init_ex", error);
    if (reuse_port && uv_fileno(&server->handle, &fd) == 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    error = uv_tcp_bind(&server->tcp, (struct sockaddr *)&address, 0);
    return error < 0 ? failed("uv_tcp_bind", error) : 0;
}

static int listen_unix(const char *path)
{
    int error = uv_pipe_init(uv_default_loop(), &server->pipe, 0);

    if (error == 0)
        error = uv_pipe_bind(&server->pipe, path);
    return error < 0 ? failed("uv_pipe_bind", error) : 0;
}

int start_listening(const char *address)
{
    int error;

    server = &servers[started++];
    if ((unix_path(address) != NULL ? listen_unix(unix_path(address)) : listen_inet(address)) < 0)
        return -1;
    error = uv_listen(&server->stream, SOMAXCONN, on_connection);
    return error < 0 ? failed("uv_listen", error) : 0;
}

void stop_listening(void)
{
    uv_close(&server->handle, NULL);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
