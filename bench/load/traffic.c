/* What is said and what must come back: the streams' bytes, the messages in them, and how long each took. */
#define _GNU_SOURCE
#include "load.h"

#include <stdlib.h>
#include <string.h>

enum { PARTS = 128, POWERS = 40 };

uint64_t now, completed;
int served;

static unsigned char pattern[PERIOD + CHUNK]; /* repeats after PERIOD bytes */
static uint64_t histogram[POWERS * PARTS];
static long left;

void make_traffic(void)
{
    uint32_t random = 1;

    for (size_t i = 0; i < PERIOD; i++) {
        random = random * 1664525u + 1013904223u;
        pattern[i] = (unsigned char)(random >> 24);
        if (asked.line && pattern[i] == '\n')
            pattern[i] = ' ';
    }
    if (asked.line)
        pattern[asked.size - 1] = '\n';
    for (size_t i = PERIOD; i < sizeof pattern; i++)
        pattern[i] = pattern[i - PERIOD];
    left = asked.messages;
}

/* `size` is most often less than the pattern. */
static uint16_t further(uint16_t at, size_t size)
{
    size_t next = at + size;

    return (uint16_t)(next < PERIOD ? next : next % PERIOD);
}

void begin_stream(struct connection *connection, size_t at)
{
    connection->send_at = connection->receive_at = further(0, at);
    connection->sent = connection->goal = connection->received = 0;
    connection->end = asked.size;
}

const unsigned char *to_send(const struct connection *connection)
{
    return pattern + connection->send_at;
}

void was_sent(struct connection *connection, size_t size)
{
    connection->sent += size;
    connection->send_at = further(connection->send_at, size);
}

int may_start(void)
{
    return asked.messages == 0 || left-- > 0;
}

static uint16_t after(uint16_t message)
{
    return message + 1 == asked.window ? 0 : message + 1;
}

void start(struct connection *connection)
{
    if (!may_start())
        return;
    connection->started[connection->newest] = now;
    connection->newest = after(connection->newest);
    connection->goal += asked.size;
}

/* The histogram has PARTS steps to each power of two, so that a step is less than one in a hundred. */
static void record(uint64_t nanoseconds)
{
    unsigned power = 0;

    while (nanoseconds >= 2 * PARTS) {
        nanoseconds >>= 1;
        power++;
    }
    histogram[nanoseconds < PARTS ? nanoseconds : (power + 1) * PARTS + (nanoseconds - PARTS)]++;
    completed++;
}

double quantile_us(double part)
{
    uint64_t rank = (uint64_t)(part * (double)completed), seen = 0;

    for (size_t i = 0; i < POWERS * PARTS; i++) {
        seen += histogram[i];
        if (seen > rank) {
            double step = i < PARTS ? 1 : (double)((uint64_t)1 << (i / PARTS - 1));
            double low = i < PARTS ? (double)i : (double)(PARTS + i % PARTS) * step;
            return (low + step / 2) / 1000;
        }
    }
    return 0;
}

void forget_times(void)
{
    memset(histogram, 0, sizeof histogram);
    completed = 0;
}

static void check(struct connection *connection, const unsigned char *bytes, size_t size)
{
    if (memcmp(bytes, pattern + connection->receive_at, size) != 0)
        fail("other bytes came back than were sent, within %zu from byte %llu of a stream", size,
             (unsigned long long)connection->received);
    connection->received += size;
    connection->receive_at = further(connection->receive_at, size);
}

/* Each message that is complete starts the next one; the engine then pumps. At most CHUNK bytes at a time. */
void arrived(struct connection *connection, const unsigned char *bytes, size_t size)
{
    if (connection->received + size > connection->sent)
        fail("more bytes came back than were sent");
    served += connection->received < asked.size && connection->received + size >= asked.size;
    check(connection, bytes, size);
    while (connection->received >= connection->end) {
        record(now - connection->started[connection->oldest]);
        connection->oldest = after(connection->oldest);
        connection->end += asked.size;
        start(connection);
    }
}

void line_arrived(struct connection *connection, const unsigned char *bytes, size_t size)
{
    if (connection->received + size > asked.size)
        fail("more bytes came back than were sent");
    check(connection, bytes, size);
}

void line_ended(struct connection *connection)
{
    if (connection->received != asked.size)
        fail("%llu bytes came back of a line of %zu", (unsigned long long)connection->received, asked.size);
    record(now - connection->started[0]);
}
