/* oyez: one call, and oyez_perror. The options -a and -p are in the address: "?reuse_address=off". */
#include "server.h"

#include <oyez.h>

static int listener;

const char *version(void)
{
    return oyez_version();
}

void set_up(void)
{
}

int start_listening(const char *address)
{
    listener = oyez_listen(address, NULL);
    if (listener < 0) {
        oyez_perror("server");
        return -1;
    }
    return 0;
}

void stop_listening(void)
{
    oyez_unlisten(listener);
}
