//! How many connections each address has.
//!
//! Only addresses with a connection are kept, so there are never more than connections, however many attack.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::accept::Peer;

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The kernel did not tell.
    Unknown,
    /// By a Unix socket.
    Unix,
    /// From this address; IPv4 is never written as IPv6.
    Internet(IpAddr),
}

impl Source {
    /// That of a peer.
    pub fn of(peer: &Peer) -> Self {
        let Some(address) = peer.socket_address() else { return Self::Unknown };
        address.clone().try_into().map_or(Self::Unix, |address: SocketAddr| Self::of_ip(address.ip()))
    }

    /// An Internet address.
    pub fn of_ip(ip: IpAddr) -> Self {
        Self::Internet(ip.to_canonical())
    }

    /// What is counted together: an IPv4 address, and of IPv6 what one customer has, a /64.
    fn key(self) -> Option<Key> {
        match self {
            Self::Unknown | Self::Unix => None,
            Self::Internet(IpAddr::V4(ip)) => Some(Key::V4(ip.to_bits())),
            Self::Internet(IpAddr::V6(ip)) => Some(Key::V6((ip.to_bits() >> 64) as u64)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    V4(u32),
    V6(u64),
}

/// The count of each address.
#[derive(Debug, Default)]
pub struct Addresses {
    /// How many one may have; 0 where that is not limited.
    most: AtomicU32,
    /// Whether they are counted: from the first limit on.
    counted: AtomicBool,
    /// Hashed with random keys: who attacks may choose addresses.
    counts: Mutex<HashMap<Key, u32>>,
}

/// A table that is empty keeps no more room than this.
const SMALL: usize = 1024;

impl Addresses {
    /// So many for each from now on.
    pub fn allow(&self, most: Option<u32>) {
        self.most.store(most.unwrap_or(0), Ordering::Release);
    }

    /// Whether connections are counted.
    pub fn are_counted(&self) -> bool {
        self.counted.load(Ordering::SeqCst)
    }

    /// Counts from now on if there is a limit; true where that begins just now.
    pub fn begin_to_count(&self) -> bool {
        self.most.load(Ordering::Acquire) > 0 && !self.counted.swap(true, Ordering::SeqCst)
    }

    /// One more from there, if that may have one. The value is whether it is counted, and is to leave again.
    pub fn enter(&self, source: Source) -> Option<bool> {
        self.count(source, self.most.load(Ordering::Acquire))
    }

    /// One more from there, which is in already.
    pub fn note(&self, source: Source) -> bool {
        self.count(source, 0).unwrap_or(false)
    }

    fn count(&self, source: Source, most: u32) -> Option<bool> {
        let Some(key) = source.key() else { return Some(false) };
        let mut counts = self.counts();
        if counts.try_reserve(1).is_err() {
            // Without memory it is in, and not counted.
            return Some(false);
        }
        let count = counts.entry(key).or_insert(0);
        if most > 0 && *count >= most {
            return None;
        }
        *count += 1;
        Some(true)
    }

    /// One that was counted leaves.
    pub fn leave(&self, source: Source) {
        let Some(key) = source.key() else { return };
        let mut counts = self.counts();
        if let Entry::Occupied(mut entry) = counts.entry(key) {
            match entry.get().checked_sub(1).filter(|&left| left > 0) {
                Some(left) => drop(entry.insert(left)),
                None => drop(entry.remove()),
            }
        }
        if counts.is_empty() && counts.capacity() > SMALL {
            *counts = HashMap::new();
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Key, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(ip: &str) -> Source {
        Source::of_ip(ip.parse().unwrap())
    }

    #[test]
    fn each_address_has_its_own_and_a_64_of_ipv6_is_one() {
        let addresses = Addresses::default();
        addresses.allow(Some(2));
        assert!(addresses.begin_to_count() && !addresses.begin_to_count());
        for (one, other) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8:0:1::1")] {
            assert_eq!(addresses.enter(source(one)), Some(true));
            assert_eq!(addresses.enter(source(one)), Some(true));
            assert_eq!(addresses.enter(source(one)), None);
            assert_eq!(addresses.enter(source(other)), Some(true));
        }
        assert_eq!(addresses.enter(source("2001:db8::ffff:1")), None);
        assert_eq!(addresses.enter(source("::ffff:10.0.0.1")), None);
        addresses.leave(source("10.0.0.1"));
        assert_eq!(addresses.enter(source("::ffff:10.0.0.1")), Some(true));
        assert_eq!(addresses.enter(Source::Unix), Some(false));
        addresses.allow(Some(3));
        assert_eq!(addresses.enter(source("10.0.0.1")), Some(true));
    }

    #[test]
    fn a_table_without_connections_has_no_room() {
        let addresses = Addresses::default();
        let all = || (0..100_000u32).map(|ip| Source::of_ip(std::net::Ipv4Addr::from_bits(ip).into()));
        assert!(all().all(|source| addresses.note(source)));
        all().for_each(|source| addresses.leave(source));
        assert!(addresses.counts().capacity() <= SMALL);
    }
}
