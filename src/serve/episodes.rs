//! What happens again and again: one line when it begins, and one with the count when it has been over for a while.

use std::ffi::CStr;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::{Level, Server};
use crate::deadline::{self, Deadline};

/// How long nothing of the kind may happen before it is over.
const CALM: Duration = Duration::from_secs(5);

/// What may happen so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client is refused by the allow and deny lists.
    RefusedByRules,
    /// A client is refused because its address has as many connections as one may have.
    RefusedByAddress,
    /// A client is refused because more come in a second than may.
    RefusedByRate,
    /// A client is refused because there is no number for it.
    RefusedByLimit,
    /// There are as many connections as there may be.
    Full,
    /// A handler crashes.
    Crash,
    /// The kernel's queue of a listener is nearly full.
    Queue,
    /// The kernel drops who begins to connect.
    Drops,
}

const KINDS: [Kind; 8] = [
    Kind::RefusedByRules,
    Kind::RefusedByAddress,
    Kind::RefusedByRate,
    Kind::RefusedByLimit,
    Kind::Full,
    Kind::Crash,
    Kind::Queue,
    Kind::Drops,
];

impl Kind {
    /// Its name in the log.
    pub fn event(self) -> &'static CStr {
        match self {
            Self::RefusedByRules => c"refused_by_rules",
            Self::RefusedByAddress => c"refused_by_address",
            Self::RefusedByRate => c"refused_by_rate",
            Self::RefusedByLimit => c"refused_by_limit",
            Self::Full => c"max_connections_reached",
            Self::Crash => c"handler_crashed",
            Self::Queue => c"queue_fills",
            Self::Drops => c"connections_dropped",
        }
    }

    /// What it was, for the line of its end.
    fn summary(self) -> &'static str {
        match self {
            Self::RefusedByRules => "clients were refused by the allow and deny lists",
            Self::RefusedByAddress => "clients were refused, whose addresses had as many connections as one may have",
            Self::RefusedByRate => "clients were refused beyond the accept rate",
            Self::RefusedByLimit => "clients were refused, for whom there was no number",
            Self::Full => "times there were as many connections as there may be",
            Self::Crash => "handlers crashed",
            Self::Queue => "times the queue of a listener was nearly full",
            Self::Drops => "attempts to connect were dropped by the kernel",
        }
    }

    fn level(self) -> Level {
        if self == Self::Crash { Level::Error } else { Level::Warning }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The episodes of a server.
#[derive(Debug, Default)]
pub struct Episodes {
    /// Which kinds have one, as bits.
    running: AtomicU32,
    episodes: [Episode; KINDS.len()],
}

#[derive(Debug, Default)]
struct Episode {
    count: AtomicU64,
    /// When it began, and when the last happened, by the clock.
    since: AtomicU64,
    last: AtomicU64,
}

impl Episodes {
    /// It has happened so many times more. True where that begins an episode.
    fn note(&self, kind: Kind, times: u64) -> bool {
        let Some(episode) = self.episodes.get(kind as usize) else { return false };
        let now = deadline::clock();
        episode.last.store(now, Ordering::Relaxed);
        episode.count.fetch_add(times, Ordering::Relaxed);
        if self.running.load(Ordering::Relaxed) & kind.bit() != 0 {
            return false;
        }
        episode.since.store(now, Ordering::Relaxed);
        self.running.fetch_or(kind.bit(), Ordering::AcqRel) & kind.bit() == 0
    }

    /// When one may be over.
    pub fn next_look(&self) -> Deadline {
        let running = self.running.load(Ordering::Acquire);
        if running == 0 {
            return Deadline::NEVER;
        }
        let of_kind = |kind: Kind| self.episodes.get(kind as usize).filter(|_| running & kind.bit() != 0);
        let next = KINDS.into_iter().filter_map(of_kind).map(Episode::left).min();
        Deadline::after_optional(next)
    }

    /// Ends an episode that is over, or any: how often it happened, and how long.
    fn end(&self, kind: Kind, any: bool) -> Option<(u64, Duration)> {
        let episode = self.episodes.get(kind as usize)?;
        let runs = self.running.load(Ordering::Acquire) & kind.bit() != 0;
        if !runs || !any && !episode.left().is_zero() {
            return None;
        }
        if self.running.fetch_and(!kind.bit(), Ordering::AcqRel) & kind.bit() == 0 {
            return None;
        }
        let time = episode.last.load(Ordering::Relaxed).saturating_sub(episode.since.load(Ordering::Relaxed));
        Some((episode.count.swap(0, Ordering::Relaxed), Duration::from_nanos(time)))
    }
}

impl Episode {
    /// How long it lasts yet if nothing happens.
    fn left(&self) -> Duration {
        let since = deadline::clock().saturating_sub(self.last.load(Ordering::Relaxed));
        CALM.saturating_sub(Duration::from_nanos(since))
    }
}

impl Server {
    /// Reports something that may happen again and again: the first of an episode with this line.
    pub(super) fn note(&self, kind: Kind, times: u64, line: fmt::Arguments<'_>) {
        if self.options().log.is_some() && self.episodes().note(kind, times) {
            self.report(kind.level(), kind.event(), line);
            // The loop is to look when it is over.
            self.wake();
        }
    }

    /// Reports how often things happened in episodes that are over; all of them where the server ends.
    pub(super) fn look_after_episodes(&self, ends: bool) {
        if self.episodes().next_look().is_never() {
            return;
        }
        for kind in KINDS {
            let Some((count, time)) = self.episodes().end(kind, ends) else { continue };
            // Of a single one the first line has told all.
            if count > 1 {
                let summary = kind.summary();
                let line = format_args!("{count} {summary} within {} ms", time.as_millis());
                self.report(Level::Info, kind.event(), line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_begins_and_ends_with_its_count() {
        let episodes = Episodes::default();
        assert!(episodes.next_look().is_never());
        assert!(episodes.note(Kind::Crash, 1) && !episodes.note(Kind::Crash, 2));
        assert!(episodes.note(Kind::Full, 1));
        assert!(!episodes.next_look().is_never() && !episodes.next_look().is_over());
        assert_eq!(episodes.end(Kind::Crash, false), None);
        assert_eq!(episodes.end(Kind::Crash, true).map(|(count, _)| count), Some(3));
        assert_eq!(episodes.end(Kind::Crash, true), None);
        assert!(episodes.note(Kind::Crash, 1));
    }
}
