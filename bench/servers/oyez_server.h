/* What the servers on oyez have in common beside server.h. */
#ifndef BENCH_OYEZ_SERVER_H
#define BENCH_OYEZ_SERVER_H

#include "server.h"

#include <oyez.h>

static inline const char *address_of(struct asked asked)
{
    static char address[sizeof(struct sockaddr_un) + sizeof "unix:"];

    if (asked.unix_path == NULL)
        return "127.0.0.1:0";
    snprintf(address, sizeof address, "unix:%s", asked.unix_path);
    return address;
}

#endif
