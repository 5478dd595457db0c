/* What the four programs of this folder share. Each listens in its own way and prints its one error. */
#ifndef SERVER_H
#define SERVER_H

#include <stddef.h>

/* What the command line asks for. */
extern int reuse_address;
extern int reuse_port;

/* Cuts "HOST:PORT" or "[HOST]:PORT" in two, each shorter than 256 bytes. */
void split_address(const char *address, char *host, char *port);
/* The path of "unix:PATH", else NULL. */
const char *unix_path(const char *address);
/* Whether a host has to be looked up. */
int is_name(const char *host);

/* A program brings the rest: what it is built with, what it needs before it can listen, */
const char *version(void);
void set_up(void);
/* 0, or -1 when the error is printed; */
int start_listening(const char *address);
/* and the end of the last start. */
void stop_listening(void);

#endif
