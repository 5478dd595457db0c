//! Connections that are over, until their last bytes have arrived.
//!
//! Closing a TCP socket whose peer has sent something unread resets the connection, and the reset destroys what is
//! still under way to the peer. So the end of the stream is sent first, and input is read and dropped until the peer
//! ends its side too, within a bound.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};

use crate::deadline::Deadline;
use crate::sys;

/// How long a peer may take to end its side.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How much is read at once before others get their turn.
const READS: usize = 64;

/// What is waited for: input, or the peer's end. The edges, since there is no more to do until the next one.
const INPUT: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

/// The same, and the acknowledgement of the last byte: the kernel reports it as a change of a socket that can be written
/// to.
const ARRIVAL: EventFlags = INPUT.union(EventFlags::OUT);

/// Connections that linger, in the order of their deadlines.
#[derive(Debug, Default)]
pub struct Linger {
    queue: Mutex<Queue>,
    /// How many there are: looked at in every turn, so without the lock.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Option<Entry>>,
    /// The sequence number of the first entry.
    first: u64,
    /// Whether they may go as soon as all has arrived, because the server stops.
    hasty: bool,
}

#[derive(Debug)]
struct Entry {
    socket: OwnedFd,
    deadline: Deadline,
}

/// What a look at a lingering socket found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It may send more.
    Open,
    /// It has ended its side, or is gone.
    Done,
}

impl Linger {
    /// Ends this side of a connection and waits for the other in `epoll`, where `token` makes its events known. True
    /// where it is the first to wait, whose deadline somebody has to watch.
    pub fn add(&self, socket: OwnedFd, epoll: BorrowedFd<'_>, token: impl FnOnce(u64) -> EventData) -> bool {
        if rustix::net::shutdown(&socket, Shutdown::Write).is_err() {
            return false;
        }
        if matches!(drop_input(socket.as_fd()), Peer::Done) || !is_internet(socket.as_fd()) {
            return false;
        }
        let mut queue = self.queue();
        if queue.entries.try_reserve(1).is_err() {
            return false;
        }
        let token = token(queue.first + queue.entries.len() as u64);
        if epoll::add(epoll, &socket, token, if queue.hasty { ARRIVAL } else { INPUT }).is_err() {
            return false;
        }
        queue.entries.push_back(Some(Entry { socket, deadline: Deadline::after(PATIENCE) }));
        self.count.fetch_add(1, Ordering::AcqRel) == 0
    }

    /// Something happened on the connection of that number.
    pub fn on_event(&self, number: u64) {
        let mut queue = self.queue();
        let hasty = queue.hasty;
        let index = usize::try_from(number.wrapping_sub(queue.first)).unwrap_or(usize::MAX);
        let done = queue.entries.get(index).and_then(Option::as_ref).is_some_and(|entry| {
            matches!(drop_input(entry.socket.as_fd()), Peer::Done) || (hasty && has_arrived(entry.socket.as_fd()))
        });
        if done {
            self.remove(&mut queue, index);
        }
    }

    /// Closes those whose time is over.
    pub fn expire(&self) {
        if self.is_empty() {
            return;
        }
        let mut queue = self.queue();
        while queue.entries.front().and_then(Option::as_ref).is_some_and(|entry| entry.deadline.is_over()) {
            self.remove(&mut queue, 0);
        }
    }

    /// Closes those whose reply has arrived, because descriptors are needed or the server stops. True where there was
    /// one.
    pub fn evict(&self) -> bool {
        self.evict_from(&mut self.queue())
    }

    /// From now on a connection may go as soon as its reply has arrived: those whose has are closed, and the others'
    /// events will tell.
    pub fn hasten(&self, epoll: BorrowedFd<'_>, token: impl Fn(u64) -> EventData) {
        let mut queue = self.queue();
        queue.hasty = true;
        self.evict_from(&mut queue);
        for (number, entry) in (queue.first..).zip(&queue.entries) {
            if let Some(entry) = entry {
                let _ = epoll::modify(epoll, &entry.socket, token(number), ARRIVAL);
            }
        }
    }

    /// Closes all.
    pub fn clear(&self) {
        let mut queue = self.queue();
        let length = queue.entries.len() as u64;
        queue.entries.clear();
        queue.first += length;
        self.count.store(0, Ordering::Release);
    }

    /// Whether nobody lingers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// When the first one's time is over.
    pub fn deadline(&self) -> Deadline {
        if self.is_empty() {
            return Deadline::NEVER;
        }
        self.queue().entries.front().and_then(Option::as_ref).map_or(Deadline::NEVER, |entry| entry.deadline)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evict_from(&self, queue: &mut Queue) -> bool {
        let before = self.count.load(Ordering::Acquire);
        for index in (0..queue.entries.len()).rev() {
            let arrived = queue.entries.get(index).and_then(Option::as_ref);
            if arrived.is_some_and(|entry| has_arrived(entry.socket.as_fd())) {
                self.remove(queue, index);
            }
        }
        self.count.load(Ordering::Acquire) < before
    }

    fn remove(&self, queue: &mut Queue, index: usize) {
        if queue.entries.get_mut(index).and_then(Option::take).is_some() {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
        while let Some(None) = queue.entries.front() {
            queue.entries.pop_front();
            queue.first += 1;
        }
    }
}

/// Reads what there is, and drops it.
pub fn drop_input(socket: BorrowedFd<'_>) -> Peer {
    let mut dropped = [MaybeUninit::<u8>::uninit(); 16 * 1024];
    for _ in 0..READS {
        match rustix::net::recv(socket, &mut dropped, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Peer::Done,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Peer::Open,
            Err(_) => return Peer::Done,
        }
    }
    // A peer that sends without end: the next event, or the deadline, goes on from here.
    Peer::Open
}

/// Whether the peer has all that was written.
pub fn has_arrived(socket: BorrowedFd<'_>) -> bool {
    sys::socket::unsent(socket).map_or(true, |bytes| bytes == 0)
}

/// A Unix socket has nothing under way: what was written is in the peer's queue, which no reset empties.
pub fn is_internet(socket: BorrowedFd<'_>) -> bool {
    use rustix::net::AddressFamily;
    rustix::net::sockopt::socket_domain(socket).is_ok_and(|family| family != AddressFamily::UNIX)
}
