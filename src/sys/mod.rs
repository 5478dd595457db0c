//! The bottom: what rustix does not offer safely. With `src/capi/`, the only place for `unsafe`.
#![allow(unsafe_code)]

pub mod fork;
pub mod memory;
pub mod process;
pub mod ring;
pub mod scoped;
pub mod shared;
pub mod signal;
pub mod socket;
pub mod thread;
pub mod timed_accept;

use std::ffi::{CStr, c_char};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::error::{Error, Result};

/// This thread's errno; ECANCELED where it is 0.
pub fn errno() -> i32 {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or_default();
    if errno == 0 { libc::ECANCELED } else { errno }
}

/// Sets this thread's errno.
pub fn set_errno(errno: Errno) {
    write_errno(errno.raw_os_error());
}

/// Sets this thread's errno to 0, so that a later call tells whether it set one.
pub fn clear_errno() {
    write_errno(0);
}

fn write_errno(errno: i32) {
    // SAFETY: the C library's own place for errno, which takes no argument and is valid on every thread.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: this thread's, aligned, and alive as long as the thread.
    unsafe { place.write(errno) };
}

/// Writes the words of strerror(3).
pub fn write_errno_text(errno: Errno, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [0; 128];
    let buffer = text.as_mut_ptr().cast::<c_char>();
    // SAFETY: a buffer with its length; the C library terminates what it writes.
    let failed = unsafe { libc::strerror_r(errno.raw_os_error(), buffer, text.len()) };
    let words = CStr::from_bytes_until_nul(&text).ok().and_then(|text| text.to_str().ok());
    match words {
        Some(words) if failed == 0 => out.write_str(words),
        _ => write!(out, "error {}", errno.raw_os_error()),
    }
}

/// A descriptor that a caller passed as a number. The caller keeps it open during the call; the kernel answers EBADF
/// where it is not.
pub fn borrow(fd: RawFd, function: &'static str) -> Result<BorrowedFd<'static>> {
    if fd < 0 {
        return Err(Error::system(function, Errno::BADF).because(format_args!("{fd} is no descriptor")));
    }
    // SAFETY: not -1. Whether it is open is checked by each system call; nothing relies on it.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A descriptor that a caller gives away by its number: checked to be a socket, so that a slip closes nothing else.
pub fn take_socket(fd: RawFd, function: &'static str) -> Result<OwnedFd> {
    let socket = borrow(fd, function)?;
    rustix::net::sockopt::socket_type(socket).map_err(|errno| Error::system(function, errno))?;
    Ok(own(socket))
}

/// Owns a descriptor that was borrowed from a caller who has given it away.
pub fn own(fd: BorrowedFd<'_>) -> OwnedFd {
    // SAFETY: open, and given away by its owner, as the functions of the boundary document.
    unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) }
}

/// Moves a descriptor out of the places of the standard streams. A program that was started without them would print
/// to its client otherwise.
pub fn above_standard(fd: OwnedFd) -> OwnedFd {
    if fd.as_raw_fd() > 2 {
        return fd;
    }
    // Where no descriptor is free, this one is better than none.
    rustix::io::fcntl_dupfd_cloexec(&fd, 3).unwrap_or(fd)
}

/// Wakes whoever polls this eventfd. Async-signal-safe; errno stays as it was.
pub fn wake(eventfd: impl AsFd) {
    let before = std::io::Error::last_os_error().raw_os_error();
    // A full counter wakes as well, so a failure is no loss.
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
    write_errno(before.unwrap_or_default());
}

/// Writes to standard error what can be written, without raising SIGPIPE.
pub fn write_standard_error(text: &[u8]) {
    signal::without_sigpipe(|| {
        let mut rest = text;
        while !rest.is_empty() {
            match rustix::io::write(rustix::stdio::stderr(), rest) {
                Ok(0) => return,
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    });
}
