/* What a failed call may do: the grid of errnos. */
#ifndef EXPECTED_H
#define EXPECTED_H

enum { MAKE, SERVE, STOP, PHASES };

/* Making a server. */
enum { MAY_FAIL, FAILS, WORKS };
int expected_of_making(int call, int number, long first);
/* The errno that is told where this one was met; 0 for any. */
int expected_errno(int call, int number);

/* Serving: all clients are served, or those whose call failed may be lost, or the server ends with the error, or any of
   these. */
enum { ALL_SERVED, OWN_LOST, ENDS, ANY };
int expected_of_serving(int kind, int call, int number, int for_ever);

/* Whether there are cells for an errno: all of them in the columns of the grid, and some, one of them unknown to
   everybody, where it matters little. */
int is_worth_it(int phase, int call, int number);

/* Why a cell means nothing; NULL where it does. */
const char *impossible(int kind, int phase, int call, int number, int for_ever);

/* The errnos of the grid, ended by 0, and their names. */
int errno_at(int index);
const char *errno_name(int number);

#endif
