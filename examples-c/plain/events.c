/*
 * events on plain sockets: one thread and epoll(7) send whole lines back. See ../events.c.
 *
 *     ./events 9000                    a port of 127.0.0.1
 */
#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_INPUT = 1 << 20,    /* the longest line */
    MAX_OUTPUT = 4 << 20,   /* what may be queued for a client that does not read */
    IDLE_SECONDS = 60,
    DRAIN_SECONDS = 5,
    EVENTS_AT_ONCE = 64
};

struct client {
    struct client *next, *previous;
    int fd;
    uint32_t watched;       /* what epoll is asked for */
    int ended;              /* the client has sent its last */
    const char *over;       /* why it is to be closed */
    time_t active;
    unsigned long lines;
    char peer[32];
    size_t input_size, output_start, output_size;
    char input[MAX_INPUT];
    char output[MAX_OUTPUT];
};

/* The ring of all clients, and the two other things that epoll tells of, by their addresses. */
static struct client clients = { .next = &clients, .previous = &clients };
static int listener = -1, signals = -1, epoll = -1;
static int somebody_is_over;

static void die(const char *call)
{
    perror(call);
    exit(1);
}

static time_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

static void watch(int fd, void *what)
{
    struct epoll_event event = { EPOLLIN, { .ptr = what } };

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

static void listen_on(const char *port)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int on = 1;

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)atoi(port));

    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0)
        die("socket");
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        die("setsockopt");
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        die("bind");
    if (listen(listener, SOMAXCONN) < 0)
        die("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        die("getsockname");
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

static void accept_all(void)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int fd, on = 1;

    while ((fd = accept4(listener, (struct sockaddr *)&address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct client *client = calloc(1, sizeof *client);
        if (client == NULL) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        client->fd = fd;
        client->watched = EPOLLIN;
        client->active = now();
        snprintf(client->peer, sizeof client->peer, "%s:%d", inet_ntoa(address.sin_addr), ntohs(address.sin_port));
        client->next = clients.next;
        client->previous = &clients;
        clients.next->previous = client;
        clients.next = client;
        watch(fd, client);
        length = sizeof address;
    }
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        perror("accept");
}

/* Sends what the kernel takes of what is queued. */
static void send_some(struct client *client)
{
    while (client->output_size > 0) {
        ssize_t sent = send(client->fd, client->output + client->output_start, client->output_size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0) {
            if (errno != EAGAIN)
                client->over = strerror(errno);
            return;
        }
        client->active = now();
        client->output_start += (size_t)sent;
        client->output_size -= (size_t)sent;
    }
    client->output_start = 0;
}

/* Queues the whole lines among the input, if there is room for them. */
static void answer(struct client *client)
{
    size_t whole = client->input_size;

    while (whole > 0 && client->input[whole - 1] != '\n')
        whole--;
    if (whole == 0 && client->input_size == MAX_INPUT)
        client->over = "the line is too long";
    if (whole == 0 || whole > MAX_OUTPUT - client->output_size)
        return;
    for (size_t i = 0; i < whole; i++)
        client->lines += client->input[i] == '\n';
    memmove(client->output, client->output + client->output_start, client->output_size);
    client->output_start = 0;
    memcpy(client->output + client->output_size, client->input, whole);
    client->output_size += whole;
    memmove(client->input, client->input + whole, client->input_size - whole);
    client->input_size -= whole;
    send_some(client);
}

static void receive_some(struct client *client)
{
    ssize_t size = recv(client->fd, client->input + client->input_size, MAX_INPUT - client->input_size, 0);

    if (size > 0) {
        client->active = now();
        client->input_size += (size_t)size;
        answer(client);
    } else if (size == 0) {
        client->ended = 1;
    } else if (errno != EAGAIN && errno != EINTR) {
        client->over = strerror(errno);
    }
}

/* Nothing is read while there is no room for it, and room to send is asked for only where something waits. */
static void watch_again(struct client *client)
{
    struct epoll_event event = { 0, { .ptr = client } };

    if (!client->ended && client->input_size < MAX_INPUT)
        event.events |= EPOLLIN;
    if (client->output_size > 0)
        event.events |= EPOLLOUT;
    if (event.events != client->watched && epoll_ctl(epoll, EPOLL_CTL_MOD, client->fd, &event) < 0)
        die("epoll_ctl");
    client->watched = event.events;
}

static void on_client(struct client *client, uint32_t happened)
{
    if (happened & EPOLLOUT) {
        send_some(client);
        answer(client);
    }
    if (happened & (EPOLLIN | EPOLLHUP | EPOLLERR) && client->over == NULL && client->input_size < MAX_INPUT)
        receive_some(client);
    if (client->ended && client->output_size == 0 && client->over == NULL)
        client->over = "the peer has ended the stream";
    if (client->over == NULL)
        watch_again(client);
    else
        somebody_is_over = 1;
}

static void close_client(struct client *client)
{
    printf("%s: %lu lines; %s\n", client->peer, client->lines, client->over);
    fflush(stdout);
    client->next->previous = client->previous;
    client->previous->next = client->next;
    close(client->fd);
    free(client);
}

/* Closes those that are over: not sooner, because another event of the same turn may speak of one. */
static void close_those_over(time_t stop)
{
    static time_t looked;
    struct client *client = clients.next;
    time_t time = now();

    if (!somebody_is_over && stop == 0 && time == looked)
        return;
    somebody_is_over = 0;
    looked = time;
    while (client != &clients) {
        struct client *next = client->next;
        if (time - client->active >= IDLE_SECONDS)
            client->over = "the connection was silent for too long";
        if (stop > 0 && (time >= stop || client->output_size + client->input_size == 0))
            client->over = "the server stops";
        if (client->over != NULL)
            close_client(client);
        client = next;
    }
}

static void begin_to_stop(time_t *stop)
{
    struct signalfd_siginfo signal;

    if (read(signals, &signal, sizeof signal) != (ssize_t)sizeof signal)
        return;
    if (*stop == 0) {
        accept_all();
        close(listener);
        *stop = now() + DRAIN_SECONDS;
    } else {
        *stop = now();
    }
}

int main(int argc, char **argv)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    time_t stop = 0;
    sigset_t handled;

    /* The signals come as something to read, and nowhere else. */
    sigemptyset(&handled);
    sigaddset(&handled, SIGINT);
    sigaddset(&handled, SIGTERM);
    sigprocmask(SIG_BLOCK, &handled, NULL);
    signals = signalfd(-1, &handled, SFD_NONBLOCK | SFD_CLOEXEC);
    if (signals < 0)
        die("signalfd");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        die("epoll_create1");
    listen_on(argc > 1 ? argv[1] : "9000");
    watch(listener, &listener);
    watch(signals, &signals);

    while (stop == 0 || clients.next != &clients) {
        int count = epoll_wait(epoll, events, EVENTS_AT_ONCE, 1000);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            void *what = events[i].data.ptr;
            if (what == &signals)
                begin_to_stop(&stop);
            else if (what != &listener)
                on_client(what, events[i].events);
            else if (stop == 0)
                accept_all();
        }
        close_those_over(stop);
    }
    printf("stopped\n");
    return 0;
}
