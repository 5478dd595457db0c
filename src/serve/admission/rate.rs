//! How many may come in a second: a bucket of tokens, as the time at which it will be full again.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::deadline;

/// How many may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In a second, on average; 1 or more.
    pub per_second: u32,
    /// At once, after a pause; 1 or more.
    pub burst: u32,
}

const SECOND: u64 = 1_000_000_000;

/// The bucket.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Nanoseconds for one token; 0 where everybody may come.
    interval: AtomicU64,
    /// How far ahead of now the bucket may be full again: that of all tokens but one.
    tolerance: AtomicU64,
    full_at: AtomicU64,
}

impl Bucket {
    /// Another rate, with a full bucket. The same rate again leaves the bucket as it is.
    pub fn set(&self, rate: Option<Rate>) {
        let interval = rate.map_or(0, |rate| (SECOND / u64::from(rate.per_second.max(1))).max(1));
        let burst = rate.map_or(0, |rate| u64::from(rate.burst.max(1)));
        let tolerance = interval.saturating_mul(burst.saturating_sub(1));
        let before =
            (self.interval.swap(interval, Ordering::Relaxed), self.tolerance.swap(tolerance, Ordering::Relaxed));
        if before != (interval, tolerance) {
            self.full_at.store(0, Ordering::Relaxed);
        }
    }

    /// Takes a token, if there is one.
    pub fn admits(&self) -> bool {
        self.interval.load(Ordering::Relaxed) == 0 || self.admits_at(deadline::clock())
    }

    fn admits_at(&self, now: u64) -> bool {
        let (interval, tolerance) = (self.interval.load(Ordering::Relaxed), self.tolerance.load(Ordering::Relaxed));
        let take = |full_at: u64| {
            let from = full_at.max(now);
            (from - now <= tolerance).then(|| from.saturating_add(interval))
        };
        self.full_at.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let bucket = Bucket::default();
        assert!((0..1000).all(|_| bucket.admits()));
        bucket.set(Some(Rate { per_second: 10, burst: 5 }));
        let start = 7 * SECOND;
        assert_eq!((0..100).filter(|_| bucket.admits_at(start)).count(), 5);
        assert!(!bucket.admits_at(start + SECOND / 10 - 1));
        assert!(bucket.admits_at(start + SECOND / 10));
        // A second of a try each millisecond: ten.
        let later = (101..1101).filter(|step| bucket.admits_at(start + step * SECOND / 1000)).count();
        assert_eq!(later, 10);
        assert_eq!((0..100).filter(|_| bucket.admits_at(start + 60 * SECOND)).count(), 5);
        bucket.set(Some(Rate { per_second: 10, burst: 5 }));
        assert!(!bucket.admits_at(start + 60 * SECOND));
        bucket.set(Some(Rate { per_second: 10, burst: 6 }));
        assert_eq!((0..100).filter(|_| bucket.admits_at(start + 60 * SECOND)).count(), 6);
    }

    #[test]
    fn the_highest_and_the_lowest_rate() {
        let bucket = Bucket::default();
        bucket.set(Some(Rate { per_second: u32::MAX, burst: u32::MAX }));
        assert!((0..1000).all(|_| bucket.admits_at(1)));
        bucket.set(Some(Rate { per_second: 1, burst: 1 }));
        assert!(bucket.admits_at(1) && !bucket.admits_at(SECOND) && bucket.admits_at(SECOND + 1));
    }
}
