/* What would become of an address: told, and nothing taken, made or removed. */
#define _GNU_SOURCE
#include "clients.h"
#include "faults.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char report[32768];

#define SAYS(...) fault_has(__FILE__, __LINE__, "report", report, __VA_ARGS__)
#define LACKS(part) fault_lacks(__FILE__, __LINE__, "report", report, part)
#define FREE(address) (look(address), SAYS("%s: can be had\n", shown(address)))
#define TAKEN(address) (look(address), SAYS("%s: cannot be had\n", shown(address)))

/* Checks, without a descriptor of its own. */
static void glance(const char *addresses)
{
    int length = (int)CHECK_WORKS(oyez_check(addresses, report, sizeof report));
    CHECK_EQ_INT(length, strlen(report));
    CHECK_EQ_INT(report[length - 1], '\n');
    CHECK_STR_CONTAINS(report, "\nthis host, and this process:\n");
}

/* Checks, and that nothing is left open. */
static void look(const char *addresses)
{
    int before = check_descriptors();
    glance(addresses);
    CHECK_EQ_INT(check_descriptors(), before);
}

/* An address as the report shows it. */
static const char *shown(const char *address)
{
    static char text[200];
    snprintf(text, sizeof text, "%.*s", (int)strcspn(address, "?"), address);
    return text;
}

/* The text, and what is passed. */

static void a_text_follows_snprintf(void)
{
    char whole[8192], part[8192];
    fault_network();
    int length = (int)CHECK_WORKS(oyez_check("127.0.0.1:1", whole, sizeof whole));
    CHECK_EQ_INT(length, strlen(whole));
    CHECK_EQ_INT(oyez_check("127.0.0.1:1", NULL, 0), length);
    memset(part, '#', sizeof part);
    CHECK_EQ_INT(oyez_check("127.0.0.1:1", part, 0), length);
    CHECK_EQ_INT(part[0], '#');
    for (int size = 1; size <= length + 2; size += size < 8 || size >= length ? 1 : 97) {
        int fits = size - 1 < length ? size - 1 : length;
        memset(part, '#', sizeof part);
        CHECK_EQ_INT(oyez_check("127.0.0.1:1", part, (size_t)size), length);
        CHECK_EQ_INT(strlen(part), fits);
        CHECK_EQ_INT(memcmp(part, whole, (size_t)fits), 0);
        CHECK_EQ_INT(part[size], '#');
    }
}

static void what_cannot_be_meant(void)
{
    static const char *const texts[] = { "", "nonsense", "127.0.0.1:65536", "127.0.0.1:1,", ",127.0.0.1:1", "unix:",
        "127.0.0.1:1,:2,\xff", "127.0.0.1:1?backlgo=1", "127.0.0.1:1,fd:x", "-" };
    char text[8] = "kept";
    CHECK_FAILS(oyez_check(NULL, text, sizeof text), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_check("127.0.0.1:1", NULL, 8), OYEZ_INVALID_ARGUMENT, EINVAL);
    CHECK_FAILS(oyez_check("127.0.0.1:1", text, (size_t)-1), OYEZ_INVALID_ARGUMENT, EINVAL);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        CHECK_FAILS(oyez_check(texts[i], text, sizeof text), OYEZ_INVALID_ADDRESS, EINVAL);
        CHECK_STR_CONTAINS(oyez_error_hint(NULL), "^");
    }
    CHECK_STR_EQ(text, "kept");
    CHECK_WORKS(oyez_check("127.0.0.1:1", text, sizeof text));
    CHECK_EQ_INT(oyez_error_code(NULL), OYEZ_INVALID_ADDRESS); /* what works leaves the last error alone */
}

static void several_addresses_in_their_order(void)
{
    fault_network();
    int held = fault_listen(HERE);
    look("127.0.0.1:7001," HERE ",-[2001:db8::1]:7000,udp:127.0.0.1:7000,unix:@oyez-check");
    const char *at = report;
    static const char *const lines[] = { "127.0.0.1:7001: can be had\n", HERE ": cannot be had\n",
        "[2001:db8::1]:7000: cannot be had, and is skipped: it is optional\n", "udp:127.0.0.1:7000: can be had\n",
        "unix:@oyez-check: can be had\n", "this host, and this process:\n" };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        at = strstr(at, lines[i]);
        CHECK(at != NULL);
        CHECK(at == report || at[-1] == '\n');
    }
    look("127.0.0.1:7001,-" HERE); /* optional is what the host lacks, not what somebody has */
    SAYS("\n" HERE ": cannot be had\n");
    LACKS("skipped");
    MUST(close(held));
}

/* Ports. */

static void a_free_port_stays_free(void)
{
    fault_network();
    for (int i = 0; i < 50; i++) {
        FREE(HERE);
        LACKS("there already");
        CHECK(client_try(FAULT_PORT) == -1 && errno == ECONNREFUSED);
    }
    FREE(":7000");
    SAYS("  bound as      [::]:7000\n");
    FREE("localhost:7000");
    FREE("127.0.0.1:0");
    SAYS("  bound as      127.0.0.1:");
    LACKS("  port ");
    MUST(close(fault_listen(HERE)));
}

static void service_names(void)
{
    fault_network();
    FREE("localhost:http");
    SAYS("  bound as      127.0.0.1:80\n");
    SAYS("  port          80 is privileged");
    TAKEN("localhost:no-such-service");
    SAYS("the service no-such-service");
}

static void rival_with_a_short_queue(void *unused)
{
    (void)unused;
    fault_rival(HERE "?backlog=2");
}

static void a_held_port(void)
{
    int clients[3];
    fault_network();
    int neighbour = (int)place_neighbour(rival_with_a_short_queue, NULL);
    TAKEN(HERE);
    SAYS("  there already " HERE " is held by rival (pid %d, user %s", neighbour, fault_user((int)geteuid()));
    SAYS("; queue 0 of 2\n");
    SAYS("  bind " HERE ": Address already in use: rival (pid %d", neighbour);
    SAYS("  hint: ");
    for (int i = 0; i < 3; i++) {
        clients[i] = client_connect(FAULT_PORT);
        look(HERE);
        SAYS("; queue %d of 2%s\n", i + 1, i + 1 > 2 ? ", full" : "");
    }
    for (int i = 0; i < 3; i++)
        client_close(clients[i]);
    place_neighbour_end((pid_t)neighbour);
    FREE(HERE);
}

static void port_as_nobody(void *unused)
{
    (void)unused;
    place_user(NOBODY);
    TAKEN(HERE);
    SAYS("there already " HERE " is held by a process of user %s (which one, this user may not see); queue 0 of ",
         fault_user(0));
    SAYS("ss -ltnp");
}

static void a_port_of_another_user(void)
{
    fault_network();
    pid_t neighbour = place_neighbour(fault_rival, HERE);
    check_join(check_fork(port_as_nobody, NULL));
    place_neighbour_end(neighbour);
}

static void held_on_other_addresses(void)
{
    fault_network();
    int everywhere = fault_listen(":7000");
    TAKEN(HERE);
    SAYS("there already [::]:7000 is held by this process itself (pid %d, descriptor %d)", (int)getpid(), everywhere);
    TAKEN("[::1]:7000");
    MUST(close(everywhere));
    int beside = fault_listen("127.0.0.2:7000");
    FREE(HERE);
    SAYS("there already 127.0.0.2:7000 is held by this process itself");
    TAKEN("0.0.0.0:7000");
    FREE("[::1]:7000");
    MUST(close(beside));
    int bound = fault_bind(SOCK_STREAM, 0);
    TAKEN(HERE);
    SAYS("there already " HERE " is bound, without listening, by this process itself");
    MUST(close(bound));
}

static void shared_ports(void)
{
    fault_network();
    int first = fault_listen(HERE "?reuse_port=on");
    int second = fault_listen(HERE "?reuse_port=on&backlog=7");
    TAKEN(HERE);
    SAYS("descriptor %d); queue 0 of ", first);
    SAYS("descriptor %d); queue 0 of 7\n", second);
    FREE(HERE "?reuse_port=on");
    SAYS("descriptor %d); queue 0 of ", first);
    SAYS("descriptor %d); queue 0 of 7\n", second);
    /* Whoever looks at a shared port gets none of its clients. */
    for (int i = 0; i < 6; i++) {
        int client = client_connect(FAULT_PORT);
        look(HERE "?reuse_port=on");
        client_close(client);
    }
    MUST(close(first));
    MUST(close(second));
}

static void udp_ports(void)
{
    fault_network();
    FREE("udp:" HERE);
    int held = fault_listen("udp:" HERE);
    TAKEN("udp:" HERE);
    SAYS("there already " HERE " is held by this process itself (pid %d, descriptor %d)\n", (int)getpid(), held);
    FREE(HERE); /* TCP's ports are others */
    TAKEN("udp::7000");
    MUST(close(held));
    FREE("udp:" HERE);
}

static void privileged_as_nobody(void *unused)
{
    (void)unused;
    place_user(NOBODY);
    TAKEN("127.0.0.1:80");
    SAYS("ports below 1024 are privileged, and this process of user %s has no CAP_NET_BIND_SERVICE",
         fault_user(NOBODY));
    SAYS("  port          80 is privileged");
    SAYS("  privileged    ports below 1024; this process may not bind them\n");
}

static void unprivileged_by_sysctl(void *unused)
{
    (void)unused;
    place_user(NOBODY);
    FREE("127.0.0.1:80");
    LACKS("80 is privileged");
    TAKEN("127.0.0.1:79");
    SAYS("  privileged    ports below 80; this process may not bind them\n");
}

static void privileged_ports(void)
{
    fault_network();
    FREE("127.0.0.1:80");
    SAYS("  privileged    ports below 1024; this process may bind them\n");
    check_join(check_fork(privileged_as_nobody, NULL));
    place_sysctl("/proc/sys/net/ipv4/ip_unprivileged_port_start", "80");
    check_join(check_fork(unprivileged_by_sysctl, NULL));
}

static void ports_of_outgoing_connections(void)
{
    static const char *const texts[] = { HERE, "udp:" HERE, ":7000" };
    fault_network();
    FREE(HERE);
    LACKS("taken at random");
    place_sysctl("/proc/sys/net/ipv4/ip_local_port_range", "6001 8000");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        FREE(texts[i]);
        SAYS("  port          7000 may be taken at random, by an outgoing connection");
        SAYS("ip_local_reserved_ports");
    }
    SAYS("  outgoing      ports 6001 to 8000\n");
    place_sysctl("/proc/sys/net/ipv4/ip_local_reserved_ports", "6500,6999-7001");
    FREE(HERE);
    LACKS("taken at random");
}

static void backlogs(void)
{
    fault_network();
    place_sysctl("/proc/sys/net/core/somaxconn", "300");
    FREE(HERE);
    SAYS(HERE ": can be had\n  backlog       300\n");
    FREE(HERE "?backlog=64");
    SAYS("\n  backlog       64\n");
    FREE(HERE "?backlog=100000");
    SAYS("\n  backlog       300, not 100000 as asked: net.core.somaxconn bounds it\n");
    SAYS("\n  backlog       300 at most\n");
}

/* Unix sockets: nothing is made, removed or touched. */

static const char *path_in_folder(const char *name)
{
    static char path[200];
    snprintf(path, sizeof path, "unix:%s/%s", check_folder(), name);
    return path;
}

/* All that a look must not change: the folder itself, and what is in it. */
static unsigned long long state_of(const char *folder)
{
    struct stat found;
    MUST(stat(folder, &found));
    unsigned long long state = (unsigned long long)found.st_mtim.tv_nsec + (unsigned long long)found.st_mtime;
    DIR *list = opendir(folder);
    CHECK(list != NULL);
    for (struct dirent *entry; (entry = readdir(list)) != NULL;) {
        MUST(fstatat(dirfd(list), entry->d_name, &found, AT_SYMLINK_NOFOLLOW));
        if (strcmp(entry->d_name, "..") != 0) /* others make files there */
            state = state * 31 + found.st_ino + found.st_mode + (unsigned long long)found.st_ctim.tv_nsec;
    }
    closedir(list);
    return state;
}

#define UNTOUCHED(check, address)                                                    \
    do {                                                                             \
        unsigned long long before = state_of(check_folder());                        \
        check(address);                                                              \
        CHECK(state_of(check_folder()) == before);                                   \
    } while (0)

static void leave_file(const char *name, int kind)
{
    struct sockaddr_un address = { 0 };
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%.60s/%s", check_folder(), name);
    int fd = kind == 0 ? open(address.sun_path, O_CREAT | O_CLOEXEC, 0600) : socket(AF_UNIX, kind | SOCK_CLOEXEC, 0);
    MUST(fd);
    if (kind != 0)
        MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    MUST(close(fd));
}

static void paths(void)
{
    UNTOUCHED(FREE, path_in_folder("free"));
    LACKS("there already");
    CHECK_EQ_INT(place_entries(check_folder()), 0);
    leave_file("stale", SOCK_STREAM);
    UNTOUCHED(FREE, path_in_folder("stale"));
    SAYS("  there already a stale socket file, which is replaced\n");
    leave_file("file", 0);
    UNTOUCHED(TAKEN, path_in_folder("file"));
    SAYS("which is not a socket");
    UNTOUCHED(TAKEN, path_in_folder("no/where"));
    SAYS("/no does not exist");
    SAYS("mkdir -p");
    UNTOUCHED(TAKEN, path_in_folder("file/below"));
    CHECK_EQ_INT(place_entries(check_folder()), 2);
}

static void a_live_path(void)
{
    char shown_path[200];
    int clients[3];
    snprintf(shown_path, sizeof shown_path, "%s", path_in_folder("live"));
    int held = fault_listen(path_in_folder("live?backlog=5"));
    for (int i = 0; i < 3; i++)
        clients[i] = client_connect_unix(shown_path + strlen("unix:"));
    UNTOUCHED(TAKEN, shown_path);
    SAYS("  there already %s is held by this process itself (pid %d, descriptor %d); queue 3 of 5\n", shown_path,
         (int)getpid(), held);
    for (int i = 0; i < 3; i++) {
        MUST(close(clients[i]));
        MUST(close((int)CHECK_WORKS(oyez_accept(held, NULL, 0, 0))));
    }
    CHECK_FAILS(oyez_accept(held, NULL, 0, 0), OYEZ_TIMED_OUT, EAGAIN); /* whoever looked was no client */
    CHECK_WORKS(oyez_unlisten(held));
    UNTOUCHED(FREE, shown_path);
}

static void look_at_folder_as_nobody(void *stale)
{
    place_user(NOBODY);
    UNTOUCHED(TAKEN, path_in_folder("new"));
    SAYS("Permission denied");
    SAYS("user %s", fault_user(NOBODY));
    UNTOUCHED(TAKEN, stale);
}

static void a_directory_that_cannot_be_written(void)
{
    char stale[200];
    leave_file("stale", SOCK_STREAM);
    snprintf(stale, sizeof stale, "%s", path_in_folder("stale"));
    MUST(chmod(check_folder(), 0755));
    check_join(check_fork(look_at_folder_as_nobody, stale));
}

static void abstract_names(void)
{
    char name[60];
    snprintf(name, sizeof name, "unix:@oyez-check-%d", (int)getpid());
    FREE(name);
    int held = fault_listen(name);
    int client = client_connect_unix(name + strlen("unix:"));
    TAKEN(name);
    SAYS("  there already %s is held by this process itself (pid %d, descriptor %d); queue 1 of ", name, (int)getpid(),
         held);
    MUST(close(client));
    MUST(close(held));
    FREE(name);
}

static void inherited_descriptors(void)
{
    char text[40];
    int listener = fault_listen("127.0.0.1:0");
    MUST(fcntl(listener, F_SETFD, 0));
    snprintf(text, sizeof text, "fd:%d", listener);
    FREE(text);
    LACKS("  backlog       4096\nthis"); /* it has the one that it was given */
    CHECK_EQ_INT(fcntl(listener, F_GETFD), 0);
    int other = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    snprintf(text, sizeof text, "fd:%d", other);
    TAKEN(text);
    SAYS("does not listen");
    MUST(close(other));
    MUST(close(listener));
}

/* Surroundings. */

static void ipv6_as_it_is(void)
{
    fault_network();
    FREE(":7000");
    FREE("[::1]:7000");
    SAYS("  IPv6          on; `:PORT` takes IPv6 and IPv4 on one socket\n");
    place_sysctl("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    FREE(":7000");
    SAYS("  IPv6          off (net.ipv6.conf.all.disable_ipv6 is 1); `:PORT` takes IPv4 alone\n");
    TAKEN("[::1]:7000");
    SAYS("IPv6 is switched off: net.ipv6.conf.all.disable_ipv6 is 1");
    look("-[::1]:7000,127.0.0.1:7000");
    SAYS("[::1]:7000: cannot be had, and is skipped: it is optional\n");
}

static void a_kernel_without_ipv6(void)
{
    fault_network();
    place_refuse_family(AF_INET6, EAFNOSUPPORT);
    FREE(":7000");
    SAYS("  bound as      0.0.0.0:7000\n");
    TAKEN("[::1]:7000");
    SAYS("  IPv6          off (this kernel has none, or a sandbox keeps it away); `:PORT` takes IPv4 alone\n");
}

static void without_descriptors(void)
{
    static const char *const texts[] = { ":7000", "unix:@oyez-check", "unix:/tmp/oyez-check", "localhost:http",
        "udp::7000", "fd:9", "systemd:" };
    int limit = 0;
    for (int left = 7; left >= 0; left--) {
        int before = place_descriptors_left(left);
        limit = limit == 0 ? before : limit;
        for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
            glance(texts[i]);
    }
    glance("127.0.0.1:7000");
    SAYS("127.0.0.1:7000: cannot be had\n");
    SAYS("Too many open files");
    SAYS("hard limit");
    SAYS("  IPv6          cannot be seen (socket: Too many open files)\n"); /* no guess that it is off */
    place_descriptor_limit(limit);
}

static void with_limits(void *unused)
{
    (void)unused;
    struct rlimit limit = { 77, 99 };
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    look("127.0.0.1:0");
    SAYS(" open, 77 at most; a program may raise that to 99\n");
    limit.rlim_cur = 99;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    look("127.0.0.1:0");
    SAYS("  descriptors   %d open, 99 at most\n", check_descriptors());
}

static void descriptor_limits(void)
{
    check_join(check_fork(with_limits, NULL));
}

/* From inside a server, while it serves. */
static void ones_own_server(void)
{
    char here[40];
    fault_network();
    served server = serve(serve_echo, NULL, NULL);
    snprintf(here, sizeof here, "127.0.0.1:%d", server.port);
    for (int i = 0; i < 20; i++) {
        client_echo_many(server.port, 8, 4096);
        CHECK_WORKS(oyez_check(here, report, sizeof report));
        SAYS("%s: cannot be had\n", here);
        SAYS("this process itself (pid %d, descriptor %d)", (int)getpid(), server.listener);
        SAYS("close descriptor %d first", server.listener);
    }
    serve_end(server);
    FREE(here);
}

static void *look_often(void *free_one)
{
    char text[8192];
    for (int i = 0; i < 50; i++) {
        CHECK_WORKS(oyez_check(free_one != NULL ? HERE : "127.0.0.1:7001", text, sizeof text));
        CHECK_STR_CONTAINS(text, free_one != NULL ? HERE ": can be had\n" : "127.0.0.1:7001: cannot be had\n");
    }
    return NULL;
}

static void several_threads(void)
{
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    fault_network();
    int held = fault_listen("127.0.0.1:7001");
    for (int i = 0; i < THREADS; i++)
        threads[i] = check_thread(look_often, i % 2 == 0 ? report : NULL);
    for (int i = 0; i < THREADS; i++)
        check_thread_join(threads[i]);
    MUST(close(held));
}

/* A check never keeps a starting server from its port. */

static int stop_looking[2];

static void look_until_told(void *unused)
{
    char text[8192], byte;
    (void)unused;
    MUST(fcntl(stop_looking[0], F_SETFL, O_NONBLOCK));
    while (read(stop_looking[0], &byte, 1) == -1)
        CHECK_WORKS(oyez_check(HERE ",:7000", text, sizeof text));
}

static void a_server_that_starts_meanwhile(void)
{
    enum { LOOKERS = 3, ROUNDS = 2000 };
    pid_t lookers[LOOKERS];
    int failed = 0;
    fault_network();
    MUST(pipe2(stop_looking, O_CLOEXEC));
    for (int i = 0; i < LOOKERS; i++)
        lookers[i] = check_fork(look_until_told, NULL);
    for (int i = 0; i < ROUNDS; i++) {
        int fd = oyez_listen(i % 2 == 0 ? HERE : ":7000", NULL);
        failed += fd == -1;
        if (fd != -1)
            MUST(close(fd));
    }
    MUST(write(stop_looking[1], "...", LOOKERS));
    for (int i = 0; i < LOOKERS; i++)
        check_join(lookers[i]);
    MUST(close(stop_looking[0]));
    MUST(close(stop_looking[1]));
    CHECK_EQ_INT(failed, 0);
}

static const check_case cases[] = {
    CASE(a_text_follows_snprintf),
    CASE(what_cannot_be_meant),
    CASE(several_addresses_in_their_order),
    CASE(a_free_port_stays_free),
    CASE(service_names),
    CASE(a_held_port),
    CASE(a_port_of_another_user),
    CASE(held_on_other_addresses),
    CASE(shared_ports),
    CASE(udp_ports),
    CASE(privileged_ports),
    CASE(ports_of_outgoing_connections),
    CASE(backlogs),
    CASE(paths),
    CASE(a_live_path),
    CASE(a_directory_that_cannot_be_written),
    CASE(abstract_names),
    CASE(inherited_descriptors),
    CASE(ipv6_as_it_is),
    CASE(a_kernel_without_ipv6),
    CASE(without_descriptors),
    CASE(descriptor_limits),
    CASE(ones_own_server),
    CASE(several_threads),
    CASE(a_server_that_starts_meanwhile),
};
CHECK_MAIN(cases)
