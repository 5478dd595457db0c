/* What is used up is named: the limit, what is used of it, and how to raise it. */
#define _GNU_SOURCE
#include "clients.h"
#include "places.h"
#include "serving.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Counted without /proc, which takes a descriptor to read. */
static int open_now(void)
{
    int count = 0;
    for (int fd = 0; fd < 300; fd++)
        count += fcntl(fd, F_GETFD) != -1;
    return count;
}

static int limit_now(void)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    return (int)limit.rlim_cur;
}

static int hard_limit(void)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    return (int)limit.rlim_max;
}

/* The last error has this in its message, which is one line. */
static void check_message(const char *part)
{
    CHECK_STR_CONTAINS(oyez_error_message(NULL), part);
    CHECK(strchr(oyez_error_message(NULL), '\n') == NULL);
}

/* The log: the last line of the event that is waited for. */

static const char *awaited;
static int told;
static char line[600];
static pthread_mutex_t keeping = PTHREAD_MUTEX_INITIALIZER;

static void keep_line(int32_t level, const char *event, const char *text, void *user)
{
    (void)level;
    (void)user;
    if (strcmp(event, awaited) != 0)
        return;
    pthread_mutex_lock(&keeping);
    snprintf(line, sizeof line, "%s", text);
    pthread_mutex_unlock(&keeping);
    __atomic_add_fetch(&told, 1, __ATOMIC_SEQ_CST);
}

static oyez_server_options awaiting(int model, const char *event)
{
    oyez_server_options options = serve_options(model);
    options.log = keep_line;
    awaited = event;
    told = 0;
    return options;
}

static void check_line(const char *part)
{
    char kept[sizeof line];
    pthread_mutex_lock(&keeping);
    memcpy(kept, line, sizeof kept);
    pthread_mutex_unlock(&keeping);
    CHECK_STR_CONTAINS(kept, part);
    CHECK(strchr(kept, '\n') == NULL);
}

/* Descriptors. */

static void descriptors_of_the_process(void)
{
    char text[100];
    int before = place_descriptors_left(0);
    CHECK_FAILS(oyez_listen("127.0.0.1:0", NULL), OYEZ_LIMIT_REACHED, EMFILE);
    CHECK_STR_EQ(oyez_error_operation(NULL), "socket");
    snprintf(text, sizeof text, "this process has %d descriptors open; its limit is %d, its hard limit %d", open_now(),
             limit_now(), hard_limit());
    check_message(text);
    snprintf(text, sizeof text, "`prlimit --pid %d --nofile=%d`", (int)getpid(), hard_limit());
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), text);
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "`ulimit -n`");
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "LimitNOFILE=");
    place_descriptor_limit(before);
}

/* More may be open than the limit allows, when it was lowered. */
static void a_limit_that_was_lowered(void)
{
    char text[100];
    int spare[30];
    for (int i = 0; i < 30; i++)
        spare[i] = (int)MUST(dup(0));
    int before = place_descriptors_left(0);
    place_descriptor_limit(3);
    CHECK_FAILS(oyez_listen("127.0.0.1:0", NULL), OYEZ_LIMIT_REACHED, EMFILE);
    snprintf(text, sizeof text, "this process has %d descriptors open; its limit is 3, ", open_now());
    check_message(text);
    place_descriptor_limit(before);
    for (int i = 0; i < 30; i++)
        MUST(close(spare[i]));
}

static void reach_the_hard_limit(void *unused)
{
    char text[100];
    struct rlimit limit;
    (void)unused;
    place_descriptors_left(0);
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_max = limit.rlim_cur;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK_FAILS(oyez_listen("127.0.0.1:0", NULL), OYEZ_LIMIT_REACHED, EMFILE);
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "have root (CAP_SYS_RESOURCE) raise the limit and the hard limit");
    snprintf(text, sizeof text, "--nofile=%d:%d`", 2 * (int)limit.rlim_max, 2 * (int)limit.rlim_max);
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), text);
}

static void the_hard_limit(void)
{
    check_join(check_fork(reach_the_hard_limit, NULL));
}

static void descriptors_of_a_server(void)
{
    char text[100];
    oyez_server_options options = awaiting(OYEZ_THREADS, "descriptors_used_up");
    served server = serve(serve_hello, NULL, &options);
    CHECK_WORKS(oyez_server_pause(server.id));
    int client = client_connect(server.port);
    int before = place_descriptors_left(0);
    CHECK_WORKS(oyez_server_resume(server.id));
    CHECK_SOON(__atomic_load_n(&told, __ATOMIC_SEQ_CST) == 1);
    snprintf(text, sizeof text, "this process has %d descriptors open; its limit is ", open_now());
    check_line(text);
    check_line("; accepting pauses, clients wait in the kernel's queue; ");
    snprintf(text, sizeof text, "`prlimit --pid %d --nofile=%d`", (int)getpid(), hard_limit());
    check_line(text);
    place_descriptor_limit(before);
    client_expect(client, "hello\n");
    CHECK_EQ_INT(client_ending(client), 0);
    MUST(close(client));
    serve_end(server);
}

/* The whole system's: the kernel says ENFILE also where the limit is not reached, and what cannot be read is said. */
static void descriptors_of_the_system(void)
{
    place_refuse_family(AF_INET, ENFILE);
    CHECK_FAILS(oyez_listen("127.0.0.1:0", NULL), OYEZ_LIMIT_REACHED, ENFILE);
    check_message("fs.file-max is ");
    check_message(", which is not reached");
    int before = place_descriptors_left(0);
    CHECK_FAILS(oyez_listen("127.0.0.1:0", NULL), OYEZ_LIMIT_REACHED, ENFILE);
    check_message("cannot be read without one");
    place_descriptor_limit(before);
}

/* Threads and processes. */

/* The server's thread cannot be made: `limit` says why. */
static void check_no_thread(const char *limit)
{
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
    CHECK_FAILS(oyez_server_start(server), OYEZ_LIMIT_REACHED, EAGAIN);
    CHECK_STR_EQ(oyez_error_operation(NULL), "pthread_create");
    check_message(limit);
    CHECK_WORKS(oyez_server_close(server));
}

static void start_with_few(void *unused)
{
    (void)unused;
    place_few_threads(1);
    check_no_thread("limit reached: 1 of 1 threads and processes of this user, RLIMIT_NPROC");
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "have root (CAP_SYS_RESOURCE) raise the limit");
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "--nproc=2:2`");
}

static void a_server_that_cannot_have_a_thread(void)
{
    check_join(check_fork(start_with_few, NULL));
}

typedef struct shortage {
    int model;
    int most;
    const char *event;
    const char *begins;
} shortage;

/* More clients than there can be handlers. */
static void serve_with_few(void *argument)
{
    enum { CLIENTS = 6 };
    shortage *at = argument;
    char text[200];
    int clients[CLIENTS];
    gate closed = gate_make();
    oyez_server_options options = awaiting(at->model, at->event);
    place_few_threads(at->most);
    served server = serve(serve_hello_behind_gate, &closed, &options);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_connect(server.port);
    CHECK_SOON(__atomic_load_n(&told, __ATOMIC_SEQ_CST) >= 1);
    snprintf(text, sizeof text, "limit reached: %d of %d threads and processes of this user, RLIMIT_NPROC", at->most,
             at->most);
    check_line(text);
    check_line(at->begins);
    check_line("; connections wait for a free ");
    gate_open(&closed);
    for (int i = 0; i < CLIENTS; i++) {
        client_expect(clients[i], "hello\n");
        client_close(clients[i]);
    }
    serve_end(server);
    gate_end(&closed);
}

static void threads_of_a_server(void)
{
    shortage few = { OYEZ_THREADS, 4, "threads_used_up", "pthread_create: Resource temporarily unavailable" };
    check_join(check_fork(serve_with_few, &few));
}

static void processes_of_a_server(void)
{
    shortage few = { OYEZ_PROCESSES, 4, "processes_used_up", "fork: Resource temporarily unavailable" };
    check_join(check_fork(serve_with_few, &few));
}

/* A control group of our own, and one in it; empty where none can be made. */
static char group[100];
static char inner[120];

static int write_to(const char *folder, const char *file, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd == -1)
        return 0;
    ssize_t count = write(fd, text, strlen(text));
    MUST(close(fd));
    return count == (ssize_t)strlen(text);
}

static int make_groups(const char *hierarchy)
{
    snprintf(group, sizeof group, "%s/oyez-test-%d", hierarchy, (int)getpid());
    snprintf(inner, sizeof inner, "%s/inner", group);
    if (mkdir(group, 0755) == -1)
        return 0;
    MUST(mkdir(inner, 0755));
    if (write_to(group, "pids.max", "1"))
        return 1;
    MUST(rmdir(inner));
    MUST(rmdir(group));
    return 0;
}

static void start_in_group(void *unused)
{
    char text[300];
    (void)unused;
    if (!write_to(inner, "cgroup.procs", "0"))
        SKIP("no process can be moved to another control group here");
    snprintf(text, sizeof text, "limit reached: 1 of 1 threads and processes of the control group, pids.max of %s", group);
    check_no_thread(text);
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "TasksMax= of the systemd unit");
}

static void a_control_group_with_few_processes(void)
{
    if (!make_groups("/sys/fs/cgroup/pids") && !make_groups("/sys/fs/cgroup"))
        SKIP("no control group with pids.max can be made here");
    check_join(check_fork(start_in_group, NULL));
    /* The kernel may need a moment to see that nobody is left. */
    CHECK_SOON(rmdir(inner) == 0);
    MUST(rmdir(group));
}

/* Memory. */

static long address_space_kb(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    CHECK(file != NULL);
    CHECK(fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void fill_the_address_space(void *unused)
{
    oyez_server_options options = serve_options(OYEZ_THREADS);
    (void)unused;
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, NULL));
    CHECK_WORKS(oyez_server_listen(server, "127.0.0.1:0", NULL));
    struct rlimit limit = { 0, RLIM_INFINITY };
    limit.rlim_cur = (rlim_t)(address_space_kb() + 600) * 1024;
    MUST(setrlimit(RLIMIT_AS, &limit));
    options.workers = 65536;
    CHECK_FAILS(oyez_server_new(serve_hello, NULL, &options), OYEZ_LIMIT_REACHED, ENOMEM);
    check_message("limit reached: ");
    check_message(" kB of this process's address space, RLIMIT_AS");
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "--as=unlimited`");
    /* There is no room for a thread's stack either, which the C library tells as a lack of threads. */
    CHECK_FAILS(oyez_server_start(server), OYEZ_LIMIT_REACHED, EAGAIN);
    check_message(" kB of this process's address space, RLIMIT_AS");
    CHECK_WORKS(oyez_server_close(server));
}

static void the_address_space(void)
{
    check_join(check_fork(fill_the_address_space, NULL));
}

/* Nothing is short, although the kernel says so: what could be is told with its numbers. */
static void memory_of_a_socket(void)
{
    place_refuse_family(AF_INET, ENOBUFS);
    CHECK_FAILS(oyez_listen("127.0.0.1:0", NULL), OYEZ_LIMIT_REACHED, ENOBUFS);
    check_message("no limit is seen to be reached: ");
    check_message(" pages of memory for TCP, net.ipv4.tcp_mem");
    check_message(" kB of the system's memory, MemAvailable of /proc/meminfo");
    CHECK_STR_CONTAINS(oyez_error_hint(NULL), "net.core.optmem_max");
    int before = place_descriptors_left(0);
    CHECK_FAILS(oyez_listen("127.0.0.1:0", NULL), OYEZ_LIMIT_REACHED, ENOBUFS);
    check_message("which limit it was cannot be seen here");
    place_descriptor_limit(before);
}

/* The backlog. */

enum { GRANTED = 16 };

static void grant_little(void)
{
    char number[20];
    place_network();
    place_loopback_up();
    snprintf(number, sizeof number, "%d", GRANTED);
    place_sysctl("/proc/sys/net/core/somaxconn", number);
}

/* Listens with a backlog in the options, 0 for the default; what the log says, or nothing. */
static void check_backlog(const char *address, int backlog, const char *expected)
{
    char text[200];
    char bound[100];
    oyez_listen_options listening = OYEZ_LISTEN_OPTIONS_INIT;
    oyez_server_options options = awaiting(OYEZ_THREADS, "backlog_clamped");
    listening.backlog = backlog;
    line[0] = '\0';
    oyez_server server = (oyez_server)CHECK_WORKS(oyez_server_new(serve_hello, NULL, &options));
    int listener = (int)CHECK_WORKS(oyez_server_listen(server, address, &listening));
    CHECK(oyez_local_address(listener, bound, sizeof bound) > 0);
    text[0] = '\0';
    if (expected[0] != '\0')
        snprintf(text, sizeof text, "listen %s: %s (net.core.somaxconn is %d)", bound, expected, GRANTED);
    CHECK_STR_EQ(line, text);
    CHECK_EQ_INT(told, expected[0] != '\0');
    CHECK_WORKS(oyez_server_close(server));
}

static void a_backlog_that_is_not_granted(void)
{
    char address[200];
    grant_little();
    check_backlog("127.0.0.1:0", 100, "the backlog is 16, not 100 as asked");
    check_backlog("127.0.0.1:0?backlog=2147483647", 0, "the backlog is 16, not 2147483647 as asked");
    check_backlog("0?backlog=17", 5, "the backlog is 16, not 17 as asked");
    check_backlog("127.0.0.1:0?multipath=on", 100, "the backlog is 16, not 100 as asked");
    check_backlog("unix:@oyez-test-limits", 100, "the backlog is 16, not 100 as asked");
    snprintf(address, sizeof address, "unix:%s/a.sock?backlog=17", check_folder());
    check_backlog(address, 0, "the backlog is 16, not 17 as asked");
    snprintf(address, sizeof address, "fd:%d?backlog=99", (int)MUST(oyez_listen("127.0.0.1:0", NULL)));
    check_backlog(address, 0, "the backlog is 16, not 99 as asked");
}

static void a_backlog_that_is_granted(void)
{
    grant_little();
    check_backlog("127.0.0.1:0", 0, "");
    check_backlog("127.0.0.1:0", GRANTED, "");
    check_backlog("127.0.0.1:0?backlog=3", 100, "");
    check_backlog("127.0.0.1:0?backlog=default", 0, "");
    check_backlog("unix:@oyez-test-limits", 0, "");
    check_backlog("unix:@oyez-test-limits", GRANTED, "");
}

/* The statistics have what is in force. */
static void the_backlog_in_force(void)
{
    grant_little();
    served server = serve_at("127.0.0.1:0?backlog=5,127.0.0.1:0?backlog=100", serve_hello, NULL, NULL);
    CHECK_EQ_INT(serve_stats(server).backlog, 5);
    serve_end(server);
    server = serve_at("127.0.0.1:0?backlog=100", serve_hello, NULL, NULL);
    CHECK_EQ_INT(serve_stats(server).backlog, GRANTED);
    serve_end(server);
}

static const check_case cases[] = {
    CASE(descriptors_of_the_process),
    CASE(a_limit_that_was_lowered),
    CASE(the_hard_limit),
    CASE(descriptors_of_a_server),
    CASE(descriptors_of_the_system),
    CASE(a_server_that_cannot_have_a_thread),
    CASE(threads_of_a_server),
    CASE(processes_of_a_server),
    CASE(a_control_group_with_few_processes),
    CASE(the_address_space),
    CASE(memory_of_a_socket),
    CASE(a_backlog_that_is_not_granted),
    CASE(a_backlog_that_is_granted),
    CASE(the_backlog_in_force),
};

CHECK_MAIN(cases)
