/*
 * The engine on io_uring, which costs less than one on epoll: many sends go to the kernel in one call, and a receive is
 * asked for once for each connection (multishot) into buffers that all of them share. A line is a chain of five
 * operations, from socket(2) to close(2), on descriptors that only the ring knows.
 */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

enum {
    ENTRIES = 512,      /* of the queue of submissions */
    COMPLETIONS = 16384,
    GROUP = 8,          /* so many are handled, then their sends go out, so that none waits long after its clock */
    INPUTS = 1024 * 1024, MOST_BUFFERS = 1024, SMALLEST = 256, LARGEST = 64 * 1024, /* few, that they stay in the cache */
    LINE = 64,          /* of the cache; so far apart that not all buffers begin in one place of it */
    LINKS = 5
};

enum { RECEIVED, SENT, LINE_STEP, LINE_RECEIVED, LINE_CLOSED, KIND = 7 }; /* in the low bits of a pointer */

static struct io_uring ring;
static struct io_uring_buf_ring *buffers;
static unsigned char *inputs;   /* of the buffers; in the mode of lines, one for each connection */
static size_t buffer_size, stride;
static unsigned buffer_count;
static struct sockaddr_storage address;
static socklen_t address_size;

/* Its place among the connections, and in the ring's table of descriptors. */
static unsigned number_of(const struct connection *connection)
{
    return (unsigned)(connection - connections);
}

static struct io_uring_sqe *next(void)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring);

    if (entry == NULL) {
        int submitted = io_uring_submit(&ring);
        if (submitted < 0)
            fail("io_uring_enter: %s", strerror(-submitted));
        entry = io_uring_get_sqe(&ring);
        if (entry == NULL)
            fail("io_uring: the queue is full");
    }
    return entry;
}

/* A connection is at least 8 bytes aligned: its pointer has room for the kind. */
static void mark(struct io_uring_sqe *entry, struct connection *connection, unsigned kind, unsigned flags)
{
    io_uring_sqe_set_flags(entry, flags);
    io_uring_sqe_set_data64(entry, (uint64_t)(uintptr_t)connection | kind);
}

static void give_back(unsigned number)
{
    io_uring_buf_ring_add(buffers, inputs + number * stride, (unsigned)buffer_size, (unsigned short)number,
                          io_uring_buf_ring_mask(buffer_count), 0);
    io_uring_buf_ring_advance(buffers, 1);
}

static void prepare_buffers(void)
{
    struct io_uring_buf_reg registration;

    buffer_size = SMALLEST;
    while (buffer_size < asked.size * (size_t)asked.window && buffer_size < LARGEST)
        buffer_size *= 2;
    buffer_count = INPUTS / buffer_size < MOST_BUFFERS ? INPUTS / (unsigned)buffer_size : MOST_BUFFERS;
    memset(&registration, 0, sizeof registration);
    if (posix_memalign((void **)&buffers, 4096, buffer_count * sizeof(struct io_uring_buf)) != 0)
        fail("out of memory");
    stride = buffer_size + LINE;
    inputs = malloc(stride * buffer_count);
    if (inputs == NULL)
        fail("out of memory");
    registration.ring_addr = (uint64_t)(uintptr_t)buffers;
    registration.ring_entries = buffer_count;
    if (io_uring_register_buf_ring(&ring, &registration, 0) < 0)
        fail("io_uring has no ring of buffers here");
    io_uring_buf_ring_init(buffers);
    for (unsigned i = 0; i < buffer_count; i++)
        give_back(i);
}

static void prepare(void)
{
    struct io_uring_params parameters = {.cq_entries = COMPLETIONS,
                                         .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                                  IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL};
    int made = io_uring_queue_init_params(ENTRIES, &ring, &parameters);

    if (made < 0)
        fail("io_uring_setup: %s", strerror(-made));
    io_uring_register_ring_fd(&ring);
    if (io_uring_register_files_sparse(&ring, (unsigned)asked.connections) < 0)
        fail("io_uring has no table of descriptors here");
    if (!asked.line) {
        prepare_buffers();
        return;
    }
    inputs = malloc((asked.size + 1) * (size_t)asked.connections);
    if (inputs == NULL)
        fail("out of memory");
    address_size = server_address(&address);
}

static void receive(struct connection *connection)
{
    struct io_uring_sqe *entry = next();

    io_uring_prep_recv_multishot(entry, (int)number_of(connection), NULL, 0, 0);
    entry->buf_group = 0;
    mark(entry, connection, RECEIVED, IOSQE_BUFFER_SELECT | IOSQE_FIXED_FILE);
}

/* Of small messages no send can end short, and nothing needs to be told of it. */
static int fits(void)
{
    return asked.window == 1 || asked.size * (size_t)asked.window <= 16 * 1024;
}

static void pump(struct connection *connection)
{
    uint64_t rest = connection->goal - connection->sent;
    size_t size = rest < CHUNK ? (size_t)rest : CHUNK;
    struct io_uring_sqe *entry;

    if (size == 0 || connection->sending)
        return;
    entry = next();
    io_uring_prep_send(entry, (int)number_of(connection), to_send(connection), size,
                       MSG_WAITALL | MSG_NOSIGNAL);
    connection->sending = !fits() || rest > CHUNK;
    mark(entry, connection, SENT, IOSQE_FIXED_FILE | (connection->sending ? 0 : IOSQE_CQE_SKIP_SUCCESS));
    was_sent(connection, size);
}

static unsigned char *line_input(const struct connection *connection)
{
    return inputs + number_of(connection) * (asked.size + 1);
}

/* The whole life of a connection; the receive ends with the stream, since it waits for a byte more than is to come. */
static void line_begin(struct connection *connection)
{
    unsigned number = number_of(connection), linked = IOSQE_IO_HARDLINK | IOSQE_CQE_SKIP_SUCCESS;
    struct io_uring_sqe *entry;

    if (!may_start())
        return;
    if (io_uring_sq_space_left(&ring) < LINKS)
        io_uring_submit(&ring);
    begin_stream(connection, 0);
    connection->started[0] = now;
    entry = next();
    io_uring_prep_socket_direct(entry, address.ss_family, SOCK_STREAM, 0, number, 0);
    mark(entry, connection, LINE_STEP, linked);
    entry = next();
    io_uring_prep_connect(entry, (int)number, (struct sockaddr *)&address, address_size);
    mark(entry, connection, LINE_STEP, linked | IOSQE_FIXED_FILE);
    entry = next();
    io_uring_prep_send(entry, (int)number, to_send(connection), asked.size, MSG_WAITALL | MSG_NOSIGNAL);
    mark(entry, connection, LINE_STEP, linked | IOSQE_FIXED_FILE);
    entry = next();
    io_uring_prep_recv(entry, (int)number, line_input(connection), asked.size + 1, MSG_WAITALL);
    mark(entry, connection, LINE_RECEIVED, IOSQE_IO_HARDLINK | IOSQE_FIXED_FILE);
    entry = next();
    io_uring_prep_close_direct(entry, number);
    mark(entry, connection, LINE_CLOSED, 0);
}

static void begin(struct connection *connection)
{
    if (asked.line) {
        line_begin(connection);
        return;
    }
    if (io_uring_register_files_update(&ring, number_of(connection), &connection->fd, 1) < 0)
        fail("io_uring_register_files_update");
    receive(connection);
}

static void echo_received(struct connection *connection, const struct io_uring_cqe *came)
{
    if (came->res == 0)
        fail("the server closed a connection");
    if (came->res < 0 && came->res != -ENOBUFS)
        fail("recv: %s", strerror(-came->res));
    if (came->res > 0) {
        unsigned number = came->flags >> IORING_CQE_BUFFER_SHIFT;
        arrived(connection, inputs + number * stride, (size_t)came->res);
        give_back(number);
        pump(connection);
    }
    if (!(came->flags & IORING_CQE_F_MORE))
        receive(connection);
}

static void came_back(const struct io_uring_cqe *came)
{
    struct connection *connection = (struct connection *)(uintptr_t)(came->user_data & ~(uint64_t)KIND);
    unsigned kind = (unsigned)came->user_data & KIND;

    if (kind == RECEIVED) {
        echo_received(connection, came);
        return;
    }
    if (came->res < 0)
        fail("%s: %s", kind == SENT ? "send" : "a step of a line", strerror(-came->res));
    if (kind == SENT) {
        connection->sending = 0;
        pump(connection);
    } else if (kind == LINE_RECEIVED) {
        line_arrived(connection, line_input(connection), (size_t)came->res);
        line_ended(connection);
    } else if (kind == LINE_CLOSED) {
        line_begin(connection);
    }
}

/* What has come is taken in groups, each with its own reading of the clock. */
static void turn(void)
{
    struct __kernel_timespec longest = {.tv_sec = GIVE_UP_SECONDS};
    struct io_uring_cqe *came[GROUP];
    int waited = io_uring_submit_and_wait_timeout(&ring, came, 1, &longest, NULL);
    unsigned count;

    if (waited == -ETIME)
        fail("nothing came back for %d seconds", GIVE_UP_SECONDS);
    if (waited < 0 && waited != -EINTR)
        fail("io_uring_enter: %s", strerror(-waited));
    now = clock_ns(CLOCK_MONOTONIC);
    while ((count = io_uring_peek_batch_cqe(&ring, came, GROUP)) > 0) {
        for (unsigned i = 0; i < count; i++)
            came_back(came[i]);
        io_uring_cq_advance(&ring, count);
        if (count == GROUP) {
            io_uring_submit(&ring);
            now = clock_ns(CLOCK_MONOTONIC);
        }
    }
}

const struct engine uring_engine = {"io_uring", prepare, begin, pump, turn};
