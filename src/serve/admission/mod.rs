//! Who may connect: one path for every way of serving.
//!
//! How many there may be is asked before accepting, so that nobody is accepted to be dropped; who it is can only be
//! asked afterwards, and a client that is refused costs an accept and a close.

mod addresses;
mod rate;
mod rules;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::connection::Times;
use crate::accept::Peer;
use crate::diagnose;

pub use addresses::{Addresses, Source};
pub use rate::Rate;
pub use rules::{RuleFault, Rules};

/// What may be changed while a server runs.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Limits {
    pub max_connections: MaxConnections,
    pub max_connections_per_address: Option<u32>,
    pub accept_rate: Option<Rate>,
    pub rules: Option<Arc<Rules>>,
    /// Those of the next connections.
    pub idle_timeout: Option<Duration>,
    pub read_timeout: Option<Duration>,
    pub write_timeout: Option<Duration>,
    pub lifetime: Option<Duration>,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxConnections {
    /// What the limit of descriptors leaves room for.
    #[default]
    Descriptors,
    /// No limit but the system's.
    Unlimited,
    /// So many.
    Number(u32),
}

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// By the allow and deny lists.
    Rules,
    /// Its address has as many connections as one may have.
    Address,
    /// More come in a second than may.
    Rate,
    /// There is no number left for it.
    Limit,
}

/// No limit.
const UNLIMITED: u32 = u32::MAX;

/// The most descriptors that are left to the rest of the program: an eighth of the limit, and no more than this.
const RESERVE: u64 = 32;

/// How many descriptors a program may have open besides connections, where that cannot be seen.
const UNSEEN: u64 = 16;

/// The limits of a server in force, and how far they are used.
#[derive(Debug)]
pub struct Admission {
    most: AtomicU32,
    /// That is what descriptors leave room for.
    by_descriptors: AtomicBool,
    /// How many descriptors one connection takes.
    descriptors_each: u64,
    /// How many connections have a place, or are about to.
    places: AtomicUsize,
    /// Somebody found no place, and none has been given back since.
    full: AtomicBool,
    /// That has been said.
    told: AtomicBool,
    addresses: Addresses,
    rate: rate::Bucket,
    has_rules: AtomicBool,
    /// Held while limits change: what belongs together changes together.
    changing: Mutex<()>,
    rules: Mutex<Option<Arc<Rules>>>,
    idle_ms: AtomicU32,
    read_ms: AtomicU32,
    write_ms: AtomicU32,
    lifetime_ms: AtomicU32,
}

impl Admission {
    /// These limits, and nobody there.
    pub fn new(limits: &Limits, descriptors_each: u64) -> Self {
        let admission = Self {
            most: AtomicU32::new(UNLIMITED),
            by_descriptors: AtomicBool::new(false),
            descriptors_each,
            places: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            told: AtomicBool::new(false),
            addresses: Addresses::default(),
            rate: rate::Bucket::default(),
            has_rules: AtomicBool::new(false),
            changing: Mutex::default(),
            rules: Mutex::default(),
            idle_ms: AtomicU32::new(0),
            read_ms: AtomicU32::new(0),
            write_ms: AtomicU32::new(0),
            lifetime_ms: AtomicU32::new(0),
        };
        admission.set(limits);
        admission.addresses.begin_to_count();
        admission
    }

    /// Other limits. Who is there stays.
    pub fn set(&self, limits: &Limits) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.by_descriptors.store(limits.max_connections == MaxConnections::Descriptors, Ordering::Release);
        let most = match limits.max_connections {
            MaxConnections::Descriptors => self.room_by_descriptors().max(1),
            MaxConnections::Unlimited => UNLIMITED,
            MaxConnections::Number(number) => number,
        };
        self.most.store(most, Ordering::Release);
        self.addresses.allow(limits.max_connections_per_address);
        self.rate.set(limits.accept_rate);
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&limits.rules);
        self.has_rules.store(limits.rules.is_some(), Ordering::Release);
        for (place, time) in [
            (&self.idle_ms, limits.idle_timeout),
            (&self.read_ms, limits.read_timeout),
            (&self.write_ms, limits.write_timeout),
            (&self.lifetime_ms, limits.lifetime),
        ] {
            place.store(milliseconds(time), Ordering::Relaxed);
        }
    }

    /// The times of a new connection.
    pub fn times(&self) -> Times {
        Times {
            idle: self.idle_ms.load(Ordering::Relaxed),
            read: self.read_ms.load(Ordering::Relaxed),
            write: self.write_ms.load(Ordering::Relaxed),
            lifetime: self.lifetime_ms.load(Ordering::Relaxed),
        }
    }

    /// Takes a place for one more connection; false where there is none.
    pub fn take_place(&self) -> bool {
        let most = self.most_places();
        while self.places.fetch_add(1, Ordering::SeqCst) >= most {
            self.full.store(true, Ordering::SeqCst);
            // Whoever left between the two has not seen that somebody waits.
            if self.places.fetch_sub(1, Ordering::SeqCst) > most {
                return false;
            }
        }
        true
    }

    /// Takes a place although there may be none.
    pub fn force_place(&self) {
        self.places.fetch_add(1, Ordering::SeqCst);
    }

    /// Gives a place back. True where somebody waits for one.
    pub fn leave_place(&self) -> bool {
        self.places.fetch_sub(1, Ordering::SeqCst);
        self.full.load(Ordering::SeqCst) && self.make_room()
    }

    fn most_places(&self) -> usize {
        self.most.load(Ordering::Acquire) as usize
    }

    /// Whether somebody found no place, and would find none now.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst) && self.places.load(Ordering::SeqCst) >= self.most_places()
    }

    /// Whether this is the first to say so since a place was given back.
    pub fn begins_to_be_full(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }

    /// Another try may find a place. True where somebody waits for that.
    pub fn make_room(&self) -> bool {
        self.told.store(false, Ordering::Relaxed);
        self.full.swap(false, Ordering::SeqCst)
    }

    /// How many connections there may be, where that was said.
    pub fn most(&self) -> Option<u32> {
        let said = !self.by_descriptors.load(Ordering::Acquire);
        Some(self.most.load(Ordering::Acquire)).filter(|&most| said && most != UNLIMITED)
    }

    /// Whether there may be less room than was seen: the program may take descriptors for each connection, too, and
    /// those that linger have theirs.
    pub fn fills(&self, lingering: usize) -> bool {
        let open = || self.places.load(Ordering::Relaxed).saturating_add(lingering);
        self.by_descriptors.load(Ordering::Acquire) && open() > self.most_places() / 2
    }

    /// The limit of descriptors may have been raised: looks again, where connections are limited by that. True where
    /// there may be more now.
    pub fn look_at_descriptors(&self, lingering: usize) -> bool {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.by_descriptors.load(Ordering::Acquire) {
            return false;
        }
        // Those that linger can be ended to make room; where there are none, one connection may always be.
        let now = self.room_by_descriptors().max(u32::from(lingering == 0));
        now > self.most.swap(now, Ordering::AcqRel)
    }

    /// How many connections the limit of descriptors leaves room for, with those that there are.
    pub fn room_by_descriptors(&self) -> u32 {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let own = self.places.load(Ordering::SeqCst) as u64 * self.descriptors_each;
        let others = diagnose::open_descriptors().unwrap_or(own + UNSEEN).saturating_sub(own);
        let free = limit.saturating_sub(others);
        let room = free.saturating_sub((limit / 8).min(RESERVE)) / self.descriptors_each.max(1);
        u32::try_from(room).unwrap_or(UNLIMITED - 1)
    }

    /// Asks whether a client that was accepted may stay. It is counted where its address is limited, which is the value.
    pub fn admit(&self, peer: &Peer) -> Result<bool, Refusal> {
        let source = || Source::of(peer);
        if self.has_rules.load(Ordering::Acquire) && !self.rules().is_none_or(|rules| rules.admit(source())) {
            return Err(Refusal::Rules);
        }
        let counted = match self.addresses.are_counted() {
            true => self.addresses.enter(source()).ok_or(Refusal::Address)?,
            false => false,
        };
        if self.rate.admits() {
            return Ok(counted);
        }
        if counted {
            self.addresses.leave(source());
        }
        Err(Refusal::Rate)
    }

    fn rules(&self) -> Option<Arc<Rules>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections each address has.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

/// A time as a connection keeps it; 0 is none.
fn milliseconds(time: Option<Duration>) -> u32 {
    time.map_or(0, |time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let limits = Limits { max_connections: MaxConnections::Number(2), ..Limits::default() };
        let admission = Admission::new(&limits, 1);
        assert!(admission.take_place() && admission.take_place());
        assert!(!admission.is_full());
        assert!(!admission.take_place() && admission.is_full());
        assert!(admission.leave_place() && !admission.is_full());
        assert!(admission.take_place());
        assert!(!admission.leave_place());
        admission.set(&Limits { max_connections: MaxConnections::Number(1), ..Limits::default() });
        assert!(!admission.take_place() && admission.leave_place());
        assert!(admission.take_place());
    }

    #[test]
    fn never_more_than_may_be_whoever_asks_at_once() {
        let limits = Limits { max_connections: MaxConnections::Number(3), ..Limits::default() };
        let admission = Admission::new(&limits, 1);
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if admission.take_place() {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            admission.leave_place();
                        }
                    }
                });
            }
        });
        assert_eq!(admission.places.load(Ordering::SeqCst), 0);
    }
}
