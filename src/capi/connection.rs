//! Connections: `src/serve/connection/` for C.

use std::ffi::{c_char, c_void};
use std::os::fd::IntoRawFd;

use libc::ssize_t;

use super::{copy_text, guard, input, output};
use crate::error::Result;
use crate::serve::{Connection, ConnectionId};
use crate::text::Text;

/// A connection's number; 0 is no connection. Never used twice in a process.
///
/// Every call on it may come from any thread, also while it closes. Where it is gone the answer is OYEZ_CLOSED, in a
/// child that the program forked OYEZ_FORKED.
pub type oyez_conn = u64;

pub(super) fn find(connection: oyez_conn, function: &'static str) -> Result<Connection> {
    Connection::find(ConnectionId::from_number(connection), function)
}

/// A connection's descriptor, for code that speaks read(2) and write(2).
///
/// It stays the server's: do not close it. The server's timeouts are set on it as SO_RCVTIMEO and SO_SNDTIMEO.
///
/// Returns
///   >= 0  the descriptor, blocking; borrowed
///   -1    errno and oyez_last_error() are set
/// Errors: OYEZ_CLOSED, OYEZ_FORKED. Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_conn_fd(connection: oyez_conn) -> i32 {
    guard(|| find(connection, "oyez_conn_fd")?.expose())
}

/// The client's address, as accept4(2) told it: "127.0.0.1:40000", "[::1]:40000", "unix:".
///
/// Parameters
///   connection  a connection
///   text        where to write; NULL where size is 0
///   size        how many bytes there are
/// Returns
///   >= 0  the length of the whole text, whatever fitted; what fitted is written and terminated
///   -1    errno and oyez_last_error() are set
/// Errors: OYEZ_INVALID_ARGUMENT (text is NULL and size is not 0), OYEZ_CLOSED, OYEZ_FORKED.
/// Threads: any. Since 0.1. See snprintf(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_conn_peer(connection: oyez_conn, text: *mut c_char, size: usize) -> i32 {
    // SAFETY: the documentation asks for NULL or `size` writable bytes.
    unsafe { address_text(connection, text, size, "oyez_conn_peer", Connection::peer) }
}

/// The address at which the client arrived.
///
/// Parameters, returns, errors: as oyez_conn_peer().
/// Threads: any. Since 0.1. See getsockname(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_conn_local(connection: oyez_conn, text: *mut c_char, size: usize) -> i32 {
    // SAFETY: the documentation asks for NULL or `size` writable bytes.
    unsafe { address_text(connection, text, size, "oyez_conn_local", Connection::local) }
}

/// # Safety
/// `text` is NULL or `size` writable bytes.
unsafe fn address_text(
    connection: oyez_conn,
    text: *mut c_char,
    size: usize,
    function: &'static str,
    address: impl FnOnce(&Connection) -> Result<Text>,
) -> i32 {
    guard(|| {
        // SAFETY: this function's own contract.
        let buffer = unsafe { output(text.cast(), size, function) }?;
        Ok(copy_text(&address(&find(connection, function)?)?, buffer))
    })
}

/// Reads what there is, at most `size` bytes; waits, within the server's timeouts, where there is nothing.
///
/// Parameters
///   connection  a connection
///   buffer      where to write; NULL where size is 0
///   size        how many bytes there are
/// Returns
///   > 0  how many bytes were read
///   0    the end of the stream (or size is 0)
///   -1   errno and oyez_last_error() are set
/// Errors
///   OYEZ_CLOSED            broken (ECONNRESET, ...), or closed here
///   OYEZ_TIMED_OUT         (EAGAIN) a timeout of the server
///   OYEZ_STOPPED           the server's drain time is over
///   OYEZ_INVALID_ARGUMENT  buffer is NULL and size is not 0; in an event server, where input comes by on_data
///   OYEZ_FORKED
/// Threads: any; one reader at a time sees the bytes in order. Since 0.1. See recv(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_conn_read(connection: oyez_conn, buffer: *mut c_void, size: usize) -> ssize_t {
    guard(|| {
        // SAFETY: the documentation asks for NULL or `size` writable bytes.
        let buffer = unsafe { output(buffer.cast(), size, "oyez_conn_read") }?;
        find(connection, "oyez_conn_read")?.read(buffer).map(usize::cast_signed)
    })
}

/// Reads one line, which ends in LF or CR LF; the ending is taken off and a NUL put in its place.
///
/// Nothing behind the line is taken from the socket, so that oyez_conn_read(), and read(2) on the descriptor, go on
/// right there. The last line of a stream may lack its ending. A line may contain NUL bytes; the length tells.
///
/// Parameters
///   connection  a connection
///   line        where to write
///   size        how many bytes there are, the NUL included; 2 or more
/// Returns
///   >= 0  the line's length; 0 is an empty line
///   -1    errno and oyez_last_error() are set; `line` holds, terminated, what was read so far
/// Errors
///   OYEZ_CLOSED            the end of the stream; or broken (ECONNRESET, ...), or closed here
///   OYEZ_LIMIT_REACHED     (EMSGSIZE) no end of line within `size`; the next call goes on behind what was read
///   OYEZ_TIMED_OUT         (EAGAIN) a timeout of the server; read_timeout_ms counts for the whole line
///   OYEZ_STOPPED           the server's drain time is over
///   OYEZ_INVALID_ARGUMENT  line is NULL or size is less than 2; in an event server, where input comes by on_data
///   OYEZ_FORKED
/// Threads: any; one reader at a time. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_conn_read_line(connection: oyez_conn, line: *mut c_char, size: usize) -> ssize_t {
    guard(|| {
        // SAFETY: the documentation asks for `size` writable bytes.
        let line = unsafe { output(line.cast(), size, "oyez_conn_read_line") }?;
        find(connection, "oyez_conn_read_line")?.read_line(line).map(usize::cast_signed)
    })
}

/// Writes all of it, within the server's timeouts. SIGPIPE is never raised.
///
/// In an event server it never waits: it sends what the kernel takes at once and queues the rest, up to max_output; what
/// would pass that fails, and nothing of it is sent or queued. From another thread all of it is queued.
///
/// Parameters
///   connection  a connection
///   bytes       what to write; borrowed; NULL where size is 0
///   size        how many bytes there are
/// Returns
///   size  all of it was taken by the kernel, or queued in an event server
///   -1    errno and oyez_last_error() are set; an unknown part may have been sent
/// Errors
///   OYEZ_CLOSED            broken (EPIPE, ECONNRESET, ...), or closed here
///   OYEZ_TIMED_OUT         (EAGAIN) a timeout of the server: the peer does not read
///   OYEZ_STOPPED           the server's drain time is over
///   OYEZ_LIMIT_REACHED     (ENOBUFS) an event server: it would pass max_output; (ENOMEM) memory is short
///   OYEZ_INVALID_ARGUMENT  bytes is NULL and size is not 0
///   OYEZ_FORKED
/// Threads: any; one writer at a time keeps its bytes together. Since 0.1. See send(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_conn_write(connection: oyez_conn, bytes: *const c_void, size: usize) -> ssize_t {
    guard(|| {
        // SAFETY: the documentation asks for NULL or `size` readable bytes.
        let bytes = unsafe { input(bytes.cast(), size, "oyez_conn_write") }?;
        Connection::write_to(ConnectionId::from_number(connection), bytes).map(|()| size.cast_signed())
    })
}

/// Closes a connection without losing what was written.
///
/// The end of the stream is sent behind what is queued, and the peer's unread input is read and dropped for up to ten
/// seconds, because closing over it would destroy the reply that is under way. The call does not wait for that. A
/// handler need not call it: the connection is closed when it returns. Calls of other threads that wait on the
/// connection end with OYEZ_CLOSED.
///
/// Parameters
///   connection  a connection; gone after the call
/// Returns 0, or -1 with errno and oyez_last_error() set.
/// Errors: OYEZ_CLOSED (closed before), OYEZ_FORKED. Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_conn_close(connection: oyez_conn) -> i32 {
    guard(|| find(connection, "oyez_conn_close")?.close().map(|()| 0))
}

/// Resets a connection: what is queued is dropped, and the peer sees an error instead of an orderly end.
///
/// A Unix peer sees the end of the stream; there is no reset there.
///
/// Parameters
///   connection  a connection; gone after the call
/// Returns 0, or -1 with errno and oyez_last_error() set.
/// Errors: OYEZ_CLOSED (closed before), OYEZ_FORKED. Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_conn_abort(connection: oyez_conn) -> i32 {
    guard(|| find(connection, "oyez_conn_abort")?.abort().map(|()| 0))
}

/// Takes a connection over from its server, which forgets it.
///
/// In an event server a function of the server may do it, for a connection of its own thread, when nothing is queued;
/// on_close follows. Input that on_data has left is the caller's to have kept.
///
/// Parameters
///   connection  a connection; gone after the call
/// Returns
///   >= 0  the descriptor, blocking and close-on-exec; the caller closes it
///   -1    errno and oyez_last_error() are set; the connection is as it was
/// Errors
///   OYEZ_INVALID_ARGUMENT  (EBUSY) another thread is in a call on it, or output is queued, or input has come that on_data
///                          has not seen yet: try again from there; an event server, from another thread
///   OYEZ_CLOSED, OYEZ_FORKED
/// Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_conn_detach(connection: oyez_conn) -> i32 {
    guard(|| find(connection, "oyez_conn_detach")?.detach().map(IntoRawFd::into_raw_fd))
}

/// Keeps a pointer of the program's with a connection.
///
/// Parameters
///   connection  a connection
///   user        any pointer; oyez does not look behind it
/// Returns 0, or -1 with errno and oyez_last_error() set.
/// Errors: OYEZ_CLOSED, OYEZ_FORKED. Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_conn_set_user(connection: oyez_conn, user: *mut c_void) -> i32 {
    guard(|| {
        find(connection, "oyez_conn_set_user")?.set_user(user.expose_provenance());
        Ok(0)
    })
}

/// The pointer that oyez_conn_set_user() kept; NULL where none was set, and where the connection is gone (then errno
/// and oyez_last_error() are set).
///
/// Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_conn_user(connection: oyez_conn) -> *mut c_void {
    guard(|| Ok(std::ptr::with_exposed_provenance_mut(find(connection, "oyez_conn_user")?.user())))
}

/// Sets how long this connection may be silent, in place of the server's idle_timeout_ms.
///
/// Parameters
///   connection  a connection
///   idle_ms     milliseconds; -1 = no limit, 0 = the server's
/// Returns 0, or -1 with errno and oyez_last_error() set.
/// Errors: OYEZ_INVALID_ARGUMENT (less than -1), OYEZ_CLOSED, OYEZ_FORKED. Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_conn_set_timeout(connection: oyez_conn, idle_ms: i32) -> i32 {
    guard(|| find(connection, "oyez_conn_set_timeout")?.set_idle_timeout(idle_ms).map(|()| 0))
}
