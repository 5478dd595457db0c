/* On oyez with a handler: threads, sequential, processes. */
#define _GNU_SOURCE
#include "oyez_subject.h"

/* Whether the connection stays. */
static int answer(oyez_conn client, enum request request)
{
    switch (request) {
    case PING: return oyez_conn_write(client, pong, sizeof pong - 1) > 0;
    case ONCE: oyez_conn_write(client, done, sizeof done - 1); return 0;
    default:
        if (oyez_conn_write(client, head, sizeof head - 1) > 0)
            oyez_conn_write(client, big, sizeof big);
        return 0;
    }
}

static void serve(oyez_conn client, void *user)
{
    struct input input = {{0}, 0};
    char bytes[INPUT];
    ssize_t got;

    (void)user;
    while ((got = oyez_conn_read(client, bytes, sizeof bytes)) > 0) {
        enum request request;
        if (!input_add(&input, bytes, (size_t)got))
            return;
        while ((request = input_take(&input)) != NOTHING)
            if (!answer(client, request))
                return;
    }
}

int main(int argc, char **argv)
{
    struct asked asked = read_arguments(argc, argv);
    oyez_server_options options = options_of(asked);

    options.model = strcmp(asked.model, "sequential") == 0  ? OYEZ_SEQUENTIAL
                    : strcmp(asked.model, "processes") == 0 ? OYEZ_PROCESSES
                                                            : OYEZ_THREADS;
    return run(oyez_server_new(serve, NULL, &options), asked);
}
