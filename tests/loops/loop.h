/* A foreign loop that drives an event server by its descriptor: libuv.c and libevent.c. */
#ifndef LOOP_H
#define LOOP_H

#include "oyez.h"

/*
 Runs a loop that holds nothing but the server's descriptor, and a timer where `then` is given, until the server has
 stopped and is drained. The timer calls `then` once, after so many milliseconds. Returns how often the server was
 polled.
*/
int loop_drive(oyez_server server, int after_ms, void (*then)(void *), void *argument);

#endif
