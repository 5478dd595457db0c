//! One accept with a deadline on a blocking listener, by io_uring(7).
//!
//! poll(2) and accept4(2) cannot do it: between the two another process may take the connection, and accept4 then
//! blocks. O_NONBLOCK and SO_RCVTIMEO belong to the socket that others share. An accept in a ring waits by itself and is
//! taken back when its time is over.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;
use rustix::net::SocketAddrAny;
use rustix::net::addr::SocketAddrStorage;

const ACCEPT: u64 = 1;

/// Why there is no connection.
pub enum Failure {
    /// The system refuses rings, or this kind of accept: another way has to do.
    Unavailable,
    /// The time is over.
    TimedOut,
    /// accept4(2) failed.
    Accept(Errno),
}

/// Accepts a connection, close-on-exec, within `time`.
///
/// The ring lives for this call alone, since it is a descriptor that the program did not open, and on a thread of its
/// own: the kernel takes a ring down in the background, and interrupts the thread that made it while doing so, whose
/// next epoll_wait(2) would fail with EINTR (measured on Linux 6.18).
pub fn accept(listener: BorrowedFd<'_>, time: Duration) -> Result<(OwnedFd, Option<SocketAddrAny>), Failure> {
    let mut storage = MaybeUninit::<SocketAddrStorage>::zeroed();
    let mut length = size_of::<SocketAddrStorage>() as libc::socklen_t;
    let mut outcome = Err(Failure::Unavailable);
    let mut accept = || outcome = accept_into(listener, time, &mut storage, &mut length);
    super::thread::run_apart(&mut accept).map_err(|_| Failure::Unavailable)?;
    let connection = outcome?;
    if length < size_of::<libc::sa_family_t>() as libc::socklen_t {
        return Ok((connection, None));
    }
    // SAFETY: the kernel wrote an address of that length, and the rest of the place is zero.
    Ok((connection, Some(unsafe { SocketAddrAny::new(storage, length) })))
}

fn accept_into(
    listener: BorrowedFd<'_>,
    time: Duration,
    storage: &mut MaybeUninit<SocketAddrStorage>,
    length: &mut libc::socklen_t,
) -> Result<OwnedFd, Failure> {
    let mut ring = IoUring::new(2).map_err(|_| Failure::Unavailable)?;
    let time = types::Timespec::new().sec(time.as_secs()).nsec(time.subsec_nanos());
    let listener = types::Fd(listener.as_raw_fd());
    let accept = opcode::Accept::new(listener, storage.as_mut_ptr().cast(), length)
        .flags(libc::SOCK_CLOEXEC)
        .build()
        .user_data(ACCEPT)
        .flags(squeue::Flags::IO_LINK);
    let timeout = opcode::LinkTimeout::new(&time).build();
    // SAFETY: `time` outlives the loop below, which waits for both to complete; `storage` and `length` outlive this
    // thread, at whose end the kernel takes back what it could still be working on.
    let pushed = unsafe { ring.submission().push_multiple(&[accept, timeout]) };
    pushed.map_err(|_| Failure::Unavailable)?;

    let mut result = None;
    let mut completed = 0;
    while completed < 2 {
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            // A sandbox may allow the ring and refuse to enter it: nothing has been submitted.
            Err(_) => break,
        }
        for entry in ring.completion() {
            completed += 1;
            if entry.user_data() == ACCEPT {
                result = Some(entry.result());
            }
        }
    }
    match result {
        None => Err(Failure::Unavailable),
        // SAFETY: a descriptor that the kernel made for this accept and gave to nobody else.
        Some(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Some(error) => Err(failure(Errno::from_raw_os_error(-error))),
    }
}

fn failure(errno: Errno) -> Failure {
    match errno {
        Errno::CANCELED | Errno::INTR => Failure::TimedOut,
        // The ring may have taken the last descriptor.
        Errno::INVAL | Errno::OPNOTSUPP | Errno::MFILE | Errno::NFILE => Failure::Unavailable,
        errno => Failure::Accept(errno),
    }
}
