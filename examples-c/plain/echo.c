/*
 * echo on plain sockets: a thread for each client, which SIGINT and SIGTERM drain. See ../echo.c.
 *
 *     ./echo 9000                      a port of 127.0.0.1
 */
#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DRAIN_SECONDS = 5 };

static volatile sig_atomic_t stopped;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t client_left = PTHREAD_COND_INITIALIZER;
static int clients;    /* guarded by lock */

static void stop(int signal_number)
{
    (void)signal_number;
    stopped = 1;
}

static void die(const char *call)
{
    perror(call);
    exit(1);
}

/* write(2) may take a part only. */
static int write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, bytes, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        bytes += written;
        size -= (size_t)written;
    }
    return 0;
}

static void *echo(void *argument)
{
    int client = (int)(long)argument;
    char bytes[16384];
    ssize_t size;

    while ((size = read(client, bytes, sizeof bytes)) != 0) {
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0 || write_all(client, bytes, (size_t)size) < 0) {
            perror("echo");
            break;
        }
    }
    close(client);
    pthread_mutex_lock(&lock);
    clients--;
    pthread_cond_signal(&client_left);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static int listen_on(const char *port)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int listener, on = 1;

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)atoi(port));

    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0)
        die("socket");
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        die("setsockopt");
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        die("bind");
    if (listen(listener, SOMAXCONN) < 0)
        die("listen");
    /* Without it accept could block behind select, where the client has gone in between. */
    if (fcntl(listener, F_SETFL, O_NONBLOCK) < 0)
        die("fcntl");
    if (getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        die("getsockname");
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void start_client(int client)
{
    pthread_t thread;
    int error;

    pthread_mutex_lock(&lock);
    clients++;
    pthread_mutex_unlock(&lock);
    error = pthread_create(&thread, NULL, echo, (void *)(long)client);
    if (error == 0) {
        pthread_detach(thread);
        return;
    }
    fprintf(stderr, "pthread_create: %s\n", strerror(error));
    close(client);
    pthread_mutex_lock(&lock);
    clients--;
    pthread_mutex_unlock(&lock);
}

static void drain(void)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += DRAIN_SECONDS;
    pthread_mutex_lock(&lock);
    while (clients > 0)
        if (pthread_cond_timedwait(&client_left, &lock, &end) == ETIMEDOUT)
            break;
    pthread_mutex_unlock(&lock);
}

int main(int argc, char **argv)
{
    int listener = listen_on(argc > 1 ? argv[1] : "9000");
    struct sigaction action;
    sigset_t blocked, before;

    /* The signals arrive in pselect and nowhere else, so that none is missed between the test and the wait. */
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    memset(&action, 0, sizeof action);
    action.sa_handler = stop;
    if (sigaction(SIGINT, &action, NULL) < 0 || sigaction(SIGTERM, &action, NULL) < 0)
        die("sigaction");
    signal(SIGPIPE, SIG_IGN);

    while (!stopped) {
        fd_set readable;
        int client;

        FD_ZERO(&readable);
        FD_SET(listener, &readable);
        if (pselect(listener + 1, &readable, NULL, NULL, NULL, &before) < 0) {
            if (errno == EINTR)
                continue;
            die("pselect");
        }
        client = accept(listener, NULL, NULL);
        if (client >= 0)
            start_client(client);
        else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ECONNABORTED)
            perror("accept");
    }
    close(listener);
    drain();
    printf("stopped\n");
    return 0;
}
