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

#ifndef OYEZ_H
#define OYEZ_H


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


/*
 No failure.
 */
#define OYEZ_OK 0

/*
 A parameter is out of its range, NULL where it may not be, or does not fit the descriptor.
 */
#define OYEZ_INVALID_ARGUMENT 1

/*
 A text that is no address; the hint shows where.
 */
#define OYEZ_INVALID_ADDRESS 2

/*
 A host, service, user, group or inherited socket of that name does not exist.
 */
#define OYEZ_NAME_NOT_FOUND 3

/*
 Somebody listens there already.
 */
#define OYEZ_ADDRESS_IN_USE 4

/*
 This host does not have the address or the interface.
 */
#define OYEZ_ADDRESS_NOT_AVAILABLE 5

/*
 The system does not permit it.
 */
#define OYEZ_PERMISSION_DENIED 6

/*
 Descriptors, memory, threads or another bound is used up.
 */
#define OYEZ_LIMIT_REACHED 7

/*
 The kernel, or this build of oyez, cannot do it.
 */
#define OYEZ_UNSUPPORTED 8

/*
 Nothing happened within the time allowed.
 */
#define OYEZ_TIMED_OUT 9

/*
 The server is stopping or has stopped.
 */
#define OYEZ_STOPPED 10

/*
 Closed by the peer, or a handle that is gone.
 */
#define OYEZ_CLOSED 11

/*
 Turned away by the allow and deny rules or by a limit.
 */
#define OYEZ_REFUSED 12

/*
 TLS failed.
 */
#define OYEZ_TLS 13

/*
 The peer does not speak the protocol that was asked for.
 */
#define OYEZ_PROTOCOL 14

/*
 A handle of the parent, used in a child that fork(2) made.
 */
#define OYEZ_FORKED 15

/*
 Any other error of the system; see the errno.
 */
#define OYEZ_SYSTEM 16

/*
 A bug in oyez.
 */
#define OYEZ_INTERNAL 17

/*
 The default: the value that every option has when it is zero.
 */
#define OYEZ_DEFAULT 0

/*
 A switch is on.
 */
#define OYEZ_ON 1

/*
 A switch is off.
 */
#define OYEZ_OFF -1

/*
 io_uring(7) where all that is needed of it works, which is tried once; else epoll(7). The environment variable
 OYEZ_BACKEND (epoll, io_uring, auto) overrides it.
 */
#define OYEZ_BACKEND_AUTO 0

/*
 epoll(7) and system calls.
 */
#define OYEZ_BACKEND_EPOLL 1

/*
 io_uring(7): where that cannot be had, oyez_server_new_events() fails with OYEZ_UNSUPPORTED.
 */
#define OYEZ_BACKEND_IO_URING 2

/*
 A handler for each connection on a thread of a bounded pool: the default.
 */
#define OYEZ_THREADS 0

/*
 One connection at a time, on the thread that runs the server.
 */
#define OYEZ_SEQUENTIAL 1

/*
 A child process for each connection: a handler that crashes takes nothing else down.
 */
#define OYEZ_PROCESSES 2

/*
 Something for a developer.
 */
#define OYEZ_LOG_DEBUG 0

/*
 Something that happened as it should.
 */
#define OYEZ_LOG_INFO 1

/*
 Something that an operator should look at.
 */
#define OYEZ_LOG_WARNING 2

/*
 Something that failed.
 */
#define OYEZ_LOG_ERROR 3

/*
 A failure: its code, errno, operation, address, message and hint. Opaque; read it with the oyez_error_ functions.
 */
typedef struct oyez_error oyez_error;

/*
 How a listening socket is made. Start from OYEZ_LISTEN_OPTIONS_INIT and set what differs; zero is the default.

 An operator may set the same names in the address text: ":9000?backlog=64&reuse_port=on". Those win.
 The strings are borrowed for the call.
 */
typedef struct oyez_listen_options {
    /*
     The struct's size in bytes, set by OYEZ_LISTEN_OPTIONS_INIT.
     */
    size_t size;
    /*
     How many completed connections may wait to be accepted, 1 or more. Default: the system's maximum. The kernel
     grants at most net.core.somaxconn: a server whose listener gets less than it asked for here logs
     "backlog_clamped", and oyez_server_stats() has what is in force. See listen(2).
     */
    int32_t backlog;
    /*
     SO_REUSEADDR, a switch. Default: on for streams, so that a restarted server binds at once; off for "udp:",
     where it would let a second copy share the port. See socket(7).
     */
    int32_t reuse_address;
    /*
     SO_REUSEPORT, a switch. Default: off, so that a second copy of the program fails instead of sharing silently.
     On, each thread of an event server has a listener of its own at a TCP address, and the kernel distributes clients
     by their addresses and ports: quicker for many short connections, uneven for long ones.
     */
    int32_t reuse_port;
    /*
     O_NONBLOCK on the listener, a switch. Default: off. oyez_accept() waits on either kind.
     */
    int32_t nonblocking;
    /*
     Close-on-exec, a switch. Default: on.
     */
    int32_t close_on_exec;
    /*
     TCP_NODELAY, a switch, inherited by accepted connections. Default: on, so that a small answer is not held back
     to wait for the acknowledgement of the one before. See tcp(7).
     */
    int32_t no_delay;
    /*
     SO_KEEPALIVE, inherited by accepted connections: seconds of silence before the peer is probed, 1 to 32767.
     Default: on, with the system's times (net.ipv4.tcp_keepalive_time, two hours). OYEZ_OFF = off.
     */
    int32_t keep_alive_seconds;
    /*
     TCP_DEFER_ACCEPT: for how many seconds a connection may wait for its first byte before it is accepted.
     Default: off. For protocols where the client speaks first.
     */
    int32_t defer_accept_seconds;
    /*
     TCP_FASTOPEN: how many pending fast-open requests are allowed. Default: off; OYEZ_ON = as many as the backlog.
     */
    int32_t fast_open;
    /*
     SO_RCVBUF in bytes, inherited by accepted connections. Default: the kernel adapts it.
     */
    int32_t receive_buffer;
    /*
     SO_SNDBUF in bytes, inherited by accepted connections. Default: the kernel adapts it.
     */
    int32_t send_buffer;
    /*
     IP_FREEBIND, a switch: bind an address that the host does not have yet. Default: off. See ip(7).
     */
    int32_t free_bind;
    /*
     Multipath TCP, a switch. Default: off. Where the kernel has none, the listener is plain TCP. See RFC 8684.
     */
    int32_t multipath;
    /*
     The file mode of a Unix socket, such as 0660; what the umask takes away is put back. It is set before anybody
     can connect. Default: 0777 less the umask. See unix(7).
     */
    int32_t unix_mode;
    /*
     SO_BINDTODEVICE: only what comes in by this interface, such as "eth0". Default: NULL, any.
     */
    const char *interface;
    /*
     The owner of the Unix socket file, a name or a number. Default: NULL, the process's.
     */
    const char *unix_user;
    /*
     The group of the Unix socket file, a name or a number. Default: NULL, the process's.
     */
    const char *unix_group;
    /*
     Called with each socket before it is bound, for an option that is not named here; not for "fd:" and "systemd:".
     A non-zero return stops the call: errno, as the hook left it, tells why (ECANCELED if it left 0).
     It must return normally. Default: NULL, none.
     */
    int32_t (*before_bind)(int32_t fd, void *user);
    /*
     Passed to before_bind.
     */
    void *before_bind_user;
} oyez_listen_options;

/*
 A connection's number; 0 is no connection. Never used twice in a process.

 Every call on it may come from any thread, also while it closes. Where it is gone the answer is OYEZ_CLOSED, in a
 child that the program forked OYEZ_FORKED.
 */
typedef uint64_t oyez_conn;

/*
 Serves one connection.

 The connection's functions block; it is closed when the handler returns. It must return normally: not by longjmp(3),
 pthread_exit(3) or an exception, each of which is undefined or ends the process.

   connection  the client
   user        what was given with the handler
 */
typedef void (*oyez_handler)(oyez_conn connection, void *user);

/*
 Receives what a server reports.

 It is called from any thread of the server, also from several at once, with no lock held. It must return normally;
 it may call oyez, but not wait for the server.

   level  OYEZ_LOG_DEBUG to OYEZ_LOG_ERROR
   event  a fixed name for programs, as below; borrowed for the call
   text   one line for a person; borrowed for the call
   user   the options' log_user

 What happens again and again is told once when it begins, and once with its count when it has been over for some
 seconds, or the server ends.

   descriptors_used_up, memory_used_up, accept_fails   accepting pauses; clients wait in the kernel's queue
   accepting_again                                     that is over
   threads_used_up, processes_used_up                  connections wait for a thread or a child
   max_connections_reached                             accepting pauses until somebody leaves
   max_connections_beyond_descriptors                  the limit of descriptors leaves room for fewer
   refused_by_rules, refused_by_address, refused_by_rate, refused_by_limit   clients are closed at once
   queue_fills, connections_dropped                    the kernel's queue is over four fifths full, or overflows
   handler_crashed                                     its client is reset
   foreign_close                                       the program closed a connection's descriptor itself
   listener_dead                                       a listener is none any more; the others go on
   address_skipped, backlog_clamped                    of oyez_server_listen()
   io_uring_refused                                    epoll is used in its place
   stopped, server_failed                              how it ended
 */
typedef void (*oyez_log)(int32_t level, const char *event, const char *text, void *user);

/*
 How a server serves. Start from OYEZ_SERVER_OPTIONS_INIT and set what differs; zero is the default.
 */
typedef struct oyez_server_options {
    /*
     The struct's size in bytes, set by OYEZ_SERVER_OPTIONS_INIT.
     */
    size_t size;
    /*
     OYEZ_THREADS (the default), OYEZ_SEQUENTIAL or OYEZ_PROCESSES.
     */
    int32_t model;
    /*
     The most handlers that run at once: threads or processes, 1 to 65536. Default: 256, which costs a small
     machine only what is in use; threads are made when needed and leave after five idle seconds. Clients beyond it
     wait in the kernel's queue. OYEZ_SEQUENTIAL has one. Of an event server: its threads; default: one for each
     processor that the process may use.
     */
    int32_t workers;
    /*
     Milliseconds that a connection may be silent: the longest that one oyez_conn_read(), _read_line() or _write()
     waits. Default: no limit. oyez_conn_set_timeout() overrides it for one connection.
     */
    int32_t idle_timeout_ms;
    /*
     Milliseconds within which an oyez_conn_read() or a whole line must have come. Default: no limit.
     */
    int32_t read_timeout_ms;
    /*
     Milliseconds within which an oyez_conn_write() must have been taken by the kernel. Default: no limit.
     */
    int32_t write_timeout_ms;
    /*
     Milliseconds after which a connection is over, however busy. Default: no limit.
     */
    int32_t lifetime_ms;
    /*
     Milliseconds that a stop by a signal or by oyez_server_close() waits for the connections under way; what is
     unfinished then is reset. Default: 5000; -1 = wait for all.
     */
    int32_t drain_ms;
    /*
     A switch: SIGINT and SIGTERM stop the server while it runs, whichever thread they reach, and a second one stops
     it at once; the dispositions from before are put back. Default: off, no signal is touched.
     */
    int32_t stop_on_signals;
    /*
     Called with what an operator should know. Default: NULL, nothing is logged.
     */
    oyez_log log;
    /*
     Passed to log.
     */
    void *log_user;
    /*
     Event servers: bytes of input that on_data may leave unconsumed on one connection; if it leaves more, and has not
     paused the connection, that is closed with OYEZ_LIMIT_REACHED. Default: 1 MiB.
     */
    size_t max_input;
    /*
     Event servers: bytes that may wait to be sent on one connection; an oyez_conn_write() that would pass it fails
     with OYEZ_LIMIT_REACHED and queues nothing; so does any single one that is larger. Default: 16 MiB.
     */
    size_t max_output;
    /*
     Event servers: OYEZ_BACKEND_AUTO (the default), OYEZ_BACKEND_EPOLL or OYEZ_BACKEND_IO_URING. A program sees no
     difference but speed. A server that oyez_server_poll() drives has epoll whatever is said here.
     */
    int32_t backend;
    /*
     The most connections at once, 1 or more. When there are as many the server stops accepting, and clients wait in
     the kernel's queue until one leaves. Default: as many as the limit of descriptors (RLIMIT_NOFILE) leaves room
     for, an eighth of it, at most 32 descriptors, being left to the rest of the program; -1 = no limit but the
     system's.
     */
    int32_t max_connections;
    /*
     The most connections at once from one address, 1 or more; of IPv6 from one /64. Further ones are accepted and
     closed. Clients of Unix sockets have no address. Default: no limit.
     */
    int32_t max_connections_per_address;
    /*
     How many connections may be accepted in a second on average, 1 or more. Further ones are accepted and closed.
     Default: no limit.
     */
    int32_t accept_rate;
    /*
     How many of them may come at once after a pause, 1 or more. Default: as many as accept_rate.
     */
    int32_t accept_burst;
    /*
     0.
     */
    int32_t reserved;
    /*
     Who may connect: addresses and networks such as "10.0.0.0/8, 2001:db8::/32, 192.0.2.1, unix", separated by
     commas; "unix" is the clients of Unix sockets. With this list nobody else may. Of all networks in allow and deny
     that have a client's address the longest decides, and deny where it is in both. Who may not is closed at once.
     Default: NULL, everybody who is not denied. See RFC 4632.
     */
    const char *allow;
    /*
     Who may not connect, in the same form. Default: NULL, nobody.
     */
    const char *deny;
} oyez_server_options;

/*
 A server's number: > 0; 0 is no server, -1 is failure. Never used twice in a process.
 */
typedef int32_t oyez_server;

/*
 What a server has done, and what waits for it. Start from OYEZ_STATS_INIT.
 */
typedef struct oyez_stats {
    /*
     The struct's size in bytes, set by OYEZ_STATS_INIT.
     */
    size_t size;
    /*
     Connections accepted; those that were refused then are not among them.
     */
    uint64_t accepted;
    /*
     Connections that are open now.
     */
    uint64_t active;
    /*
     Handlers that crashed: a child process that a signal or a non-zero exit ended, a Rust handler that panicked.
     */
    uint64_t handler_failures;
    /*
     Connections refused because no number was left for them. At max_connections nobody is refused: clients wait.
     */
    uint64_t refused_limit;
    /*
     Connections refused by max_connections_per_address.
     */
    uint64_t refused_address;
    /*
     Connections refused by accept_rate.
     */
    uint64_t refused_rate;
    /*
     Connections refused by the allow and deny lists.
     */
    uint64_t refused_rules;
    /*
     Connections refused for their PROXY header.
     */
    uint64_t refused_proxy;
    /*
     Connections refused in the TLS handshake.
     */
    uint64_t refused_tls;
    /*
     Failed accepts, of whatever cause.
     */
    uint64_t accept_errors;
    /*
     How often accepting paused because descriptors or memory were used up.
     */
    uint64_t descriptor_pauses;
    /*
     Connections that were finished in time once a stop had begun, those that were accepted for it among them.
     */
    uint64_t drained;
    /*
     Connections that the end of the drain time reset.
     */
    uint64_t cut;
    /*
     Bytes that oyez_conn_read() and oyez_conn_read_line() read, or on_data has seen.
     */
    uint64_t bytes_in;
    /*
     Bytes that oyez_conn_write() wrote, or an event server sent.
     */
    uint64_t bytes_out;
    /*
     Reads and writes that ran into a timeout of the server, and connections of event servers that one ended.
     */
    uint64_t timeouts;
    /*
     Listeners that are open now.
     */
    uint64_t listeners;
    /*
     Connections that wait in the kernel to be accepted, over all TCP listeners.
     */
    uint64_t queue;
    /*
     The backlog in force, as the kernel tells it; the smallest of the TCP listeners'.
     */
    uint64_t backlog;
    /*
     Connection attempts that the kernel dropped at these listeners.
     */
    uint64_t dropped;
} oyez_stats;

/*
 The functions of an event server. Start from OYEZ_EVENTS_INIT and set those that are wanted.

 All calls for one connection come from one thread, in order: on_open, then any number of on_data and on_drain, then
 on_close. Those of different connections may come from different threads at once. They must not block, since
 others of the same thread wait meanwhile, and must return normally. They may call any function of oyez: close,
 abort or write to any connection, this one too, stop or close the server, make another one. A connection that is
 ended in one of them gets its on_close when that has returned.
 */
typedef struct oyez_events {
    /*
     The struct's size in bytes, set by OYEZ_EVENTS_INIT.
     */
    size_t size;
    /*
     A client was accepted.
     */
    void (*on_open)(oyez_conn connection, void *user);
    /*
     Input has come, `size` bytes, more than 0; borrowed for the call. Returns how many bytes of it were consumed;
     what is left is given again with what follows, up to max_input. Without this function input is dropped.
     */
    size_t (*on_data)(oyez_conn connection, const uint8_t *bytes, size_t size, void *user);
    /*
     All queued output is sent. It is called once for what one or more oyez_conn_write() could not send at once, and
     not where they could; and after one, of any thread, that was refused because of what was queued: to send much,
     write until OYEZ_LIMIT_REACHED, and go on here.
     */
    void (*on_drain)(oyez_conn connection, void *user);
    /*
     The connection is over: exactly once for each on_open. oyez_conn_user() and oyez_conn_peer() still work in it.
     `why`, borrowed for the call, reads as an error does: OYEZ_OK where the program ended it, OYEZ_CLOSED where the
     peer ended the stream (errno 0) or is gone (ECONNRESET, ...), OYEZ_TIMED_OUT, OYEZ_LIMIT_REACHED (max_input),
     OYEZ_STOPPED where the server stops.
     */
    void (*on_close)(oyez_conn connection, const struct oyez_error *why, void *user);
} oyez_events;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 The version of the library that is running, such as "0.1.0". The header's own is OYEZ_VERSION.

 Returns a string that lives as long as the process; never NULL.
 Threads: any. Signals: async-signal-safe. Since 0.1.
 */
const char *oyez_version(void);

/*
 This thread's last error.

 Returns
   a record of this thread; never NULL. Its code is OYEZ_OK where no call of this thread has failed yet. A call
   that succeeds leaves it as it is. The record and the strings read from it live until this thread's next
   failing call, or its end.
 Threads: each has its own. Since 0.1.
 */
const struct oyez_error *oyez_last_error(void);

/*
 The kind of a failure: OYEZ_OK, OYEZ_ADDRESS_IN_USE, ...

 Parameters
   error  an error of oyez; borrowed; NULL = this thread's last
 Since 0.1.
 */
int32_t oyez_error_code(const struct oyez_error *error);

/*
 The system's errno that the failure came from; 0 where oyez found the fault itself.

 Parameters
   error  an error of oyez; borrowed; NULL = this thread's last
 Since 0.1. See errno(3).
 */
int32_t oyez_error_errno(const struct oyez_error *error);

/*
 The step that failed: "resolve", "socket", "setsockopt", "bind", "listen", "accept", ...

 Where a parameter was at fault it is the name of the function.

 Parameters
   error  an error of oyez; borrowed; NULL = this thread's last
 Returns a string, "" where there is no error; never NULL. It lives as long as the error.
 Since 0.1.
 */
const char *oyez_error_operation(const struct oyez_error *error);

/*
 The address that the failure is about, such as "0.0.0.0:9000"; "" where there is none.

 Parameters
   error  an error of oyez; borrowed; NULL = this thread's last
 Returns a string; never NULL. It lives as long as the error.
 Since 0.1.
 */
const char *oyez_error_address(const struct oyez_error *error);

/*
 The failure in one line for a log: operation, address, the system's words, the cause where it is known.

 Parameters
   error  an error of oyez; borrowed; NULL = this thread's last
 Returns a string of UTF-8 without control characters, "" where there is no error; never NULL. It lives as long as
 the error.
 Since 0.1.
 */
const char *oyez_error_message(const struct oyez_error *error);

/*
 What to do next; "" where nothing is known. It may have more than one line: a malformed address is shown with a
 caret under the fault.

 Parameters
   error  an error of oyez; borrowed; NULL = this thread's last
 Returns a string of UTF-8; never NULL. It lives as long as the error.
 Since 0.1.
 */
const char *oyez_error_hint(const struct oyez_error *error);

/*
 The name of a code, such as "OYEZ_ADDRESS_IN_USE".

 Parameters
   code  what oyez_error_code() returned
 Returns a string that lives as long as the process; "OYEZ_UNKNOWN" for a number that is no code; never NULL.
 Threads: any. Since 0.1.
 */
const char *oyez_code_name(int32_t code);

/*
 Writes this thread's last error to standard error: "prefix: message", then "  hint: ..." where there is one.

 What cannot be written is dropped; SIGPIPE is not raised.

 Parameters
   prefix  the program's name, say; NULL or "" = no prefix
 Since 0.1. See perror(3).
 */
void oyez_perror(const char *prefix);

/*
 This thread's last error in words: its message, and below it the hint where there is one.

 This is how a language without C strings reads an error.

 Parameters
   text  where to write; NULL where size is 0
   size  how many bytes there are
 Returns
   >= 0  the length of the whole text, whatever fitted; what fitted is written and terminated
   -1    errno and oyez_last_error() are set
 Errors
   OYEZ_INVALID_ARGUMENT  text is NULL and size is not 0
 Since 0.1. See snprintf(3).
 */
int32_t oyez_error_text(char *text, size_t size);

/*
 Makes a listening socket in one call and returns its file descriptor.

 It is a plain descriptor: accept(2), poll(2), any event loop and close(2) work with it, and so does oyez_accept().
 The call runs getaddrinfo(3) for host names, socket(2), setsockopt(2), bind(2) and listen(2); it fails at the first
 of them that fails, leaving no descriptor and no file behind.

 Parameters
   address  where to listen, one address; borrowed:
            "9000", ":9000", "*:9000"         every address of the host, IPv6 and IPv4 on one socket; IPv4 alone
                                              where the host has no IPv6
            "127.0.0.1:9000", "0.0.0.0:9000"  IPv4 only
            "[::1]:9000", "[fe80::1%eth0]:9000"  IPv6 only
            "localhost:9000", "localhost:http"   a name; the first of its addresses that can be bound
            "127.0.0.1:0"                     a free port; oyez_local_port() tells which
            "unix:/run/app.sock"              a Unix stream socket; a file that nobody listens on is replaced
            "unix:@name"                      the same in the abstract namespace
            "udp:0.0.0.0:5353"                a bound datagram socket; the forms above without "unix:" work
            "fd:3"                            an inherited descriptor, which must be listening
            "systemd:", "systemd:NAME"        the first, or the named, socket passed by the service manager
            Any of them may end in options: "?backlog=64&reuse_port=on", by the names of oyez_listen_options.
   options  borrowed; NULL = defaults
 Returns
   >= 0  the descriptor: blocking and close-on-exec unless the options say otherwise; the caller closes it, with
         close(2) or oyez_unlisten()
   -1    errno and oyez_last_error() are set
 Errors
   OYEZ_INVALID_ADDRESS          the text is no address; the hint shows where
   OYEZ_NAME_NOT_FOUND           no such host, service, user, group, or socket passed in
   OYEZ_ADDRESS_IN_USE           (EADDRINUSE) somebody listens there, or the file is not a socket
   OYEZ_ADDRESS_NOT_AVAILABLE    (EADDRNOTAVAIL, ENODEV) not an address or interface of this host
   OYEZ_PERMISSION_DENIED        (EACCES, EPERM) a privileged port, a directory, a security policy
   OYEZ_LIMIT_REACHED            (EMFILE, ENFILE, ENOBUFS, ENOMEM)
   OYEZ_INVALID_ARGUMENT         a NULL address, a wrong struct, a descriptor that is not listening
 Threads: any. Signals: not async-signal-safe.
 Since 0.1. See socket(2), bind(2), listen(2), ip(7), ipv6(7), unix(7), sd_listen_fds(3).
 */
int32_t oyez_listen(const char *address,
                    const struct oyez_listen_options *options);

/*
 The port that a socket is bound to.

 Calls getsockname(2).

 Parameters
   fd  an IPv4 or IPv6 socket; borrowed
 Returns
   1 to 65535  the port
   -1          it has none; errno and oyez_last_error() are set
 Errors
   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; (EAFNOSUPPORT) a Unix socket; (EADDRNOTAVAIL) not bound
 Threads: any. Since 0.1.
 */
int32_t oyez_local_port(int32_t fd);

/*
 The address that a socket is bound to, in the form in which it could be passed to oyez_listen().

 Calls getsockname(2). "127.0.0.1:9000", "[::1]:9000", "unix:/run/app.sock", "unix:@name"; "unix:" for a Unix socket
 without a name. A listener at every address of the host reads "[::]:9000", as the kernel tells it.

 Parameters
   fd    a socket; borrowed
   text  where to write; NULL where size is 0
   size  how many bytes there are
 Returns
   >= 0  the length of the whole text, whatever fitted; what fitted is written and terminated
   -1    errno and oyez_last_error() are set
 Errors
   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; text is NULL and size is not 0
 Threads: any. Since 0.1. See snprintf(3).
 */
int32_t oyez_local_address(int32_t fd,
                           char *text,
                           size_t size);

/*
 The address of the other end of a connected socket, in the same form.

 Calls getpeername(2). An IPv4 client of a dual-stack listener is shown as IPv4; a Unix client without a name as
 "unix:". After a reset the kernel no longer knows it; oyez_accept() tells it in any case.

 Parameters
   fd    a connected socket; borrowed
   text  where to write; NULL where size is 0
   size  how many bytes there are
 Returns
   >= 0  the length of the whole text, whatever fitted; what fitted is written and terminated
   -1    errno and oyez_last_error() are set
 Errors
   OYEZ_CLOSED            (ENOTCONN) not connected, or no longer
   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; text is NULL and size is not 0
 Threads: any. Since 0.1. See snprintf(3).
 */
int32_t oyez_peer_address(int32_t fd,
                          char *text,
                          size_t size);

/*
 Closes a listener, and removes its Unix socket file if that is still the one that oyez_listen() made.

 The file is recognised by its device and inode, so that a successor's is never removed; neither is the file of a
 listener that was passed in. Connections that were accepted go on. close(2) does as well, and leaves the file to be
 replaced by the next start. A listener of a server belongs to that server.

 Parameters
   listener  a descriptor from oyez_listen(); taken
 Returns
   0   closed
   -1  errno and oyez_last_error() are set
 Errors
   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; nothing is closed
 Threads: any. Since 0.1.
 */
int32_t oyez_unlisten(int32_t listener);

/*
 Tells in words what would become of addresses, without taking them: whether each could be had, who has it and what
 to do, the backlog in force, and what this host grants.

 A TCP or UDP address is bound for an instant by socket(2) and bind(2). With TCP nobody notices: it is never told to
 listen, so that no client finds it, and a server that starts in that instant starts. (Not where either has
 reuse_address=off, nor with UDP: such a server finds the address in use, and a datagram of that instant is lost.) A
 Unix path and an inherited descriptor are only looked at. What is seen can be another thing the next moment: a
 server listens and looks whether that works. Each address is tried by itself: two that are the same can both be had.

 For a person: the wording is no interface. The command "oyez check --json" has the same for programs.

 Parameters
   addresses  as oyez_serve() takes them: one, or several separated by commas; borrowed
   text       where to write; NULL where size is 0
   size       how many bytes there are; 4096 are enough for some addresses
 Returns
   >= 0  the length of the whole text, whatever fitted; what fitted is written and terminated. Lines of UTF-8: for
         each address one that ends in ": can be had", ": cannot be had" or ": cannot be had, and is skipped: it is
         optional", and below it, set in, what is known about it
   -1    errno and oyez_last_error() are set
 Errors
   OYEZ_INVALID_ADDRESS   the text is no list of addresses; the hint shows where
   OYEZ_INVALID_ARGUMENT  addresses is NULL; text is NULL and size is not 0
 Threads: any. Signals: not async-signal-safe.
 Since 0.1. See bind(2), sock_diag(7), snprintf(3).
 */
int32_t oyez_check(const char *addresses,
                   char *text,
                   size_t size);

/*
 Waits for one connection and returns it as a new file descriptor.

 Calls accept4(2), and poll(2) first where a timeout is given or the listener is non-blocking. EINTR, ECONNABORTED,
 EPROTO and the pending network errors that accept(2) lists are retried. Several threads and processes may accept on
 one listener, blocking or not, and none outstays its timeout; the listener's flags are left alone.

 A timeout on a blocking listener has its price: once somebody is there, the accept runs in an io_uring(7) on a
 thread made for it. Where the system refuses that, losing the race for a connection to another process can outlast
 the timeout. A listener made with the option nonblocking has neither.

 Parameters
   listener    a listening stream socket; borrowed
   peer        where to write the client's address, as oyez_peer_address() does, cut where it does not fit; NULL =
               not wanted
   peer_size   how many bytes there are; 64 hold every IPv4 and IPv6 address, 128 every Unix one
   timeout_ms  longest wait in milliseconds; -1 = no limit, 0 = do not wait
 Returns
   >= 0  the new descriptor: close-on-exec, blocking; the caller closes it
   -1    errno and oyez_last_error() are set
 Errors
   OYEZ_TIMED_OUT         (EAGAIN) nothing arrived in time
   OYEZ_LIMIT_REACHED     (EMFILE, ENFILE, ENOBUFS, ENOMEM) no free descriptor; the connection stays queued
   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK, EINVAL) not a listening stream socket
 Threads: any; several may wait on one listener. Signals: not async-signal-safe.
 Since 0.1. See accept(2).
 */
int32_t oyez_accept(int32_t listener,
                    char *peer,
                    size_t peer_size,
                    int32_t timeout_ms);

/*
 Reads what there is, at most `size` bytes, and waits for it where there is nothing.

 Calls recv(2), and poll(2) where it has to wait with a timeout or the socket is non-blocking. EINTR is retried
 without making the wait longer.

 Parameters
   fd          a connected stream socket; borrowed
   buffer      where to write; NULL where size is 0
   size        how many bytes there are
   timeout_ms  longest wait in milliseconds; -1 = no limit, 0 = do not wait
 Returns
   > 0  how many bytes were read
   0    the end of the stream (or size is 0)
   -1   errno and oyez_last_error() are set
 Errors
   OYEZ_TIMED_OUT         (EAGAIN) nothing came in time
   OYEZ_CLOSED            (ECONNRESET, ...) the connection is broken
   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; buffer is NULL and size is not 0
 Threads: any; one reader at a time sees the bytes in order. Since 0.1. See recv(2).
 */
ssize_t oyez_read(int32_t fd,
                  void *buffer,
                  size_t size,
                  int32_t timeout_ms);

/*
 Writes all of it.

 Calls send(2), and poll(2) where it has to wait with a timeout or the socket is non-blocking. SIGPIPE is never
 raised, whatever its disposition. After a failure an unknown part may have been sent; the connection is of no
 further use to a protocol that counts bytes.

 Parameters
   fd          a connected stream socket; borrowed
   bytes       what to write; borrowed; NULL where size is 0
   size        how many bytes there are
   timeout_ms  longest time for the whole call in milliseconds; -1 = no limit, 0 = do not wait
 Returns
   size  all of it was taken by the kernel
   -1    errno and oyez_last_error() are set
 Errors
   OYEZ_TIMED_OUT         (EAGAIN) the peer did not read in time
   OYEZ_CLOSED            (EPIPE, ECONNRESET, ...) the connection is broken
   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; bytes is NULL and size is not 0
 Threads: any; one writer at a time keeps its bytes together. Since 0.1. See send(2).
 */
ssize_t oyez_write(int32_t fd,
                   const void *bytes,
                   size_t size,
                   int32_t timeout_ms);

/*
 A connection's descriptor, for code that speaks read(2) and write(2).

 It stays the server's: do not close it. The server's timeouts are set on it as SO_RCVTIMEO and SO_SNDTIMEO.

 Returns
   >= 0  the descriptor, blocking; borrowed
   -1    errno and oyez_last_error() are set
 Errors: OYEZ_CLOSED, OYEZ_FORKED. Threads: any. Since 0.1.
 */
int32_t oyez_conn_fd(oyez_conn connection);

/*
 The client's address, as accept4(2) told it: "127.0.0.1:40000", "[::1]:40000", "unix:".

 Parameters
   connection  a connection
   text        where to write; NULL where size is 0
   size        how many bytes there are
 Returns
   >= 0  the length of the whole text, whatever fitted; what fitted is written and terminated
   -1    errno and oyez_last_error() are set
 Errors: OYEZ_INVALID_ARGUMENT (text is NULL and size is not 0), OYEZ_CLOSED, OYEZ_FORKED.
 Threads: any. Since 0.1. See snprintf(3).
 */
int32_t oyez_conn_peer(oyez_conn connection, char *text, size_t size);

/*
 The address at which the client arrived.

 Parameters, returns, errors: as oyez_conn_peer().
 Threads: any. Since 0.1. See getsockname(2).
 */
int32_t oyez_conn_local(oyez_conn connection, char *text, size_t size);

/*
 Reads what there is, at most `size` bytes; waits, within the server's timeouts, where there is nothing.

 Parameters
   connection  a connection
   buffer      where to write; NULL where size is 0
   size        how many bytes there are
 Returns
   > 0  how many bytes were read
   0    the end of the stream (or size is 0)
   -1   errno and oyez_last_error() are set
 Errors
   OYEZ_CLOSED            broken (ECONNRESET, ...), or closed here
   OYEZ_TIMED_OUT         (EAGAIN) a timeout of the server
   OYEZ_STOPPED           the server's drain time is over
   OYEZ_INVALID_ARGUMENT  buffer is NULL and size is not 0; in an event server, where input comes by on_data
   OYEZ_FORKED
 Threads: any; one reader at a time sees the bytes in order. Since 0.1. See recv(2).
 */
ssize_t oyez_conn_read(oyez_conn connection, void *buffer, size_t size);

/*
 Reads one line, which ends in LF or CR LF; the ending is taken off and a NUL put in its place.

 Nothing behind the line is taken from the socket, so that oyez_conn_read(), and read(2) on the descriptor, go on
 right there. The last line of a stream may lack its ending. A line may contain NUL bytes; the length tells.

 Parameters
   connection  a connection
   line        where to write
   size        how many bytes there are, the NUL included; 2 or more
 Returns
   >= 0  the line's length; 0 is an empty line
   -1    errno and oyez_last_error() are set; `line` holds, terminated, what was read so far
 Errors
   OYEZ_CLOSED            the end of the stream; or broken (ECONNRESET, ...), or closed here
   OYEZ_LIMIT_REACHED     (EMSGSIZE) no end of line within `size`; the next call goes on behind what was read
   OYEZ_TIMED_OUT         (EAGAIN) a timeout of the server; read_timeout_ms counts for the whole line
   OYEZ_STOPPED           the server's drain time is over
   OYEZ_INVALID_ARGUMENT  line is NULL or size is less than 2; in an event server, where input comes by on_data
   OYEZ_FORKED
 Threads: any; one reader at a time. Since 0.1.
 */
ssize_t oyez_conn_read_line(oyez_conn connection,
                            char *line,
                            size_t size);

/*
 Writes all of it, within the server's timeouts. SIGPIPE is never raised.

 In an event server it never waits: it sends what the kernel takes at once and queues the rest, up to max_output; what
 would pass that fails, and nothing of it is sent or queued. From another thread all of it is queued.

 Parameters
   connection  a connection
   bytes       what to write; borrowed; NULL where size is 0
   size        how many bytes there are
 Returns
   size  all of it was taken by the kernel, or queued in an event server
   -1    errno and oyez_last_error() are set; an unknown part may have been sent
 Errors
   OYEZ_CLOSED            broken (EPIPE, ECONNRESET, ...), or closed here
   OYEZ_TIMED_OUT         (EAGAIN) a timeout of the server: the peer does not read
   OYEZ_STOPPED           the server's drain time is over
   OYEZ_LIMIT_REACHED     (ENOBUFS) an event server: it would pass max_output; (ENOMEM) memory is short
   OYEZ_INVALID_ARGUMENT  bytes is NULL and size is not 0
   OYEZ_FORKED
 Threads: any; one writer at a time keeps its bytes together. Since 0.1. See send(2).
 */
ssize_t oyez_conn_write(oyez_conn connection,
                        const void *bytes,
                        size_t size);

/*
 Closes a connection without losing what was written.

 The end of the stream is sent behind what is queued, and the peer's unread input is read and dropped for up to ten
 seconds, because closing over it would destroy the reply that is under way. The call does not wait for that. A
 handler need not call it: the connection is closed when it returns. Calls of other threads that wait on the
 connection end with OYEZ_CLOSED.

 Parameters
   connection  a connection; gone after the call
 Returns 0, or -1 with errno and oyez_last_error() set.
 Errors: OYEZ_CLOSED (closed before), OYEZ_FORKED. Threads: any. Since 0.1.
 */
int32_t oyez_conn_close(oyez_conn connection);

/*
 Resets a connection: what is queued is dropped, and the peer sees an error instead of an orderly end.

 A Unix peer sees the end of the stream; there is no reset there.

 Parameters
   connection  a connection; gone after the call
 Returns 0, or -1 with errno and oyez_last_error() set.
 Errors: OYEZ_CLOSED (closed before), OYEZ_FORKED. Threads: any. Since 0.1.
 */
int32_t oyez_conn_abort(oyez_conn connection);

/*
 Takes a connection over from its server, which forgets it.

 In an event server a function of the server may do it, for a connection of its own thread, when nothing is queued;
 on_close follows. Input that on_data has left is the caller's to have kept.

 Parameters
   connection  a connection; gone after the call
 Returns
   >= 0  the descriptor, blocking and close-on-exec; the caller closes it
   -1    errno and oyez_last_error() are set; the connection is as it was
 Errors
   OYEZ_INVALID_ARGUMENT  (EBUSY) another thread is in a call on it, or output is queued, or input has come that on_data
                          has not seen yet: try again from there; an event server, from another thread
   OYEZ_CLOSED, OYEZ_FORKED
 Threads: any. Since 0.1.
 */
int32_t oyez_conn_detach(oyez_conn connection);

/*
 Keeps a pointer of the program's with a connection.

 Parameters
   connection  a connection
   user        any pointer; oyez does not look behind it
 Returns 0, or -1 with errno and oyez_last_error() set.
 Errors: OYEZ_CLOSED, OYEZ_FORKED. Threads: any. Since 0.1.
 */
int32_t oyez_conn_set_user(oyez_conn connection, void *user);

/*
 The pointer that oyez_conn_set_user() kept; NULL where none was set, and where the connection is gone (then errno
 and oyez_last_error() are set).

 Threads: any. Since 0.1.
 */
void *oyez_conn_user(oyez_conn connection);

/*
 Sets how long this connection may be silent, in place of the server's idle_timeout_ms.

 Parameters
   connection  a connection
   idle_ms     milliseconds; -1 = no limit, 0 = the server's
 Returns 0, or -1 with errno and oyez_last_error() set.
 Errors: OYEZ_INVALID_ARGUMENT (less than -1), OYEZ_CLOSED, OYEZ_FORKED. Threads: any. Since 0.1.
 */
int32_t oyez_conn_set_timeout(oyez_conn connection, int32_t idle_ms);

/*
 Serves at `addresses` with a handler for each connection, until stopped and drained.

 It is oyez_server_new(), oyez_server_listen(), oyez_server_run() and oyez_server_close() in one call. The way to
 stop it is the option stop_on_signals; for anything else use the server functions.

 Parameters
   addresses  where to listen: as oyez_listen(), several separated by commas; one that starts with "-" is optional
              and skipped, with a log line, where the host cannot have it; borrowed
   handler    serves each connection
   user       passed to the handler; borrowed until the call returns
   options    borrowed; NULL = defaults
 Returns
   0   stopped and drained
   -1  errno and oyez_last_error() are set
 Errors
   those of oyez_listen()
   OYEZ_INVALID_ARGUMENT  addresses or handler is NULL, or an option is out of its range
   OYEZ_LIMIT_REACHED     descriptors, memory or threads are used up before the first client
 Threads: any; it runs on the calling one. Signals: SIGPIPE is blocked in the threads and processes of handlers, so
 that a plain write(2) fails with EPIPE instead; other signals are blocked in threads that oyez makes, and so in
 programs that a handler starts from one.
 Since 0.1.
 */
int32_t oyez_serve(const char *addresses,
                   oyez_handler handler,
                   void *user,
                   const struct oyez_server_options *options);

/*
 Makes a server, which listens nowhere yet.

 Parameters
   handler  serves each connection; NULL = the program accepts by hand, with oyez_server_accept()
   user     passed to the handler; borrowed until the server is closed
   options  borrowed; NULL = defaults
 Returns
   > 0  the server; the caller gives it back with oyez_server_close()
   -1   errno and oyez_last_error() are set
 Errors
   OYEZ_INVALID_ARGUMENT  an option is out of its range
   OYEZ_LIMIT_REACHED     descriptors or memory are used up, or 1024 servers are open
 Threads: any. Since 0.1.
 */
oyez_server oyez_server_new(oyez_handler handler, void *user, const struct oyez_server_options *options);

/*
 Lets a server listen at one or more addresses. It may be called any number of times, also while it runs.

 Parameters
   server     a server
   addresses  as oyez_serve(); borrowed
   options    for all of them; borrowed; NULL = defaults
 Returns
   >= 0  the last listener's descriptor, for oyez_local_port(); it stays the server's, which closes it
   -1    errno and oyez_last_error() are set; none of the addresses is listened at
 Errors
   those of oyez_listen()
   OYEZ_ADDRESS_NOT_AVAILABLE  every address was optional, and the host has none of them
   OYEZ_STOPPED, OYEZ_CLOSED, OYEZ_FORKED
 Threads: any. Since 0.1.
 */
int32_t oyez_server_listen(oyez_server server,
                           const char *addresses,
                           const struct oyez_listen_options *options);

/*
 Gives a server a descriptor that is listening already.

 It is made non-blocking and close-on-exec. When the server closes it, other copies of it (a parent's, a service
 manager's) go on; a Unix socket file is not removed.

 Parameters
   server    a server
   listener  a listening stream socket; taken, on success only
 Returns
   >= 0  the descriptor, now the server's
   -1    errno and oyez_last_error() are set; the descriptor is still the caller's
 Errors
   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK, EINVAL) not a listening stream socket, or the server's already
   OYEZ_LIMIT_REACHED, OYEZ_STOPPED, OYEZ_CLOSED, OYEZ_FORKED
 Threads: any. Since 0.1.
 */
int32_t oyez_server_adopt(oyez_server server,
                          int32_t listener);

/*
 Runs a server on the calling thread until it is stopped and drained.

 Parameters
   server  a server with a handler, or an event server; with at least one listener
 Returns
   0   stopped and drained
   -1  errno and oyez_last_error() are set
 Errors
   OYEZ_INVALID_ARGUMENT  no handler and no event server, no listener, it runs already, or oyez_server_poll() drives it
   OYEZ_LIMIT_REACHED     descriptors, memory or threads are used up before the first client
   OYEZ_STOPPED           it has run, and ended
   OYEZ_CLOSED, OYEZ_FORKED
 Threads: any, one at a time. Since 0.1.
 */
int32_t oyez_server_run(oyez_server server);

/*
 Runs a server on a thread of its own and returns at once.

 Parameters, errors: as oyez_server_run().
 Returns
   0   it runs
   -1  errno and oyez_last_error() are set
 Threads: any. Since 0.1.
 */
int32_t oyez_server_start(oyez_server server);

/*
 Waits until a server has stopped and drained.

 Parameters
   server      a server
   timeout_ms  longest wait in milliseconds; -1 = no limit, 0 = do not wait
 Returns
   0   it has; how it went is in oyez_server_stats()
   -1  errno and oyez_last_error() are set
 Errors
   OYEZ_TIMED_OUT         (EAGAIN) it has not yet
   OYEZ_INVALID_ARGUMENT  (EDEADLK) called by a handler of this server; or the server was never started
   OYEZ_CLOSED, OYEZ_FORKED
 Threads: any. Since 0.1.
 */
int32_t oyez_server_wait(oyez_server server, int32_t timeout_ms);

/*
 Lets a server accept nothing for a while. Clients wait in the kernel's queue; connections go on.

 Parameters
   server  a server
 Returns 0, or -1 with errno and oyez_last_error() set.
 Errors: OYEZ_CLOSED, OYEZ_FORKED. Threads: any. Since 0.1.
 */
int32_t oyez_server_pause(oyez_server server);

/*
 Lets a paused server accept again.

 Parameters
   server  a server
 Returns 0, or -1 with errno and oyez_last_error() set.
 Errors: OYEZ_CLOSED, OYEZ_FORKED. Threads: any. Since 0.1.
 */
int32_t oyez_server_resume(oyez_server server);

/*
 Changes the limits of a server, also while it runs.

 It takes max_connections, max_connections_per_address, accept_rate, accept_burst, allow and deny, which hold at once,
 and idle_timeout_ms, read_timeout_ms, write_timeout_ms and lifetime_ms for the connections accepted from then on.
 What is zero gets its default again; the struct's other fields are not looked at beyond their range. Nobody who is
 connected is closed.

 Parameters
   server   a server
   options  borrowed; NULL = defaults
 Returns 0, or -1 with errno and oyez_last_error() set; then nothing has changed.
 Errors
   OYEZ_INVALID_ARGUMENT  an option is out of its range, or a list has a fault, which the hint shows
   OYEZ_CLOSED, OYEZ_FORKED
 Threads: any, also from a handler. Since 0.1.
 */
int32_t oyez_server_set_limits(oyez_server server,
                               const struct oyez_server_options *options);

/*
 Asks a server to stop, and returns at once.

 Clients whose connection the kernel has completed, or is completing, are still accepted and served; then the listeners
 are closed. New clients are kept out meanwhile, so that none is connected and then reset: by a filter where the process
 has CAP_NET_ADMIN, else by steering them to a socket of the same port whose queue is full. Neither is possible for
 Unix sockets, for listeners with reuse_port or interface, and for those that others share (adopted, inherited): they
 are closed when their queue has been seen empty. A filter that the program has attached itself is replaced. Handshakes
 under way are waited for, 1.5 seconds at most, unless no client has come for five seconds.
 What is unfinished when drain_ms are over is reset, so that its client can tell, and counted. A second call, and
 any call while a signal's stop is under way, ends the drain time at once.

 Parameters
   server    a server
   drain_ms  how long connections may take to finish, in milliseconds; 0 = reset them now, -1 = wait for all
 Returns
   0   asked; oyez_server_wait() waits for the end
   -1  errno and oyez_last_error() are set
 Errors
   OYEZ_INVALID_ARGUMENT  drain_ms is less than -1
   OYEZ_CLOSED, OYEZ_FORKED
 Threads: any, also from a handler. Signals: async-signal-safe on a living server.
 Since 0.1.
 */
int32_t oyez_server_stop(oyez_server server,
                         int32_t drain_ms);

/*
 Ends a server and gives everything back: threads, descriptors, its number.

 A running server is stopped first, with the option drain_ms, and waited for. Called by a handler of the server
 itself it does not wait: the server ends when its handlers have returned.

 Parameters
   server  a server; gone after the call
 Returns
   0   closed
   -1  errno and oyez_last_error() are set
 Errors: OYEZ_CLOSED (closed before), OYEZ_FORKED. Threads: any. Since 0.1.
 */
int32_t oyez_server_close(oyez_server server);

/*
 Tells what a server has done, and what waits for it in the kernel.

 Calls getsockopt(2) on each listener.

 Parameters
   server  a server
   stats   from OYEZ_STATS_INIT; filled as far as its size goes, what a newer program knows beyond this library is 0
 Returns 0, or -1 with errno and oyez_last_error() set.
 Errors
   OYEZ_INVALID_ARGUMENT  stats is NULL or its size is wrong
   OYEZ_CLOSED, OYEZ_FORKED
 Threads: any, also from a handler. Since 0.1.
 */
int32_t oyez_server_stats(oyez_server server,
                          struct oyez_stats *stats);

/*
 Gives a server's statistics as text, in the exposition format of Prometheus.

 It has what oyez_server_stats() gives, failed accepts by errno, refusals by reason, and queue, backlog and drops of
 each listener. The names begin with "oyez_". Between two calls the text may grow.

 Parameters
   server  a server
   text    receives the text, terminated, as far as it fits; NULL where size is 0
   size    of text in bytes
 Returns
   >= 0  the length of the whole text, as snprintf(3); where it is `size` or more the text was cut
   -1    errno and oyez_last_error() are set
 Errors
   OYEZ_INVALID_ARGUMENT  text is NULL and size is not 0
   OYEZ_LIMIT_REACHED     no memory for the text
   OYEZ_CLOSED, OYEZ_FORKED
 Threads: any, also from a handler. Since 0.1.
 */
int32_t oyez_server_stats_text(oyez_server server,
                               char *text,
                               size_t size);

/*
 Accepts one connection by hand, from whichever listener of the server has one.

 For a loop of one's own. The descriptor stays the server's, which closes it with oyez_conn_close(); a program that
 wants to own it takes it over with oyez_conn_detach(). When descriptors run out it waits, within the timeout, until
 one is free; the connection stays queued.

 Parameters
   server      a server without a handler
   connection  receives the connection
   timeout_ms  longest wait in milliseconds; -1 = no limit, 0 = do not wait
 Returns
   >= 0  the connection's descriptor: close-on-exec, blocking
   -1    errno and oyez_last_error() are set
 Errors
   OYEZ_TIMED_OUT         (EAGAIN) nothing arrived in time
   OYEZ_LIMIT_REACHED     (EMFILE, ENFILE, ENOBUFS, ENOMEM) no free descriptor in time; (EAGAIN) as many connections
                          as max_connections allows, and none was closed in time
   OYEZ_STOPPED           the server was stopped, and nobody waits any more
   OYEZ_INVALID_ARGUMENT  connection is NULL; the server has a handler, or no listener
   OYEZ_CLOSED, OYEZ_FORKED
 Threads: any; several may wait. Since 0.1.
 */
int32_t oyez_server_accept(oyez_server server,
                           oyez_conn *connection,
                           int32_t timeout_ms);

/*
 One descriptor to poll for all that a server does which a loop of one's own drives: one without a handler, or an event
 server that was not started.

 It is readable when oyez_server_accept(), or oyez_server_poll(), has something to do, which may be nothing but tidying
 up: call that with a timeout of 0.

 Parameters
   server  a server without a handler, or an event server
 Returns
   >= 0  the descriptor; it stays the server's
   -1    errno and oyez_last_error() are set
 Errors: OYEZ_INVALID_ARGUMENT (the server has a handler, or runs), OYEZ_STOPPED (it is over), OYEZ_CLOSED, OYEZ_FORKED.
 Threads: any. Since 0.1. See poll(2), epoll(7).
 */
int32_t oyez_server_poll_fd(oyez_server server);

/*
 Makes an event server: few threads serve many connections, by functions that are called for what happens.

 oyez_server_listen(), _run() or _start(), _stop(), _wait() and _close() are used as with any server; a loop of one's
 own drives it by oyez_server_poll() instead. The options' model is not looked at; `workers` is the number of
 threads, `backend` by what they wait. A connection stays on one of them, that which had fewest when it was accepted.

 In an event server oyez_conn_write() never waits: what the kernel does not take is queued, up to max_output. What is
 written may leave when the function of the server has returned, together with what other connections write: an error
 of the connection is then told by on_close. oyez_conn_close() sends what is queued first. Where the peer has ended its side, the connection is closed
 once what is queued, and what on_drain adds, is sent; a program that answers later pauses the connection until then.
 idle_timeout_ms counts from the last input or output, lifetime_ms from on_open, write_timeout_ms while output waits
 and none of it is taken, and read_timeout_ms from on_open to the first input, and whenever on_data has left some,
 until it consumes more; not while the connection is paused. A stop closes idle connections at once, those that have
 been served and have nothing queued or left over and are not paused; the others have drain_ms.

 Parameters
   events   borrowed; copied
   user     passed to each of the functions; may be NULL
   options  borrowed; NULL = defaults
 Returns
   > 0  the server; oyez_server_close() gives it back
   -1   errno and oyez_last_error() are set
 Errors
   OYEZ_INVALID_ARGUMENT  events is NULL; a wrong struct; an option is out of its range
   OYEZ_UNSUPPORTED       a struct sets a field that this library does not know; OYEZ_BACKEND_IO_URING was asked for
                          and cannot be had
   OYEZ_LIMIT_REACHED     (EMFILE, ENFILE, ENOMEM) descriptors or memory; 1024 servers are open
 Threads: any. Since 0.1. See epoll(7), io_uring(7).
 */
oyez_server oyez_server_new_events(const struct oyez_events *events,
                                   void *user,
                                   const struct oyez_server_options *options);

/*
 Drives an event server that was not started, from a loop of one's own: does what work there is, and waits for some.

 The first call makes the server one that is polled; one thread at a time may poll it, and the functions of
 oyez_events are called on that thread. oyez_server_poll_fd() is readable when there is work. After a stop, the server
 is polled until it is drained.

 Parameters
   server      an event server that listens, and was neither run nor started
   timeout_ms  longest wait in milliseconds; -1 = no limit, 0 = do not wait
 Returns
   0   some work was done, or there was none in time
   -1  errno and oyez_last_error() are set
 Errors
   OYEZ_STOPPED (ECANCELED)       the server has stopped and is drained; where an error has ended it, that error first
   OYEZ_INVALID_ARGUMENT          no event server, or one that runs already or listens nowhere; (EBUSY) it is being
                                  polled just now, perhaps by the caller's caller
   OYEZ_CLOSED, OYEZ_FORKED       there is no such server here
 Threads: any, one at a time. Since 0.1.
 */
int32_t oyez_server_poll(oyez_server server,
                         int32_t timeout_ms);

/*
 Stops reading from a connection of an event server, for a while: what the peer sends waits in the kernel, and then
 at the peer. What is queued is still sent.

 A connection that is paused does not notice the peer's end either, and a stop does not count it as idle. This is how
 a program holds it while another thread works on an answer.

 Parameters
   connection  a connection of an event server; stays the server's
 Returns
   0   paused
   -1  errno and oyez_last_error() are set
 Errors
   OYEZ_CLOSED            it is closed
   OYEZ_INVALID_ARGUMENT  the server is no event server
   OYEZ_FORKED
 Threads: any; from another than the connection's it takes effect soon after. Since 0.1.
 */
int32_t oyez_conn_pause(oyez_conn connection);

/*
 Goes on reading from a connection that was paused. Input that on_data has left is given again at once.

 Parameters
   connection  a connection of an event server; stays the server's
 Returns
   0   it is read from
   -1  errno and oyez_last_error() are set
 Errors
   OYEZ_CLOSED            it is closed
   OYEZ_INVALID_ARGUMENT  the server is no event server
   OYEZ_FORKED
 Threads: any; from another than the connection's it takes effect soon after. Since 0.1.
 */
int32_t oyez_conn_resume(oyez_conn connection);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* OYEZ_H */
