//! Blocking input and output with a deadline for the whole call, never SIGPIPE.
//!
//! Without a deadline a call costs no system call more than recv(2) or send(2).

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::deadline::Deadline;
use crate::error::{Error, Result};

/// Waits until `socket` is ready for `what`; an end of the time is EAGAIN.
pub fn wait(socket: BorrowedFd<'_>, what: PollFlags, deadline: Deadline) -> std::result::Result<(), Errno> {
    loop {
        let mut polled = [PollFd::from_borrowed_fd(socket, what)];
        match rustix::event::poll(&mut polled, deadline.timespec().as_ref()) {
            Ok(0) => return Err(Errno::AGAIN),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// How often a call waits for the kernel's memory before it fails.
pub const BREATHS: u32 = 20;

/// Runs `attempt` until it does not have to wait any more. It gets whether it may block.
fn until_ready<T>(
    socket: BorrowedFd<'_>,
    what: PollFlags,
    deadline: Deadline,
    mut attempt: impl FnMut(bool) -> std::result::Result<T, Errno>,
) -> std::result::Result<T, Errno> {
    let may_block = deadline.is_never();
    let mut breaths = 0;
    loop {
        match attempt(may_block) {
            Err(Errno::INTR) => {}
            // Also a blocking call says EAGAIN: on a non-blocking socket, or where the program set SO_RCVTIMEO.
            Err(Errno::AGAIN) => wait(socket, what, deadline)?,
            // The kernel's memory is short for a moment: a wait with a bound, since poll(2) says "ready" then.
            Err(Errno::NOBUFS | Errno::NOMEM) if breaths < BREATHS && !deadline.is_over() => {
                breaths += 1;
                breathe();
            }
            outcome => return outcome,
        }
    }
}

/// A rest while the kernel's memory is short.
pub fn breathe() {
    let _ = rustix::thread::nanosleep(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 5_000_000 });
}

/// Reads what there is, and waits for it where there is nothing; 0 is the end of the stream.
pub fn read(socket: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>], deadline: Deadline) -> Result<usize> {
    receive(socket, buffer, RecvFlags::empty(), deadline)
}

/// [`read`] with flags of recv(2).
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
    flags: RecvFlags,
    deadline: Deadline,
) -> Result<usize> {
    if buffer.is_empty() {
        return Ok(0);
    }
    until_ready(socket, PollFlags::IN, deadline, |may_block| {
        let flags = if may_block { flags } else { flags | RecvFlags::DONTWAIT };
        rustix::net::recv(socket, &mut *buffer, flags).map(|(_, length)| length)
    })
    .map_err(|errno| Error::system("read", errno))
}

/// Writes all of it.
pub fn write(socket: BorrowedFd<'_>, bytes: &[u8], deadline: Deadline) -> Result<()> {
    let flags = if deadline.is_never() { SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL | SendFlags::DONTWAIT };
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = until_ready(socket, PollFlags::OUT, deadline, |_| rustix::net::send(socket, rest, flags))
            .map_err(|errno| Error::system("write", errno))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}
