//! When a wait ends: milliseconds at the boundary, an instant inside, so that no restart makes a wait longer.

use std::time::{Duration, Instant};

use rustix::time::Timespec;

use crate::error::{Error, Result};

/// The end of a wait; none where it may last for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// No end.
    pub const NEVER: Self = Self(None);

    /// So much time from now. A time that no clock reaches is no end.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }

    /// Where there is a time, so much from now.
    pub fn after_optional(time: Option<Duration>) -> Self {
        time.map_or(Self::NEVER, Self::after)
    }

    /// A timeout of the boundary: -1 is no limit.
    pub fn from_milliseconds(milliseconds: i32, function: &'static str) -> Result<Self> {
        match u64::try_from(milliseconds) {
            Ok(milliseconds) => Ok(Self::after(Duration::from_millis(milliseconds))),
            Err(_) if milliseconds == -1 => Ok(Self::NEVER),
            Err(_) => Err(Error::invalid(function, format_args!("timeout_ms is {milliseconds}, less than -1"))),
        }
    }

    /// The earlier of the two.
    pub fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(one), Some(two)) => Self(Some(one.min(two))),
            (one, two) => Self(one.or(two)),
        }
    }

    /// Whether the wait has no end.
    pub fn is_never(self) -> bool {
        self.0.is_none()
    }

    /// Whether the time is over.
    pub fn is_over(self) -> bool {
        self.0.is_some_and(|end| end <= Instant::now())
    }

    /// What is left, zero where it is over; `None` where there is no end.
    pub fn left(self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// What is left, as poll(2) and epoll_wait(2) take it.
    pub fn timespec(self) -> Option<Timespec> {
        self.left().and_then(|left| Timespec::try_from(left).ok())
    }
}

/// The monotonic clock in nanoseconds, as a word that an atomic can hold.
pub fn clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// What [`clock`] will say after that time.
pub fn clock_after(time: Duration) -> u64 {
    clock().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)).min(u64::MAX - 1)
}

/// The time until [`clock`] says that; zero where it has.
pub fn clock_left(end: u64) -> Duration {
    Duration::from_nanos(end.saturating_sub(clock()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundary_counts_in_milliseconds() {
        assert!(Deadline::from_milliseconds(-1, "f").unwrap().is_never());
        assert!(Deadline::from_milliseconds(0, "f").unwrap().is_over());
        assert!(!Deadline::from_milliseconds(i32::MAX, "f").unwrap().is_over());
        assert!(Deadline::from_milliseconds(-2, "f").is_err());
    }

    #[test]
    fn the_earlier_of_two() {
        let soon = Deadline::after(Duration::from_secs(1));
        let late = Deadline::after(Duration::from_secs(2));
        assert_eq!(soon.earlier(late), soon);
        assert_eq!(late.earlier(soon), soon);
        assert_eq!(Deadline::NEVER.earlier(late), late);
        assert!(Deadline::after(Duration::MAX).is_never());
    }
}
