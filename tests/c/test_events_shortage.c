/* Event servers whose output the kernel has no memory for: that is tried again for two seconds.

   No kernel can be made short of memory for one socket, so that send(2) is this program's own here: oyez finds this one
   in the place of libc's. Through io_uring output does not pass it, but for much that is written while nothing waits:
   there a shortage can begin, and what follows is the ring's. */
#define _GNU_SOURCE
#include "backends.h"
#include "clients.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct shortage {
    seen all;
    int fd; /* of the connection that has opened first: the only one that is short */
    int number;
    int refusals; /* that are yet to come */
    int refused;
    size_t written;
    size_t part; /* written for each 'x' */
} shortage;

static shortage own;

ssize_t send(int fd, const void *bytes, size_t size, int flags)
{
    if (fd == SEEN(own.fd) && SEEN(own.refusals) > 0) {
        __atomic_sub_fetch(&own.refusals, 1, __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&own.refused, 1, __ATOMIC_SEQ_CST);
        errno = own.number;
        return -1;
    }
    return sendto(fd, bytes, size, flags, NULL, 0);
}

static void keep_the_first(oyez_conn connection, void *user)
{
    if (own.fd == -1)
        __atomic_store_n(&own.fd, (int)CHECK_WORKS(oyez_conn_fd(connection)), __ATOMIC_SEQ_CST);
    seen_open(connection, user);
}

static size_t write_a_part(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    static uint8_t part[MEGABYTE];
    if (bytes[0] != 'x')
        return serve_echo_data(connection, bytes, size, user);
    for (size_t i = 0; i < own.part; i++)
        part[i] = client_byte(1, own.written + i);
    CHECK_WORKS(oyez_conn_write(connection, part, own.part));
    own.written += own.part;
    return seen_data(connection, bytes, size, user);
}

/* Returns the client of the connection that is going to be short. */
static int start(served *server, int backend, int number, size_t part)
{
    oyez_events events = seen_events();
    oyez_server_options options = backend_options(backend, 1);
    own = (shortage){ .fd = -1, .number = number, .part = part };
    events.on_open = keep_the_first;
    events.on_data = write_a_part;
    *server = serve_events(OVER_TCP, &events, &own, &options);
    int client = serve_client(*server);
    CHECK_SOON(SEEN(own.all.opened) == 1);
    return client;
}

static void ask(int client)
{
    size_t before = SEEN(own.all.bytes);
    client_send_text(client, "x");
    CHECK_SOON(SEEN(own.all.bytes) == before + 1);
}

static void expect_stream(int client, size_t from, size_t size)
{
    static unsigned char bytes[MEGABYTE];
    CHECK_EQ_INT(client_receive(client, bytes, size), size);
    client_check_stream(bytes, size, from);
}

static void refuse(int times)
{
    __atomic_store_n(&own.refusals, times, __ATOMIC_SEQ_CST);
}

static void end(served server, int client)
{
    MUST(close(client));
    CHECK_SOON(SEEN(own.all.closed) == 1);
    CHECK_EQ_INT(own.all.code, OYEZ_CLOSED);
    CHECK_EQ_INT(own.all.number, 0);
    __atomic_store_n(&own.fd, -1, __ATOMIC_SEQ_CST);
    serve_end(server);
}

/* It passes. */

static void refused_at_once(int backend, int number, int times)
{
    enum { PART = 50000 };
    served server;
    int client = start(&server, backend, number, PART);
    ask(client);
    expect_stream(client, 0, PART);
    refuse(times);
    ask(client); /* refused in the program's own call */
    CHECK(SEEN(own.refused) >= 1);
    expect_stream(client, PART, PART);
    CHECK_EQ_INT(own.refused, times);
    ask(client); /* as before */
    expect_stream(client, 2 * PART, PART);
    end(server, client);
}

static void short_of_memory_for_a_while(int backend)
{
    int times = backend == OYEZ_BACKEND_EPOLL ? 5 : 1; /* the ring's sends are not refused */
    refused_at_once(backend, ENOBUFS, times);
    refused_at_once(backend, ENOMEM, times);
}
ON_BOTH(short_of_memory_for_a_while)

/* What the kernel took no more of is refused when there is room for it. */
static void short_of_memory_when_there_is_room(void)
{
    enum { TIMES = 5, PARTS = 12 }; /* more than all buffers hold */
    served server;
    int client = start(&server, OYEZ_BACKEND_EPOLL, ENOBUFS, MEGABYTE);
    for (int i = 0; i < PARTS; i++)
        ask(client);
    refuse(TIMES);
    for (int i = 0; i < PARTS; i++)
        expect_stream(client, (size_t)i * MEGABYTE, MEGABYTE);
    CHECK_EQ_INT(own.refused, TIMES);
    CHECK_SOON(SEEN(own.all.drained) == 1);
    end(server, client);
}

/* It stays: the connection is reset with that reason, and others have not noticed. */
static void stay_short(int number)
{
    enum { PART = 50000, MANY = 1000000 };
    served server;
    int client = start(&server, OYEZ_BACKEND_EPOLL, number, PART);
    int other = serve_client(server);
    ask(client);
    refuse(MANY);
    long long begin = check_now_ms();
    ask(client);
    for (int i = 0; i < 10; i++) {
        client_send_text(other, "others");
        client_expect(other, "others");
    }
    expect_stream(client, 0, PART);
    CHECK_EQ_INT(client_ending(client), ECONNRESET);
    CHECK_TOOK(begin, 1900, 10000);
    CHECK_SOON(SEEN(own.all.closed) == 1);
    CHECK_EQ_INT(own.all.code, OYEZ_LIMIT_REACHED);
    if (number == ENOBUFS)
        CHECK_EQ_INT(own.all.number, ENOBUFS);
    CHECK_EQ_INT(own.all.drained, 0);
    CHECK(own.refused > 5 && own.refused < 100); /* it is tried again now and then, not all the time */
    check_note("tried %d times", own.refused);
    client_send_text(other, "others");
    client_expect(other, "others");
    MUST(close(client));
    MUST(close(other));
    __atomic_store_n(&own.fd, -1, __ATOMIC_SEQ_CST);
    serve_end(server);
}

static void short_of_memory_for_too_long(void)
{
    stay_short(ENOBUFS);
}

static void short_of_memory_for_too_long_by_another_name(void)
{
    stay_short(ENOMEM);
}

static const check_case cases[] = {
    CASES(short_of_memory_for_a_while),
    CASE(short_of_memory_when_there_is_room),
    CASE(short_of_memory_for_too_long),
    CASE(short_of_memory_for_too_long_by_another_name),
};

CHECK_MAIN(cases)
