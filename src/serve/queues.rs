//! What waits in the kernel: the queues of the listeners, and who found no room there.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Server;
use super::episodes::Kind;
use super::listeners::Listening;
use crate::deadline::{self, Deadline};
use crate::text::Text;
use crate::{listen, sys};

/// How often the queues are looked at while clients come, or nobody is accepted.
const INTERVAL: Duration = Duration::from_secs(1);

/// When the queues are looked at next.
#[derive(Debug, Default)]
pub struct Queues {
    next_look: AtomicU64,
    /// How many were dropped at the last look.
    dropped: AtomicU64,
}

/// When something happened last.
#[derive(Debug, Default)]
pub struct Last(AtomicU64);

impl Last {
    /// It happens now.
    pub fn is_now(&self) {
        self.0.store(deadline::clock(), Ordering::Relaxed);
    }

    /// How long that is ago; very long where it never happened.
    pub fn elapsed_since(&self) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::MAX,
            last => Duration::from_nanos(deadline::clock().saturating_sub(last)),
        }
    }
}

/// What the kernel tells of one listener.
pub struct View {
    /// Where it listens.
    pub address: Text,
    /// How many wait, and how many may; of TCP alone.
    pub queue: Option<(u32, u32)>,
    /// How many were dropped since the server has it.
    pub dropped: u64,
}

impl View {
    /// That of a listener.
    pub fn of(listener: &Listening) -> Self {
        Self {
            address: listen::local_address(listener.as_fd()).unwrap_or_default(),
            queue: sys::socket::accept_queue(listener.as_fd()).ok(),
            dropped: listener.drops(),
        }
    }

    /// Another listener at the same address adds to it.
    pub fn add(&mut self, other: &Self) {
        self.dropped += other.dropped;
        self.queue = match (self.queue, other.queue) {
            (Some((waiting, most)), Some((more, room))) => {
                Some((waiting.saturating_add(more), most.saturating_add(room)))
            }
            (one, another) => one.or(another),
        };
    }

    /// Whether the queue is more than four fifths full.
    fn is_nearly_full(&self) -> Option<(u32, u32)> {
        self.queue.filter(|&(waiting, most)| u64::from(waiting) * 5 > u64::from(most) * 4)
    }
}

impl Server {
    /// Reports queues that are nearly full, and drops, at most once a second. Without a log it looks at nothing.
    pub(super) fn look_at_queues(&self) {
        let now = deadline::clock();
        let queues = self.queues();
        if self.options().log.is_none() || now < queues.next_look.load(Ordering::Relaxed) {
            return;
        }
        queues.next_look.store(now.saturating_add(INTERVAL.as_nanos() as u64), Ordering::Relaxed);
        for listener in self.listeners().each() {
            let view = View::of(&listener);
            if let Some((waiting, most)) = view.is_nearly_full() {
                let line = format_args!("{waiting} clients wait at {}, {most} may", view.address);
                self.note(Kind::Queue, 1, line);
            }
        }
        let dropped = self.listeners().kernel_view().dropped;
        let more = dropped.saturating_sub(queues.dropped.fetch_max(dropped, Ordering::Relaxed));
        if more > 0 {
            let line = format_args!("the kernel dropped {more} attempts to connect, for which no queue had room");
            self.note(Kind::Drops, more, line);
        }
    }

    /// When they are to be looked at while nobody is accepted.
    pub(super) fn next_look_at_queues(&self) -> Deadline {
        match self.options().log {
            Some(_) if !self.listeners().are_watched() => Deadline::after(INTERVAL),
            _ => Deadline::NEVER,
        }
    }
}
