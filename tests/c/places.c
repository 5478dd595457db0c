/* Surroundings: see places.h. */
#define _GNU_SOURCE
#include "places.h"
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd == -1)
        return -1;
    ssize_t count = write(fd, text, strlen(text));
    close(fd);
    return count == (ssize_t)strlen(text) ? 0 : -1;
}

/* Root of a user namespace may do the same, where the system lets everybody make one. */
static int unshare_as_user(void)
{
    char map[60];
    int user = (int)getuid();
    int group = (int)getgid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) == -1)
        return -1;
    write_file("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %d 1", user);
    if (write_file("/proc/self/uid_map", map) == -1)
        return -1;
    snprintf(map, sizeof map, "0 %d 1", group);
    return write_file("/proc/self/gid_map", map);
}

void place_network(void)
{
    if (unshare(CLONE_NEWNET) == -1 && unshare_as_user() == -1)
        SKIP("no network namespace is permitted here");
}

void place_loopback_up(void)
{
    struct ifreq request = { 0 };
    int fd = (int)MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    strcpy(request.ifr_name, "lo");
    MUST(ioctl(fd, SIOCGIFFLAGS, &request));
    request.ifr_flags |= IFF_UP;
    MUST(ioctl(fd, SIOCSIFFLAGS, &request));
    MUST(close(fd));
}

void place_sysctl(const char *path, const char *value)
{
    if (write_file(path, value) == -1)
        SKIP("this sysctl cannot be set here");
}

int place_sysctl_number(const char *path)
{
    char text[40] = "";
    int fd = (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
    MUST(read(fd, text, sizeof text - 1));
    MUST(close(fd));
    return atoi(text);
}

static void filter_calls(struct sock_filter *filter, unsigned short count)
{
    struct sock_fprog program = { count, filter };
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == -1)
        SKIP("no seccomp filter is permitted here");
}

void place_refuse_family(int family, int number)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)family, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((unsigned)number & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    filter_calls(filter, sizeof filter / sizeof filter[0]);
}

void place_refuse_call(int call, int number)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((unsigned)number & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    filter_calls(filter, sizeof filter / sizeof filter[0]);
}

int place_entries(const char *folder)
{
    int count = -2;
    DIR *list = opendir(folder);
    CHECK(list != NULL);
    while (readdir(list) != NULL)
        count++;
    closedir(list);
    return count;
}

void place_descriptor_limit(int limit)
{
    struct rlimit value;
    MUST(getrlimit(RLIMIT_NOFILE, &value));
    value.rlim_cur = (rlim_t)limit;
    MUST(setrlimit(RLIMIT_NOFILE, &value));
}

int place_descriptors_left(int more)
{
    struct rlimit value;
    int limit = 3;
    MUST(getrlimit(RLIMIT_NOFILE, &value));
    for (int left = more; left > 0 || fcntl(limit, F_GETFD) != -1; limit++)
        left -= fcntl(limit, F_GETFD) == -1;
    place_descriptor_limit(limit);
    return (int)value.rlim_cur;
}

void place_few_threads(int most)
{
    unsigned somebody = 30000 + (unsigned)getpid() % 30000; /* nobody whom a test beside this one becomes */
    struct rlimit limit = { (rlim_t)most, (rlim_t)most };
    if (geteuid() != 0)
        SKIP("only root can become somebody else");
    MUST(setrlimit(RLIMIT_NPROC, &limit));
    MUST(setgid(somebody));
    MUST(setuid(somebody));
}

void place_user(int user)
{
    if (geteuid() != 0)
        SKIP("only root can become somebody else");
    if (setgid((gid_t)user) == -1 || setuid((uid_t)user) == -1)
        SKIP("this user does not exist here");
}

void place_command(const char *command)
{
    char line[300];
    snprintf(line, sizeof line, "{ %s; } >/dev/null 2>&1", command);
    if (system(line) != 0) {
        snprintf(line, sizeof line, "`%s` does not work here", command);
        SKIP(line);
    }
}

/* Other processes. */

/* Where it has been skipped or has failed, so has the test. */
static void end_with(pid_t neighbour)
{
    char path[40];
    char program[40];
    snprintf(path, sizeof path, "/proc/%d/exe", (int)neighbour);
    if (readlink(path, program, sizeof program) != -1)
        return;
    check_join(neighbour);
    _exit(0);
}

pid_t place_neighbour(void (*body)(void *), void *argument)
{
    int ready[2];
    char byte;
    MUST(pipe2(ready, O_CLOEXEC));
    pid_t neighbour = fork();
    MUST(neighbour);
    if (neighbour == 0) {
        MUST(close(ready[0]));
        body(argument);
        MUST(close(ready[1]));
        for (;;)
            pause();
    }
    MUST(close(ready[1]));
    MUST(read(ready[0], &byte, 1)); /* ends when it has closed its end: by itself, by execve(2), or at its end */
    MUST(close(ready[0]));
    end_with(neighbour);
    return neighbour;
}

void place_neighbour_end(pid_t neighbour)
{
    MUST(kill(neighbour, SIGKILL));
    MUST(waitpid(neighbour, NULL, 0));
}

typedef struct task {
    void (*body)(void *);
    void *argument;
} task;

/* The first process of a pid namespace. */
static void begin_alone(void *argument)
{
    task *alone = argument;
    MUST(mount("proc", "/proc", "proc", 0, NULL));
    alone->body(alone->argument);
}

static void unshare_processes(void *alone)
{
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) == -1 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1)
        SKIP("no pid namespace is permitted here");
    check_join(check_fork(begin_alone, alone));
}

void place_alone(void (*body)(void *), void *argument)
{
    task alone = { body, argument };
    check_join(check_fork(unshare_processes, &alone));
}
