//! Accepting for a server, whatever goes wrong: no spinning, no dead listener, one report an episode.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::admission::{Refusal, Source};
use super::connection::Owned;
use super::episodes::Kind;
use super::listeners::Listening;
use super::{Level, Server, counters, table};
use crate::accept::{self, Peer, RETRIES_AT_ONCE, Verdict};
use crate::deadline::Deadline;
use crate::diagnose;
use crate::error::Error;

/// How long accepting has to work again before a shortage is over: one that comes and goes with every client is one
/// episode, and one report.
const CALM: Duration = Duration::from_secs(1);

/// How long accepting rests after a failure that stays: doubled from the first to the last.
const FIRST_REST: Duration = Duration::from_millis(5);
const LONGEST_REST: Duration = Duration::from_millis(100);

/// What becomes of clients meanwhile.
const WAITING: &str = "accepting pauses, clients wait in the kernel's queue";

/// How many clients in a row may be refused before others get their turn.
const REFUSALS: usize = 64;

/// A time in which accepting fails for a reason that only time, or somebody else, can end.
#[derive(Debug, Default)]
pub struct Shortage {
    /// Whether there is one: read without the lock.
    lasts: AtomicBool,
    episode: Mutex<Option<Episode>>,
    /// Failures in a row that accept(2) says to retry.
    retries: AtomicU32,
}

#[derive(Debug)]
struct Episode {
    errno: Errno,
    since: Instant,
    last_failure: Instant,
    rest: Duration,
    next_try: Deadline,
    /// Whether accepting has worked since the last failure.
    works: bool,
}

impl Shortage {
    /// The errno of the shortage that lasts and whose next try is not due.
    pub fn rests(&self) -> Option<Errno> {
        if !self.lasts.load(Ordering::Acquire) {
            return None;
        }
        let episode = self.episode.lock().unwrap_or_else(PoisonError::into_inner);
        episode.as_ref().filter(|episode| !episode.works && !episode.next_try.is_over()).map(|episode| episode.errno)
    }

    /// When the next try is due, or the episode may be over.
    pub fn next_look(&self) -> Deadline {
        if !self.lasts.load(Ordering::Acquire) {
            return Deadline::NEVER;
        }
        let episode = self.episode.lock().unwrap_or_else(PoisonError::into_inner);
        episode.as_ref().map_or(Deadline::NEVER, |episode| episode.next_try)
    }

    /// A descriptor has been given back: the next try is due. True where somebody waits for it.
    pub fn relieve(&self) -> bool {
        if !self.lasts.load(Ordering::Acquire) {
            return false;
        }
        let mut episode = self.episode.lock().unwrap_or_else(PoisonError::into_inner);
        match episode.as_mut().filter(|episode| !episode.works) {
            Some(episode) => {
                episode.next_try = Deadline::after(Duration::ZERO);
                true
            }
            None => false,
        }
    }

    /// Another failure. True for the first one of an episode.
    fn begin(&self, errno: Errno) -> bool {
        let mut episode = self.episode.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (first, since, rest) = match episode.as_ref() {
            None => (true, now, FIRST_REST),
            Some(episode) if episode.works => (false, episode.since, FIRST_REST),
            Some(episode) => (false, episode.since, (episode.rest * 2).min(LONGEST_REST)),
        };
        let next_try = Deadline::after(rest);
        *episode = Some(Episode { errno, since, last_failure: now, rest, next_try, works: false });
        self.lasts.store(true, Ordering::Release);
        first
    }

    /// Accepting has worked.
    fn works(&self) {
        self.retries.store(0, Ordering::Relaxed);
        if !self.lasts.load(Ordering::Acquire) {
            return;
        }
        let mut episode = self.episode.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(episode) = episode.as_mut().filter(|episode| !episode.works) {
            episode.works = true;
            episode.next_try = Deadline::after(CALM.saturating_sub(episode.last_failure.elapsed()));
        }
    }

    /// Ends an episode after which accepting has worked for long enough: how long it took.
    fn end(&self) -> Option<Duration> {
        if !self.lasts.load(Ordering::Acquire) {
            return None;
        }
        let mut episode = self.episode.lock().unwrap_or_else(PoisonError::into_inner);
        let over = episode.take_if(|episode| episode.works && episode.next_try.is_over())?;
        self.lasts.store(false, Ordering::Release);
        Some(over.last_failure.duration_since(over.since))
    }
}

impl Server {
    /// Accepts from any listener that may have somebody waiting, but those that other loops accept from.
    pub(super) fn accept_any(self: &Arc<Self>) -> Option<Owned> {
        if !self.listeners().take_ready() {
            return None;
        }
        let all = self.slot().stop().is_some() || !self.workers().are_started();
        let mut ready = self.listeners().each().filter(|listener| listener.is_ready() && (all || listener.is_of(0)));
        let accepted = ready.find_map(|listener| {
            let accepted = self.accept_from(&listener);
            // It was not emptied, or accepting rests.
            if listener.is_ready() {
                self.listeners().keep_ready();
            }
            accepted
        });
        if accepted.is_some() {
            self.listeners().keep_ready();
        }
        accepted
    }

    /// Accepts from the listeners of one lane.
    pub(super) fn accept_of_lane(self: &Arc<Self>, lane: usize) -> Option<Owned> {
        let mut ready = self.listeners().each().filter(|listener| listener.is_of(lane) && listener.is_ready());
        ready.find_map(|listener| self.accept_from(&listener))
    }

    /// Accepts from a listener; `None` where nobody waits, there is no room, or accepting has to rest.
    fn accept_from(self: &Arc<Self>, listener: &Listening) -> Option<Owned> {
        let mut refusals = 0;
        // In a stop the queue is emptied, whoever waits in it.
        while refusals < REFUSALS || self.slot().stop().is_some_and(|stop| !stop.is_over()) {
            if self.shortage().rests().is_some() || !self.take_place() {
                return None;
            }
            listener.keep_nonblocking();
            let accepted = accept::try_accept(listener.as_fd());
            let errno = match accepted {
                Ok((socket, peer)) => match self.admit(socket, &peer) {
                    Some(admitted) => return Some(admitted),
                    None => {
                        self.leave_place();
                        refusals += 1;
                        continue;
                    }
                },
                Err(errno) => errno,
            };
            self.leave_place();
            match self.judge(listener, errno) {
                Verdict::Empty | Verdict::Dead => return None,
                Verdict::Retry => {}
                Verdict::Pause => {
                    if !self.evict_lingering() {
                        return None;
                    }
                    // Descriptors were held by connections that were over. They are free now.
                    self.shortage().relieve();
                }
            }
        }
        None
    }

    /// Takes a place for a connection; where there is none, nobody is accepted until one is given back.
    fn take_place(&self) -> bool {
        if !table::has_room() {
            self.shortage_begins(Errno::NOMEM);
            return false;
        }
        let admission = self.admission();
        let look = || admission.look_at_descriptors(self.how_many_linger());
        if admission.fills(self.how_many_linger()) {
            look();
        }
        // Connections that are over, and only linger, make room where descriptors are the limit.
        let more = || look() || self.evict_lingering() && look();
        if admission.take_place() || admission.most().is_none() && more() && admission.take_place() {
            return true;
        }
        match admission.most() {
            // Another thread's place may be one that it tries for nothing.
            Some(most) if self.active() < most as usize => {}
            Some(most) if admission.begins_to_be_full() => {
                let line = format_args!("{most} connections are open, as many as may be; {WAITING}");
                self.note(Kind::Full, 1, line);
            }
            Some(_) => {}
            None => self.descriptors_leave_no_room(),
        }
        false
    }

    /// There are as many connections as the limit of descriptors leaves room for: the same as if there were none left.
    fn descriptors_leave_no_room(&self) {
        if self.shortage().begin(Errno::MFILE) {
            counters::add(&self.counters().descriptor_pauses, 1);
            let most = self.active();
            let error = || {
                let cause = format_args!("{most} connections are open, and the rest is left to the program");
                diagnose::for_limits(Error::system("accept", Errno::MFILE)).and_because(cause)
            };
            self.report_shortage(c"descriptors_used_up", error, WAITING);
        }
    }

    /// Gives a place back.
    pub(super) fn leave_place(&self) {
        if self.admission().leave_place() {
            self.wake();
        }
    }

    /// Gives an accepted client a number, unless it is refused.
    pub(super) fn admit(self: &Arc<Self>, socket: OwnedFd, peer: &Peer) -> Option<Owned> {
        self.shortage().works();
        let counted = match self.admission().admit(peer) {
            Ok(counted) => counted,
            Err(refusal) => {
                self.refused(refusal, peer);
                return None;
            }
        };
        let addresses = self.admission().addresses();
        let Some(admitted) = Owned::open(self, socket, peer, counted) else {
            if counted {
                addresses.leave(Source::of(peer));
            }
            self.refused(Refusal::Limit, peer);
            return None;
        };
        counters::add(&self.counters().accepted, 1);
        self.last_accept().is_now();
        // Who begins to count them has not seen this one, or this sees that they are counted.
        fence(Ordering::SeqCst);
        if !counted && addresses.are_counted() {
            // They may be since a moment ago.
            admitted.slot().count_address(self);
        }
        Some(admitted)
    }

    /// Counts a client that is refused, and reports the first of many.
    fn refused(&self, refusal: Refusal, peer: &Peer) {
        let counters = self.counters();
        let (counter, kind, why) = match refusal {
            Refusal::Rules => (&counters.refused_rules, Kind::RefusedByRules, "by the allow and deny lists"),
            Refusal::Address => {
                (&counters.refused_address, Kind::RefusedByAddress, "its address has as many connections as one may")
            }
            Refusal::Rate => (&counters.refused_rate, Kind::RefusedByRate, "more come in a second than may"),
            Refusal::Limit => (&counters.refused_limit, Kind::RefusedByLimit, "there is no number left for it"),
        };
        counters::add(counter, 1);
        self.note(kind, 1, format_args!("client {} is refused: {why}", peer.text()));
    }

    /// What a failed accept means here, noted and reported.
    fn judge(self: &Arc<Self>, listener: &Listening, errno: Errno) -> Verdict {
        let verdict = accept::verdict(errno);
        if verdict == Verdict::Empty {
            self.shortage().retries.store(0, Ordering::Relaxed);
            listener.set_empty();
            return verdict;
        }
        if errno != Errno::INTR {
            counters::add(&self.counters().accept_errors, 1);
            self.errors().count(errno);
        }
        match verdict {
            Verdict::Retry if self.shortage().retries.fetch_add(1, Ordering::Relaxed) < RETRIES_AT_ONCE => verdict,
            Verdict::Retry | Verdict::Pause => {
                self.shortage_begins(errno);
                Verdict::Pause
            }
            Verdict::Dead => {
                self.report(Level::Error, c"listener_dead", format_args!("{}", Error::system("accept", errno)));
                if self.listeners().bury(listener, self.sets()) {
                    self.fail(Error::system("accept", errno));
                }
                verdict
            }
            Verdict::Empty => verdict,
        }
    }

    fn shortage_begins(&self, errno: Errno) {
        if !self.shortage().begin(errno) {
            return;
        }
        let event = match errno {
            Errno::MFILE | Errno::NFILE => c"descriptors_used_up",
            Errno::NOMEM | Errno::NOBUFS => c"memory_used_up",
            _ => c"accept_fails",
        };
        counters::add(&self.counters().descriptor_pauses, 1);
        let error = || diagnose::for_limits(Error::system("accept", errno));
        self.report_shortage(event, error, WAITING);
    }

    /// Reports that something is used up: which limit it was, what happens meanwhile, and how it is raised.
    pub(super) fn report_shortage(&self, event: &'static CStr, error: impl FnOnce() -> Error, meanwhile: &str) {
        // Looking for the limit takes time, which is for nothing where nobody hears of it.
        if self.options().log.is_none() {
            return;
        }
        let error = error();
        match error.hint_text() {
            "" => self.report(Level::Warning, event, format_args!("{error}; {meanwhile}")),
            hint => self.report(Level::Warning, event, format_args!("{error}; {meanwhile}; {hint}")),
        }
    }

    /// Reports the end of a shortage, some time after the last failure.
    pub(super) fn look_after_shortage(&self) {
        if let Some(time) = self.shortage().end() {
            let line = format_args!("accepting works again; the shortage lasted {} ms", time.as_millis());
            self.report(Level::Info, c"accepting_again", line);
        }
    }
}
