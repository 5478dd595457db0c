//! Servers: `src/serve/` for C.

use std::ffi::{c_char, c_void};
use std::mem::{offset_of, size_of};

use rustix::io::Errno;

use super::connection::oyez_conn;
use super::options::{self, Shared, oyez_listen_options, oyez_server_options};
use super::{bytes, copy_text, guard, null, output};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::serve::{ConnectionId, Handler, Server, ServerId, Snapshot};

/// Serves one connection.
///
/// The connection's functions block; it is closed when the handler returns. It must return normally: not by longjmp(3),
/// pthread_exit(3) or an exception, each of which is undefined or ends the process.
///
///   connection  the client
///   user        what was given with the handler
pub type oyez_handler = Option<unsafe extern "C-unwind" fn(connection: oyez_conn, user: *mut c_void)>;

/// A server's number: > 0; 0 is no server, -1 is failure. Never used twice in a process.
pub type oyez_server = i32;

/// What a server has done, and what waits for it. Start from OYEZ_STATS_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct oyez_stats {
    /// The struct's size in bytes, set by OYEZ_STATS_INIT.
    pub size: usize,
    /// Connections accepted; those that were refused then are not among them.
    pub accepted: u64,
    /// Connections that are open now.
    pub active: u64,
    /// Handlers that crashed: a child process that a signal or a non-zero exit ended, a Rust handler that panicked.
    pub handler_failures: u64,
    /// Connections refused because no number was left for them. At max_connections nobody is refused: clients wait.
    pub refused_limit: u64,
    /// Connections refused by max_connections_per_address.
    pub refused_address: u64,
    /// Connections refused by accept_rate.
    pub refused_rate: u64,
    /// Connections refused by the allow and deny lists.
    pub refused_rules: u64,
    /// Connections refused for their PROXY header.
    pub refused_proxy: u64,
    /// Connections refused in the TLS handshake.
    pub refused_tls: u64,
    /// Failed accepts, of whatever cause.
    pub accept_errors: u64,
    /// How often accepting paused because descriptors or memory were used up.
    pub descriptor_pauses: u64,
    /// Connections that were finished in time once a stop had begun, those that were accepted for it among them.
    pub drained: u64,
    /// Connections that the end of the drain time reset.
    pub cut: u64,
    /// Bytes that oyez_conn_read() and oyez_conn_read_line() read, or on_data has seen.
    pub bytes_in: u64,
    /// Bytes that oyez_conn_write() wrote, or an event server sent.
    pub bytes_out: u64,
    /// Reads and writes that ran into a timeout of the server, and connections of event servers that one ended.
    pub timeouts: u64,
    /// Listeners that are open now.
    pub listeners: u64,
    /// Connections that wait in the kernel to be accepted, over all TCP listeners.
    pub queue: u64,
    /// The backlog in force, as the kernel tells it; the smallest of the TCP listeners'.
    pub backlog: u64,
    /// Connection attempts that the kernel dropped at these listeners.
    pub dropped: u64,
}

/// Serves at `addresses` with a handler for each connection, until stopped and drained.
///
/// It is oyez_server_new(), oyez_server_listen(), oyez_server_run() and oyez_server_close() in one call. The way to
/// stop it is the option stop_on_signals; for anything else use the server functions.
///
/// Parameters
///   addresses  where to listen: as oyez_listen(), several separated by commas; one that starts with "-" is optional
///              and skipped, with a log line, where the host cannot have it; borrowed
///   handler    serves each connection
///   user       passed to the handler; borrowed until the call returns
///   options    borrowed; NULL = defaults
/// Returns
///   0   stopped and drained
///   -1  errno and oyez_last_error() are set
/// Errors
///   those of oyez_listen()
///   OYEZ_INVALID_ARGUMENT  addresses or handler is NULL, or an option is out of its range
///   OYEZ_LIMIT_REACHED     descriptors, memory or threads are used up before the first client
/// Threads: any; it runs on the calling one. Signals: SIGPIPE is blocked in the threads and processes of handlers, so
/// that a plain write(2) fails with EPIPE instead; other signals are blocked in threads that oyez makes, and so in
/// programs that a handler starts from one.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_serve(
    addresses: *const c_char,
    handler: oyez_handler,
    user: *mut c_void,
    options: *const oyez_server_options,
) -> i32 {
    guard(|| {
        // SAFETY: the documentation asks for a terminated string.
        let addresses = unsafe { bytes(addresses, "oyez_serve", "addresses") }?;
        let handler = c_handler(handler, user)?.ok_or_else(|| null("oyez_serve", "handler"))?;
        // SAFETY: the documentation asks for NULL or a struct of its size.
        let options = unsafe { options::server(options, "oyez_serve") }?;
        crate::serve::serve(addresses, handler, options)?;
        Ok(0)
    })
}

/// Makes a server, which listens nowhere yet.
///
/// Parameters
///   handler  serves each connection; NULL = the program accepts by hand, with oyez_server_accept()
///   user     passed to the handler; borrowed until the server is closed
///   options  borrowed; NULL = defaults
/// Returns
///   > 0  the server; the caller gives it back with oyez_server_close()
///   -1   errno and oyez_last_error() are set
/// Errors
///   OYEZ_INVALID_ARGUMENT  an option is out of its range
///   OYEZ_LIMIT_REACHED     descriptors or memory are used up, or 1024 servers are open
/// Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_server_new(
    handler: oyez_handler,
    user: *mut c_void,
    options: *const oyez_server_options,
) -> oyez_server {
    guard(|| {
        // SAFETY: the documentation asks for NULL or a struct of its size.
        let options = unsafe { options::server(options, "oyez_server_new") }?;
        Ok(Server::create(c_handler(handler, user)?, options)?.number())
    })
}

/// The handler of C as the core calls it.
fn c_handler(handler: oyez_handler, user: *mut c_void) -> Result<Option<Handler>> {
    let Some(handler) = handler else { return Ok(None) };
    let user = Shared(user);
    let made = Handler::new(move |connection: ConnectionId| {
        let user = &user;
        // SAFETY: the program vouches for its handler and pointer for as long as the server lives.
        unsafe { handler(connection.number(), user.0) };
    });
    made.map(Some).ok_or_else(|| Error::system("server", Errno::NOMEM))
}

/// Lets a server listen at one or more addresses. It may be called any number of times, also while it runs.
///
/// Parameters
///   server     a server
///   addresses  as oyez_serve(); borrowed
///   options    for all of them; borrowed; NULL = defaults
/// Returns
///   >= 0  the last listener's descriptor, for oyez_local_port(); it stays the server's, which closes it
///   -1    errno and oyez_last_error() are set; none of the addresses is listened at
/// Errors
///   those of oyez_listen()
///   OYEZ_ADDRESS_NOT_AVAILABLE  every address was optional, and the host has none of them
///   OYEZ_STOPPED, OYEZ_CLOSED, OYEZ_FORKED
/// Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_server_listen(
    server: oyez_server,
    addresses: *const c_char,
    options: *const oyez_listen_options,
) -> i32 {
    guard(|| {
        // SAFETY: the documentation asks for a terminated string.
        let addresses = unsafe { bytes(addresses, "oyez_server_listen", "addresses") }?;
        // SAFETY: the documentation asks for NULL or a struct of its size.
        let options = unsafe { options::listen(options, "oyez_server_listen") }?;
        find(server, "oyez_server_listen")?.listen(addresses, &options)
    })
}

/// Gives a server a descriptor that is listening already.
///
/// It is made non-blocking and close-on-exec. When the server closes it, other copies of it (a parent's, a service
/// manager's) go on; a Unix socket file is not removed.
///
/// Parameters
///   server    a server
///   listener  a listening stream socket; taken, on success only
/// Returns
///   >= 0  the descriptor, now the server's
///   -1    errno and oyez_last_error() are set; the descriptor is still the caller's
/// Errors
///   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK, EINVAL) not a listening stream socket, or the server's already
///   OYEZ_LIMIT_REACHED, OYEZ_STOPPED, OYEZ_CLOSED, OYEZ_FORKED
/// Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_server_adopt(server: oyez_server, listener: i32) -> i32 {
    guard(|| find(server, "oyez_server_adopt")?.adopt(listener))
}

/// Runs a server on the calling thread until it is stopped and drained.
///
/// Parameters
///   server  a server with a handler, or an event server; with at least one listener
/// Returns
///   0   stopped and drained
///   -1  errno and oyez_last_error() are set
/// Errors
///   OYEZ_INVALID_ARGUMENT  no handler and no event server, no listener, it runs already, or oyez_server_poll() drives it
///   OYEZ_LIMIT_REACHED     descriptors, memory or threads are used up before the first client
///   OYEZ_STOPPED           it has run, and ended
///   OYEZ_CLOSED, OYEZ_FORKED
/// Threads: any, one at a time. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_server_run(server: oyez_server) -> i32 {
    guard(|| {
        Server::run(&find(server, "oyez_server_run")?)?;
        Ok(0)
    })
}

/// Runs a server on a thread of its own and returns at once.
///
/// Parameters, errors: as oyez_server_run().
/// Returns
///   0   it runs
///   -1  errno and oyez_last_error() are set
/// Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_server_start(server: oyez_server) -> i32 {
    guard(|| {
        Server::start(&find(server, "oyez_server_start")?)?;
        Ok(0)
    })
}

/// Waits until a server has stopped and drained.
///
/// Parameters
///   server      a server
///   timeout_ms  longest wait in milliseconds; -1 = no limit, 0 = do not wait
/// Returns
///   0   it has; how it went is in oyez_server_stats()
///   -1  errno and oyez_last_error() are set
/// Errors
///   OYEZ_TIMED_OUT         (EAGAIN) it has not yet
///   OYEZ_INVALID_ARGUMENT  (EDEADLK) called by a handler of this server; or the server was never started
///   OYEZ_CLOSED, OYEZ_FORKED
/// Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_server_wait(server: oyez_server, timeout_ms: i32) -> i32 {
    guard(|| {
        let server = find(server, "oyez_server_wait")?;
        server.wait(Deadline::from_milliseconds(timeout_ms, "oyez_server_wait")?)?;
        Ok(0)
    })
}

/// Lets a server accept nothing for a while. Clients wait in the kernel's queue; connections go on.
///
/// Parameters
///   server  a server
/// Returns 0, or -1 with errno and oyez_last_error() set.
/// Errors: OYEZ_CLOSED, OYEZ_FORKED. Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_server_pause(server: oyez_server) -> i32 {
    guard(|| find(server, "oyez_server_pause")?.pause(true).map(|()| 0))
}

/// Lets a paused server accept again.
///
/// Parameters
///   server  a server
/// Returns 0, or -1 with errno and oyez_last_error() set.
/// Errors: OYEZ_CLOSED, OYEZ_FORKED. Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_server_resume(server: oyez_server) -> i32 {
    guard(|| find(server, "oyez_server_resume")?.pause(false).map(|()| 0))
}

/// Changes the limits of a server, also while it runs.
///
/// It takes max_connections, max_connections_per_address, accept_rate, accept_burst, allow and deny, which hold at once,
/// and idle_timeout_ms, read_timeout_ms, write_timeout_ms and lifetime_ms for the connections accepted from then on.
/// What is zero gets its default again; the struct's other fields are not looked at beyond their range. Nobody who is
/// connected is closed.
///
/// Parameters
///   server   a server
///   options  borrowed; NULL = defaults
/// Returns 0, or -1 with errno and oyez_last_error() set; then nothing has changed.
/// Errors
///   OYEZ_INVALID_ARGUMENT  an option is out of its range, or a list has a fault, which the hint shows
///   OYEZ_CLOSED, OYEZ_FORKED
/// Threads: any, also from a handler. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_server_set_limits(server: oyez_server, options: *const oyez_server_options) -> i32 {
    guard(|| {
        // SAFETY: the documentation asks for NULL or a struct of its size.
        let options = unsafe { options::server(options, "oyez_server_set_limits") }?;
        find(server, "oyez_server_set_limits")?.set_limits(&options.limits);
        Ok(0)
    })
}

/// Asks a server to stop, and returns at once.
///
/// Clients whose connection the kernel has completed, or is completing, are still accepted and served; then the listeners
/// are closed. New clients are kept out meanwhile, so that none is connected and then reset: by a filter where the process
/// has CAP_NET_ADMIN, else by steering them to a socket of the same port whose queue is full. Neither is possible for
/// Unix sockets, for listeners with reuse_port or interface, and for those that others share (adopted, inherited): they
/// are closed when their queue has been seen empty. A filter that the program has attached itself is replaced. Handshakes
/// under way are waited for, 1.5 seconds at most, unless no client has come for five seconds.
/// What is unfinished when drain_ms are over is reset, so that its client can tell, and counted. A second call, and
/// any call while a signal's stop is under way, ends the drain time at once.
///
/// Parameters
///   server    a server
///   drain_ms  how long connections may take to finish, in milliseconds; 0 = reset them now, -1 = wait for all
/// Returns
///   0   asked; oyez_server_wait() waits for the end
///   -1  errno and oyez_last_error() are set
/// Errors
///   OYEZ_INVALID_ARGUMENT  drain_ms is less than -1
///   OYEZ_CLOSED, OYEZ_FORKED
/// Threads: any, also from a handler. Signals: async-signal-safe on a living server.
/// Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_server_stop(server: oyez_server, drain_ms: i32) -> i32 {
    guard(|| {
        if drain_ms < -1 {
            return Err(Error::invalid("oyez_server_stop", format_args!("drain_ms is {drain_ms}, less than -1")));
        }
        Server::stop(ServerId::from_number(server), options::drain(drain_ms))?;
        Ok(0)
    })
}

/// Ends a server and gives everything back: threads, descriptors, its number.
///
/// A running server is stopped first, with the option drain_ms, and waited for. Called by a handler of the server
/// itself it does not wait: the server ends when its handlers have returned.
///
/// Parameters
///   server  a server; gone after the call
/// Returns
///   0   closed
///   -1  errno and oyez_last_error() are set
/// Errors: OYEZ_CLOSED (closed before), OYEZ_FORKED. Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_server_close(server: oyez_server) -> i32 {
    guard(|| {
        Server::close(ServerId::from_number(server))?;
        Ok(0)
    })
}

/// Tells what a server has done, and what waits for it in the kernel.
///
/// Calls getsockopt(2) on each listener.
///
/// Parameters
///   server  a server
///   stats   from OYEZ_STATS_INIT; filled as far as its size goes, what a newer program knows beyond this library is 0
/// Returns 0, or -1 with errno and oyez_last_error() set.
/// Errors
///   OYEZ_INVALID_ARGUMENT  stats is NULL or its size is wrong
///   OYEZ_CLOSED, OYEZ_FORKED
/// Threads: any, also from a handler. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_server_stats(server: oyez_server, stats: *mut oyez_stats) -> i32 {
    guard(|| {
        if stats.is_null() {
            return Err(null("oyez_server_stats", "stats"));
        }
        // SAFETY: not NULL; the documentation asks for a struct that starts with its size.
        let claimed = unsafe { stats.cast::<usize>().read_unaligned() };
        check_stats_size(claimed)?;
        let filled = c_stats(claimed, &find(server, "oyez_server_stats")?.snapshot());
        let known = claimed.min(size_of::<oyez_stats>());
        // SAFETY: the struct has `claimed` writable bytes, and `known` is no more than that; `filled` is a local.
        unsafe { std::ptr::copy_nonoverlapping((&raw const filled).cast::<u8>(), stats.cast::<u8>(), known) };
        // SAFETY: `known` is at most `claimed`, so the rest of the struct begins there.
        let rest = unsafe { stats.cast::<u8>().add(known) };
        // SAFETY: what lies between `known` and `claimed` is the caller's.
        unsafe { rest.write_bytes(0, claimed.saturating_sub(known)) };
        Ok(0)
    })
}

/// Every field is a u64 behind `size`: an older program's struct ends at one of them.
fn check_stats_size(claimed: usize) -> Result<()> {
    let mut fields = [0; (size_of::<oyez_stats>() - offset_of!(oyez_stats, accepted)) / size_of::<u64>()];
    for (index, field) in fields.iter_mut().enumerate() {
        *field = offset_of!(oyez_stats, accepted) + index * size_of::<u64>();
    }
    options::check_size(claimed, size_of::<oyez_stats>(), &fields, "oyez_server_stats", "oyez_stats")
}

fn c_stats(size: usize, snapshot: &Snapshot) -> oyez_stats {
    oyez_stats {
        size,
        accepted: snapshot.accepted,
        active: snapshot.active,
        handler_failures: snapshot.handler_failures,
        refused_limit: snapshot.refused_limit,
        refused_address: snapshot.refused_address,
        refused_rate: snapshot.refused_rate,
        refused_rules: snapshot.refused_rules,
        refused_proxy: 0,
        refused_tls: 0,
        accept_errors: snapshot.accept_errors,
        descriptor_pauses: snapshot.descriptor_pauses,
        drained: snapshot.drained,
        cut: snapshot.cut,
        bytes_in: snapshot.bytes_in,
        bytes_out: snapshot.bytes_out,
        timeouts: snapshot.timeouts,
        listeners: snapshot.listeners,
        queue: snapshot.queue,
        backlog: snapshot.backlog,
        dropped: snapshot.dropped,
    }
}

/// Gives a server's statistics as text, in the exposition format of Prometheus.
///
/// It has what oyez_server_stats() gives, failed accepts by errno, refusals by reason, and queue, backlog and drops of
/// each listener. The names begin with "oyez_". Between two calls the text may grow.
///
/// Parameters
///   server  a server
///   text    receives the text, terminated, as far as it fits; NULL where size is 0
///   size    of text in bytes
/// Returns
///   >= 0  the length of the whole text, as snprintf(3); where it is `size` or more the text was cut
///   -1    errno and oyez_last_error() are set
/// Errors
///   OYEZ_INVALID_ARGUMENT  text is NULL and size is not 0
///   OYEZ_LIMIT_REACHED     no memory for the text
///   OYEZ_CLOSED, OYEZ_FORKED
/// Threads: any, also from a handler. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_server_stats_text(server: oyez_server, text: *mut c_char, size: usize) -> i32 {
    guard(|| {
        let stats = find(server, "oyez_server_stats_text")?.stats_text()?;
        // SAFETY: the documentation asks for NULL or `size` writable bytes.
        let buffer = unsafe { output(text.cast(), size, "oyez_server_stats_text") }?;
        Ok(copy_text(&stats, buffer))
    })
}

/// Accepts one connection by hand, from whichever listener of the server has one.
///
/// For a loop of one's own. The descriptor stays the server's, which closes it with oyez_conn_close(); a program that
/// wants to own it takes it over with oyez_conn_detach(). When descriptors run out it waits, within the timeout, until
/// one is free; the connection stays queued.
///
/// Parameters
///   server      a server without a handler
///   connection  receives the connection
///   timeout_ms  longest wait in milliseconds; -1 = no limit, 0 = do not wait
/// Returns
///   >= 0  the connection's descriptor: close-on-exec, blocking
///   -1    errno and oyez_last_error() are set
/// Errors
///   OYEZ_TIMED_OUT         (EAGAIN) nothing arrived in time
///   OYEZ_LIMIT_REACHED     (EMFILE, ENFILE, ENOBUFS, ENOMEM) no free descriptor in time; (EAGAIN) as many connections
///                          as max_connections allows, and none was closed in time
///   OYEZ_STOPPED           the server was stopped, and nobody waits any more
///   OYEZ_INVALID_ARGUMENT  connection is NULL; the server has a handler, or no listener
///   OYEZ_CLOSED, OYEZ_FORKED
/// Threads: any; several may wait. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_server_accept(server: oyez_server, connection: *mut oyez_conn, timeout_ms: i32) -> i32 {
    guard(|| {
        if connection.is_null() {
            return Err(null("oyez_server_accept", "connection"));
        }
        let server = find(server, "oyez_server_accept")?;
        let deadline = Deadline::from_milliseconds(timeout_ms, "oyez_server_accept")?;
        let (accepted, fd) = server.accept_by_hand(deadline)?;
        // SAFETY: not NULL; the documentation asks for a place to write to.
        unsafe { connection.write_unaligned(accepted.number()) };
        Ok(fd)
    })
}

/// One descriptor to poll for all that a server does which a loop of one's own drives: one without a handler, or an event
/// server that was not started.
///
/// It is readable when oyez_server_accept(), or oyez_server_poll(), has something to do, which may be nothing but tidying
/// up: call that with a timeout of 0.
///
/// Parameters
///   server  a server without a handler, or an event server
/// Returns
///   >= 0  the descriptor; it stays the server's
///   -1    errno and oyez_last_error() are set
/// Errors: OYEZ_INVALID_ARGUMENT (the server has a handler, or runs), OYEZ_STOPPED (it is over), OYEZ_CLOSED, OYEZ_FORKED.
/// Threads: any. Since 0.1. See poll(2), epoll(7).
#[unsafe(no_mangle)]
pub extern "C" fn oyez_server_poll_fd(server: oyez_server) -> i32 {
    guard(|| find(server, "oyez_server_poll_fd")?.poll_fd())
}

pub(super) fn find(server: oyez_server, function: &'static str) -> Result<std::sync::Arc<Server>> {
    Server::find(ServerId::from_number(server), function)
}
