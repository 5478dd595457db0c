/*
 * unix_socket: tells each client of a Unix socket how many came before it.
 *
 *     ./unix_socket unix:/tmp/oyez-example.sock    then, in another terminal:   nc -U /tmp/oyez-example.sock
 *
 * The file gets its mode before anybody can connect. End the program with Ctrl-C and oyez_unlisten() removes the file;
 * kill it with SIGKILL and the file stays, but the next start finds that nobody listens there and replaces it. A second
 * copy that is started while the first one runs is refused.
 */
#define _POSIX_C_SOURCE 200809L

#include <oyez.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;

static void stop(int signal_number)
{
    (void)signal_number;
    stopped = 1;
}

int main(int argc, char **argv)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    struct sigaction action;
    unsigned long count = 0;
    char address[128], line[64];
    int listener;

    options.unix_mode = 0660;         /* owner and group may connect, nobody else */
    options.nonblocking = OYEZ_ON;    /* cheaper where oyez_accept() is given a timeout */
    listener = oyez_listen(argc > 1 ? argv[1] : "unix:/tmp/oyez-example.sock", &options);
    if (listener < 0) {
        oyez_perror("unix_socket");
        return 1;
    }
    oyez_local_address(listener, address, sizeof address);
    printf("listening on %s\n", address);
    fflush(stdout);

    memset(&action, 0, sizeof action);
    action.sa_handler = stop;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);

    while (!stopped) {
        /* A signal does not end the wait, so it is a short one: a tenth of a second. */
        int client = oyez_accept(listener, NULL, 0, 100);
        if (client < 0) {
            if (oyez_error_code(NULL) == OYEZ_TIMED_OUT)
                continue;
            oyez_perror("unix_socket");
            break;
        }
        snprintf(line, sizeof line, "%lu came before you\n", count++);
        if (oyez_write(client, line, strlen(line), 5000) < 0)
            oyez_perror("unix_socket");
        close(client);
    }

    oyez_unlisten(listener);
    return stopped ? 0 : 1;
}
