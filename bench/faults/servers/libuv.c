/* On libuv. A signal closes the listener; the loop ends with the last connection, or with the drain time. */
#define _GNU_SOURCE
#include "subject.h"

#include <uv.h>

struct client {
    uv_tcp_t of;
    struct input input;
    int ending;
};

static struct asked asked;
static uv_tcp_t listener;
static uv_signal_t watcher;
static uv_timer_t timer;
static char buffer[INPUT];

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
    if (!uv_is_closing((uv_handle_t *)&client->of))
        uv_close((uv_handle_t *)&client->of, on_closed);
}

static void on_written(uv_write_t *request, int status)
{
    struct client *client = request->handle->data;

    free(request);
    if (status < 0 || client->ending)
        end(client);
}

static void answer(struct client *client, enum request request)
{
    uv_write_t *write = malloc(sizeof *write);
    uv_buf_t parts[2];

    if (write == NULL)
        fail("malloc");
    client->ending = request != PING;
    parts[0] = request == PING   ? uv_buf_init((char *)(size_t)pong, sizeof pong - 1)
               : request == ONCE ? uv_buf_init((char *)(size_t)done, sizeof done - 1)
                                 : uv_buf_init((char *)(size_t)head, sizeof head - 1);
    parts[1] = uv_buf_init(big, sizeof big);
    if (uv_write(write, (uv_stream_t *)&client->of, parts, request == WHOLE ? 2 : 1, on_written) < 0) {
        free(write);
        end(client);
    }
}

static void on_data(uv_stream_t *stream, ssize_t got, const uv_buf_t *bytes)
{
    struct client *client = stream->data;
    enum request request;

    if (got == 0)
        return;
    if (got < 0 || !input_add(&client->input, bytes->base, (size_t)got)) {
        end(client);
        return;
    }
    while (!client->ending && (request = input_take(&client->input)) != NOTHING)
        answer(client, request);
}

static void on_connection(uv_stream_t *stream, int status)
{
    struct client *client;

    if (status < 0) {
        fprintf(stderr, "accept: %s\n", uv_strerror(status));
        return;
    }
    client = calloc(1, sizeof *client);
    if (client == NULL)
        fail("calloc");
    uv_tcp_init(stream->loop, &client->of);
    client->of.data = client;
    if (uv_accept(stream, (uv_stream_t *)&client->of) < 0)
        end(client);
    else
        uv_read_start((uv_stream_t *)&client->of, on_buffer, on_data);
}

static void on_timer(uv_timer_t *handle)
{
    uv_stop(handle->loop);
}

static void on_signal(uv_signal_t *handle, int number)
{
    (void)number;
    uv_close((uv_handle_t *)&listener, NULL);
    uv_close((uv_handle_t *)handle, NULL);
    uv_timer_start(&timer, on_timer, (uint64_t)asked.drain_ms, 0);
    uv_unref((uv_handle_t *)&timer);
}

int main(int argc, char **argv)
{
    uv_loop_t *loop = uv_default_loop();
    struct sockaddr_in address;

    asked = read_arguments(argc, argv);
    address = address_of(asked);
    uv_signal_init(loop, &watcher);
    uv_signal_start(&watcher, on_signal, SIGTERM);
    uv_timer_init(loop, &timer);
    uv_tcp_init(loop, &listener);
    uv_tcp_nodelay(&listener, 1);
    if (uv_tcp_bind(&listener, (struct sockaddr *)&address, 0) < 0 ||
        uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection) < 0)
        fail("uv_listen");
    uv_run(loop, UV_RUN_DEFAULT);
    return 0;
}
