/* An echo server on libuv: one loop; written at once where the kernel takes it, else queued, and not read meanwhile. */
#define _GNU_SOURCE
#include "server.h"

#include <signal.h>
#include <uv.h>

union any {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
};

struct client {
    union any of;
    int ending;
};

struct rest {
    uv_write_t request;
    unsigned char bytes[];
};

static char buffer[BUFFER];
static struct asked asked;

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
    if (!uv_is_closing(&client->of.handle))
        uv_close(&client->of.handle, on_closed);
}

static void on_written(uv_write_t *request, int status)
{
    struct client *client = request->handle->data;

    free(request);
    if (status < 0 || client->ending)
        end(client);
    else
        uv_read_start(&client->of.stream, on_buffer, on_data);
}

static void keep(struct client *client, const char *bytes, size_t size)
{
    struct rest *rest = malloc(sizeof *rest + size);
    uv_buf_t output;

    if (rest == NULL)
        fail("malloc");
    memcpy(rest->bytes, bytes, size);
    output = uv_buf_init((char *)rest->bytes, (unsigned)size);
    uv_read_stop(&client->of.stream);
    if (uv_write(&rest->request, &client->of.stream, &output, 1, on_written) < 0) {
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
    client->ending = ends(asked.line, bytes->base, (size_t)got);
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

static void make(uv_loop_t *loop, union any *of)
{
    if ((asked.unix_path != NULL ? uv_pipe_init(loop, &of->pipe, 0) : uv_tcp_init(loop, &of->tcp)) < 0)
        fail("uv_init");
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct client *client;

    if (status < 0)
        return;
    client = calloc(1, sizeof *client);
    if (client == NULL)
        fail("calloc");
    make(listener->loop, &client->of);
    client->of.handle.data = client;
    if (uv_accept(listener, &client->of.stream) < 0)
        end(client);
    else
        uv_read_start(&client->of.stream, on_buffer, on_data);
}

int main(int argc, char **argv)
{
    uv_loop_t *loop = uv_default_loop();
    union any listener;
    int fd;

    asked = read_arguments(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    fd = listen_by_hand(asked, SOCK_NONBLOCK);
    make(loop, &listener);
    if ((asked.unix_path != NULL ? uv_pipe_open(&listener.pipe, fd) : uv_tcp_open(&listener.tcp, fd)) < 0 ||
        uv_listen(&listener.stream, BACKLOG, on_connection) < 0)
        fail("uv_listen");
    announce(fd);
    return uv_run(loop, UV_RUN_DEFAULT);
}
