//! Event servers: `src/serve/events/` for C.

use std::ffi::c_void;
use std::mem::{offset_of, size_of};

use rustix::io::Errno;

use super::connection::{find, oyez_conn};
use super::last_error::oyez_error;
use super::options::{self, Growing, Shared, oyez_server_options};
use super::server::{find as find_server, oyez_server};
use super::{guard, null};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::serve::{ConnectionId, Events, OnConnection, Server};
use crate::sys::memory::boxed;

/// The functions of an event server. Start from OYEZ_EVENTS_INIT and set those that are wanted.
///
/// All calls for one connection come from one thread, in order: on_open, then any number of on_data and on_drain, then
/// on_close. Those of different connections may come from different threads at once. They must not block, since
/// others of the same thread wait meanwhile, and must return normally. They may call any function of oyez: close,
/// abort or write to any connection, this one too, stop or close the server, make another one. A connection that is
/// ended in one of them gets its on_close when that has returned.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct oyez_events {
    /// The struct's size in bytes, set by OYEZ_EVENTS_INIT.
    pub size: usize,
    /// A client was accepted.
    pub on_open: Option<unsafe extern "C-unwind" fn(connection: oyez_conn, user: *mut c_void)>,
    /// Input has come, `size` bytes, more than 0; borrowed for the call. Returns how many bytes of it were consumed;
    /// what is left is given again with what follows, up to max_input. Without this function input is dropped.
    pub on_data: Option<
        unsafe extern "C-unwind" fn(connection: oyez_conn, bytes: *const u8, size: usize, user: *mut c_void) -> usize,
    >,
    /// All queued output is sent. It is called once for what one or more oyez_conn_write() could not send at once, and
    /// not where they could; and after one, of any thread, that was refused because of what was queued: to send much,
    /// write until OYEZ_LIMIT_REACHED, and go on here.
    pub on_drain: Option<unsafe extern "C-unwind" fn(connection: oyez_conn, user: *mut c_void)>,
    /// The connection is over: exactly once for each on_open. oyez_conn_user() and oyez_conn_peer() still work in it.
    /// `why`, borrowed for the call, reads as an error does: OYEZ_OK where the program ended it, OYEZ_CLOSED where the
    /// peer ended the stream (errno 0) or is gone (ECONNRESET, ...), OYEZ_TIMED_OUT, OYEZ_LIMIT_REACHED (max_input),
    /// OYEZ_STOPPED where the server stops.
    pub on_close: Option<unsafe extern "C-unwind" fn(connection: oyez_conn, why: *const oyez_error, user: *mut c_void)>,
}

// SAFETY: repr(C), zero is valid for optional functions; a size and functions leave no padding.
unsafe impl Growing for oyez_events {
    const NAME: &'static str = "oyez_events";
    const DEFAULT: Self =
        Self { size: size_of::<Self>(), on_open: None, on_data: None, on_drain: None, on_close: None };
    const FIELDS: &'static [usize] =
        &[offset_of!(Self, on_open), offset_of!(Self, on_data), offset_of!(Self, on_drain), offset_of!(Self, on_close)];
}

/// Makes an event server: few threads serve many connections, by functions that are called for what happens.
///
/// oyez_server_listen(), _run() or _start(), _stop(), _wait() and _close() are used as with any server; a loop of one's
/// own drives it by oyez_server_poll() instead. The options' model is not looked at; `workers` is the number of
/// threads, `backend` by what they wait. A connection stays on one of them, that which had fewest when it was accepted.
///
/// In an event server oyez_conn_write() never waits: what the kernel does not take is queued, up to max_output. What is
/// written may leave when the function of the server has returned, together with what other connections write: an error
/// of the connection is then told by on_close. oyez_conn_close() sends what is queued first. Where the peer has ended its side, the connection is closed
/// once what is queued, and what on_drain adds, is sent; a program that answers later pauses the connection until then.
/// idle_timeout_ms counts from the last input or output, lifetime_ms from on_open, write_timeout_ms while output waits
/// and none of it is taken, and read_timeout_ms from on_open to the first input, and whenever on_data has left some,
/// until it consumes more; not while the connection is paused. A stop closes idle connections at once, those that have
/// been served and have nothing queued or left over and are not paused; the others have drain_ms.
///
/// Parameters
///   events   borrowed; copied
///   user     passed to each of the functions; may be NULL
///   options  borrowed; NULL = defaults
/// Returns
///   > 0  the server; oyez_server_close() gives it back
///   -1   errno and oyez_last_error() are set
/// Errors
///   OYEZ_INVALID_ARGUMENT  events is NULL; a wrong struct; an option is out of its range
///   OYEZ_UNSUPPORTED       a struct sets a field that this library does not know; OYEZ_BACKEND_IO_URING was asked for
///                          and cannot be had
///   OYEZ_LIMIT_REACHED     (EMFILE, ENFILE, ENOMEM) descriptors or memory; 1024 servers are open
/// Threads: any. Since 0.1. See epoll(7), io_uring(7).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_server_new_events(
    events: *const oyez_events,
    user: *mut c_void,
    options: *const oyez_server_options,
) -> oyez_server {
    guard(|| {
        if events.is_null() {
            return Err(null("oyez_server_new_events", "events"));
        }
        // SAFETY: not NULL; the documentation asks for a struct of its size.
        let events = unsafe { options::read(events, "oyez_server_new_events") }?;
        // SAFETY: the documentation asks for NULL or a struct of its size.
        let options = unsafe { options::server(options, "oyez_server_new_events") }?;
        Ok(Server::create_with_events(c_events(&events, user)?, options)?.number())
    })
}

fn c_events(events: &oyez_events, user: *mut c_void) -> Result<Events> {
    let short_of_memory = || Error::system("server", Errno::NOMEM);
    let on_connection = |function: Option<unsafe extern "C-unwind" fn(oyez_conn, *mut c_void)>| {
        let Some(function) = function else { return Ok(None) };
        let user = Shared(user);
        let made = boxed(move |connection: ConnectionId| {
            let user = &user;
            // SAFETY: the program vouches for its function and pointer for as long as the server lives.
            unsafe { function(connection.number(), user.0) };
        });
        made.map(|made| Some(made as OnConnection)).ok_or_else(short_of_memory)
    };
    let mut made = Events {
        on_open: on_connection(events.on_open)?,
        on_drain: on_connection(events.on_drain)?,
        ..Events::default()
    };
    let (data_user, close_user) = (Shared(user), Shared(user));
    if let Some(function) = events.on_data {
        let on_data = boxed(move |connection: ConnectionId, bytes: &[u8]| {
            let user = &data_user;
            // SAFETY: as above; the bytes outlive the call.
            unsafe { function(connection.number(), bytes.as_ptr(), bytes.len(), user.0) }
        });
        made.on_data = Some(on_data.ok_or_else(short_of_memory)?);
    }
    if let Some(function) = events.on_close {
        let on_close = boxed(move |connection: ConnectionId, why: Option<&Error>| {
            let user = &close_user;
            let mut record = oyez_error::NONE;
            if let Some(why) = why {
                record.fill(why);
            }
            // SAFETY: as above; the record outlives the call.
            unsafe { function(connection.number(), &raw const record, user.0) };
        });
        made.on_close = Some(on_close.ok_or_else(short_of_memory)?);
    }
    Ok(made)
}

/// Drives an event server that was not started, from a loop of one's own: does what work there is, and waits for some.
///
/// The first call makes the server one that is polled; one thread at a time may poll it, and the functions of
/// oyez_events are called on that thread. oyez_server_poll_fd() is readable when there is work. After a stop, the server
/// is polled until it is drained.
///
/// Parameters
///   server      an event server that listens, and was neither run nor started
///   timeout_ms  longest wait in milliseconds; -1 = no limit, 0 = do not wait
/// Returns
///   0   some work was done, or there was none in time
///   -1  errno and oyez_last_error() are set
/// Errors
///   OYEZ_STOPPED (ECANCELED)       the server has stopped and is drained; where an error has ended it, that error first
///   OYEZ_INVALID_ARGUMENT          no event server, or one that runs already or listens nowhere; (EBUSY) it is being
///                                  polled just now, perhaps by the caller's caller
///   OYEZ_CLOSED, OYEZ_FORKED       there is no such server here
/// Threads: any, one at a time. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_server_poll(server: oyez_server, timeout_ms: i32) -> i32 {
    guard(|| {
        let server = find_server(server, "oyez_server_poll")?;
        server.poll(Deadline::from_milliseconds(timeout_ms, "oyez_server_poll")?)?;
        Ok(0)
    })
}

/// Stops reading from a connection of an event server, for a while: what the peer sends waits in the kernel, and then
/// at the peer. What is queued is still sent.
///
/// A connection that is paused does not notice the peer's end either, and a stop does not count it as idle. This is how
/// a program holds it while another thread works on an answer.
///
/// Parameters
///   connection  a connection of an event server; stays the server's
/// Returns
///   0   paused
///   -1  errno and oyez_last_error() are set
/// Errors
///   OYEZ_CLOSED            it is closed
///   OYEZ_INVALID_ARGUMENT  the server is no event server
///   OYEZ_FORKED
/// Threads: any; from another than the connection's it takes effect soon after. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_conn_pause(connection: oyez_conn) -> i32 {
    guard(|| find(connection, "oyez_conn_pause")?.pause(true, "oyez_conn_pause").map(|()| 0))
}

/// Goes on reading from a connection that was paused. Input that on_data has left is given again at once.
///
/// Parameters
///   connection  a connection of an event server; stays the server's
/// Returns
///   0   it is read from
///   -1  errno and oyez_last_error() are set
/// Errors
///   OYEZ_CLOSED            it is closed
///   OYEZ_INVALID_ARGUMENT  the server is no event server
///   OYEZ_FORKED
/// Threads: any; from another than the connection's it takes effect soon after. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_conn_resume(connection: oyez_conn) -> i32 {
    guard(|| find(connection, "oyez_conn_resume")?.pause(false, "oyez_conn_resume").map(|()| 0))
}
