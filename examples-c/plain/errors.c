/*
 * errors on plain sockets: makes calls that must fail, and prints what the system tells about each. See ../errors.c.
 *
 *     ./errors 0                       a port of 127.0.0.1
 *
 * What is left out: the hints, the caret, and the faults that getaddrinfo(3) does not see. "65536" may well be taken as
 * port 0, which listens at a port of the kernel's choice.
 */
#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void print_error(const char *operation, int error_number)
{
    printf("  %-11s%d %s\n", "errno", error_number, strerror(error_number));
    printf("  %-11s%s\n", "operation", operation);
}

/* Listens at an address; what fails is printed, with its errno, and -1 returned. */
static int listen_at(int family, const struct sockaddr *address, socklen_t length)
{
    int on = 1;
    int listener = socket(family, SOCK_STREAM, 0);

    if (listener < 0) {
        print_error("socket", errno);
        return -1;
    }
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0) {
        print_error("setsockopt", errno);
        close(listener);
        return -1;
    }
    if (bind(listener, address, length) < 0) {
        print_error("bind", errno);
        close(listener);
        return -1;
    }
    if (listen(listener, SOMAXCONN) < 0) {
        print_error("listen", errno);
        close(listener);
        return -1;
    }
    return listener;
}

static int listen_inet(const char *host, const char *port)
{
    struct addrinfo hints, *found;
    int listener, error;

    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_INET;
    hints.ai_socktype = SOCK_STREAM;
    error = getaddrinfo(host, port, &hints, &found);
    if (error != 0) {
        printf("  %-11s%d %s\n  %-11s%s\n", "error", error, gai_strerror(error), "operation", "getaddrinfo");
        return -1;
    }
    listener = listen_at(found->ai_family, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return listener;
}

static int listen_unix(const char *path)
{
    struct sockaddr_un address;

    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address.sun_path) {
        print_error("strlen", ENAMETOOLONG);
        return -1;
    }
    strcpy(address.sun_path, path);
    return listen_at(AF_UNIX, (struct sockaddr *)&address, sizeof address);
}

static void try_to_listen(const char *host, const char *port)
{
    int listener;

    printf("\n%s%s%s\n", host, *port ? ":" : "", port);
    listener = *port ? listen_inet(host, port) : listen_unix(host);
    if (listener >= 0) {
        printf("  listens\n");
        close(listener);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    struct pollfd waiting;
    char port[8];
    int listener = listen_inet("127.0.0.1", argc > 1 ? argv[1] : "0");

    if (listener < 0)
        return 1;
    if (getsockname(listener, (struct sockaddr *)&address, &length) < 0) {
        perror("getsockname");
        return 1;
    }
    snprintf(port, sizeof port, "%d", ntohs(address.sin_port));
    printf("listening on 127.0.0.1:%s\n", port);
    fflush(stdout);

    try_to_listen("127.0.0.1", "65536");
    try_to_listen("127.0.0.1", port);
    try_to_listen("192.0.2.1", "9000");
    try_to_listen("localhost", "no-such-service");
    try_to_listen("/etc/passwd", "");
    try_to_listen("/no/such/folder/app.sock", "");

    printf("\naccept, and nobody comes\n");
    waiting.fd = listener;
    waiting.events = POLLIN;
    if (poll(&waiting, 1, 100) == 0)
        printf("  timed out\n");
    close(listener);
    return 0;
}
