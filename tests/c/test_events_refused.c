/* Event servers on epoll and on io_uring: a write that is refused because of what other threads have written. */
#define _GNU_SOURCE
#include "backends.h"
#include "clients.h"

#include <sys/socket.h>
#include <unistd.h>

enum { RECORD = 1000, MOST = 64 * KILOBYTE };

/* Writes to the target until that is refused; how many bytes were taken. */
static size_t write_until_refused(oyez_conn target)
{
    static const char record[RECORD];
    size_t taken = 0;
    while (oyez_conn_write(target, record, RECORD) != -1)
        taken += RECORD;
    expect_keep();
    CHECK_ERROR(OYEZ_LIMIT_REACHED, ANY_ERRNO);
    return taken;
}

static size_t hold_and_write(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    held *own = user;
    (void)bytes;
    if (held_at(connection, own) && own->refused)
        own->bytes = write_until_refused(SEEN(own->target));
    return size;
}

static void hold_target_refused(int backend, int over, int by_the_function, int ended)
{
    static char bytes[MOST];
    held own = { .refused = by_the_function };
    oyez_events events = seen_events();
    oyez_server_options options = backend_options(backend, 1);
    options.max_output = MOST;
    events.on_data = hold_and_write;
    held_start(&own, over, &events, &options);
    CHECK_SOON(SEEN(own.all.opened) == 1);
    int client = serve_client(own.server);
    CHECK_SOON(SEEN(own.all.opened) == 2);
    __atomic_store_n(&own.target, SEEN(own.all.last), __ATOMIC_SEQ_CST);
    held_now(&own);
    size_t taken = write_until_refused(SEEN(own.target)); /* what is queued is in the inbox: the loop is held */
    CHECK(taken > 0 && taken <= MOST);
    if (ended)
        MUST(shutdown(client, SHUT_WR));
    gate_open(&own.at);
    CHECK_EQ_INT(client_receive(client, bytes, taken), taken);
    CHECK_SOON(SEEN(own.all.drained) > 0);
    MUST(close(client));
    held_end(&own);
}

static void refused_to_another_thread(int backend)
{
    for (int over = OVER_TCP; over <= OVER_UNIX; over++)
        hold_target_refused(backend, over, 0, 0);
}
ON_BOTH(refused_to_another_thread)

/* The peer has ended its side meanwhile: what on_drain adds would still be sent. */
static void refused_at_the_end(int backend)
{
    for (int over = OVER_TCP; over <= OVER_UNIX; over++)
        hold_target_refused(backend, over, 0, 1);
}
ON_BOTH(refused_at_the_end)

/* The same for the server's own function, which is refused because of what others have written. */
static void refused_because_of_another_thread(int backend)
{
    for (int over = OVER_TCP; over <= OVER_UNIX; over++)
        hold_target_refused(backend, over, 1, 0);
}
ON_BOTH(refused_because_of_another_thread)

static const check_case cases[] = {
    CASES(refused_to_another_thread),
    CASES(refused_at_the_end),
    CASES(refused_because_of_another_thread),
};

CHECK_MAIN(cases)
