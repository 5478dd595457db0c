/*
 * The loop of the tutorials: accept, and a thread for each client. Upon a signal it closes the listener and waits for
 * the threads.
 */
#define _GNU_SOURCE
#include "subject.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <time.h>

static volatile sig_atomic_t stopped;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static int clients;

static void stop(int number)
{
    (void)number;
    stopped = 1;
}

static int write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, bytes, size);
        if (written < 0)
            return 0;
        bytes += written;
        size -= (size_t)written;
    }
    return 1;
}

/* Whether the connection stays. */
static int answer(int fd, enum request request)
{
    switch (request) {
    case PING: return write_all(fd, pong, sizeof pong - 1);
    case ONCE: write_all(fd, done, sizeof done - 1); return 0;
    default: return write_all(fd, head, sizeof head - 1) && write_all(fd, big, sizeof big) && 0;
    }
}

static void *serve(void *argument)
{
    int fd = (int)(intptr_t)argument, stays = 1;
    struct input input = {{0}, 0};
    char bytes[INPUT];
    ssize_t got;

    while (stays && (got = read(fd, bytes, sizeof bytes)) > 0) {
        enum request request;
        stays = input_add(&input, bytes, (size_t)got);
        while (stays && (request = input_take(&input)) != NOTHING)
            stays = answer(fd, request);
    }
    close(fd);
    pthread_mutex_lock(&lock);
    clients--;
    pthread_cond_signal(&left);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void start(int client, const pthread_attr_t *detached)
{
    pthread_t thread;

    pthread_mutex_lock(&lock);
    clients++;
    pthread_mutex_unlock(&lock);
    if (pthread_create(&thread, detached, serve, (void *)(intptr_t)client) != 0) {
        fputs("pthread_create failed\n", stderr);
        close(client);
        pthread_mutex_lock(&lock);
        clients--;
        pthread_mutex_unlock(&lock);
    }
}

static void drain(int ms)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += ms % 1000 * 1000000L;
    end.tv_sec += ms / 1000 + end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    pthread_mutex_lock(&lock);
    while (clients > 0 && pthread_cond_timedwait(&left, &lock, &end) != ETIMEDOUT)
        ;
    pthread_mutex_unlock(&lock);
}

int main(int argc, char **argv)
{
    struct asked asked = read_arguments(argc, argv);
    struct sockaddr_in address = address_of(asked);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct pollfd readable = {listener, POLLIN, 0};
    struct sigaction action;
    pthread_attr_t detached;
    sigset_t blocked, before;

    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    memset(&action, 0, sizeof action);
    action.sa_handler = stop;
    sigaction(SIGTERM, &action, NULL);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, BACKLOG) < 0)
        fail("listen");
    while (!stopped) {
        int client;

        if (ppoll(&readable, 1, NULL, &before) < 0)
            continue;
        client = accept(listener, NULL, NULL);
        if (client >= 0)
            start(client, &detached);
        else
            perror("accept");
    }
    close(listener);
    drain(asked.drain_ms);
    return 0;
}
