//! A server's listeners, and whether they are watched.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;

use super::token::Token;
use crate::error::{Error, Result};
use crate::listen::{Listener, SocketFile};
use crate::sys;

/// A listener that a server accepts from.
#[derive(Debug)]
pub struct Listening {
    socket: OwnedFd,
    file: Option<SocketFile>,
    number: u32,
    /// Whether the kernel has said that somebody waits, and none was found missing since.
    ready: AtomicBool,
    /// Whether it turned out to be no listener any more.
    dead: AtomicBool,
    /// Whether somebody outside shares it, who may have changed its flags.
    shared: bool,
}

impl Listening {
    /// Whether it may have somebody waiting.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.dead.load(Ordering::Acquire)
    }

    /// Nobody waits at present.
    pub fn set_empty(&self) {
        self.ready.store(false, Ordering::Release);
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
}

impl Listeners {
    /// Adds listeners, all or none, and returns the last one's descriptor.
    pub fn add(&self, added: Vec<Listener>, shared: bool, epoll: BorrowedFd<'_>) -> Result<RawFd> {
        let mut set = self.set();
        if set.closed {
            added.into_iter().for_each(Listener::close);
            return Err(Error::system("server", Errno::CANCELED).because(format_args!("the server has stopped")));
        }
        let start = set.listeners.len();
        let mut failure = None;
        for listener in added {
            // Those that are left once one has failed are closed like it.
            match failure {
                None => failure = set.add_one(listener, shared, epoll, self.events()).err(),
                Some(_) => listener.close(),
            }
        }
        match failure {
            None => {
                self.keep_ready();
                Ok(set.listeners.last().map_or(-1, |listener| listener.socket.as_raw_fd()))
            }
            Some(errno) => {
                let made = set.listeners.split_off(start);
                made.into_iter().for_each(|listener| remove(&listener, epoll));
                Err(crate::diagnose::for_limits(Error::system("epoll_ctl", errno)))
            }
        }
    }

    /// Adds a listener that somebody else made and may share; on failure it stays theirs.
    pub fn adopt(&self, socket: BorrowedFd<'_>, epoll: BorrowedFd<'_>) -> Result<RawFd> {
        let mut set = self.set();
        if set.closed {
            return Err(Error::system("server", Errno::CANCELED).because(format_args!("the server has stopped")));
        }
        let failed = |errno| crate::diagnose::for_limits(Error::system("epoll_ctl", errno));
        set.listeners.try_reserve(1).map_err(|_| failed(Errno::NOMEM))?;
        let token = Token::Listener(set.next_number);
        epoll::add(epoll, socket, token.into(), self.events()).map_err(|errno| match errno {
            Errno::EXIST => failed(errno)
                .with_code(crate::error::Code::InvalidArgument)
                .because(format_args!("the server has that listener already")),
            _ => failed(errno),
        })?;
        set.push(sys::own(socket), None, true);
        self.keep_ready();
        Ok(socket.as_raw_fd())
    }

    /// Watches the listeners, or stops to.
    pub fn watch(&self, watched: bool, epoll: BorrowedFd<'_>) {
        if self.watched.load(Ordering::Acquire) == watched {
            return;
        }
        let set = self.set();
        let mut done = true;
        for listener in set.listeners.iter().filter(|listener| !listener.dead.load(Ordering::Acquire)) {
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

    /// The listener at that place.
    pub fn get(&self, index: usize) -> Option<Arc<Listening>> {
        self.set().listeners.get(index).cloned()
    }

    /// Lets nobody begin to connect any more, where the kernel can: whose handshake is under way when a listener is
    /// closed would be reset. Where somebody else shares the listener it is left alone. True where there was one.
    pub fn refuse_beginners(&self) -> bool {
        let set = self.set();
        let own = set.listeners.iter().filter(|listener| !listener.shared);
        own.filter(|listener| sys::socket::refuse_beginners(listener.as_fd()).is_ok()).count() > 0
    }

    /// Takes a listener out of service. True if it was the last one alive.
    pub fn bury(&self, listener: &Listening, epoll: BorrowedFd<'_>) -> bool {
        listener.dead.store(true, Ordering::Release);
        let _ = epoll::delete(epoll, &listener.socket);
        self.set().listeners.iter().all(|listener| listener.dead.load(Ordering::Acquire))
    }

    /// Closes those for which `done` says so; the rest stays for another look. True once none is left.
    pub fn close_if(&self, epoll: BorrowedFd<'_>, done: impl Fn(&Listening) -> bool) -> bool {
        let mut set = self.set();
        set.closed = true;
        set.listeners.retain(|listener| {
            let done = done(listener);
            if done {
                remove(listener, epoll);
            }
            !done
        });
        set.listeners.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.set().listeners.len()
    }

    /// In a forked child: closes its copies of the descriptors, without a lock that the parent may have held.
    pub fn close_copies(&self) {
        if let Ok(set) = self.set.try_lock() {
            for listener in &set.listeners {
                drop(sys::own(listener.as_fd()));
            }
        }
    }

    /// Queue length, smallest backlog and drops, as the kernel tells them of TCP listeners.
    pub fn kernel_view(&self) -> (u64, u64, u64) {
        let (mut queue, mut smallest, mut dropped) = (0, None, 0);
        for listener in &self.set().listeners {
            if let Ok((waiting, backlog)) = sys::socket::accept_queue(listener.as_fd()) {
                queue += u64::from(waiting);
                smallest = Some(smallest.map_or(backlog, |smallest: u32| smallest.min(backlog)));
            }
            dropped += u64::from(sys::socket::drops(listener.as_fd()).unwrap_or(0));
        }
        (queue, u64::from(smallest.unwrap_or(0)), dropped)
    }

    fn set(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Set {
    fn add_one(
        &mut self,
        listener: Listener,
        shared: bool,
        epoll: BorrowedFd<'_>,
        events: EventFlags,
    ) -> std::result::Result<(), Errno> {
        let number = self.next_number;
        let watched = epoll::add(epoll, &listener, Token::Listener(number).into(), events);
        if let Err(errno) = watched.and_then(|()| self.listeners.try_reserve(1).map_err(|_| Errno::NOMEM)) {
            listener.close();
            return Err(errno);
        }
        let (socket, file) = listener.into_parts();
        self.push(socket, file, shared);
        Ok(())
    }

    /// The caller has made room.
    fn push(&mut self, socket: OwnedFd, file: Option<SocketFile>, shared: bool) {
        let number = self.next_number;
        self.next_number += 1;
        let (ready, dead) = (AtomicBool::new(true), AtomicBool::new(false));
        self.listeners.push(Arc::new(Listening { socket, file, number, ready, dead, shared }));
    }
}

fn events(watched: bool) -> EventFlags {
    if watched { EventFlags::IN } else { EventFlags::empty() }
}

/// Takes a listener out of the set and removes its file; its descriptor is closed with its last user.
fn remove(listener: &Listening, epoll: BorrowedFd<'_>) {
    let _ = epoll::delete(epoll, &listener.socket);
    if let Some(file) = &listener.file {
        file.remove();
    }
    if !listener.shared {
        // A copy that the program has given to a successor goes on.
        sys::socket::welcome_beginners(listener.as_fd());
    }
}
