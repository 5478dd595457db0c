/*
 Faults that a sanitizer has to report, in C and in the library: else `make sanitize` would pass by seeing nothing.

   selftest list address|thread   the names of the faults: the words of the report, a dot, and where it happens
   selftest NAME                  commits it
   selftest none                  uses what a sanitizer could take for a fault, and is none
*/
#include <oyez.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 5000 };

typedef struct fault {
    const char *sanitizer;
    const char *name;
    void (*commit)(void);
} fault;

static oyez_server server;
static oyez_stats shared = OYEZ_STATS_INIT;
static int counter;

/* By volatile pointers the compiler does not see it first. */
static void freed_in_c(void)
{
    volatile char *volatile text = malloc(10);
    volatile char *volatile kept = text;
    free((void *)text);
    kept[3] = 'x';
}

/* The library writes what it was given. */
static void freed_in_the_library(void)
{
    static const oyez_stats fresh = OYEZ_STATS_INIT;
    oyez_stats *stats = malloc(sizeof *stats);
    oyez_stats *volatile kept = stats;
    *stats = fresh;
    free(stats);
    oyez_server_stats(server, kept);
}

/* Only a part of the struct is there; its size says otherwise. */
static void overflow_in_the_library(void)
{
    size_t *stats = malloc(2 * sizeof *stats);
    stats[0] = sizeof(oyez_stats);
    oyez_server_stats(server, (oyez_stats *)stats);
    free(stats);
}

static void leak_in_c(void)
{
    void *volatile lost = malloc(1000);
    lost = NULL;
    (void)lost;
}

static void in_threads(void *(*body)(void *))
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, body, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void *count(void *unused)
{
    counter++;
    return unused;
}

static void *ask_into_one(void *unused)
{
    oyez_server_stats(server, &shared);
    return unused;
}

static void race_in_c(void)
{
    in_threads(count);
}

static void race_in_the_library(void)
{
    in_threads(ask_into_one);
}

/* Locks that are fought for, conditions, first uses, and values shared by counts. */
static void *serve_often(void *unused)
{
    for (int i = 0; i < ROUNDS; i++) {
        oyez_stats stats = OYEZ_STATS_INIT;
        oyez_server_stats(server, &stats);
        oyez_server short_lived = oyez_server_new(NULL, NULL, NULL);
        oyez_server_stats(server, &stats);
        oyez_server_close(short_lived);
    }
    return unused;
}

static void wait_in_vain(oyez_conn connection, void *user)
{
    (void)connection;
    (void)user;
}

static void *start_and_stop(void *unused)
{
    for (int i = 0; i < ROUNDS / 100; i++) {
        oyez_server started = oyez_server_new(wait_in_vain, NULL, NULL);
        oyez_server_listen(started, "127.0.0.1:0", NULL);
        oyez_server_start(started);
        oyez_server_stop(started, -1);
        oyez_server_wait(started, -1);
        oyez_server_close(started);
    }
    return unused;
}

static void none(void)
{
    in_threads(serve_often);
    in_threads(start_and_stop);
}

static const fault faults[] = {
    { "address", "heap-use-after-free.c", freed_in_c },
    { "address", "heap-use-after-free.library", freed_in_the_library },
    { "address", "heap-buffer-overflow.library", overflow_in_the_library },
    { "address", "detected.memory.leaks.c", leak_in_c },
    { "thread", "data.race.c", race_in_c },
    { "thread", "data.race.library", race_in_the_library },
    { "", "none", none },
};

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    server = oyez_server_new(NULL, NULL, NULL);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        if (argc == 3 && strcmp(argv[2], faults[i].sanitizer) == 0)
            puts(faults[i].name);
        if (argc == 2 && strcmp(argv[1], faults[i].name) == 0)
            faults[i].commit();
    }
    oyez_server_close(server);
    return 0;
}
