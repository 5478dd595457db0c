/* Clients: plain sockets, so that what they see does not depend on oyez. */
#ifndef CLIENTS_H
#define CLIENTS_H

#include <stddef.h>

/* Connected sockets; what does not come within 20 s fails the test instead of holding it. */
int client_connect(int port);         /* to 127.0.0.1 */
int client_connect6(int port);        /* to ::1 */
int client_connect_unix(const char *path); /* "@name" is abstract */
/* From this address of the host's, to that one: both IPv4, or both IPv6. */
int client_connect_from(const char *source, const char *target, int port);
/* The same, or -1 with errno. */
int client_try(int port);
int client_try6(int port);
int client_try_unix(const char *path);

void client_send(int fd, const void *bytes, size_t size);
void client_send_text(int fd, const char *text);
/* Reads `size` bytes, or until the stream ends; how many. */
size_t client_receive(int fd, void *bytes, size_t size);
/* Exactly this text comes next. */
void client_expect(int fd, const char *text);
/* So many bytes of this value come next. */
void client_expect_bytes(int fd, int byte, size_t size);
/* Reads on to the end: 0 where it is orderly, else the errno. */
int client_ending(int fd);
/* Waits until all that a client has sent is in the server's kernel. */
void client_await_arrival(int fd);
/* Closes in order, also where a handler's process has a copy. */
void client_close(int fd);
/* Closes with a reset. */
void client_reset(int fd);
/* Whether there is something to read, or the end, within `ms`. */
int client_readable(int fd, int ms);
/* The port that a client has itself. */
int client_own_port(int fd);

/* All at once: each sends `bytes` of its own, and reads back the same. */
void client_echo_many(int port, int clients, size_t bytes);
/* One after another: each sends a line, reads it back and the end. */
void client_echo_one_by_one(int port, int clients);

/* A byte of an endless text, different for each `who`. */
unsigned char client_byte(int who, size_t at);
/* These are the bytes of the text of 1 from `at` on. */
void client_check_stream(const unsigned char *bytes, size_t size, size_t at);
/* A number of one's own sequence, from 0 to `most`. */
size_t client_random(unsigned *state, size_t most);

#endif
