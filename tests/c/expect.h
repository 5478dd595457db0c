/* What every failure of oyez must look like. */
#ifndef EXPECT_H
#define EXPECT_H

#include "check.h"
#include "oyez.h"

enum { ANY_ERRNO = 0 };

/* This thread's last error has this code and errno, and all that every error has. */
#define CHECK_ERROR(code, number) expect_error(__FILE__, __LINE__, code, number)
/* The call returns -1, and CHECK_ERROR holds. */
#define CHECK_FAILS(call, code, number)                                              \
    do {                                                                             \
        expect_forget();                                                             \
        long long expect_value = (long long)(call);                                  \
        expect_keep();                                                               \
        check_equal(__FILE__, __LINE__, #call, expect_value, -1);                    \
        expect_error(__FILE__, __LINE__, code, number);                              \
    } while (0)
/* The call does not fail; where it does, the error is shown. */
#define CHECK_WORKS(call) expect_works(__FILE__, __LINE__, #call, (long long)(call))

/* errno of this thread: zeroed before a call, and kept as it was right behind it. */
void expect_forget(void);
void expect_keep(void);
void expect_error(const char *file, int line, int code, int number);
long long expect_works(const char *file, int line, const char *text, long long value);

#endif
