/* A storm of signals: see storm.h. */
#define _GNU_SOURCE
#include "storm.h"
#include "check.h"

#include <signal.h>
#include <stddef.h>
#include <sys/time.h>

static volatile sig_atomic_t signals;
static struct sigaction before;

static void count_signal(int number)
{
    (void)number;
    signals++;
}

void storm_start(void)
{
    struct sigaction action = { 0 };
    struct itimerval often = { { 0, 1000 }, { 0, 1000 } };
    action.sa_handler = count_signal;
    signals = 0;
    MUST(sigaction(SIGALRM, &action, &before));
    MUST(setitimer(ITIMER_REAL, &often, NULL));
}

void storm_end(void)
{
    struct itimerval never = { { 0, 0 }, { 0, 0 } };
    MUST(setitimer(ITIMER_REAL, &never, NULL));
    MUST(sigaction(SIGALRM, &before, NULL));
    CHECK(signals > 10);
}
