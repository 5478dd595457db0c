/*
 * Listens at an address, prints "listening" and ends; or prints why not.
 *
 *     server [-2cfap] ADDRESS      HOST:PORT or unix:PATH
 *
 *     -2  listens twice: the second time this very process holds the address
 *     -c  listens, forks a child that keeps the listener, closes it and listens again
 *     -f  opens files until no descriptor is left
 *     -a  SO_REUSEADDR off
 *     -p  SO_REUSEPORT on
 *     -V  prints what it is built with
 */
#define _POSIX_C_SOURCE 200809L

#include "server.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

int reuse_address = 1;
int reuse_port = 0;

const char *unix_path(const char *address)
{
    return strncmp(address, "unix:", 5) == 0 ? address + 5 : NULL;
}

int is_name(const char *host)
{
    return strchr(host, ':') == NULL && strspn(host, "0123456789.") != strlen(host);
}

void split_address(const char *address, char *host, char *port)
{
    const char *colon = strrchr(address, ':');
    int length = colon ? (int)(colon - address) : (int)strlen(address);

    snprintf(port, 256, "%s", colon ? colon + 1 : "");
    if (length > 1 && address[0] == '[' && address[length - 1] == ']')
        snprintf(host, 256, "%.*s", length - 2, address + 1);
    else
        snprintf(host, 256, "%.*s", length, address);
}

/* A child that does nothing but keep what it inherited. */
static pid_t fork_keeper(void)
{
    pid_t child = fork();

    if (child == 0) {
        for (;;)
            pause();
    }
    return child;
}

int main(int argc, char **argv)
{
    int twice = 0, with_child = 0, fill = 0, option, status;
    pid_t child = -1;

    while ((option = getopt(argc, argv, "2cfapV")) != -1) {
        switch (option) {
        case '2': twice = 1; break;
        case 'c': with_child = 1; break;
        case 'f': fill = 1; break;
        case 'a': reuse_address = 0; break;
        case 'p': reuse_port = 1; break;
        case 'V': puts(version()); return 0;
        default: return 2;
        }
    }
    if (optind + 1 != argc) {
        fputs("usage: server [-2cfap] ADDRESS\n", stderr);
        return 2;
    }

    set_up();
    while (fill && open("/dev/null", O_RDONLY) >= 0)
        continue;
    if ((twice || with_child) && start_listening(argv[optind]) < 0)
        return 1;
    if (with_child) {
        child = fork_keeper();
        stop_listening();
    }
    status = start_listening(argv[optind]) < 0;
    if (status == 0)
        puts("listening");
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return status;
}
