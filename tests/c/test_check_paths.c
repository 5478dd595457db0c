/* Unix paths that look free and cannot be had. */
#define _GNU_SOURCE
#include "faults.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char report[8192];

#define SAYS(part) CHECK_STR_CONTAINS(report, part)

static void check(const char *name, const char *verdict)
{
    char address[200], line[300];
    snprintf(address, sizeof address, "unix:%s/%s", check_folder(), name);
    CHECK_WORKS(oyez_check(address, report, sizeof report));
    snprintf(line, sizeof line, "%.*s: %s\n", (int)strcspn(address, "?"), address, verdict);
    CHECK_STR_CONTAINS(report, line);
}

static void leave_stale_file(const char *name)
{
    struct sockaddr_un address = { 0 };
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%.60s/%s", check_folder(), name);
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    MUST(chmod(address.sun_path, 0777));
    MUST(close(fd));
}

static void look_as_another_user(void *unused)
{
    (void)unused;
    place_user(65534);
    check("stale", "cannot be had");
    SAYS("sticky");
}

static void a_file_of_another_user_in_a_sticky_directory(void)
{
    leave_stale_file("stale");
    MUST(chmod(check_folder(), 01777));
    check("stale", "can be had");
    check_join(check_fork(look_as_another_user, NULL));
    CHECK_EQ_INT(place_entries(check_folder()), 1);
}

static void look_without_the_right_to_read(void *unused)
{
    (void)unused;
    place_user(65534);
    check("stale", "cannot be had");
    check("other", "can be had");
}

static void a_directory_that_cannot_be_read(void)
{
    leave_stale_file("stale");
    MUST(chmod(check_folder(), 0733));
    check_join(check_fork(look_without_the_right_to_read, NULL));
    CHECK_EQ_INT(place_entries(check_folder()), 1);
}

static void owners_and_slashes(void)
{
    check("a.sock?unix_user=nobody-of-that-name", "cannot be had");
    SAYS("nobody-of-that-name");
    check("a.sock?unix_group=nobody-of-that-name", "cannot be had");
    check("a.sock?unix_group=0", "can be had");
    check("folder/", "cannot be had");
    SAYS("slash");
    CHECK_EQ_INT(place_entries(check_folder()), 0);
}

static const check_case cases[] = {
    CASE(a_file_of_another_user_in_a_sticky_directory),
    CASE(a_directory_that_cannot_be_read),
    CASE(owners_and_slashes),
};
CHECK_MAIN(cases)
