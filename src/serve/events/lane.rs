//! What the rest of the server knows of an event loop: its number, its set of events, and the way in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::io::Errno;

use super::super::Server;
use super::super::token::Token;
use super::inbox::Inbox;
use crate::sys;
use crate::sys::ring::Ring;

static NEXT_NUMBER: AtomicU32 = AtomicU32::new(1);

/// The place of an event loop in its server. Connections belong to a lane by its number.
#[derive(Debug)]
pub struct Lane {
    /// Never used twice in a process.
    number: u32,
    /// The way in from other threads.
    pub inbox: Inbox,
    /// None where the server's own set is used.
    epoll: Option<OwnedFd>,
    /// Made for the thread that is to run the loop.
    ring: Mutex<Option<Ring>>,
}

impl Lane {
    /// A lane on the server's own set of events, or with one of its own.
    pub fn new(own_set: bool) -> Result<Self, Errno> {
        let inbox = Inbox::new()?;
        let epoll = match own_set {
            true => {
                let epoll = sys::above_standard(epoll::create(CreateFlags::CLOEXEC)?);
                epoll::add(&epoll, inbox.descriptor(), Token::Wake.into(), EventFlags::IN)?;
                Some(epoll)
            }
            false => None,
        };
        Ok(Self { number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed), inbox, epoll, ring: Mutex::default() })
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Keeps a ring for the thread that is to run the loop, or none.
    pub fn keep_ring(&self, ring: Option<Ring>) {
        *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = ring;
    }

    /// The ring for the thread that runs the loop from now on.
    pub fn take_ring(&self) -> Option<Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The set of events that is its alone.
    pub fn own_set(&self) -> Option<BorrowedFd<'_>> {
        self.epoll.as_ref().map(AsFd::as_fd)
    }

    /// Its set of events.
    pub fn epoll<'a>(&'a self, server: &'a Server) -> BorrowedFd<'a> {
        self.own_set().unwrap_or(server.epoll())
    }
}
