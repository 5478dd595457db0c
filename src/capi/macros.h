
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The version of this header; oyez_version() tells the library's. */
#define OYEZ_VERSION "0.1.0"
#define OYEZ_VERSION_MAJOR 0
#define OYEZ_VERSION_MINOR 1
#define OYEZ_VERSION_PATCH 0

/* What an options struct starts as: its size, and every option at its default. */
#define OYEZ_LISTEN_OPTIONS_INIT \
    { sizeof(oyez_listen_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
#define OYEZ_SERVER_OPTIONS_INIT \
    { sizeof(oyez_server_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
#define OYEZ_EVENTS_INIT { sizeof(oyez_events), 0, 0, 0, 0 }
#define OYEZ_STATS_INIT \
    { sizeof(oyez_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
