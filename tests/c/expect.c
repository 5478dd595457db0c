/* What every failure of oyez must look like. */
#define _GNU_SOURCE
#include "expect.h"

#include <errno.h>
#include <string.h>

static __thread int kept;

void expect_forget(void)
{
    errno = 0;
}

void expect_keep(void)
{
    kept = errno;
}

static void expect_one_line(const char *file, int line, const char *text)
{
    for (const char *at = text; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            check_fail(file, line, "a control character %d in \"%s\"", *at, text);
}

void expect_error(const char *file, int line, int code, int number)
{
    const oyez_error *error = oyez_last_error();
    const char *message = oyez_error_message(error);
    if (oyez_error_code(error) != code)
        check_fail(file, line, "%s, not %s: %s (errno %d)", oyez_code_name(oyez_error_code(error)),
                   oyez_code_name(code), message, kept);
    if (kept == 0)
        check_fail(file, line, "errno is 0 after a failure: %s", message);
    if (number != ANY_ERRNO && kept != number)
        check_fail(file, line, "errno is %d (%s), not %d: %s", kept, strerror(kept), number, message);
    if (oyez_error_errno(error) != 0 && oyez_error_errno(error) != kept)
        check_fail(file, line, "errno is %d, but the error's is %d", kept, oyez_error_errno(error));
    if (message[0] == '\0' || oyez_error_operation(error)[0] == '\0')
        check_fail(file, line, "no message or operation: \"%s\", \"%s\"", message, oyez_error_operation(error));
    expect_one_line(file, line, message);
    if (oyez_error_address(error) == NULL || oyez_error_hint(error) == NULL)
        check_fail(file, line, "NULL for a text");
}

long long expect_works(const char *file, int line, const char *text, long long value)
{
    if (value < 0)
        check_fail(file, line, "%s: %s (%s, errno %d)", text, oyez_error_message(NULL),
                   oyez_code_name(oyez_error_code(NULL)), oyez_error_errno(NULL));
    return value;
}
