/* Event servers: what the kernel does at the edges of a stream. */
#define _GNU_SOURCE
#include "clients.h"
#include "serving.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MEGABYTE = 1024 * 1024 };

/* Sends a descriptor of no use with some bytes: a read that comes to it ends there. */
static void send_with_descriptor(int client, const char *text)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct iovec part = { (void *)(size_t)text, strlen(text) };
    struct msghdr message = { 0 };
    int passed = 2;
    memset(&control, 0, sizeof control);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof passed);
    memcpy(CMSG_DATA(header), &passed, sizeof passed);
    CHECK_EQ_INT(MUST(sendmsg(client, &message, MSG_NOSIGNAL)), strlen(text));
}

static void descriptors_that_nobody_asked_for(void)
{
    seen all = { 0 };
    oyez_events events = seen_events();
    served server = serve_events(OVER_UNIX, &events, &all, NULL);
    int client = serve_client(server);
    CHECK_SOON(SEEN(all.opened) == 1);
    int before = check_descriptors();
    CHECK_WORKS(oyez_conn_pause(all.last));
    client_send_text(client, "a");
    send_with_descriptor(client, "bc");
    client_send_text(client, "def");
    CHECK_WORKS(oyez_conn_resume(all.last));
    CHECK_SOON(SEEN(all.bytes) == 6);
    CHECK_EQ_INT(check_descriptors(), before);
    MUST(close(client));
    serve_end(server);
}

/* The user of a server that answers the first byte with much, and closes. */
typedef struct answer {
    char *bytes;
    size_t size;
} answer;

static size_t answer_and_close(oyez_conn connection, const uint8_t *bytes, size_t size, void *user)
{
    answer *much = user;
    (void)bytes;
    CHECK_EQ_INT(oyez_conn_write(connection, much->bytes, much->size), much->size);
    CHECK_WORKS(oyez_conn_close(connection));
    return size;
}

/* The client does not read before it has sent everything, and the server has closed long before. */
static void a_client_that_sends_first(int over)
{
    answer much = { calloc(1, 8 * MEGABYTE), 8 * MEGABYTE };
    char *back = malloc(much.size);
    oyez_events events = OYEZ_EVENTS_INIT;
    CHECK(much.bytes != NULL && back != NULL);
    memset(much.bytes, 'x', much.size);
    events.on_data = answer_and_close;
    served server = serve_events(over, &events, &much, NULL);
    int client = serve_client(server);
    client_send(client, much.bytes, much.size);
    client_send(client, much.bytes, much.size);
    CHECK_EQ_INT(client_receive(client, back, much.size), much.size);
    CHECK(memcmp(back, much.bytes, much.size) == 0);
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    serve_end(server);
    free(much.bytes);
    free(back);
}

static void a_client_that_sends_before_it_reads(void)
{
    a_client_that_sends_first(OVER_TCP);
}

static void a_local_client_that_sends_before_it_reads(void)
{
    a_client_that_sends_first(OVER_UNIX);
}

static const check_case cases[] = {
    CASE(descriptors_that_nobody_asked_for),
    CASE(a_client_that_sends_before_it_reads),
    CASE(a_local_client_that_sends_before_it_reads),
};
CHECK_MAIN(cases)
