/* What an error tells: each thread its own, in words, by snprintf's rules, and on standard error. */
#define _GNU_SOURCE
#include "clients.h"
#include "serving.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *check_nothing_failed(void *unused)
{
    char text[8] = "#";
    (void)unused;
    const oyez_error *error = oyez_last_error();
    CHECK(error != NULL);
    CHECK_EQ_INT(oyez_error_code(error), OYEZ_OK);
    CHECK_EQ_INT(oyez_error_errno(error), 0);
    CHECK_STR_EQ(oyez_error_operation(error), "");
    CHECK_STR_EQ(oyez_error_address(error), "");
    CHECK_STR_EQ(oyez_error_message(error), "");
    CHECK_STR_EQ(oyez_error_hint(error), "");
    CHECK_EQ_INT(oyez_error_text(text, sizeof text), 0);
    CHECK_STR_EQ(text, "");
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_OK);
    return NULL;
}

static void before_anything_failed(void)
{
    check_nothing_failed(NULL);
    CHECK_FAILS(oyez_listen(NULL, NULL), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    check_thread_join(check_thread(check_nothing_failed, NULL));
}

static void the_parts_of_an_error(void)
{
    char address[64];
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    CHECK_WORKS(oyez_local_address(fd, address, sizeof address));
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    const oyez_error *error = oyez_last_error();
    CHECK_EQ_INT(oyez_error_errno(error), EADDRINUSE);
    CHECK_STR_EQ(oyez_error_operation(error), "bind");
    CHECK_STR_EQ(oyez_error_address(error), address);
    CHECK_STR_CONTAINS(oyez_error_message(error), address);
    CHECK_STR_CONTAINS(oyez_error_message(error), strerror(EADDRINUSE));
    CHECK(oyez_error_message(NULL) == oyez_error_message(error));
    CHECK(oyez_error_hint(NULL) == oyez_error_hint(error));
    MUST(close(fd));
    /* What oyez finds itself has no errno of the system, and errno is set all the same. */
    CHECK_FAILS(oyez_listen("127.0.0.1:99999", NULL), OYEZ_INVALID_ADDRESS, EINVAL);
    CHECK_EQ_INT(oyez_error_errno(NULL), 0);
}

static void success_leaves_the_last_error(void)
{
    char before[200];
    CHECK_FAILS(oyez_listen("127.0.0.1:99999", NULL), OYEZ_INVALID_ADDRESS, ANY_ERRNO);
    snprintf(before, sizeof before, "%s", oyez_error_message(NULL));
    MUST(close((int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL))));
    CHECK_STR_EQ(oyez_error_message(NULL), before);
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_INVALID_ADDRESS);
}

/* Eight threads fail in different ways, over and over: each sees its own. */
static void *fail_differently(void *argument)
{
    char address[40];
    int number = *(int *)argument;
    snprintf(address, sizeof address, "127.0.0.1:%d", 70000 + number);
    for (int i = 0; i < 500; i++) {
        CHECK_FAILS(oyez_listen(number % 2 == 0 ? address : NULL, NULL),
                    number % 2 == 0 ? OYEZ_INVALID_ADDRESS : OYEZ_INVALID_ARGUMENT, EINVAL);
        if (number % 2 == 0)
            CHECK_STR_CONTAINS(oyez_error_hint(NULL), address);
        sched_yield();
        CHECK_EQ_INT(oyez_error_code(NULL), number % 2 == 0 ? OYEZ_INVALID_ADDRESS : OYEZ_INVALID_ARGUMENT);
    }
    return NULL;
}

static void each_thread_has_its_own(void)
{
    pthread_t threads[8];
    int numbers[8];
    CHECK_FAILS(oyez_server_close(0), OYEZ_CLOSED, ANY_ERRNO);
    for (int i = 0; i < 8; i++) {
        numbers[i] = i;
        threads[i] = check_thread(fail_differently, &numbers[i]);
    }
    for (int i = 0; i < 8; i++)
        check_thread_join(threads[i]);
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_CLOSED);
}

static void the_text_follows_snprintf(void)
{
    char whole[2000];
    char part[2000];
    CHECK_FAILS(oyez_listen("127.0.0.1:99999", NULL), OYEZ_INVALID_ADDRESS, ANY_ERRNO);
    int length = oyez_error_text(whole, sizeof whole);
    CHECK_EQ_INT(length, strlen(whole));
    CHECK_EQ_INT(strncmp(whole, oyez_error_message(NULL), strlen(oyez_error_message(NULL))), 0);
    CHECK_STR_CONTAINS(whole, "^");
    CHECK_EQ_INT(oyez_error_text(NULL, 0), length);
    CHECK_EQ_INT(oyez_error_text(part, 0), length);
    for (int size = 1; size <= length + 3; size++) {
        memset(part, '#', sizeof part);
        CHECK_EQ_INT(oyez_error_text(part, (size_t)size), length);
        int fits = size - 1 < length ? size - 1 : length;
        CHECK(strlen(part) <= (size_t)fits); /* less where a character would be cut in two */
        CHECK(strlen(part) + 3 >= (size_t)fits);
        CHECK_EQ_INT(strncmp(part, whole, strlen(part)), 0);
        CHECK_EQ_INT(part[size], '#');
    }
    CHECK_FAILS(oyez_error_text(NULL, 5), OYEZ_INVALID_ARGUMENT, EINVAL);
}

static void names_of_codes(void)
{
    static const struct {
        int code;
        const char *name;
    } codes[] = {
        { OYEZ_OK, "OYEZ_OK" },
        { OYEZ_INVALID_ARGUMENT, "OYEZ_INVALID_ARGUMENT" },
        { OYEZ_INVALID_ADDRESS, "OYEZ_INVALID_ADDRESS" },
        { OYEZ_NAME_NOT_FOUND, "OYEZ_NAME_NOT_FOUND" },
        { OYEZ_ADDRESS_IN_USE, "OYEZ_ADDRESS_IN_USE" },
        { OYEZ_ADDRESS_NOT_AVAILABLE, "OYEZ_ADDRESS_NOT_AVAILABLE" },
        { OYEZ_PERMISSION_DENIED, "OYEZ_PERMISSION_DENIED" },
        { OYEZ_LIMIT_REACHED, "OYEZ_LIMIT_REACHED" },
        { OYEZ_UNSUPPORTED, "OYEZ_UNSUPPORTED" },
        { OYEZ_TIMED_OUT, "OYEZ_TIMED_OUT" },
        { OYEZ_STOPPED, "OYEZ_STOPPED" },
        { OYEZ_CLOSED, "OYEZ_CLOSED" },
        { OYEZ_REFUSED, "OYEZ_REFUSED" },
        { OYEZ_TLS, "OYEZ_TLS" },
        { OYEZ_PROTOCOL, "OYEZ_PROTOCOL" },
        { OYEZ_FORKED, "OYEZ_FORKED" },
        { OYEZ_SYSTEM, "OYEZ_SYSTEM" },
        { OYEZ_INTERNAL, "OYEZ_INTERNAL" },
    };
    static const int unknown[] = { -1, 18, 19, 1000, INT_MAX, INT_MIN };
    for (int i = 0; i < (int)(sizeof codes / sizeof codes[0]); i++) {
        CHECK_EQ_INT(codes[i].code, i); /* the numbers never change */
        CHECK_STR_EQ(oyez_code_name(codes[i].code), codes[i].name);
    }
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        CHECK_STR_EQ(oyez_code_name(unknown[i]), "OYEZ_UNKNOWN");
}

/* oyez_perror. */

/* "prefix: message", and the hint behind "  hint: ", its further lines as they are or indented. */
static void check_printed(const char *prefix)
{
    char printed[4000];
    char expected[4000];
    const char *hint = oyez_error_hint(NULL);
    int used = snprintf(expected, sizeof expected, "%s%s\n", prefix, oyez_error_message(NULL));
    if (hint[0] != '\0')
        snprintf(expected + used, sizeof expected - (size_t)used, "  hint: %.*s\n", (int)strcspn(hint, "\n"), hint);
    size_t size = check_take_output(printed, sizeof printed);
    CHECK(size > 0 && printed[size - 1] == '\n');
    if (strchr(hint, '\n') == NULL)
        CHECK_STR_EQ(printed, expected);
    else
        CHECK_EQ_INT(strncmp(printed, expected, strlen(expected)), 0);
}

static void printing(void)
{
    char address[64];
    int fd = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    CHECK_WORKS(oyez_local_address(fd, address, sizeof address));
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_ADDRESS_IN_USE, ANY_ERRNO);
    oyez_perror("server");
    check_printed("server: ");
    oyez_perror(NULL);
    check_printed("");
    oyez_perror("");
    check_printed("");
    CHECK_FAILS(oyez_listen("127.0.0.1:99999", NULL), OYEZ_INVALID_ADDRESS, ANY_ERRNO);
    oyez_perror("server");
    check_printed("server: ");
    MUST(close(fd));
}

/* The caret of a printed hint still stands under the fault. */
static void a_printed_caret(void)
{
    char printed[4000];
    CHECK_FAILS(oyez_listen("127.0.0.1:99999", NULL), OYEZ_INVALID_ADDRESS, ANY_ERRNO);
    oyez_perror("server");
    check_take_output(printed, sizeof printed);
    const char *caret = strchr(printed, '^');
    const char *fault = strrchr(printed, '9');
    CHECK(caret != NULL && fault != NULL);
    const char *caret_line = caret;
    while (caret_line[-1] != '\n')
        caret_line--;
    const char *text_line = caret_line - 1;
    while (text_line[-1] != '\n')
        text_line--;
    const char *port = strstr(text_line, "99999");
    CHECK(port != NULL);
    CHECK(caret - caret_line >= port - text_line);
    CHECK(caret - caret_line < port + 5 - text_line);
}

static void printing_to_nobody(void)
{
    int pipes[2];
    int kept = (int)MUST(fcntl(2, F_DUPFD_CLOEXEC, 60));
    CHECK_FAILS(oyez_listen(NULL, NULL), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    MUST(pipe2(pipes, O_CLOEXEC));
    MUST(close(pipes[0]));
    MUST(dup2(pipes[1], 2));
    MUST(close(pipes[1]));
    oyez_perror("nobody reads this"); /* SIGPIPE would end the process */
    MUST(close(2));
    oyez_perror("nor this");
    MUST(dup2(kept, 2));
    MUST(close(kept));
}

static void the_version(void)
{
    char text[40];
    CHECK_STR_EQ(oyez_version(), OYEZ_VERSION);
    snprintf(text, sizeof text, "%d.%d.%d", OYEZ_VERSION_MAJOR, OYEZ_VERSION_MINOR, OYEZ_VERSION_PATCH);
    CHECK_STR_EQ(oyez_version(), text);
}

/* A text with control characters and bytes that are no UTF-8 is shown so that a log survives it. */
static void texts_in_messages_are_escaped(void)
{
    static const char *const nasty[] = { "\x1b[31mred:80", "a\nb:80", "\xff\xfe\xfd:80", "unix:/no\x1b/\xc3", "x\r:1" };
    for (size_t i = 0; i < sizeof nasty / sizeof nasty[0]; i++) {
        errno = 0;
        CHECK_EQ_INT(oyez_listen(nasty[i], NULL), -1);
        const char *texts[] = { oyez_error_message(NULL), oyez_error_hint(NULL), oyez_error_address(NULL) };
        for (int t = 0; t < 3; t++)
            for (const char *at = texts[t]; *at != '\0'; at++)
                CHECK((unsigned char)*at >= 0x20 || (t == 1 && *at == '\n'));
    }
}

/* The record of a thread goes with it: no memory is left behind. */
static void *fail_once(void *unused)
{
    (void)unused;
    CHECK_EQ_INT(oyez_listen("127.0.0.1:99999", NULL), -1);
    return NULL;
}

static void thousands_of_threads_that_fail(void)
{
    long memory = 0;
    for (int i = 0; i < 3000; i++) {
        check_thread_join(check_thread(fail_once, NULL));
        if (i == 300)
            memory = check_memory();
    }
    CHECK(check_memory() - memory < 2000);
}

static const check_case cases[] = {
    CASE(before_anything_failed),
    CASE(the_parts_of_an_error),
    CASE(success_leaves_the_last_error),
    CASE(each_thread_has_its_own),
    CASE(the_text_follows_snprintf),
    CASE(names_of_codes),
    CASE(printing),
    CASE(a_printed_caret),
    CASE(printing_to_nobody),
    CASE(the_version),
    CASE(texts_in_messages_are_escaped),
    CASE(thousands_of_threads_that_fail),
};

CHECK_MAIN(cases)
