/* Ports that are in use: see faults.h. */
#define _GNU_SOURCE
#include "faults.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

void fault_has(const char *file, int line, const char *what, const char *text, const char *part, ...)
{
    char wanted[300];
    va_list arguments;
    va_start(arguments, part);
    vsnprintf(wanted, sizeof wanted, part, arguments);
    va_end(arguments);
    check_contains(file, line, what, text, wanted);
}

void fault_lacks(const char *file, int line, const char *what, const char *text, const char *part)
{
    if (strstr(text, part) != NULL)
        check_fail(file, line, "%s is \"%s\", with \"%s\"", what, text, part);
}

static int bytes_that_follow(unsigned char first)
{
    if (first < 0x80)
        return 0;
    if (first < 0xc2 || first > 0xf4)
        return -1;
    return first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
}

/* Every byte belongs to a character of UTF-8. */
static void check_utf8(const char *text)
{
    while (*text != '\0') {
        int more = bytes_that_follow((unsigned char)*text++);
        CHECK(more >= 0);
        for (; more > 0; more--)
            CHECK(((unsigned char)*text++ & 0xc0) == 0x80);
    }
}

void fault_parts(const char *step, const char *address, int number)
{
    char lead[200];
    int shown = (int)strcspn(address, "?");
    snprintf(lead, sizeof lead, "%s %.*s: %s: ", step, shown, address, strerror(number));
    CHECK_STR_EQ(oyez_error_operation(NULL), step);
    CHECK_EQ_INT(oyez_error_errno(NULL), number);
    CHECK_EQ_INT(strlen(oyez_error_address(NULL)), shown);
    CHECK_EQ_INT(strncmp(oyez_error_address(NULL), address, (size_t)shown), 0);
    CHECK_EQ_INT(strncmp(oyez_error_message(NULL), lead, strlen(lead)), 0);
    check_utf8(oyez_error_message(NULL));
    check_utf8(oyez_error_hint(NULL));
    CHECK(oyez_error_hint(NULL)[0] != '\0');
}

static void fail_in_use(const char *file, int line, const char *address)
{
    int before = check_descriptors();
    expect_forget();
    int fd = oyez_listen(address, NULL);
    expect_keep();
    check_equal(file, line, "oyez_listen", fd, -1);
    expect_error(file, line, OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    fault_parts("bind", address, EADDRINUSE);
    CHECK_EQ_INT(check_descriptors(), before);
}

void fault_in_use(const char *file, int line, const char *address)
{
    for (int i = 0; i < 20; i++) {
        fail_in_use(file, line, address);
        const char *message = oyez_error_message(NULL);
        if (strstr(message, "in time") == NULL && strstr(message, "at least") == NULL)
            break;
    }
}

void fault_network(void)
{
    place_network();
    place_loopback_up();
}

int fault_listen(const char *address)
{
    return (int)CHECK_WORKS(oyez_listen(address, NULL));
}

const char *fault_user(int user)
{
    struct passwd *found = getpwuid((uid_t)user);
    if (found == NULL)
        SKIP("this user has no name here");
    return found->pw_name;
}

void fault_kill_at_call(int call)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof filter[0], filter };
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == -1)
        SKIP("no seccomp filter is permitted here");
}

void fault_named(void *name)
{
    MUST(prctl(PR_SET_NAME, name));
}

void fault_rival(void *address)
{
    fault_named("rival");
    fault_listen(address);
}

void fault_rival_of_nobody(void *address)
{
    place_user(NOBODY);
    MUST(prctl(PR_SET_DUMPABLE, 1)); /* as if it had never been root */
    fault_rival(address);
}

int fault_bind(int kind, int reuse)
{
    struct sockaddr_in address = { 0 };
    int fd = (int)MUST(socket(AF_INET, kind | SOCK_CLOEXEC, 0));
    address.sin_family = AF_INET;
    address.sin_port = htons(FAULT_PORT);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse));
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    return fd;
}
