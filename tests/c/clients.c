/* Clients: see clients.h. */
#define _GNU_SOURCE
#include "clients.h"
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { PATIENCE_S = 20 };

/* The errno of a connect that a signal interrupted. */
static int finish_connect(int fd)
{
    int number = 0;
    socklen_t size = sizeof number;
    struct pollfd wait = { fd, POLLOUT, 0 };
    while (poll(&wait, 1, PATIENCE_S * 1000) == -1 && errno == EINTR)
        ;
    MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &number, &size));
    return number;
}

static int patient_socket(int family)
{
    struct timeval patience = { PATIENCE_S, 0 };
    int fd = (int)MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience));
    return fd;
}

static int try_connect_by(int fd, const struct sockaddr *address, socklen_t size)
{
    int number = connect(fd, address, size) == 0 ? 0 : errno;
    if (number == EINTR) /* it goes on behind the scenes */
        number = finish_connect(fd);
    if (number == 0)
        return fd;
    close(fd);
    errno = number;
    return -1;
}

static int try_connect(const struct sockaddr *address, socklen_t size)
{
    return try_connect_by(patient_socket(address->sa_family), address, size);
}

/* An address of either family; its length. */
static socklen_t address_of(struct sockaddr_in6 *address, const char *text, int port)
{
    struct sockaddr_in *four = (struct sockaddr_in *)address;
    memset(address, 0, sizeof *address);
    address->sin6_port = htons((uint16_t)port); /* in the same place for IPv4 */
    if (inet_pton(AF_INET6, text, &address->sin6_addr) == 1) {
        address->sin6_family = AF_INET6;
        return sizeof *address;
    }
    CHECK(inet_pton(AF_INET, text, &four->sin_addr) == 1);
    four->sin_family = AF_INET;
    return sizeof *four;
}

int client_connect_from(const char *source, const char *target, int port)
{
    struct sockaddr_in6 address;
    socklen_t size = address_of(&address, source, 0);
    int fd = patient_socket(address.sin6_family);
    int on = 1;
    /* The port is chosen when it connects, by which many more are free. */
    MUST(setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on));
    MUST(bind(fd, (struct sockaddr *)&address, size));
    size = address_of(&address, target, port);
    return (int)MUST(try_connect_by(fd, (struct sockaddr *)&address, size));
}

int client_try(int port)
{
    struct sockaddr_in address = { 0 };
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return try_connect((struct sockaddr *)&address, sizeof address);
}

int client_try6(int port)
{
    struct sockaddr_in6 address = { 0 };
    address.sin6_family = AF_INET6;
    address.sin6_port = htons((uint16_t)port);
    address.sin6_addr = in6addr_loopback;
    return try_connect((struct sockaddr *)&address, sizeof address);
}

int client_try_unix(const char *path)
{
    struct sockaddr_un address = { 0 };
    size_t length = strlen(path);
    address.sun_family = AF_UNIX;
    CHECK(length < sizeof address.sun_path);
    memcpy(address.sun_path, path, length);
    if (path[0] == '@')
        address.sun_path[0] = '\0';
    length += offsetof(struct sockaddr_un, sun_path) + (path[0] != '@');
    return try_connect((struct sockaddr *)&address, (socklen_t)length);
}

int client_connect(int port)
{
    return (int)MUST(client_try(port));
}

int client_connect6(int port)
{
    return (int)MUST(client_try6(port));
}

int client_connect_unix(const char *path)
{
    return (int)MUST(client_try_unix(path));
}

void client_send(int fd, const void *bytes, size_t size)
{
    const char *at = bytes;
    while (size > 0) {
        ssize_t count = send(fd, at, size, MSG_NOSIGNAL);
        if (count == -1 && errno == EINTR)
            continue;
        MUST(count);
        at += count;
        size -= (size_t)count;
    }
}

void client_send_text(int fd, const char *text)
{
    client_send(fd, text, strlen(text));
}

size_t client_receive(int fd, void *bytes, size_t size)
{
    size_t have = 0;
    while (have < size) {
        ssize_t count = recv(fd, (char *)bytes + have, size - have, 0);
        if (count == -1 && errno == EINTR)
            continue;
        MUST(count);
        if (count == 0)
            break;
        have += (size_t)count;
    }
    return have;
}

void client_expect(int fd, const char *text)
{
    char have[4096];
    size_t size = strlen(text);
    CHECK(size < sizeof have);
    have[client_receive(fd, have, size)] = '\0';
    CHECK_STR_EQ(have, text);
}

int client_ending(int fd)
{
    char dropped[4096];
    ssize_t count;
    do
        count = recv(fd, dropped, sizeof dropped, 0);
    while (count > 0 || (count == -1 && errno == EINTR));
    return count == 0 ? 0 : errno;
}

void client_close(int fd)
{
    shutdown(fd, SHUT_WR);
    MUST(close(fd));
}

/* Not by SO_LINGER: a process that a server has forked here has a copy of the client, which would keep it open. */
void client_reset(int fd)
{
    struct sockaddr nowhere = { 0 };
    nowhere.sa_family = AF_UNSPEC;
    if (connect(fd, &nowhere, sizeof nowhere) == -1)
        CHECK(errno == EINVAL); /* a Unix socket: there is no reset */
    MUST(close(fd));
}

int client_readable(int fd, int ms)
{
    struct pollfd wait = { fd, POLLIN, 0 };
    return MUST(poll(&wait, 1, ms)) == 1;
}

int client_own_port(int fd)
{
    struct sockaddr_in6 address;
    socklen_t size = sizeof address;
    MUST(getsockname(fd, (struct sockaddr *)&address, &size));
    return ntohs(address.sin6_port); /* in the same place for IPv4 */
}

unsigned char client_byte(int who, size_t at)
{
    uint32_t mixed = (uint32_t)at * 2654435761u ^ (uint32_t)who * 40503u;
    return (unsigned char)(mixed >> 24 ^ mixed >> 11);
}

/* Many at once, on one thread. */

typedef struct speaker {
    int who;
    size_t sent;
    size_t received;
    size_t bytes;
} speaker;

static void speak(speaker *one, struct pollfd *wait)
{
    unsigned char text[4096];
    size_t size = one->bytes - one->sent < sizeof text ? one->bytes - one->sent : sizeof text;
    for (size_t i = 0; i < size; i++)
        text[i] = client_byte(one->who, one->sent + i);
    ssize_t count = send(wait->fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count == -1 && errno == EAGAIN)
        return;
    one->sent += (size_t)MUST(count);
    if (one->sent == one->bytes) {
        wait->events = POLLIN;
        MUST(shutdown(wait->fd, SHUT_WR));
    }
}

static void hear(speaker *one, struct pollfd *wait)
{
    unsigned char text[4096];
    ssize_t count = recv(wait->fd, text, sizeof text, MSG_DONTWAIT);
    if (count == -1 && errno == EAGAIN)
        return;
    MUST(count);
    for (ssize_t i = 0; i < count; i++)
        if (text[i] != client_byte(one->who, one->received + (size_t)i))
            check_fail(__FILE__, __LINE__, "client %d: byte %zu is wrong", one->who, one->received + (size_t)i);
    one->received += (size_t)count;
    if (count == 0) {
        CHECK_EQ_INT(one->received, one->bytes);
        MUST(close(wait->fd));
        wait->fd = -1;
    }
}

void client_echo_many(int port, int clients, size_t bytes)
{
    int open = clients;
    struct pollfd *waits = calloc((size_t)clients, sizeof *waits);
    speaker *all = calloc((size_t)clients, sizeof *all);
    for (int i = 0; i < clients; i++) {
        waits[i].fd = client_connect(port);
        waits[i].events = POLLIN | POLLOUT;
        all[i].who = i;
        all[i].bytes = bytes;
    }
    while (open > 0) {
        CHECK(MUST(poll(waits, (nfds_t)clients, PATIENCE_S * 1000)) > 0);
        for (int i = 0; i < clients; i++) {
            if (waits[i].fd != -1 && waits[i].revents & POLLOUT)
                speak(&all[i], &waits[i]);
            if (waits[i].fd != -1 && waits[i].revents & (POLLIN | POLLHUP | POLLERR))
                hear(&all[i], &waits[i]);
            open -= waits[i].fd == -1 && waits[i].revents != 0;
            waits[i].revents = 0;
        }
    }
    free(all);
    free(waits);
}

void client_echo_one_by_one(int port, int clients)
{
    char text[40];
    for (int i = 0; i < clients; i++) {
        int fd = client_connect(port);
        snprintf(text, sizeof text, "client %d\n", i);
        client_send_text(fd, text);
        MUST(shutdown(fd, SHUT_WR));
        client_expect(fd, text);
        CHECK_EQ_INT(client_ending(fd), 0);
        MUST(close(fd));
    }
}

void client_expect_bytes(int fd, int byte, size_t size)
{
    static unsigned char bytes[64 * 1024];
    while (size > 0) {
        size_t part = client_receive(fd, bytes, size < sizeof bytes ? size : sizeof bytes);
        CHECK(part > 0);
        for (size_t i = 0; i < part; i++)
            CHECK_EQ_INT(bytes[i], byte);
        size -= part;
    }
}

void client_await_arrival(int fd)
{
    int left = 1;
    CHECK_SOON(ioctl(fd, SIOCOUTQ, &left) == 0 && left == 0);
}

void client_check_stream(const unsigned char *bytes, size_t size, size_t at)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != client_byte(1, at + i))
            check_fail(__FILE__, __LINE__, "byte %zu is wrong", at + i);
}

size_t client_random(unsigned *state, size_t most)
{
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % (most + 1);
}
