/* Unix sockets: the file's mode and owner, stale and live files, two starters, names. */
#define _GNU_SOURCE
#include "clients.h"
#include "places.h"
#include "serving.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { NOBODY = 65534 };

/* A path in this test's folder, and the address that listens there. */
typedef struct place {
    char path[220];
    char address[230];
} place;

static place place_of(const char *name)
{
    place made;
    snprintf(made.path, sizeof made.path, "%.100s/%.100s", check_folder(), name);
    snprintf(made.address, sizeof made.address, "unix:%s", made.path);
    return made;
}

static int listen_at(const place *at)
{
    return (int)CHECK_WORKS(oyez_listen(at->address, NULL));
}

static int mode_of(const char *path)
{
    struct stat about;
    MUST(lstat(path, &about));
    return (int)(about.st_mode & 07777);
}

static int exists(const char *path)
{
    struct stat about;
    return lstat(path, &about) == 0;
}

static void check_serves(int listener, const char *path)
{
    int client = client_connect_unix(path);
    int accepted = (int)CHECK_WORKS(oyez_accept(listener, NULL, 0, 10000));
    client_send_text(client, "hello");
    client_expect(accepted, "hello");
    MUST(close(accepted));
    MUST(close(client));
}

static void it_listens_and_serves(void)
{
    char peer[128];
    char shown[256];
    place at = place_of("a.sock");
    int fd = listen_at(&at);
    check_serves(fd, at.path);
    CHECK_EQ_INT(oyez_local_address(fd, shown, sizeof shown), strlen(at.address));
    CHECK_STR_EQ(shown, at.address);
    int client = client_connect_unix(at.path);
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, peer, sizeof peer, 10000));
    CHECK_STR_EQ(peer, "unix:");
    CHECK_WORKS(oyez_local_address(accepted, shown, sizeof shown));
    CHECK_STR_EQ(shown, at.address);
    CHECK_WORKS(oyez_peer_address(client, shown, sizeof shown));
    CHECK_STR_EQ(shown, at.address);
    MUST(close(client));
    MUST(close(accepted));
    CHECK_WORKS(oyez_unlisten(fd));
    CHECK_EQ_INT(place_entries(check_folder()), 0);
}

static void a_client_with_a_name(void)
{
    char peer[128];
    char expected[256];
    place at = place_of("b.sock");
    struct sockaddr_un own = { 0 };
    struct sockaddr_un there = { 0 };
    int fd = listen_at(&at);
    int client = (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    own.sun_family = there.sun_family = AF_UNIX;
    snprintf(own.sun_path, sizeof own.sun_path, "%s/client", check_folder());
    strcpy(there.sun_path, at.path);
    MUST(bind(client, (struct sockaddr *)&own, sizeof own));
    MUST(connect(client, (struct sockaddr *)&there, sizeof there));
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, peer, sizeof peer, 10000));
    snprintf(expected, sizeof expected, "unix:%s/client", check_folder());
    CHECK_STR_EQ(peer, expected);
    MUST(close(accepted));
    MUST(close(client));
    CHECK_WORKS(oyez_unlisten(fd));
}

/* The kernel's own answer is the path that clients use, not a temporary one. */
static void getsockname_tells_the_path(void)
{
    struct sockaddr_un name = { 0 };
    socklen_t size = sizeof name;
    place at = place_of("real.sock");
    for (int round = 0; round < 2; round++) { /* the second time over a stale file */
        int fd = listen_at(&at);
        size = sizeof name;
        MUST(getsockname(fd, (struct sockaddr *)&name, &size));
        CHECK_STR_EQ(name.sun_path, at.path);
        MUST(close(fd));
    }
}

static void a_relative_path(void)
{
    char before[512];
    char shown[64];
    CHECK(getcwd(before, sizeof before) != NULL);
    MUST(chdir(check_folder()));
    int fd = (int)CHECK_WORKS(oyez_listen("unix:here.sock", NULL));
    CHECK_WORKS(oyez_local_address(fd, shown, sizeof shown));
    CHECK_STR_EQ(shown, "unix:here.sock");
    check_serves(fd, "here.sock");
    CHECK_WORKS(oyez_unlisten(fd));
    CHECK_EQ_INT(place_entries("."), 0);
    MUST(chdir(before));
}

/* Mode and owner. */

static void the_mode_is_exact(void)
{
    static const int modes[] = { 0660, 0600, 0777, 0666, 0700, 0640 };
    static const mode_t masks[] = { 0, 022, 077, 0777 };
    place at = place_of("mode.sock");
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    mode_t before = umask(0);
    for (size_t m = 0; m < 4; m++) {
        umask(masks[m]);
        for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
            options.unix_mode = modes[i];
            int fd = (int)CHECK_WORKS(oyez_listen(at.address, &options));
            CHECK_EQ_INT(mode_of(at.path), modes[i]);
            if (i % 2 == 0) /* now over a stale file, now over none */
                MUST(close(fd));
            else
                CHECK_WORKS(oyez_unlisten(fd));
        }
        int fd = listen_at(&at);
        CHECK_EQ_INT(mode_of(at.path), 0777 & ~(int)masks[m]);
        CHECK_WORKS(oyez_unlisten(fd));
    }
    umask(before);
}

/* From the first moment at which there is a file it has its mode: a watcher never sees another. */
static int watch_mode; /* the mode of the file where it was wrong, else 0 */
static int watching = 1;

static void *watch_file(void *path)
{
    struct stat about;
    while (__atomic_load_n(&watching, __ATOMIC_SEQ_CST))
        if (lstat(path, &about) == 0 && (about.st_mode & 0777) != 0600)
            watch_mode = (int)(about.st_mode & 0777);
    return NULL;
}

static void the_mode_is_there_from_the_start(void)
{
    place at = place_of("watched.sock");
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.unix_mode = 0600;
    mode_t before = umask(0);
    pthread_t watcher = check_thread(watch_file, at.path);
    for (int round = 0; round < 500; round++)
        CHECK_WORKS(oyez_unlisten((int)CHECK_WORKS(oyez_listen(at.address, &options))));
    __atomic_store_n(&watching, 0, __ATOMIC_SEQ_CST);
    check_thread_join(watcher);
    umask(before);
    if (watch_mode != 0)
        check_fail(__FILE__, __LINE__, "for a moment the mode was %03o", (unsigned)watch_mode);
}

static void owner_and_group(void)
{
    struct stat about;
    place at = place_of("owned.sock");
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    if (geteuid() != 0)
        SKIP("only root gives files away");
    options.unix_user = "nobody";
    options.unix_group = "65534";
    options.unix_mode = 0620;
    int fd = (int)CHECK_WORKS(oyez_listen(at.address, &options));
    MUST(stat(at.path, &about));
    CHECK_EQ_INT(about.st_uid, NOBODY);
    CHECK_EQ_INT(about.st_gid, NOBODY);
    CHECK_EQ_INT(about.st_mode & 07777, 0620);
    CHECK_WORKS(oyez_unlisten(fd));
    options.unix_user = NULL;
    fd = (int)CHECK_WORKS(oyez_listen(at.address, &options));
    MUST(stat(at.path, &about));
    CHECK_EQ_INT(about.st_uid, 0);
    CHECK_EQ_INT(about.st_gid, NOBODY);
    CHECK_WORKS(oyez_unlisten(fd));
}

static void unknown_owners(void)
{
    place at = place_of("unknown.sock");
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    int before = check_descriptors();
    options.unix_user = "no-such-user";
    CHECK_FAILS(oyez_listen(at.address, &options), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "no-such-user");
    options.unix_user = NULL;
    options.unix_group = "no-such-group";
    CHECK_FAILS(oyez_listen(at.address, &options), OYEZ_NAME_NOT_FOUND, ANY_ERRNO);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "no-such-group");
    CHECK_EQ_INT(check_descriptors(), before);
    CHECK_EQ_INT(place_entries(check_folder()), 0);
}

static void give_away_as_nobody(void *argument)
{
    const place *at = argument;
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    MUST(setgid(NOBODY));
    MUST(setuid(NOBODY));
    options.unix_user = "0";
    CHECK_FAILS(oyez_listen(at->address, &options), OYEZ_PERMISSION_DENIED, EPERM);
    CHECK(!exists(at->path));
}

static void not_permitted(void)
{
    place at = place_of("denied.sock");
    if (geteuid() != 0)
        SKIP("only root can become somebody else");
    MUST(chmod(check_folder(), 0777));
    check_join(check_fork(give_away_as_nobody, &at));
    CHECK_EQ_INT(place_entries(check_folder()), 0);
}

static void listen_in_a_closed_folder(void *argument)
{
    const place *at = argument;
    MUST(setuid(NOBODY));
    CHECK_FAILS(oyez_listen(at->address, NULL), OYEZ_PERMISSION_DENIED, EACCES);
    CHECK_STR_EQ(oyez_error_address(NULL), at->address);
}

static void a_folder_one_may_not_write(void)
{
    place at = place_of("closed.sock");
    if (geteuid() != 0)
        SKIP("only root can become somebody else");
    MUST(chmod(check_folder(), 0755));
    check_join(check_fork(listen_in_a_closed_folder, &at));
    CHECK_EQ_INT(place_entries(check_folder()), 0);
}

static void no_such_folder(void)
{
    place at = place_of("none/a.sock");
    int before = check_descriptors();
    errno = 0;
    CHECK_EQ_INT(oyez_listen(at.address, NULL), -1);
    CHECK_EQ_INT(errno, ENOENT);
    CHECK_EQ_INT(check_descriptors(), before);
}

/* What is there already. */

static void a_stale_file_is_replaced(void)
{
    place at = place_of("stale.sock");
    for (int round = 0; round < 20; round++) {
        int fd = listen_at(&at);
        check_serves(fd, at.path);
        MUST(close(fd));
        CHECK(exists(at.path));
    }
    CHECK_EQ_INT(place_entries(check_folder()), 1);
}

static void a_live_one_is_never_stolen(void)
{
    place at = place_of("live.sock");
    int fd = listen_at(&at);
    for (int round = 0; round < 20; round++) {
        CHECK_FAILS(oyez_listen(at.address, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
        CHECK_STR_EQ(oyez_error_address(NULL), at.address);
    }
    /* The question whether somebody listens may itself have been a connection, which ends at once. */
    int client = client_connect_unix(at.path);
    client_send_text(client, "hello");
    char text[8] = "";
    while (text[0] == '\0') {
        int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
        CHECK(oyez_read(accepted, text, 5, 10000) >= 0);
        MUST(close(accepted));
    }
    CHECK_STR_EQ(text, "hello");
    MUST(close(client));
    CHECK_WORKS(oyez_unlisten(fd));
}

/* With a full queue connect(2) would block, or say EAGAIN: that is alive all the same. */
static void a_live_one_with_a_full_queue(void)
{
    int clients[4];
    struct timeval patience = { 0, 100000 };
    place at = place_of("full.sock");
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    struct sockaddr_un there = { 0 };
    options.backlog = 1;
    int fd = (int)CHECK_WORKS(oyez_listen(at.address, &options));
    there.sun_family = AF_UNIX;
    strcpy(there.sun_path, at.path);
    for (int i = 0; i < 4; i++) {
        clients[i] = (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        MUST(setsockopt(clients[i], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience));
        connect(clients[i], (struct sockaddr *)&there, sizeof there);
    }
    long long start = check_now_ms();
    CHECK_FAILS(oyez_listen(at.address, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    CHECK_TOOK(start, 0, 5000);
    for (int i = 0; i < 4; i++)
        MUST(close(clients[i]));
    CHECK_WORKS(oyez_unlisten(fd));
}

static void make_other(const char *path, int kind)
{
    int fd;
    switch (kind) {
    case 0:
        fd = (int)MUST(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        MUST(write(fd, "precious", 8));
        MUST(close(fd));
        break;
    case 1:
        MUST(mkdir(path, 0700));
        break;
    case 2:
        MUST(mkfifo(path, 0600));
        break;
    case 3:
        MUST(symlink("/etc/passwd", path));
        break;
    default:
        MUST(symlink("/no/such/file", path));
    }
}

static void what_is_no_socket_is_never_removed(void)
{
    struct stat before;
    struct stat after;
    for (int kind = 0; kind < 5; kind++) {
        char name[20];
        snprintf(name, sizeof name, "other%d", kind);
        place at = place_of(name);
        make_other(at.path, kind);
        MUST(lstat(at.path, &before));
        CHECK_FAILS(oyez_listen(at.address, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
        CHECK(oyez_error_hint(NULL)[0] != '\0');
        MUST(lstat(at.path, &after));
        CHECK_EQ_INT(after.st_ino, before.st_ino);
        CHECK_EQ_INT(after.st_size, before.st_size);
        CHECK_EQ_INT(after.st_mode, before.st_mode);
    }
    CHECK_EQ_INT(place_entries(check_folder()), 5);
}

static void unlisten_removes_only_its_own(void)
{
    place at = place_of("own.sock");
    int first = listen_at(&at);
    MUST(unlink(at.path));
    int second = listen_at(&at);
    CHECK_WORKS(oyez_unlisten(first));
    CHECK(exists(at.path));
    check_serves(second, at.path);
    MUST(unlink(at.path));
    int file = (int)MUST(open(at.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    CHECK_WORKS(oyez_unlisten(second));
    CHECK(exists(at.path));
    MUST(close(file));
    CHECK_FAILS(oyez_unlisten(second), OYEZ_INVALID_ARGUMENT, EBADF);
}

static void unlisten_after_the_file_is_gone(void)
{
    place at = place_of("gone.sock");
    int fd = listen_at(&at);
    MUST(unlink(at.path));
    CHECK_WORKS(oyez_unlisten(fd));
    CHECK_EQ_INT(place_entries(check_folder()), 0);
}

/* A descriptor closed behind oyez's back and its number used again: the file is not the new one's. */
static void a_number_used_again(void)
{
    place at = place_of("again.sock");
    int first = listen_at(&at);
    MUST(close(first));
    int second = (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", NULL));
    CHECK_EQ_INT(second, first);
    CHECK_WORKS(oyez_unlisten(second));
    CHECK(exists(at.path));
}

static void a_server_removes_only_its_own(void)
{
    place at = place_of("server.sock");
    served server = serve_at(at.address, serve_hello, NULL, NULL);
    int client = client_connect_unix(at.path);
    client_expect(client, "hello\n");
    MUST(close(client));
    serve_end(server);
    CHECK_EQ_INT(place_entries(check_folder()), 0);

    server = serve_at(at.address, serve_hello, NULL, NULL);
    MUST(unlink(at.path));
    int successor = listen_at(&at);
    serve_end(server);
    CHECK(exists(at.path));
    CHECK_WORKS(oyez_unlisten(successor));
}

/* Names. */

static void abstract_names(void)
{
    char address[64];
    char shown[64];
    snprintf(address, sizeof address, "unix:@oyez-test-%d", (int)getpid());
    int fd = (int)CHECK_WORKS(oyez_listen(address, NULL));
    check_serves(fd, address + 5);
    CHECK_WORKS(oyez_local_address(fd, shown, sizeof shown));
    CHECK_STR_EQ(shown, address);
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    CHECK_WORKS(oyez_unlisten(fd));
    fd = (int)CHECK_WORKS(oyez_listen(address, NULL));
    MUST(close(fd));
}

static void the_longest_path(void)
{
    char path[109];
    char address[120];
    size_t used = (size_t)snprintf(path, sizeof path, "%s/", check_folder());
    memset(path + used, 'a', 107 - used);
    path[107] = '\0';
    snprintf(address, sizeof address, "unix:%s", path);
    int fd = (int)CHECK_WORKS(oyez_listen(address, NULL));
    check_serves(fd, path);
    CHECK(exists(path));
    CHECK_WORKS(oyez_unlisten(fd));
    path[107] = 'b';
    path[108] = '\0';
    snprintf(address, sizeof address, "unix:%s", path);
    CHECK_FAILS(oyez_listen(address, NULL), OYEZ_INVALID_ADDRESS, ANY_ERRNO);
    CHECK(oyez_error_hint(NULL)[0] != '\0');
    CHECK_EQ_INT(place_entries(check_folder()), 0);
}

/* Two starters. */

enum { STARTERS = 4, ROUNDS = 60 };

typedef struct race {
    place at;
    int start[2];
    int result[2];
    int finish[2];
} race;

static void start_racing(void *argument)
{
    race *one = argument;
    char byte;
    MUST(close(one->finish[1]));
    MUST(read(one->start[0], &byte, 1));
    int fd = oyez_listen(one->at.address, NULL);
    if (fd == -1 && oyez_error_code(NULL) != OYEZ_ADDRESS_IN_USE)
        CHECK_STR_EQ(oyez_error_message(NULL), "in use");
    MUST(write(one->result[1], fd == -1 ? "-" : "+", 1));
    while (read(one->finish[0], &byte, 1) > 0) /* until all have told */
        ;
}

/* All start at the same moment, over a stale file or none: exactly one listens, and it can be reached. */
static void race_once(race *one)
{
    pid_t children[STARTERS];
    char told[STARTERS];
    int winners = 0;
    MUST(pipe2(one->start, O_CLOEXEC));
    MUST(pipe2(one->result, O_CLOEXEC));
    MUST(pipe2(one->finish, O_CLOEXEC));
    for (int i = 0; i < STARTERS; i++)
        children[i] = check_fork(start_racing, one);
    MUST(write(one->start[1], "ssssssss", STARTERS));
    for (int i = 0; i < STARTERS; i++) {
        CHECK_EQ_INT(MUST(read(one->result[0], &told[i], 1)), 1);
        winners += told[i] == '+';
    }
    CHECK_EQ_INT(winners, 1);
    MUST(close(client_connect_unix(one->at.path)));
    MUST(close(one->finish[1]));
    for (int i = 0; i < STARTERS; i++)
        check_join(children[i]);
    MUST(close(one->finish[0]));
    for (int i = 0; i < 2; i++) {
        MUST(close(one->start[i]));
        MUST(close(one->result[i]));
    }
}

static void exactly_one_of_many_starters_wins(void)
{
    race one;
    one.at = place_of("race.sock");
    for (int round = 0; round < ROUNDS; round++) {
        race_once(&one);
        CHECK_EQ_INT(place_entries(check_folder()), 1);
        if (round % 3 == 0) /* sometimes over no file at all */
            MUST(unlink(one.at.path));
    }
}

static const check_case cases[] = {
    CASE(it_listens_and_serves),
    CASE(a_client_with_a_name),
    CASE(getsockname_tells_the_path),
    CASE(a_relative_path),
    CASE(the_mode_is_exact),
    CASE(the_mode_is_there_from_the_start),
    CASE(owner_and_group),
    CASE(unknown_owners),
    CASE(not_permitted),
    CASE(a_folder_one_may_not_write),
    CASE(no_such_folder),
    CASE(a_stale_file_is_replaced),
    CASE(a_live_one_is_never_stolen),
    CASE(a_live_one_with_a_full_queue),
    CASE(what_is_no_socket_is_never_removed),
    CASE(unlisten_removes_only_its_own),
    CASE(unlisten_after_the_file_is_gone),
    CASE(a_number_used_again),
    CASE(a_server_removes_only_its_own),
    CASE(abstract_names),
    CASE(the_longest_path),
    CASE_WITHIN(60, exactly_one_of_many_starters_wins),
};

CHECK_MAIN(cases)
