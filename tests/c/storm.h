/* A storm of signals that interrupt system calls: SIGALRM each millisecond, without SA_RESTART. */
#ifndef STORM_H
#define STORM_H

void storm_start(void);
/* Ends it, and puts everything back; fails the test if hardly any signal came. */
void storm_end(void);

#endif
