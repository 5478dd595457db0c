//! What other threads want of a loop: queued, with one wake-up for many.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::super::ConnectionId;
use super::super::connection::{Ending, Owned};
use crate::sys;

/// Something to be done on the loop's thread.
#[derive(Debug)]
pub enum Command {
    /// Serve a connection.
    Open(Owned),
    /// Send bytes.
    Write(ConnectionId, Vec<u8>),
    /// End a connection.
    End(ConnectionId, Ending),
    /// Read nothing for a while, or go on.
    Pause(ConnectionId, bool),
    /// Its idle time has changed.
    Rearm(ConnectionId),
    /// Close lingering connections whose reply has arrived: descriptors are needed.
    Evict,
}

/// The way into a loop from other threads.
#[derive(Debug)]
pub struct Inbox {
    commands: Mutex<Vec<Command>>,
    /// The loop has been woken, and has not looked yet.
    woken: AtomicBool,
    wake: OwnedFd,
    /// How many connections the loop has.
    load: AtomicUsize,
    /// The loop is to end.
    closing: AtomicBool,
}

impl Inbox {
    /// An empty one.
    pub fn new() -> Result<Self, Errno> {
        let wake = sys::above_standard(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Self {
            commands: Mutex::default(),
            woken: AtomicBool::new(false),
            wake,
            load: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        })
    }

    fn commands(&self) -> MutexGuard<'_, Vec<Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a command; gives it back where there is no memory.
    pub fn post(&self, command: Command) -> Result<(), Command> {
        let mut commands = self.commands();
        if commands.try_reserve(1).is_err() {
            return Err(command);
        }
        commands.push(command);
        drop(commands);
        self.wake();
        Ok(())
    }

    /// Wakes the loop, unless that has been done and it has not looked yet.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            sys::wake(&self.wake);
        }
    }

    /// Takes all commands out.
    pub fn take(&self) -> Vec<Command> {
        if !self.woken.load(Ordering::Acquire) {
            return Vec::new();
        }
        // In this order: whoever queues something between the two is still in the queue below, and whoever comes later
        // wakes again.
        super::super::run::drain_counter(self.wake.as_fd());
        self.woken.store(false, Ordering::SeqCst);
        std::mem::take(&mut *self.commands())
    }

    /// What becomes readable when the loop is woken.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// How many connections the loop has, or is about to have.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// One more connection, or one less.
    pub fn count(&self, more: bool) {
        if more {
            self.load.fetch_add(1, Ordering::Relaxed)
        } else {
            self.load.fetch_sub(1, Ordering::Relaxed)
        };
    }

    /// Lets the loop end when it has no connections.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether it is to end.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}
