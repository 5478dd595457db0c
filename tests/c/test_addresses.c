/* Texts that are no address: each is an error that shows where, and leaves nothing behind. */
#define _GNU_SOURCE
#include "places.h"
#include "serving.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const malformed[] = {
    /* ports */
    "", " ", ":", "65536", ":65536", "-1", ":-1", "+80", ":+80", " 80", "80 ", ": 80", ":80 ", "08080", ":08080", "00",
    ":00", "0x50", ":0x50", "70000000000", ":70000000000", ":18446744073709551696", "127.0.0.1", "127.0.0.1:",
    "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:+80", "127.0.0.1:080", "127.0.0.1: 80", "127.0.0.1:80 ",
    "127.0.0.1:8 0", "127.0.0.1:80\n", "127.0.0.1:80\t", "127.0.0.1:8.0", "127.0.0.1:80:80", ":80:80", "::", "*", "**:80",
    "localhost", "localhost:", "localhost:65536", "localhost:080", "80,",
    /* IPv4 */
    "010.0.0.1:80", "127.0.0.01:80", "127.1:80", "1:80", "2130706433:80", "0x7f.1:80", "0x7f000001:80", "127.0.0.256:80",
    "127.0.0.1.:80", "127.0.0.1.1:80", "127.0.0.:80", ".0.0.1:80", "127..0.1:80", "127.0.0.1 :80", " 127.0.0.1:80",
    "127.0.0.1%lo:80", "-127.0.0.1:80", "127.0.0.1/8:80", "127.0.0.-1:80", "+127.0.0.1:80",
    /* IPv6 */
    "[::1]", "[::1]:", "[::1", "::1", "::1:80", "2001:db8::1:80", "[::1]80", "[::1]:65536", "[::1]:080", "[]:80", "[:]:80",
    "[127.0.0.1]:80", "[localhost]:80", "[::1%lo]:80", "[fe80::1%]:80", "[:::1]:80", "[1::2::3]:80", "[12345::]:80",
    "[::g]:80", "[::1]]:80", "[[::1]:80", "[ ::1]:80", "[::1 ]:80", "[::1] :80", "[1:2:3:4:5:6:7]:80",
    "[1:2:3:4:5:6:7:8:9]:80", "[::1.2.3]:80", "[::1.2.3.256]:80", "]:80", "[:80",
    /* names */
    "local host:80", "http://localhost:80", "a..b:80", ".a:80", "\x01:80", "local\x7fhost:80", "\xff\xfe:80",
    "user@host:80", "host/path:80",
    /* other kinds */
    "unix:", "unix:@", "udp:", "udp:unix:/x", "udp:udp:0", "udp:fd:3", "udp:127.0.0.1", "udp:65536", "fd:", "fd:-1", "fd:3x",
    "fd:03", "fd: 3", "fd:+3", "fd:99999999999", "fd:3:4",
    /* options */
    "?backlog=64", ":0?backlog", ":0?backlog=", ":0?backlog=x", ":0?backlog=6 4", ":0?backlog=+64",
    ":0?backlog=99999999999", ":0?nope=1", ":0?=5", ":0?Backlog=5", ":0?reuse_port=yes", ":0?reuse_port=1",
    ":0?reuse_port=On", ":0?before_bind=1", ":0?before_bind_user=1", ":0?size=8", ":0?unix_mode=0999", ":0?unix_mode=rw",
    ":0?backlog=1;reuse_port=on", ":0?backlog=1?reuse_port=on",
    /* one address, please */
    "127.0.0.1:0,127.0.0.1:0",
};

/* The last two lines of the hint: the text, and a caret under it. */
static void check_caret(const char *address, const char *hint)
{
    const char *caret = strrchr(hint, '^');
    if (caret == NULL)
        check_fail(__FILE__, __LINE__, "\"%s\": no caret in the hint: %s", address, hint);
    const char *line = caret;
    while (line > hint && line[-1] != '\n')
        line--;
    if (line == hint)
        check_fail(__FILE__, __LINE__, "\"%s\": nothing above the caret: %s", address, hint);
    for (const char *at = line; at < caret; at++)
        if (*at != ' ')
            check_fail(__FILE__, __LINE__, "\"%s\": not only spaces before the caret: %s", address, hint);
    const char *above = line - 1;
    while (above > hint && above[-1] != '\n')
        above--;
    if (caret - line > line - 1 - above)
        check_fail(__FILE__, __LINE__, "\"%s\": the caret stands behind the text: %s", address, hint);
}

static int plain_text(const char *text)
{
    for (; *text != '\0'; text++)
        if (*text < 0x20 || *text == 0x7f)
            return 0;
    return 1;
}

static void check_malformed(const char *address)
{
    const char *hint;
    errno = 0;
    int fd = oyez_listen(address, NULL);
    expect_keep();
    if (fd != -1)
        check_fail(__FILE__, __LINE__, "\"%s\" was taken", address);
    if (oyez_error_code(NULL) != OYEZ_INVALID_ADDRESS)
        check_fail(__FILE__, __LINE__, "\"%s\" is %s: %s", address, oyez_code_name(oyez_error_code(NULL)),
                   oyez_error_message(NULL));
    CHECK_ERROR(OYEZ_INVALID_ADDRESS, EINVAL);
    hint = oyez_error_hint(NULL);
    check_caret(address, hint);
    if (plain_text(address) && strlen(address) < 60 && strstr(hint, address) == NULL)
        check_fail(__FILE__, __LINE__, "\"%s\" is not shown in the hint: %s", address, hint);
}

static void malformed_addresses(void)
{
    int before = check_descriptors();
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++)
        check_malformed(malformed[i]);
    CHECK_EQ_INT(check_descriptors(), before);
    check_note("%zu texts", sizeof malformed / sizeof malformed[0]);
}

/* The same where a server takes them, as one of two: the good one is given back. */
static void malformed_addresses_of_a_server(void)
{
    char list[200];
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    int before = check_descriptors();
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        const char *address = malformed[i];
        if (strchr(address, ',') != NULL || address[0] == '-') /* means something in a list */
            continue;
        CHECK_FAILS(oyez_server_listen(server, address, NULL), OYEZ_INVALID_ADDRESS, ANY_ERRNO);
        snprintf(list, sizeof list, "127.0.0.1:0,%s", address);
        CHECK_FAILS(oyez_server_listen(server, list, NULL), OYEZ_INVALID_ADDRESS, ANY_ERRNO);
        CHECK_EQ_INT(oyez_serve(list, serve_hello, NULL, NULL), -1);
        CHECK_EQ_INT(check_descriptors(), before);
    }
    CHECK_FAILS(oyez_server_run(server), OYEZ_INVALID_ARGUMENT, ANY_ERRNO);
    CHECK_WORKS(oyez_server_close(server));
}

static void malformed_lists(void)
{
    static const char *const lists[] = {
        "", ",", "127.0.0.1:0,", ",127.0.0.1:0", "127.0.0.1:0,,127.0.0.1:0", "-", "-,127.0.0.1:0", "--127.0.0.1:0",
        "127.0.0.1:0;127.0.0.1:0", "127.0.0.1:0 ,127.0.0.1:0", "-65536",
    };
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    int before = check_descriptors();
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        if (oyez_server_listen(server, lists[i], NULL) != -1)
            check_fail(__FILE__, __LINE__, "\"%s\" was taken", lists[i]);
        CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_INVALID_ADDRESS);
        CHECK_EQ_INT(check_descriptors(), before);
    }
    CHECK_WORKS(oyez_server_close(server));
}

/* What is shaped well, but out of range or not for this kind: refused with a reason, never half-made. */
static void values_out_of_range(void)
{
    static const char *const texts[] = {
        ":0?backlog=-1", ":0?keep_alive_seconds=40000", ":0?keep_alive_seconds=-2", ":0?receive_buffer=-1",
        ":0?send_buffer=-5", ":0?fast_open=-2", ":0?defer_accept_seconds=-3", ":0?unix_mode=017777",
        ":0?backlog=010", ":0?backlog=00", ":0?keep_alive_seconds=08",
    };
    int before = check_descriptors();
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        errno = 0;
        if (oyez_listen(texts[i], NULL) != -1 || errno == 0)
            check_fail(__FILE__, __LINE__, "\"%s\" was taken", texts[i]);
        int code = oyez_error_code(NULL);
        if (code != OYEZ_INVALID_ADDRESS && code != OYEZ_INVALID_ARGUMENT)
            check_fail(__FILE__, __LINE__, "\"%s\" is %s", texts[i], oyez_code_name(code));
        CHECK(oyez_error_hint(NULL)[0] != '\0');
    }
    CHECK_EQ_INT(check_descriptors(), before);
}

/* Ten megabytes of address: refused at once, and not repeated in full. */
static void an_endless_text(void)
{
    enum { LENGTH = 10 * 1000 * 1000 };
    static const char *const fills[] = { "a", "1", ":", "[", ",", "unix:/", "\xc3\xa9", "%", "\x01", "?" };
    char *text = malloc(LENGTH + 10);
    long memory = check_memory();
    for (size_t i = 0; i < sizeof fills / sizeof fills[0]; i++) {
        size_t step = strlen(fills[i]);
        for (size_t at = 0; at + step <= LENGTH; at += step)
            memcpy(text + at, fills[i], step);
        text[LENGTH / step * step] = '\0';
        long long start = check_now_ms();
        CHECK_FAILS(oyez_listen(text, NULL), OYEZ_INVALID_ADDRESS, ANY_ERRNO);
        CHECK_TOOK(start, 0, 3000);
        CHECK(strlen(oyez_error_message(NULL)) < 2000);
        CHECK(strlen(oyez_error_hint(NULL)) < 4000);
        CHECK(strlen(oyez_error_address(NULL)) < 2000);
    }
    CHECK(check_memory() - memory < 40000);
    free(text);
}

/* Every single byte, in several places: an error or a listener, never a crash, and no leak. */
static void every_byte(void)
{
    static const char *const patterns[] = { "127.0.0.1:0", "[::1]:0", ":0?backlog=5", "fd:9", "udp::0", "localhost:0" };
    char text[40];
    int before = check_descriptors();
    for (size_t p = 0; p < sizeof patterns / sizeof patterns[0]; p++) {
        size_t length = strlen(patterns[p]);
        for (size_t at = 0; at < length; at++) {
            for (int byte = 1; byte < 256; byte++) {
                if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_", byte) != NULL)
                    continue; /* may be a name, which would be looked up */
                strcpy(text, patterns[p]);
                text[at] = (char)byte;
                int fd = oyez_listen(text, NULL);
                if (fd != -1)
                    MUST(close(fd));
                else
                    CHECK(oyez_error_code(NULL) != OYEZ_INTERNAL && oyez_error_code(NULL) != OYEZ_OK);
            }
        }
    }
    CHECK_EQ_INT(check_descriptors(), before);
}

/* Cut anywhere. */
static void every_prefix(void)
{
    static const char *const patterns[] = { "[fe80::1%lo]:0?backlog=5&reuse_port=on", "127.0.0.1:0?unix_mode=0660" };
    char text[60];
    int before = check_descriptors();
    for (size_t p = 0; p < sizeof patterns / sizeof patterns[0]; p++) {
        for (size_t length = 0; length < strlen(patterns[p]); length++) {
            memcpy(text, patterns[p], length);
            text[length] = '\0';
            int fd = oyez_listen(text, NULL);
            if (fd != -1)
                MUST(close(fd));
        }
    }
    CHECK_EQ_INT(check_descriptors(), before);
}

static const check_case cases[] = {
    CASE(malformed_addresses),
    CASE(malformed_addresses_of_a_server),
    CASE(malformed_lists),
    CASE(values_out_of_range),
    CASE(an_endless_text),
    CASE(every_byte),
    CASE(every_prefix),
};

CHECK_MAIN(cases)
