/* What a Unix address's failure says: which component, which mode and user, who is there, and what to do. */
#define _GNU_SOURCE
#include "expect.h"
#include "places.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { NOBODY = 65534, LONG = 600 };

/* A process may call itself so, and is shown so. */
#define HOSTILE_NAME "a\nb\x1b[31m\xff"
#define HOSTILE_SHOWN "a\\nb\\u{1b}[31m\\xff"

/* Texts of this test, each with the folder's path in place of "%s". */
static char *in_folder(const char *format)
{
    static char texts[16][LONG];
    static int next;
    char *text = texts[next++ % 16];
    int used = 0;
    for (const char *at = format; *at != '\0'; at++) {
        if (at[0] == '%' && at[1] == 's') {
            used += snprintf(text + used, (size_t)(LONG - used), "%s", check_folder());
            at++;
        } else {
            text[used++] = *at;
        }
    }
    text[used] = '\0';
    return text;
}

static int is_utf8(const unsigned char *at)
{
    while (*at != '\0') {
        int more = *at < 0x80 ? 0 : *at < 0xe0 ? 1 : *at < 0xf0 ? 2 : 3;
        if ((*at >= 0x80 && *at < 0xc2) || *at > 0xf4)
            return 0;
        for (at++; more > 0; more--, at++)
            if ((*at & 0xc0) != 0x80)
                return 0;
    }
    return 1;
}

/* One row: listening fails so, in little time, and says so. */
typedef struct row {
    const char *address;
    int code;
    int number;
    const char *operation;
    const char *message;
    const char *hint;
} row;

#define IN_USE OYEZ_ADDRESS_IN_USE, EADDRINUSE, "bind"

static void check_row_with(row expected, const oyez_listen_options *options)
{
    int before = check_descriptors();
    const char *address = in_folder(expected.address);
    CHECK_FAILS(oyez_listen(address, options), expected.code, expected.number);
    CHECK_STR_EQ(oyez_error_operation(NULL), expected.operation);
    CHECK_STR_EQ(oyez_error_address(NULL), address);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), in_folder(expected.message));
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), in_folder(expected.hint));
    CHECK(is_utf8((const unsigned char *)oyez_error_message(NULL)));
    CHECK(is_utf8((const unsigned char *)oyez_error_hint(NULL)));
    CHECK(strchr(oyez_error_hint(NULL), '\n') == NULL);
    CHECK_EQ_INT(check_descriptors(), before);
}

static void check_row(row expected)
{
    check_row_with(expected, NULL);
}

static void check_row_as_child(void *expected)
{
    check_row(*(row *)expected);
}

static void become_nobody(void)
{
    MUST(setgid(NOBODY));
    MUST(setuid(NOBODY));
}

static void check_row_as_nobody_here(void *expected)
{
    become_nobody();
    check_row(*(row *)expected);
}

/* The row as it is for an unprivileged user: for root in a child. */
static void check_row_as_nobody(row expected)
{
    if (geteuid() != 0)
        SKIP("only root can become somebody else");
    check_join(check_fork(check_row_as_nobody_here, &expected));
}

static void make_folder(const char *format, int mode)
{
    MUST(mkdir(in_folder(format), 0700));
    MUST(chmod(in_folder(format), (mode_t)mode));
}

/* A plain socket of a kind at a path of the folder, bound; the file has this mode. */
static int plain_socket(const char *format, int type, int mode)
{
    struct sockaddr_un name = { 0 };
    int fd = (int)MUST(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    name.sun_family = AF_UNIX;
    snprintf(name.sun_path, sizeof name.sun_path, "%.100s", in_folder(format));
    MUST(bind(fd, (struct sockaddr *)&name, sizeof name));
    MUST(chmod(name.sun_path, (mode_t)mode));
    return fd;
}

static void stale_file(const char *format, int mode)
{
    MUST(close(plain_socket(format, SOCK_STREAM, mode)));
}

/* The way to the file. */

static void too_long(void)
{
    char address[200] = "unix:/";
    memset(address + 6, 'x', 109);
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_INVALID_ADDRESS, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "the path has 110 bytes, and 107 are the most");
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "^ the end of the path");
    address[5] = '@';
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_INVALID_ADDRESS, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "the abstract name has 109 bytes, and 107 are the most");
}

static void a_missing_directory(void)
{
    check_row((row){ "unix:%s/none/b/a.sock", OYEZ_ADDRESS_NOT_AVAILABLE, ENOENT, "bind",
                     "No such file or directory: %s/none does not exist", "`mkdir -p %s/none/b` makes it" });
    check_row((row){ "unix:/run/oyez-none/b/a.sock", OYEZ_ADDRESS_NOT_AVAILABLE, ENOENT, "bind",
                     "/run/oyez-none does not exist", "RuntimeDirectory=oyez-none/b of systemd" });
    check_row((row){ "unix:%s/it's none/a.sock", OYEZ_ADDRESS_NOT_AVAILABLE, ENOENT, "bind", "does not exist",
                     "`mkdir -p $'%s/it\\'s none'`" });
    check_row((row){ "unix:%s/a.sock/", OYEZ_ADDRESS_NOT_AVAILABLE, ENOENT, "bind", "in a slash", "add the name" });
}

static void a_missing_directory_that_root_has_to_make(void)
{
    MUST(chmod(check_folder(), 0755));
    check_row_as_nobody((row){ "unix:%s/none/b/a.sock", OYEZ_ADDRESS_NOT_AVAILABLE, ENOENT, "bind",
                               "%s/none does not exist", "`sudo install -d -o nobody %s/none/b` makes it" });
}

static void no_directory(void)
{
    MUST(close((int)MUST(open(in_folder("%s/file"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600))));
    check_row((row){ "unix:%s/file/b/a.sock", OYEZ_ADDRESS_NOT_AVAILABLE, ENOTDIR, "bind",
                     "%s/file is a regular file, not a directory", "choose another path" });
}

static void links_that_lead_nowhere(void)
{
    MUST(symlink("/no/such/place", in_folder("%s/dangling")));
    check_row((row){ "unix:%s/dangling/a.sock", OYEZ_ADDRESS_NOT_AVAILABLE, ENOENT, "bind",
                     "the symbolic link %s/dangling leads to /no/such/place; /no does not exist",
                     " /no/such/place` makes it" });
    MUST(symlink("b", in_folder("%s/a")));
    MUST(symlink("a", in_folder("%s/b")));
    check_row((row){ "unix:%s/a/a.sock", OYEZ_SYSTEM, ELOOP, "bind",
                     "the symbolic link %s/a leads round in a circle", "`namei -l %s/a/a.sock`" });
}

static void the_working_directory_was_removed(void)
{
    char before[512];
    CHECK(getcwd(before, sizeof before) != NULL);
    make_folder("%s/here", 0755);
    MUST(chdir(in_folder("%s/here")));
    check_row((row){ "unix:none/a.sock", OYEZ_ADDRESS_NOT_AVAILABLE, ENOENT, "bind", "%s/here/none does not exist",
                     "`mkdir -p %s/here/none`" });
    MUST(rmdir(in_folder("%s/here")));
    check_row((row){ "unix:a.sock", OYEZ_ADDRESS_NOT_AVAILABLE, ENOENT, "bind",
                     "the working directory of this process has been removed", "absolute path" });
    MUST(chdir(before));
}

static void a_directory_one_may_not_write(void)
{
    MUST(chmod(check_folder(), 0755));
    check_row_as_nobody((row){ "unix:%s/app.sock", OYEZ_PERMISSION_DENIED, EACCES, "bind",
                               "user nobody has no write permission in %s: mode 0755, owner root",
                               "`sudo install -d -o nobody %s/app`" });
}

static void a_directory_one_may_not_search(void)
{
    MUST(chmod(check_folder(), 0755));
    make_folder("%s/closed", 0700);
    make_folder("%s/closed/in", 0777);
    MUST(symlink(in_folder("%s/closed/in"), in_folder("%s/link")));
    check_row_as_nobody((row){ "unix:%s/closed/in/a.sock", OYEZ_PERMISSION_DENIED, EACCES, "bind",
                               "user nobody has no search permission (x) in %s/closed: mode 0700, owner root",
                               "`sudo setfacl -m u:nobody:x %s/closed`" });
    check_row_as_nobody((row){ "unix:%s/link/a.sock", OYEZ_PERMISSION_DENIED, EACCES, "bind",
                               "the symbolic link %s/link leads to %s/closed/in; user nobody has no search permission",
                               "setfacl -m u:nobody:x %s/closed`" });
}

/* Root is not asked for modes, but by a capability that a container may lack. */
static void root_without_the_capability(void)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2];
    if (geteuid() != 0)
        SKIP("only root has capabilities to give up");
    make_folder("%s/closed", 0700);
    MUST(chown(in_folder("%s/closed"), NOBODY, NOBODY));
    MUST(syscall(SYS_capget, &header, data));
    data[0].effective &= ~(1U << CAP_DAC_OVERRIDE | 1U << CAP_DAC_READ_SEARCH);
    MUST(syscall(SYS_capset, &header, data));
    check_row((row){ "unix:%s/closed/a.sock", OYEZ_PERMISSION_DENIED, EACCES, "bind",
                     "user root has no search permission (x) in %s/closed: mode 0700, owner nobody; this process is "
                     "without CAP_DAC_OVERRIDE",
                     "start the program as user nobody, or with CAP_DAC_OVERRIDE" });
    data[0].effective |= 1U << CAP_DAC_OVERRIDE | 1U << CAP_DAC_READ_SEARCH;
    MUST(syscall(SYS_capset, &header, data));
}

/* The mode says yes, an access control list no. */
static void an_access_control_list(void)
{
    static const struct {
        unsigned version;
        struct { unsigned short tag, permission; unsigned id; } entries[5];
    } list = { 2, { { 1, 7, ~0U }, { 2, 0, NOBODY }, { 4, 7, ~0U }, { 16, 7, ~0U }, { 32, 7, ~0U } } };
    MUST(chmod(check_folder(), 0755));
    make_folder("%s/listed", 0777);
    if (setxattr(in_folder("%s/listed"), "system.posix_acl_access", &list, sizeof list, 0) == -1)
        SKIP("no access control lists here");
    check_row_as_nobody((row){ "unix:%s/listed/a.sock", OYEZ_PERMISSION_DENIED, EACCES, "bind",
                               "mode 0777, owner root; the mode would allow it: an access control list (`getfacl`)",
                               "setfacl" });
}

/* Mounts of this process alone, which end with it. */
static void mount_at(const char *format, const char *kind, unsigned long flags, const char *data)
{
    make_folder(format, 0755);
    if (unshare(CLONE_NEWNS) == -1 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1
        || mount("none", in_folder(format), kind, flags, data) == -1)
        SKIP("no mounting is permitted here");
}

static void a_read_only_file_system(void)
{
    mount_at("%s/fixed", "tmpfs", MS_RDONLY, NULL);
    check_row((row){ "unix:%s/fixed/a.sock", OYEZ_PERMISSION_DENIED, EROFS, "bind",
                     "%s/fixed is on a file system that is read-only", "`findmnt -T %s/fixed`" });
}

static void a_full_file_system(void)
{
    mount_at("%s/full", "tmpfs", 0, "nr_inodes=1");
    check_row((row){ "unix:%s/full/a.sock", OYEZ_LIMIT_REACHED, ENOSPC, "bind", "No space left", "`df -i`" });
}

static void an_immutable_directory(void)
{
    int flags = FS_IMMUTABLE_FL;
    make_folder("%s/fixed", 0755);
    int fd = (int)MUST(open(in_folder("%s/fixed"), O_RDONLY | O_CLOEXEC));
    if (ioctl(fd, FS_IOC_SETFLAGS, &flags) == -1)
        SKIP("no immutable directories here");
    pid_t child = check_fork(check_row_as_child, &(row){ "unix:%s/fixed/a.sock", OYEZ_PERMISSION_DENIED, EPERM, "bind",
                                                         "%s/fixed is marked immutable", "sudo chattr -i %s/fixed" });
    siginfo_t ended;
    MUST(waitid(P_PID, (id_t)child, &ended, WEXITED | WNOWAIT));
    flags = 0;
    MUST(ioctl(fd, FS_IOC_SETFLAGS, &flags));
    check_join(child);
    MUST(close(fd));
}

/* From now on bind(2) fails with EACCES, as a security module would have it. */
static void refuse_bind(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_bind, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof filter[0], filter };
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == -1)
        SKIP("no seccomp filter is permitted here");
}

static void a_security_policy(void)
{
    refuse_bind();
    check_row((row){ "unix:%s/a.sock", OYEZ_PERMISSION_DENIED, EACCES, "bind", "it is not the file modes", "seccomp" });
    check_row((row){ "unix:@oyez-refused", OYEZ_PERMISSION_DENIED, EACCES, "bind",
                     "an abstract name has no mode or owner; a security policy refused it", "seccomp" });
}

/* What is there. */

static void what_is_no_socket_is_named(void)
{
    MUST(close((int)MUST(open(in_folder("%s/file"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600))));
    MUST(mkfifo(in_folder("%s/pipe"), 0600));
    MUST(symlink("/no/such/file", in_folder("%s/link")));
    static const char *const rows[][2] = {
        { "unix:%s/file", ": a regular file is there, which is not a socket" },
        { "unix:%s/pipe", ": a named pipe is there, which is not a socket" },
        { "unix:%s/link", ": a symbolic link to /no/such/file is there, which is not a socket" },
        { "unix:%s", ": a directory is there, which is not a socket" },
        { "unix:/dev/null", ": a device is there, which is not a socket" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check_row((row){ rows[i][0], IN_USE, rows[i][1], "oyez removes none" });
}

/* For place_neighbour: it listens at the address, where everybody may connect. */
static void hold(void *address)
{
    MUST(prctl(PR_SET_NAME, HOSTILE_NAME, 0, 0, 0));
    CHECK_WORKS(oyez_listen(address, NULL));
    if (strncmp(address, "unix:/", 6) == 0)
        MUST(chmod((char *)address + 5, 0777));
}

static void hold_in_another_network(void *address)
{
    place_network();
    hold(address);
}

static void held_by_this_process(void)
{
    char message[80];
    char hint[80];
    int fd = (int)CHECK_WORKS(oyez_listen(in_folder("unix:%s/a.sock"), NULL));
    snprintf(message, sizeof message, ": this process itself (pid %d, descriptor %d) listens there", (int)getpid(), fd);
    snprintf(hint, sizeof hint, "close descriptor %d first", fd);
    row expected = { "unix:%s/a.sock", IN_USE, message, hint };
    check_row(expected);
    CHECK_WORKS(oyez_unlisten(fd));

    fd = plain_socket("%s/datagram", SOCK_DGRAM, 0777);
    check_row((row){ "unix:%s/datagram", IN_USE, ") has a datagram socket there",
                     "choose another path" });
    MUST(close(fd));
}

static void held_by_a_child_of_any_name(void)
{
    char message[160];
    char *address = in_folder("unix:%s/a.sock");
    pid_t child = place_neighbour(hold, address);
    snprintf(message, sizeof message, ": " HOSTILE_SHOWN " (pid %d, user ", (int)child);
    check_row((row){ address, IN_USE, message, "ends the child" });
    check_row((row){ address, IN_USE, "a child of this process", "choose another path" });
    place_neighbour_end(child);
}

static void held_by_another_process(void)
{
    char message[160];
    char hint[80];
    char *address = in_folder("unix:%s/a.sock");
    pid_t other = place_neighbour(hold, address);
    snprintf(message, sizeof message, ": " HOSTILE_SHOWN " (pid %d, user ", (int)other);
    snprintf(hint, sizeof hint, "`kill %d` ends it; or choose another path", (int)other);
    row expected = { address, IN_USE, message, hint };
    check_join(check_fork(check_row_as_child, &expected)); /* a sibling of the holder */
    place_neighbour_end(other);
}

static void look_at_the_parent(void *listener)
{
    MUST(close(*(int *)listener));
    check_row((row){ "unix:%s/a.sock", IN_USE, ", the parent of this process)",
                     "choose another path" });
}

static void held_by_the_parent(void)
{
    int fd = (int)CHECK_WORKS(oyez_listen(in_folder("unix:%s/a.sock"), NULL));
    check_join(check_fork(look_at_the_parent, &fd));
    CHECK_WORKS(oyez_unlisten(fd));
}

static void held_by_a_process_one_may_not_see(void)
{
    char *address = in_folder("unix:%s/a.sock");
    MUST(chmod(check_folder(), 0777));
    if (geteuid() != 0)
        SKIP("only root can become somebody else");
    pid_t other = place_neighbour(hold, address);
    check_row_as_nobody((row){ address, IN_USE,
                               "(which one, this user may not see) listens there; the file is of user root",
                               "`ss -axp src %s/a.sock` shows who" });
    place_neighbour_end(other);
}

static void held_in_another_network(void)
{
    char *address = in_folder("unix:%s/a.sock");
    pid_t other = place_neighbour(hold_in_another_network, address);
    check_row((row){ address, IN_USE,
                     "a process listens there, and the socket is not listed in this network namespace",
                     "lsns -t net" });
    place_neighbour_end(other);
}

/* Its layers on two file systems: what stat(2) tells of its files is not the device that the kernel knows. */
static void held_on_an_overlay(void)
{
    make_folder("%s/low", 0755);
    mount_at("%s/top", "tmpfs", 0, NULL);
    make_folder("%s/top/up", 0755);
    make_folder("%s/top/work", 0755);
    make_folder("%s/both", 0755);
    const char *layers = in_folder("lowerdir=%s/low,upperdir=%s/top/up,workdir=%s/top/work");
    if (mount("none", in_folder("%s/both"), "overlay", 0, layers) == -1)
        SKIP("no overlay file system here");
    int fd = (int)CHECK_WORKS(oyez_listen(in_folder("unix:%s/both/a.sock"), NULL));
    check_row((row){ "unix:%s/both/a.sock", IN_USE, ": this process itself",
                     "close descriptor" });
    CHECK_WORKS(oyez_unlisten(fd));
}

static void an_abstract_name_that_is_taken(void)
{
    char address[60];
    char message[160];
    snprintf(address, sizeof address, "unix:@oyez-taken-%d", (int)getpid());
    int fd = (int)CHECK_WORKS(oyez_listen(address, NULL));
    check_row((row){ address, IN_USE, ": this process itself", "choose another name" });
    CHECK_WORKS(oyez_unlisten(fd));
    pid_t child = place_neighbour(hold, address);
    snprintf(message, sizeof message, ": " HOSTILE_SHOWN " (pid %d, user ", (int)child);
    check_row((row){ address, IN_USE, message, "ends the child" });
    if (geteuid() == 0)
        check_row_as_nobody((row){ address, IN_USE, "this user may not see) has that name",
                                   "`ss -axp src @oyez-taken-" });
    place_neighbour_end(child);
}

/* Left behind. */

static void a_stale_file_of_somebody_else(void)
{
    make_folder("%s/sticky", 01777);
    MUST(chmod(check_folder(), 0755));
    stale_file("%s/sticky/open", 0777);
    stale_file("%s/sticky/closed", 0755);
    check_row_as_nobody((row){ "unix:%s/sticky/open", OYEZ_PERMISSION_DENIED, EPERM, "unlink",
                               "a stale socket file of user root, which user nobody may not remove: in a sticky "
                               "directory (mode 1777, owner root) only its owner may",
                               "`sudo rm %s/sticky/open` removes it" });
    check_row_as_nobody((row){ "unix:%s/sticky/closed", IN_USE,
                               "a socket file to which user nobody may not connect: mode 0755, owner root; nobody in "
                               "this network namespace listens on it",
                               "`sudo rm %s/sticky/closed` removes it, if it is stale" });
}

static void a_stale_file_in_a_directory_one_may_not_write(void)
{
    MUST(chmod(check_folder(), 0755));
    stale_file("%s/stale", 0777);
    check_row_as_nobody((row){ "unix:%s/stale", OYEZ_PERMISSION_DENIED, EACCES, "unlink",
                               "a stale socket file of user root; user nobody has no write permission in %s: mode 0755",
                               "`sudo rm %s/stale`" });
}

static void a_stale_file_in_a_directory_one_may_not_read(void)
{
    MUST(chmod(check_folder(), 0733));
    stale_file("%s/stale", 0777);
    check_row_as_nobody((row){ "unix:%s/stale", IN_USE,
                               "takes read permission, which user nobody has not: mode 0733, owner root",
                               "`rm %s/stale` removes it" });
}

static void a_directory_that_is_kept_locked(void)
{
    char message[160];
    MUST(prctl(PR_SET_NAME, HOSTILE_NAME, 0, 0, 0));
    int lock = (int)MUST(open(check_folder(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    MUST(flock(lock, LOCK_EX));
    snprintf(message, sizeof message, "process %d (" HOSTILE_SHOWN ") has kept the directory %s locked", (int)getpid(),
             check_folder());
    check_row((row){ "unix:%s/a.sock", OYEZ_ADDRESS_IN_USE, EAGAIN, "flock", message, "kill" });
    MUST(close(lock));
}

/* Owners. */

static void owners_that_do_not_exist(void)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.unix_user = "no-such\nuser";
    check_row_with((row){ "unix:%s/a.sock", OYEZ_NAME_NOT_FOUND, ENOENT, "user", "there is no user no-such\\nuser",
                          "`getent passwd` lists those there are" }, &options);
    options.unix_user = NULL;
    options.unix_group = "no-such-group";
    check_row_with((row){ "unix:%s/a.sock", OYEZ_NAME_NOT_FOUND, ENOENT, "group", "there is no group no-such-group",
                          "`getent group`" }, &options);
    CHECK_EQ_INT(place_entries(check_folder()), 0);
}

static void give_away_as_nobody(void *argument)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    (void)argument;
    become_nobody();
    options.unix_user = "root";
    options.unix_group = "0";
    check_row_with((row){ "unix:%s/a.sock", OYEZ_PERMISSION_DENIED, EPERM, "chown",
                          "user nobody may not give the file to user root and group 0", "CAP_CHOWN" }, &options);
}

static void owners_that_are_not_permitted(void)
{
    if (geteuid() != 0)
        SKIP("only root can become somebody else");
    MUST(chmod(check_folder(), 0777));
    check_join(check_fork(give_away_as_nobody, NULL));
    CHECK_EQ_INT(place_entries(check_folder()), 0);
}

static const check_case cases[] = {
    CASE(too_long),
    CASE(a_missing_directory),
    CASE(a_missing_directory_that_root_has_to_make),
    CASE(no_directory),
    CASE(links_that_lead_nowhere),
    CASE(the_working_directory_was_removed),
    CASE(a_directory_one_may_not_write),
    CASE(a_directory_one_may_not_search),
    CASE(root_without_the_capability),
    CASE(an_access_control_list),
    CASE(a_read_only_file_system),
    CASE(a_full_file_system),
    CASE(an_immutable_directory),
    CASE(a_security_policy),
    CASE(what_is_no_socket_is_named),
    CASE(held_by_this_process),
    CASE(held_by_a_child_of_any_name),
    CASE(held_by_another_process),
    CASE(held_by_the_parent),
    CASE(held_by_a_process_one_may_not_see),
    CASE(held_in_another_network),
    CASE(held_on_an_overlay),
    CASE(an_abstract_name_that_is_taken),
    CASE(a_stale_file_of_somebody_else),
    CASE(a_stale_file_in_a_directory_one_may_not_write),
    CASE(a_stale_file_in_a_directory_one_may_not_read),
    CASE(a_directory_that_is_kept_locked),
    CASE(owners_that_do_not_exist),
    CASE(owners_that_are_not_permitted),
};

CHECK_MAIN(cases)
