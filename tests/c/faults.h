/* Ports that are in use, and what an error says about them. */
#ifndef FAULTS_H
#define FAULTS_H

#include "places.h"
#include "serving.h"

enum { FAULT_PORT = 7000, NOBODY = 65534 };
#define HERE "127.0.0.1:7000"

/* This thread's last error says so; the text is a format for printf(3). */
#define MESSAGE_HAS(...) fault_has(__FILE__, __LINE__, "message", oyez_error_message(NULL), __VA_ARGS__)
#define HINT_HAS(...) fault_has(__FILE__, __LINE__, "hint", oyez_error_hint(NULL), __VA_ARGS__)
#define MESSAGE_LACKS(part) fault_lacks(__FILE__, __LINE__, "message", oyez_error_message(NULL), part)
#define HINT_LACKS(part) fault_lacks(__FILE__, __LINE__, "hint", oyez_error_hint(NULL), part)
/* oyez_listen fails at this address because the port is in use, says so with all that belongs there, and leaves no
   descriptor behind. It is tried again where a busy machine left it no time to see who holds the port. */
#define CHECK_IN_USE(address) fault_in_use(__FILE__, __LINE__, address)

CHECK_PRINTF(5, 6) void fault_has(const char *file, int line, const char *what, const char *text, const char *part,
                                  ...);
void fault_lacks(const char *file, int line, const char *what, const char *text, const char *part);
void fault_in_use(const char *file, int line, const char *address);
/* The last error is of this step, at this address, with the system's words behind it, in UTF-8. */
void fault_parts(const char *step, const char *address, int number);

/* A network of this test's own, with its loopback interface up. */
void fault_network(void);
int fault_listen(const char *address);
/* A plain socket of this kind, bound to HERE and no more, with or without SO_REUSEADDR. */
int fault_bind(int kind, int reuse);
const char *fault_user(int user);
/* From now on this system call ends the process; the test is skipped where that cannot be done. */
void fault_kill_at_call(int call);

/* For place_neighbour: it calls itself so. */
void fault_named(void *name);
/* It listens at the address, and calls itself "rival". */
void fault_rival(void *address);
/* The same as a user without privileges, at which processes of that user may look. */
void fault_rival_of_nobody(void *address);

#endif
