/* What a test must leave as it found it. */
#ifndef WATCH_H
#define WATCH_H

/* Closes what was inherited beyond standard input, output and error, and `kept`. */
void watch_close_others(int kept);
/* Remembers how the process is now. */
void watch_start(void);
/* Fails the test unless the process becomes as it was, within a few seconds. */
void watch_end(void);

#endif
