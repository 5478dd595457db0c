//! A server's listeners, and whether they are watched.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;

use super::events::Lane;
use super::sink::Sink;
use super::token::Token;
use crate::accept::Peer;
use crate::error::{Error, Result};
use crate::listen::{Listener, SocketFile};
use crate::sys;

/// A listener that a server accepts from.
#[derive(Debug)]
pub struct Listening {
    socket: OwnedFd,
    /// Beside it in a stop; behind it here, so that it is closed after it.
    sink: Mutex<Option<Sink>>,
    file: Option<SocketFile>,
    number: u32,
    /// Of an event server: the place of the lane that accepts from it; 0 is that of the server's own loop.
    lane: usize,
    /// Whether the kernel has said that somebody waits, and none was found missing since.
    ready: AtomicBool,
    /// Whether it turned out to be no listener any more.
    dead: AtomicBool,
    /// Whether somebody outside shares it, who may have changed its flags.
    shared: bool,
    /// How many the kernel had dropped there when the server got it.
    drops_before: u32,
    /// How many it has dropped since, once nobody new is let in.
    drops: OnceLock<u64>,
}

/// What the kernel tells of all listeners together.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelView {
    /// How many wait at TCP listeners.
    pub queue: u64,
    /// How many may, at the one with the smallest backlog.
    pub backlog: u64,
    /// How many were dropped, also at listeners that are closed.
    pub dropped: u64,
}

/// The epoll sets in which listeners are watched.
#[derive(Clone, Copy)]
pub struct Sets<'a> {
    /// The server's own.
    pub own: BorrowedFd<'a>,
    /// Those of an event server's loops, once these run.
    pub lanes: &'a [Arc<Lane>],
}

impl<'a> Sets<'a> {
    /// The one of a lane.
    fn of(self, lane: usize) -> BorrowedFd<'a> {
        self.lanes.get(lane).and_then(|lane| lane.own_set()).unwrap_or(self.own)
    }
}

impl Listening {
    /// Whether the loop of that lane accepts from it.
    pub fn is_of(&self, lane: usize) -> bool {
        self.lane == lane
    }

    /// Whether it may have somebody waiting.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.dead.load(Ordering::Acquire)
    }

    /// Nobody waits at present.
    pub fn set_empty(&self) {
        self.ready.store(false, Ordering::Release);
    }

    /// How many attempts to connect were dropped since the server has it.
    pub fn drops(&self) -> u64 {
        let now = || u64::from(sys::socket::drops(self.as_fd()).unwrap_or(0).saturating_sub(self.drops_before));
        self.drops.get().copied().unwrap_or_else(now)
    }

    /// Lets nobody begin to connect any more, where the kernel can: whose handshake is under way when a listener is
    /// closed would be reset. Where somebody else shares the listener it is left alone. `found` gets who was completed
    /// elsewhere meanwhile. True where it worked.
    pub fn refuse_beginners(&self, found: impl FnMut(OwnedFd, Peer)) -> bool {
        if self.shared {
            return false;
        }
        // From now on drops are of the server's own making, and not counted.
        let _ = self.drops.set(self.drops());
        if sys::socket::refuse_beginners(self.as_fd()).is_ok() {
            return true;
        }
        let sink = Sink::beside(self.as_fd(), found).ok();
        let works = sink.is_some();
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = sink;
        works
    }

    /// Takes that back, for a copy that the program may have given to a successor.
    fn welcome_beginners(&self) {
        if self.shared || self.drops.get().is_none() {
            return;
        }
        sys::socket::welcome_beginners(self.as_fd());
        if let Some(sink) = &*self.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            sink.leave(self.as_fd());
        }
    }

    /// Accepting from it must not block, whatever its other owners have done to it.
    pub fn keep_nonblocking(&self) {
        if self.shared {
            let _ = crate::listen::set_nonblocking(self.as_fd(), true);
        }
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The listeners of a server.
#[derive(Debug, Default)]
pub struct Listeners {
    set: Mutex<Set>,
    /// Whether one of them may have somebody waiting: looked at in every turn, so without the lock.
    ready: AtomicBool,
    /// Whether they are watched in the epoll set; changed with the lock held.
    watched: AtomicBool,
}

#[derive(Debug, Default)]
struct Set {
    listeners: Vec<Arc<Listening>>,
    next_number: u32,
    /// Whether the server takes no more.
    closed: bool,
    /// How many were dropped at those that are closed.
    drops: u64,
}

impl Listeners {
    /// Adds listeners, all or none, and returns the last one's descriptor.
    pub fn add(&self, added: Vec<Listener>, shared: bool, sets: Sets<'_>) -> Result<RawFd> {
        let mut set = self.set();
        if set.closed {
            added.into_iter().for_each(Listener::close);
            return Err(Error::system("server", Errno::CANCELED).because(format_args!("the server has stopped")));
        }
        let start = set.listeners.len();
        let mut failure = None;
        let last = added.iter().rfind(|listener| listener.copy() == 0);
        let descriptor = last.map_or(-1, |listener| listener.as_fd().as_raw_fd());
        for listener in added {
            // Those that are left once one has failed are closed like it.
            match failure {
                None => failure = set.add_one(listener, shared, sets, self.events()).err(),
                Some(_) => listener.close(),
            }
        }
        match failure {
            None => {
                self.keep_ready();
                Ok(descriptor)
            }
            Some(errno) => {
                let made = set.listeners.split_off(start);
                made.into_iter().for_each(|listener| remove(&listener, sets));
                Err(crate::diagnose::for_limits(Error::system("epoll_ctl", errno)))
            }
        }
    }

    /// Adds a listener that somebody else made and may share; on failure it stays theirs.
    pub fn adopt(&self, socket: BorrowedFd<'_>, sets: Sets<'_>) -> Result<RawFd> {
        let mut set = self.set();
        if set.closed {
            return Err(Error::system("server", Errno::CANCELED).because(format_args!("the server has stopped")));
        }
        let failed = |errno| crate::diagnose::for_limits(Error::system("epoll_ctl", errno));
        set.listeners.try_reserve(1).map_err(|_| failed(Errno::NOMEM))?;
        let token = Token::Listener(set.next_number);
        epoll::add(sets.own, socket, token.into(), self.events()).map_err(|errno| match errno {
            Errno::EXIST => failed(errno)
                .with_code(crate::error::Code::InvalidArgument)
                .because(format_args!("the server has that listener already")),
            _ => failed(errno),
        })?;
        set.push(sys::own(socket), None, true, 0);
        self.keep_ready();
        Ok(socket.as_raw_fd())
    }

    /// Watches the listeners, or stops to.
    pub fn watch(&self, watched: bool, sets: Sets<'_>) {
        if self.watched.load(Ordering::Acquire) == watched {
            return;
        }
        let set = self.set();
        let mut done = true;
        for listener in set.listeners.iter().filter(|listener| !listener.dead.load(Ordering::Acquire)) {
            let epoll = sets.of(listener.lane);
            let token = Token::Listener(listener.number).into();
            let changed = epoll::modify(epoll, &listener.socket, token, events(watched)).or_else(|_| {
                // A listener that is not watched is deaf: it is put in anew.
                let _ = epoll::delete(epoll, &listener.socket);
                epoll::add(epoll, &listener.socket, token, events(watched))
            });
            done &= changed.is_ok();
        }
        // Where it did not work the next turn tries again.
        self.watched.store(watched == done, Ordering::Release);
    }

    /// From now on each lane accepts from its own listeners.
    pub fn spread(&self, sets: Sets<'_>) {
        let set = self.set();
        for listener in set.listeners.iter().filter(|listener| listener.lane > 0) {
            let _ = epoll::delete(sets.own, &listener.socket);
            let token = Token::Listener(listener.number);
            // One that cannot be moved is emptied when the server stops; the kernel has others to choose from.
            let _ = epoll::add(sets.of(listener.lane), &listener.socket, token.into(), self.events());
        }
    }

    /// Whether one of that lane may have somebody waiting.
    pub fn is_lane_ready(&self, lane: usize) -> bool {
        self.set().listeners.iter().any(|listener| listener.is_of(lane) && listener.is_ready())
    }

    /// Notes that the kernel has somebody waiting.
    pub fn set_ready(&self, number: u32) {
        let set = self.set();
        if let Some(listener) = set.listeners.iter().find(|listener| listener.number == number) {
            listener.ready.store(true, Ordering::Release);
            self.ready.store(true, Ordering::Release);
        }
    }

    /// Has every listener tried, whether or not the kernel has said something.
    pub fn set_all_ready(&self) {
        for listener in &self.set().listeners {
            listener.ready.store(true, Ordering::Release);
        }
        self.ready.store(true, Ordering::Release);
    }

    /// Whether one may have somebody waiting. Whoever asks tries them all, and says so where one still may.
    pub fn take_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && self.ready.swap(false, Ordering::AcqRel)
    }

    /// One may still have somebody waiting.
    pub fn keep_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    fn events(&self) -> EventFlags {
        events(self.watched.load(Ordering::Acquire))
    }

    /// Each of them in turn; the lock is not held meanwhile.
    pub fn each(&self) -> impl Iterator<Item = Arc<Listening>> {
        (0..).map_while(|index| self.set().listeners.get(index).cloned())
    }

    /// Whether the kernel is in the middle of connecting somebody; `None` where it does not tell.
    pub fn have_handshakes(&self) -> Option<bool> {
        let mut last = None;
        for listener in self.each() {
            let address =
                rustix::net::getsockname(&listener.socket).ok().and_then(|name| SocketAddr::try_from(name).ok());
            let place = address.filter(|_| !listener.shared).map(|address| (address.port(), address.is_ipv6()));
            // Those that share a port follow one another.
            let Some((port, ipv6)) = place.filter(|_| place != last) else { continue };
            last = place;
            if crate::diagnose::sockets::has_handshakes(port, ipv6)? {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Takes a listener out of service. True if it was the last one alive.
    pub fn bury(&self, listener: &Listening, sets: Sets<'_>) -> bool {
        listener.dead.store(true, Ordering::Release);
        let set = self.set();
        let _ = epoll::delete(sets.of(listener.lane), &listener.socket);
        set.listeners.iter().all(|listener| listener.dead.load(Ordering::Acquire))
    }

    /// Closes those for which `done` says so; the rest stays for another look. True once none is left.
    pub fn close_if(&self, sets: Sets<'_>, done: impl Fn(&Listening) -> bool) -> bool {
        let mut set = self.set();
        set.closed = true;
        let mut drops = 0;
        set.listeners.retain(|listener| {
            let done = done(listener);
            if done {
                drops += listener.drops();
                remove(listener, sets);
            }
            !done
        });
        set.drops += drops;
        set.listeners.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.set().listeners.len()
    }

    /// Keeps others from changing the listeners until that is dropped: across a fork, whose child has the lock then, too.
    pub fn held(&self) -> Held<'_> {
        Held(self.set())
    }

    /// What the kernel tells of them.
    pub fn kernel_view(&self) -> KernelView {
        let set = self.set();
        let (mut queue, mut smallest, mut dropped) = (0, None, set.drops);
        for listener in &set.listeners {
            if let Ok((waiting, backlog)) = sys::socket::accept_queue(listener.as_fd()) {
                queue += u64::from(waiting);
                smallest = Some(smallest.map_or(backlog, |smallest: u32| smallest.min(backlog)));
            }
            dropped += listener.drops();
        }
        KernelView { queue, backlog: u64::from(smallest.unwrap_or(0)), dropped }
    }

    /// Whether they are watched.
    pub fn are_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    fn set(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The listeners, unchanged.
pub struct Held<'a>(MutexGuard<'a, Set>);

impl Held<'_> {
    /// In a forked child: closes its copies of the descriptors.
    pub fn close_copies(&self) {
        for listener in &self.0.listeners {
            drop(sys::own(listener.as_fd()));
            // Only the thread that has forked puts one there.
            if let Ok(sink) = listener.sink.try_lock() {
                sink.iter().flat_map(Sink::descriptors).for_each(|copy| drop(sys::own(copy)));
            }
        }
    }
}

impl Set {
    fn add_one(
        &mut self,
        listener: Listener,
        shared: bool,
        sets: Sets<'_>,
        events: EventFlags,
    ) -> std::result::Result<(), Errno> {
        let (number, lane) = (self.next_number, listener.copy());
        let shared = shared || listener.is_inherited();
        let watched = epoll::add(sets.of(lane), &listener, Token::Listener(number).into(), events);
        if let Err(errno) = watched.and_then(|()| self.listeners.try_reserve(1).map_err(|_| Errno::NOMEM)) {
            listener.close();
            return Err(errno);
        }
        let (socket, file) = listener.into_parts();
        self.push(socket, file, shared, lane);
        Ok(())
    }

    /// The caller has made room.
    fn push(&mut self, socket: OwnedFd, file: Option<SocketFile>, shared: bool, lane: usize) {
        let number = self.next_number;
        self.next_number += 1;
        let (ready, dead) = (AtomicBool::new(true), AtomicBool::new(false));
        let drops_before = sys::socket::drops(socket.as_fd()).unwrap_or(0);
        let drops = OnceLock::new();
        self.listeners.push(Arc::new(Listening {
            socket,
            sink: Mutex::default(),
            file,
            number,
            lane,
            ready,
            dead,
            shared,
            drops_before,
            drops,
        }));
    }
}

fn events(watched: bool) -> EventFlags {
    if watched { EventFlags::IN } else { EventFlags::empty() }
}

/// Takes a listener out of its epoll set and removes its file; its descriptor is closed with its last user.
fn remove(listener: &Listening, sets: Sets<'_>) {
    let _ = epoll::delete(sets.of(listener.lane), &listener.socket);
    if let Some(file) = &listener.file {
        file.remove();
    }
    // A copy that the program has given to a successor goes on.
    listener.welcome_beginners();
}
