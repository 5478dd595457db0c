/*
 oyez: listen, accept, serve.

 The three verbs are one call each:

     int listener = oyez_listen(":9000", NULL);                 a listening descriptor like any other
     int client   = oyez_accept(listener, NULL, 0, -1);         a connected descriptor like any other
     oyez_serve(":9000", handler, NULL, NULL);                  a handler for each client, until stopped

 Failure. Functions return -1 (or NULL) and set errno, which is never 0 then; oyez_last_error() of the same thread
 tells more: what failed, where, and what to do next. oyez_perror() prints it. After success errno means nothing.

 Handles. A socket is a file descriptor. A server (oyez_server) and a connection (oyez_conn) are numbers that are never
 used twice in a process; a call on one that is gone is OYEZ_CLOSED, on any thread and at any time, and in a child that
 fork(2) made it is OYEZ_FORKED. Nothing is freed by pointer.

 Ownership. "Borrowed" means for the call only, "taken" that it is oyez's after success, and a returned descriptor is
 the caller's unless its text says otherwise. On failure nothing changes hands.

 Options. Zero is the default, and the default is what a good server does. A switch is OYEZ_DEFAULT (0), OYEZ_ON (1)
 or OYEZ_OFF (-1). Options structs start with their size, set by their INIT macro:

     oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
     options.backlog = 64;

 A program that was built for an older oyez works with a newer one, and the other way round as long as the fields that
 this library does not know are zero (else OYEZ_UNSUPPORTED); any other size is OYEZ_INVALID_ARGUMENT.

 Threads. Every function may be called from any thread. No lock is held while a function of the program runs.

 Nothing hidden. oyez prints nothing (but oyez_perror), installs no signal handler (but for stop_on_signals), changes no
 disposition and no environment, and makes no thread unless asked to serve. Loading it does nothing.

 Linux. Link with -loyez, or with liboyez.a and -lpthread -ldl -lm.
 */
