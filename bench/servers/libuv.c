/* An echo server on libuv: one loop; written at once where the kernel takes it, else queued, and not read meanwhile. */
#define _GNU_SOURCE
#include "server.h"

#include <signal.h>
#include <uv.h>

struct client {
    uv_tcp_t tcp;
    int ending;
};

struct rest {
    uv_write_t request;
    unsigned char bytes[];
};

static char buffer[BUFFER];
static int line;

static void on_data(uv_stream_t *stream, ssize_t got, const uv_buf_t *bytes);

static void on_buffer(uv_handle_t *handle, size_t size, uv_buf_t *bytes)
{
    (void)handle;
    (void)size;
    *bytes = uv_buf_init(buffer, sizeof buffer);
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void end(struct client *client)
{
    if (!uv_is_closing((uv_handle_t *)&client->tcp))
        uv_close((uv_handle_t *)&client->tcp, on_closed);
}

static void on_written(uv_write_t *request, int status)
{
    struct client *client = request->handle->data;

    free(request);
    if (status < 0 || client->ending)
        end(client);
    else
        uv_read_start((uv_stream_t *)&client->tcp, on_buffer, on_data);
}

static void keep(struct client *client, const char *bytes, size_t size)
{
    struct rest *rest = malloc(sizeof *rest + size);
    uv_buf_t output;

    if (rest == NULL)
        fail("malloc");
    memcpy(rest->bytes, bytes, size);
    output = uv_buf_init((char *)rest->bytes, (unsigned)size);
    uv_read_stop((uv_stream_t *)&client->tcp);
    if (uv_write(&rest->request, (uv_stream_t *)&client->tcp, &output, 1, on_written) < 0) {
        free(rest);
        end(client);
    }
}

static void on_data(uv_stream_t *stream, ssize_t got, const uv_buf_t *bytes)
{
    struct client *client = stream->data;
    uv_buf_t output;
    int sent;

    if (got == 0)
        return;
    if (got < 0) {
        end(client);
        return;
    }
    client->ending = ends(line, bytes->base, (size_t)got);
    output = uv_buf_init(bytes->base, (unsigned)got);
    sent = uv_try_write(stream, &output, 1);
    if (sent < 0 && sent != UV_EAGAIN) {
        end(client);
        return;
    }
    if (sent < 0)
        sent = 0;
    if (sent < got)
        keep(client, bytes->base + sent, (size_t)(got - sent));
    else if (client->ending)
        end(client);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct client *client;

    if (status < 0)
        return;
    client = calloc(1, sizeof *client);
    if (client == NULL || uv_tcp_init(listener->loop, &client->tcp) < 0)
        fail("uv_tcp_init");
    client->tcp.data = client;
    if (uv_accept(listener, (uv_stream_t *)&client->tcp) < 0)
        end(client);
    else
        uv_read_start((uv_stream_t *)&client->tcp, on_buffer, on_data);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = anywhere();
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t listener;
    uv_os_fd_t fd;

    line = asked_for_line(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    if (uv_tcp_init(loop, &listener) < 0 || uv_tcp_bind(&listener, (struct sockaddr *)&address, 0) < 0 ||
        uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection) < 0 ||
        uv_fileno((uv_handle_t *)&listener, &fd) < 0)
        fail("uv_listen");
    announce(fd);
    return uv_run(loop, UV_RUN_DEFAULT);
}
