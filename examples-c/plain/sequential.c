/*
 * sequential on plain sockets: hands out numbered tickets, one client at a time. See ../sequential.c.
 *
 *     ./sequential 9000                a port of 127.0.0.1
 */
#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
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

static void sell_tickets(int client, unsigned long *tickets)
{
    struct timeval ten_seconds = { 10, 0 };
    char name[64], reply[128];
    FILE *lines;

    if (setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &ten_seconds, sizeof ten_seconds) < 0)
        perror("setsockopt");
    lines = fdopen(client, "r");
    if (lines == NULL) {
        perror("fdopen");
        close(client);
        return;
    }
    while (fgets(name, sizeof name, lines) != NULL) {
        if (strchr(name, '\n') == NULL && strlen(name) == sizeof name - 1) {
            if (write(client, "name too long\n", 14) < 0)
                perror("write");
            break;
        }
        name[strcspn(name, "\r\n")] = '\0';
        if (name[0] == '\0')
            break;
        snprintf(reply, sizeof reply, "ticket %lu for %s\n", ++*tickets, name);
        if (write(client, reply, strlen(reply)) < 0) {
            perror("write");
            break;
        }
    }
    fclose(lines);
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
    if (fcntl(listener, F_SETFL, O_NONBLOCK) < 0)
        die("fcntl");
    if (getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        die("getsockname");
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv)
{
    int listener = listen_on(argc > 1 ? argv[1] : "9000");
    unsigned long tickets = 0;
    struct sigaction action;
    sigset_t blocked, before;

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
            sell_tickets(client, &tickets);
        else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ECONNABORTED)
            perror("accept");
    }
    close(listener);
    printf("%lu tickets sold\n", tickets);
    return 0;
}
