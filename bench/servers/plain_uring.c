/*
 * An echo server by hand on io_uring: one accept and, for each connection, one receive that go on (multishot), into a
 * ring of buffers that all share; what came is sent from its buffer, which then goes back. One thread; the sends of a
 * turn are submitted together. Descriptors are the ring's own.
 */
#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <liburing.h>
#include <stdint.h>
#include <sys/resource.h>

enum { ENTRIES = 512, COMPLETIONS = 8192, BUFFERS = 128, STRIDE = BUFFER + 64, NONE = -1 };
enum { ACCEPTED, RECEIVED, SENT, OTHER, KIND = 7 }; /* in the low bits of a client's pointer */

struct client {
    int fd, receiving, starved, ending;
    int first, last;            /* the buffers that wait to be sent; the first is being sent */
    struct client *next_starving;   /* of those that stopped for want of a buffer */
};

static struct asked asked;
static struct io_uring ring;
static struct io_uring_buf_ring *buffers;
static unsigned char *bytes;
static struct {
    int next;
    unsigned size;
} filled[BUFFERS];
static struct client *starving;
static int listener;

static struct io_uring_sqe *next(void)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring);

    if (entry == NULL) {
        io_uring_submit(&ring);
        entry = io_uring_get_sqe(&ring);
        if (entry == NULL)
            fail("the queue is full");
    }
    return entry;
}

static void mark(struct io_uring_sqe *entry, struct client *client, unsigned kind, unsigned flags)
{
    io_uring_sqe_set_flags(entry, flags);
    io_uring_sqe_set_data64(entry, (uint64_t)(uintptr_t)client | kind);
}

static void welcome(void)
{
    struct io_uring_sqe *entry = next();

    io_uring_prep_multishot_accept_direct(entry, listener, NULL, NULL, 0);
    mark(entry, NULL, ACCEPTED, 0);
}

static void receive(struct client *client)
{
    struct io_uring_sqe *entry = next();

    client->receiving = 1;
    if (asked.line)             /* most are one input long: nothing to be cancelled then */
        io_uring_prep_recv(entry, client->fd, NULL, BUFFER, 0);
    else
        io_uring_prep_recv_multishot(entry, client->fd, NULL, 0, 0);
    entry->buf_group = 0;
    mark(entry, client, RECEIVED, IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT);
}

static void send_first(struct client *client)
{
    struct io_uring_sqe *entry = next();

    io_uring_prep_send(entry, client->fd, bytes + (size_t)client->first * STRIDE, filled[client->first].size,
                       MSG_WAITALL | MSG_NOSIGNAL);
    mark(entry, client, SENT, IOSQE_FIXED_FILE);
}

/* Closes it as soon as nothing of it is under way; a receive is cancelled, and its end comes here again. */
static void shut(struct client *client)
{
    struct io_uring_sqe *entry;

    client->ending = 1;
    if (client->starved)
        return;
    entry = next();
    if (client->receiving) {
        io_uring_prep_cancel64(entry, (uint64_t)(uintptr_t)client | RECEIVED, 0);
        mark(entry, NULL, OTHER, IOSQE_CQE_SKIP_SUCCESS);
        return;
    }
    io_uring_prep_close_direct(entry, (unsigned)client->fd);
    mark(entry, NULL, OTHER, IOSQE_CQE_SKIP_SUCCESS);
    free(client);
}

/* A buffer that is free again feeds one that starved. */
static void give_back(int number)
{
    struct client *client = starving;

    io_uring_buf_ring_add(buffers, bytes + (size_t)number * STRIDE, BUFFER, (unsigned short)number,
                          io_uring_buf_ring_mask(BUFFERS), 0);
    io_uring_buf_ring_advance(buffers, 1);
    if (client == NULL)
        return;
    starving = client->next_starving;
    client->starved = 0;
    if (client->ending && client->first == NONE)
        shut(client);
    else if (!client->ending)
        receive(client);
}

static void on_accepted(const struct io_uring_cqe *came)
{
    struct client *client;

    if (!(came->flags & IORING_CQE_F_MORE))
        welcome();
    if (came->res < 0)
        return;
    client = calloc(1, sizeof *client);
    if (client == NULL)
        fail("calloc");
    client->fd = came->res;
    client->first = client->last = NONE;
    receive(client);
}

static void on_bytes(struct client *client, int number, unsigned size)
{
    filled[number].size = size;
    filled[number].next = NONE;
    if (client->ending) {
        give_back(number);
        return;
    }
    client->ending = ends(asked.line, bytes + (size_t)number * STRIDE, size);
    if (client->first != NONE) {
        filled[client->last].next = number;
        client->last = number;
        return;
    }
    client->first = client->last = number;
    send_first(client);
}

static void on_received(struct client *client, const struct io_uring_cqe *came)
{
    client->receiving = (came->flags & IORING_CQE_F_MORE) != 0;
    if (came->res > 0)
        on_bytes(client, (int)(came->flags >> IORING_CQE_BUFFER_SHIFT), (unsigned)came->res);
    if (client->receiving)
        return;
    if (came->res > 0 && !client->ending) {
        receive(client);
    } else if (came->res == -ENOBUFS && !client->ending) {
        client->starved = 1;
        client->next_starving = starving;
        starving = client;
    } else {
        client->ending = 1;
        if (client->first == NONE)
            shut(client);
    }
}

/* The kernel ends a send short only with the connection (MSG_WAITALL): what waits behind it is dropped. */
static void on_sent(struct client *client, int result)
{
    int number = client->first;
    int broken = result < 0 || (unsigned)result < filled[number].size;

    do {
        number = client->first;
        client->first = filled[number].next;
        give_back(number);
    } while (broken && client->first != NONE);
    if (client->first != NONE)
        send_first(client);
    else if (broken || client->ending)
        shut(client);
}

static void prepare(void)
{
    struct io_uring_params parameters;
    struct io_uring_buf_reg registration;
    struct rlimit files;

    memset(&parameters, 0, sizeof parameters);
    memset(&registration, 0, sizeof registration);
    parameters.cq_entries = COMPLETIONS;
    parameters.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE |
                       IORING_SETUP_SUBMIT_ALL;
    errno = -io_uring_queue_init_params(ENTRIES, &ring, &parameters);
    if (errno != 0)
        fail("io_uring_setup");
    io_uring_register_ring_fd(&ring);
    getrlimit(RLIMIT_NOFILE, &files);
    if (io_uring_register_files_sparse(&ring, (unsigned)files.rlim_cur) < 0)
        fail("io_uring_register_files");
    bytes = malloc((size_t)BUFFERS * STRIDE);
    if (bytes == NULL || posix_memalign((void **)&buffers, 4096, BUFFERS * sizeof(struct io_uring_buf)) != 0)
        fail("malloc");
    registration.ring_addr = (uint64_t)(uintptr_t)buffers;
    registration.ring_entries = BUFFERS;
    if (io_uring_register_buf_ring(&ring, &registration, 0) < 0)
        fail("io_uring_register_buf_ring");
    io_uring_buf_ring_init(buffers);
    for (int i = 0; i < BUFFERS; i++)
        give_back(i);
}

int main(int argc, char **argv)
{
    struct io_uring_cqe *came;

    asked = read_arguments(argc, argv);
    prepare();
    listener = listen_by_hand(asked, 0);
    announce(listener);
    welcome();
    for (;;) {
        unsigned head, count = 0;

        io_uring_submit_and_wait(&ring, 1);
        io_uring_for_each_cqe(&ring, head, came) {
            struct client *client = (struct client *)(uintptr_t)(came->user_data & ~(uint64_t)KIND);

            switch (came->user_data & KIND) {
            case ACCEPTED: on_accepted(came); break;
            case RECEIVED: on_received(client, came); break;
            case SENT: on_sent(client, came->res); break;
            default: break;
            }
            count++;
        }
        io_uring_cq_advance(&ring, count);
    }
}
