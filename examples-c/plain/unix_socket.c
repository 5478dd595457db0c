/*
 * unix_socket on plain sockets: tells each client how many came before it. See ../unix_socket.c.
 *
 *     ./unix_socket /tmp/oyez-example.sock
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;

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

/* Removes a socket file that nobody listens on. Two programs that start at the same time can still both do so. */
static void remove_stale(const struct sockaddr_un *address)
{
    int probe = socket(AF_UNIX, SOCK_STREAM, 0);

    if (probe < 0)
        die("socket");
    if (connect(probe, (const struct sockaddr *)address, sizeof *address) == 0) {
        fprintf(stderr, "%s: in use\n", address->sun_path);
        exit(1);
    }
    if (errno == ECONNREFUSED && unlink(address->sun_path) < 0)
        die("unlink");
    close(probe);
}

static int listen_on(const char *path)
{
    struct sockaddr_un address;
    mode_t mask;
    int listener;

    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "%s: too long\n", path);
        exit(1);
    }
    strcpy(address.sun_path, path);
    remove_stale(&address);

    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (listener < 0)
        die("socket");
    mask = umask(0117);    /* mode 0660 */
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        die("bind");
    umask(mask);
    if (listen(listener, SOMAXCONN) < 0)
        die("listen");
    if (fcntl(listener, F_SETFL, O_NONBLOCK) < 0)
        die("fcntl");
    printf("listening on unix:%s\n", path);
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "/tmp/oyez-example.sock";
    int listener = listen_on(path);
    unsigned long count = 0;
    struct sigaction action;
    sigset_t blocked, before;
    char line[64];

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
        if (client < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ECONNABORTED)
                perror("accept");
            continue;
        }
        snprintf(line, sizeof line, "%lu came before you\n", count++);
        if (write(client, line, strlen(line)) < 0)
            perror("write");
        close(client);
    }
    close(listener);
    if (unlink(path) < 0)
        die("unlink");
    return 0;
}
