/* What the servers on oyez have in common beside subject.h. */
#ifndef FAULTS_OYEZ_SUBJECT_H
#define FAULTS_OYEZ_SUBJECT_H

#include "subject.h"

#include <oyez.h>

static inline void log_line(int32_t level, const char *event, const char *text, void *user)
{
    (void)user;
    if (level >= OYEZ_LOG_INFO)
        fprintf(stderr, "%s: %s\n", event, text);
}

static inline oyez_server_options options_of(struct asked asked)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;

    options.stop_on_signals = OYEZ_ON;
    options.workers = asked.workers;
    options.drain_ms = asked.drain_ms;
    options.idle_timeout_ms = asked.idle_ms;
    options.log = log_line;
    return options;
}

static inline int run(oyez_server server, struct asked asked)
{
    char address[40];

    snprintf(address, sizeof address, "127.0.0.1:%d", asked.port);
    if (server > 0 && oyez_server_listen(server, address, NULL) >= 0 && oyez_server_run(server) == 0 &&
        oyez_server_close(server) == 0)
        return 0;
    oyez_perror("oyez");
    return 1;
}

#endif
