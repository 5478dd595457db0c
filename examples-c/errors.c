/*
 * errors: makes calls that must fail, and prints every part of what oyez tells about each.
 *
 *     ./errors 127.0.0.1:0
 *
 * A program usually needs one line of all this, oyez_perror("name"). The parts are for a program that decides by the
 * code, or that has a log of its own.
 */
#include <oyez.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A hint may have several lines, and its caret must stay under the fault: each line is indented alike. */
static void print_part(const char *name, const char *text)
{
    int length = (int)strcspn(text, "\n");

    printf("  %-11s%.*s\n", name, length, text);
    if (text[length] == '\n')
        print_part("", text + length + 1);
}

static void print_error(void)
{
    const oyez_error *error = oyez_last_error();
    int error_number = oyez_error_errno(error);

    printf("  %-11s%s (%d)\n", "code", oyez_code_name(oyez_error_code(error)), (int)oyez_error_code(error));
    printf("  %-11s%d %s\n", "errno", error_number, error_number ? strerror(error_number) : "(found by oyez itself)");
    print_part("operation", oyez_error_operation(error));
    print_part("address", oyez_error_address(error));
    print_part("message", oyez_error_message(error));
    print_part("hint", oyez_error_hint(error));
}

static void try_to_listen(const char *address)
{
    int listener = oyez_listen(address, NULL);

    printf("\noyez_listen(\"%s\")\n", address);
    if (listener < 0) {
        print_error();
    } else {
        printf("  listens\n");
        oyez_unlisten(listener);
    }
}

int main(int argc, char **argv)
{
    char address[128];

    int listener = oyez_listen(argc > 1 ? argv[1] : "127.0.0.1:0", NULL);
    if (listener < 0) {
        oyez_perror("errors");
        return 1;
    }
    oyez_local_address(listener, address, sizeof address);
    printf("listening on %s\n", address);
    fflush(stdout);

    try_to_listen("127.0.0.1:65536");               /* no such port */
    try_to_listen("127.0.0.1:9000?bakclog=64");     /* no such option */
    try_to_listen(address);                         /* in use, by this very program */
    try_to_listen("192.0.2.1:9000");                /* reserved for documentation, so not an address of this host */
    try_to_listen("localhost:no-such-service");     /* not in /etc/services */
    try_to_listen("unix:/etc/passwd");              /* a file, which is never removed */
    try_to_listen("unix:/no/such/folder/app.sock");
    try_to_listen("fd:0");                          /* inherited, but no listening socket */

    printf("\noyez_accept(listener, NULL, 0, 100), and nobody comes\n");
    if (oyez_accept(listener, NULL, 0, 100) < 0)
        print_error();

    printf("\noyez_server_stop(1, 0), where there is no server\n");
    if (oyez_server_stop(1, 0) < 0)
        print_error();

    printf("\nand the same as oyez_perror(\"errors\") prints it on standard error:\n");
    fflush(stdout);
    oyez_perror("errors");
    oyez_unlisten(listener);
    return 0;
}
