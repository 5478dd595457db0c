/* A network of one's own, and other surroundings that a test needs. */
#ifndef PLACES_H
#define PLACES_H

#include <sys/types.h>

/* Puts this process into a network namespace of its own; the test is skipped where that is not permitted. */
void place_network(void);
/* Brings the loopback interface of that namespace up. */
void place_loopback_up(void);
/* Writes a value to a file of /proc/sys. */
void place_sysctl(const char *path, const char *value);
/* Reads a number from there. */
int place_sysctl_number(const char *path);
/* From now on socket(2) of this family fails with this errno; the test is skipped where that cannot be done. */
void place_refuse_family(int family, int number);
/* The same for every use of a system call. */
void place_refuse_call(int call, int number);
/* What is in a folder, "." and ".." aside. */
int place_entries(const char *folder);
/* Lets this process open `more` descriptors and no further. Returns the limit from before. */
int place_descriptors_left(int more);
void place_descriptor_limit(int limit);

/* Becomes a user of whom nothing else runs, and who may have `most` threads and processes; the test is skipped where
   that is not possible. */
void place_few_threads(int most);

/* Becomes this user; the test is skipped where only root could. */
void place_user(int user);
/* Runs a command, such as one of ip(8); the test is skipped where it fails. */
void place_command(const char *command);

/* A child process that has run `body`, or has become another program in it, and stays. */
pid_t place_neighbour(void (*body)(void *), void *argument);
void place_neighbour_end(pid_t neighbour);
/* Runs `body` in a process that sees no other one: in a pid namespace of its own, with its own /proc. */
void place_alone(void (*body)(void *), void *argument);

#endif
