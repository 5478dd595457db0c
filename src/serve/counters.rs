//! What a server counts, in memory that it shares with the children it makes.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use crate::sys::shared::{Plain, Shared};

/// Counters that only go up.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Counters {
    pub accepted: AtomicU64,
    pub handler_failures: AtomicU64,
    pub refused_limit: AtomicU64,
    pub refused_address: AtomicU64,
    pub refused_rate: AtomicU64,
    pub refused_rules: AtomicU64,
    pub accept_errors: AtomicU64,
    pub descriptor_pauses: AtomicU64,
    pub drained: AtomicU64,
    pub cut: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub timeouts: AtomicU64,
}

impl Plain for Counters {}

/// Counters at zero.
pub fn shared() -> Result<Shared<Counters>, Errno> {
    Shared::new()
}

/// Counts.
pub fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

/// A counter's value.
pub fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What a server has done, and what waits for it; see `oyez_stats` in `include/oyez.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Snapshot {
    pub accepted: u64,
    pub active: u64,
    pub handler_failures: u64,
    pub refused_limit: u64,
    pub refused_address: u64,
    pub refused_rate: u64,
    pub refused_rules: u64,
    pub accept_errors: u64,
    pub descriptor_pauses: u64,
    pub drained: u64,
    pub cut: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub timeouts: u64,
    pub listeners: u64,
    pub queue: u64,
    pub backlog: u64,
    pub dropped: u64,
}
