//! Accepting, and blocking input and output with a deadline: `src/accept.rs` and `src/stream.rs` for C.

use std::ffi::{c_char, c_void};
use std::os::fd::IntoRawFd;

use libc::ssize_t;

use super::{copy_text, guard, input, output};
use crate::deadline::Deadline;
use crate::{accept, stream, sys};

/// Waits for one connection and returns it as a new file descriptor.
///
/// Calls accept4(2), and poll(2) first where a timeout is given or the listener is non-blocking. EINTR, ECONNABORTED,
/// EPROTO and the pending network errors that accept(2) lists are retried. Several threads and processes may accept on
/// one listener, blocking or not, and none outstays its timeout; the listener's flags are left alone.
///
/// A timeout on a blocking listener has its price: once somebody is there, the accept runs in an io_uring(7) on a
/// thread made for it. Where the system refuses that, losing the race for a connection to another process can outlast
/// the timeout. A listener made with the option nonblocking has neither.
///
/// Parameters
///   listener    a listening stream socket; borrowed
///   peer        where to write the client's address, as oyez_peer_address() does, cut where it does not fit; NULL =
///               not wanted
///   peer_size   how many bytes there are; 64 hold every IPv4 and IPv6 address, 128 every Unix one
///   timeout_ms  longest wait in milliseconds; -1 = no limit, 0 = do not wait
/// Returns
///   >= 0  the new descriptor: close-on-exec, blocking; the caller closes it
///   -1    errno and oyez_last_error() are set
/// Errors
///   OYEZ_TIMED_OUT         (EAGAIN) nothing arrived in time
///   OYEZ_LIMIT_REACHED     (EMFILE, ENFILE, ENOBUFS, ENOMEM) no free descriptor; the connection stays queued
///   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK, EINVAL) not a listening stream socket
/// Threads: any; several may wait on one listener. Signals: not async-signal-safe.
/// Since 0.1. See accept(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_accept(listener: i32, peer: *mut c_char, peer_size: usize, timeout_ms: i32) -> i32 {
    guard(|| {
        let size = if peer.is_null() { 0 } else { peer_size };
        // SAFETY: the documentation asks for NULL or `peer_size` writable bytes.
        let buffer = unsafe { output(peer.cast(), size, "oyez_accept") }?;
        let listener = sys::borrow(listener, "oyez_accept")?;
        let deadline = Deadline::from_milliseconds(timeout_ms, "oyez_accept")?;
        if buffer.is_empty() {
            return Ok(accept::accept(listener, deadline)?.into_raw_fd());
        }
        let (connection, address) = accept::accept_with_address(listener, deadline)?;
        copy_text(&address.text(), buffer);
        Ok(connection.into_raw_fd())
    })
}

/// Reads what there is, at most `size` bytes, and waits for it where there is nothing.
///
/// Calls recv(2), and poll(2) where it has to wait with a timeout or the socket is non-blocking. EINTR is retried
/// without making the wait longer.
///
/// Parameters
///   fd          a connected stream socket; borrowed
///   buffer      where to write; NULL where size is 0
///   size        how many bytes there are
///   timeout_ms  longest wait in milliseconds; -1 = no limit, 0 = do not wait
/// Returns
///   > 0  how many bytes were read
///   0    the end of the stream (or size is 0)
///   -1   errno and oyez_last_error() are set
/// Errors
///   OYEZ_TIMED_OUT         (EAGAIN) nothing came in time
///   OYEZ_CLOSED            (ECONNRESET, ...) the connection is broken
///   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; buffer is NULL and size is not 0
/// Threads: any; one reader at a time sees the bytes in order. Since 0.1. See recv(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_read(fd: i32, buffer: *mut c_void, size: usize, timeout_ms: i32) -> ssize_t {
    guard(|| {
        // SAFETY: the documentation asks for NULL or `size` writable bytes.
        let buffer = unsafe { output(buffer.cast(), size, "oyez_read") }?;
        let socket = sys::borrow(fd, "oyez_read")?;
        let deadline = Deadline::from_milliseconds(timeout_ms, "oyez_read")?;
        stream::read(socket, buffer, deadline).map(usize::cast_signed)
    })
}

/// Writes all of it.
///
/// Calls send(2), and poll(2) where it has to wait with a timeout or the socket is non-blocking. SIGPIPE is never
/// raised, whatever its disposition. After a failure an unknown part may have been sent; the connection is of no
/// further use to a protocol that counts bytes.
///
/// Parameters
///   fd          a connected stream socket; borrowed
///   bytes       what to write; borrowed; NULL where size is 0
///   size        how many bytes there are
///   timeout_ms  longest time for the whole call in milliseconds; -1 = no limit, 0 = do not wait
/// Returns
///   size  all of it was taken by the kernel
///   -1    errno and oyez_last_error() are set
/// Errors
///   OYEZ_TIMED_OUT         (EAGAIN) the peer did not read in time
///   OYEZ_CLOSED            (EPIPE, ECONNRESET, ...) the connection is broken
///   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; bytes is NULL and size is not 0
/// Threads: any; one writer at a time keeps its bytes together. Since 0.1. See send(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_write(fd: i32, bytes: *const c_void, size: usize, timeout_ms: i32) -> ssize_t {
    guard(|| {
        // SAFETY: the documentation asks for NULL or `size` readable bytes.
        let bytes = unsafe { input(bytes.cast(), size, "oyez_write") }?;
        let socket = sys::borrow(fd, "oyez_write")?;
        let deadline = Deadline::from_milliseconds(timeout_ms, "oyez_write")?;
        stream::write(socket, bytes, deadline).map(|()| size.cast_signed())
    })
}
