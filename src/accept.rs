//! Accepting one connection, and what each failure of accept4(2) means.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags};

use crate::deadline::Deadline;
use crate::error::{Code, Error, Result, SystemWords};
use crate::text::Text;
use crate::{address, diagnose, stream, sys};

/// The other end of a connection, as accept4(2) told it. getpeername(2) no longer knows it after a reset.
#[derive(Clone)]
pub struct Peer(Option<SocketAddrAny>);

impl Peer {
    /// The address as a text that could be passed to `listen`; empty where the kernel told none.
    pub fn text(&self) -> Text {
        self.0.as_ref().map(address::display).unwrap_or_default()
    }

    /// The address as the system has it.
    pub fn socket_address(&self) -> Option<&SocketAddrAny> {
        self.0.as_ref()
    }
}

/// What a failure of accept4(2) calls for. See "Error handling" in accept(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody is there.
    Empty,
    /// One connection came to nothing, or a pending network error was reported: the next one may be good.
    Retry,
    /// Descriptors or memory are used up, or something unknown is wrong: the connection stays queued.
    Pause,
    /// This is no listener, or no longer.
    Dead,
}

/// How often in a row [`Verdict::Retry`] is followed at once; beyond it is a fault that stays, and every retry would spin.
pub const RETRIES_AT_ONCE: u32 = 100;

/// What to do about a failure.
pub fn verdict(errno: Errno) -> Verdict {
    match errno {
        Errno::AGAIN => Verdict::Empty,
        Errno::INTR
        | Errno::CONNABORTED
        | Errno::PROTO
        | Errno::NETDOWN
        | Errno::NOPROTOOPT
        | Errno::HOSTDOWN
        | Errno::NONET
        | Errno::HOSTUNREACH
        | Errno::OPNOTSUPP
        | Errno::NETUNREACH
        | Errno::CONNRESET
        | Errno::CONNREFUSED
        | Errno::NOTCONN
        | Errno::TIMEDOUT
        | Errno::NOSR
        | Errno::SOCKTNOSUPPORT
        | Errno::PROTONOSUPPORT => Verdict::Retry,
        Errno::BADF | Errno::NOTSOCK | Errno::INVAL | Errno::FAULT => Verdict::Dead,
        _ => Verdict::Pause,
    }
}

/// Waits for a connection.
pub fn accept(listener: BorrowedFd<'_>, deadline: Deadline) -> Result<OwnedFd> {
    let connection = accept_by(listener, deadline, || take(listener), |(connection, _)| connection)?;
    Ok(sys::above_standard(connection))
}

/// Waits for a connection, and asks the kernel whose it is.
pub fn accept_with_address(listener: BorrowedFd<'_>, deadline: Deadline) -> Result<(OwnedFd, Peer)> {
    let (connection, peer) = accept_by(listener, deadline, || take_with_address(listener), |accepted| accepted)?;
    Ok((sys::above_standard(connection), Peer(peer)))
}

/// One accept4(2) on a non-blocking listener.
pub fn try_accept(listener: BorrowedFd<'_>) -> std::result::Result<(OwnedFd, Peer), Errno> {
    take_with_address(listener).map(|(connection, peer)| (sys::above_standard(connection), Peer(peer)))
}

type Accepted = (OwnedFd, Option<SocketAddrAny>);

/// Without a deadline and on a blocking listener this is one call of `take`.
fn accept_by<T>(
    listener: BorrowedFd<'_>,
    deadline: Deadline,
    mut take: impl FnMut() -> std::result::Result<T, Errno>,
    from_ring: impl Fn(Accepted) -> T,
) -> Result<T> {
    let mut retries = 0;
    let blocks = !deadline.is_never() && is_blocking(listener)?;
    loop {
        let attempt = if blocks { take_in_time(listener, deadline, &mut take, &from_ring) } else { take() };
        let errno = match attempt {
            Ok(accepted) => return Ok(accepted),
            Err(errno) => errno,
        };
        match verdict(errno) {
            Verdict::Empty => {
                stream::wait(listener, PollFlags::IN, deadline).map_err(|errno| failed(listener, errno))?;
            }
            Verdict::Retry if errno == Errno::OPNOTSUPP && !sys::socket::is_listening(listener) => {
                return Err(failed(listener, errno));
            }
            Verdict::Retry => {
                retries += 1;
                if retries > RETRIES_AT_ONCE {
                    rest(deadline).map_err(|()| {
                        failed(listener, Errno::AGAIN)
                            .because(format_args!("the last of many tries: {}", SystemWords(errno)))
                    })?;
                }
            }
            Verdict::Pause | Verdict::Dead => return Err(failed(listener, errno)),
        }
    }
}

fn is_blocking(listener: BorrowedFd<'_>) -> Result<bool> {
    let flags = rustix::fs::fcntl_getfl(listener).map_err(|errno| failed(listener, errno))?;
    Ok(!flags.contains(OFlags::NONBLOCK))
}

/// An accept that ends in time although the listener blocks and others may be faster.
fn take_in_time<T>(
    listener: BorrowedFd<'_>,
    deadline: Deadline,
    take: &mut impl FnMut() -> std::result::Result<T, Errno>,
    from_ring: &impl Fn(Accepted) -> T,
) -> std::result::Result<T, Errno> {
    stream::wait(listener, PollFlags::IN, deadline)?;
    // Somebody is there, so this takes no time unless another acceptor is faster.
    let left = deadline.left().unwrap_or_default().max(Duration::from_millis(1));
    match sys::timed_accept::accept(listener, left) {
        Ok(accepted) => Ok(from_ring(accepted)),
        Err(sys::timed_accept::Failure::TimedOut) => Err(Errno::AGAIN),
        Err(sys::timed_accept::Failure::Accept(errno)) => Err(errno),
        Err(sys::timed_accept::Failure::Unavailable) => take(),
    }
}

/// A rest before the next try at a fault that stays; an error when the time is over.
fn rest(deadline: Deadline) -> std::result::Result<(), ()> {
    const REST: Duration = Duration::from_millis(100);
    if deadline.is_over() {
        return Err(());
    }
    let time = deadline.left().map_or(REST, |left| left.min(REST));
    if let Ok(time) = time.try_into() {
        let _ = rustix::thread::nanosleep(&time);
    }
    Ok(())
}

fn failed(listener: BorrowedFd<'_>, errno: Errno) -> Error {
    let error = Error::system("accept", errno);
    match verdict(errno) {
        // A socket that does not listen never becomes readable: the truth behind a wait that ended.
        Verdict::Empty | Verdict::Dead | Verdict::Retry if !sys::socket::is_listening(listener) => {
            let what = diagnose::Descriptor(listener);
            let not_a_socket = rustix::net::sockopt::socket_type(listener).err();
            let errno = not_a_socket.unwrap_or(if errno == Errno::AGAIN { Errno::INVAL } else { errno });
            Error::system("accept", errno).with_code(Code::InvalidArgument).because(format_args!(
                "descriptor {} is {}, not a listening stream socket",
                listener.as_raw_fd(),
                what
            ))
        }
        Verdict::Empty => error.because(format_args!("nobody came in time")),
        _ => diagnose::for_limits(error),
    }
}

/// accept4(2) without the address; where a sandbox does not know that call, accept(2).
fn take(listener: BorrowedFd<'_>) -> std::result::Result<OwnedFd, Errno> {
    if NO_ACCEPT4.load(Ordering::Relaxed) {
        return sys::socket::accept_without_accept4(listener);
    }
    match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
        Err(Errno::NOSYS) => {
            NO_ACCEPT4.store(true, Ordering::Relaxed);
            sys::socket::accept_without_accept4(listener)
        }
        outcome => outcome,
    }
}

fn take_with_address(listener: BorrowedFd<'_>) -> std::result::Result<Accepted, Errno> {
    if !NO_ACCEPT4.load(Ordering::Relaxed) {
        match rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC) {
            Err(Errno::NOSYS) => {}
            outcome => return outcome,
        }
    }
    let connection = take(listener)?;
    let peer = rustix::net::getpeername(&connection).ok().flatten();
    Ok((connection, peer))
}

/// Whether accept4(2) has answered ENOSYS.
static NO_ACCEPT4: AtomicBool = AtomicBool::new(false);
