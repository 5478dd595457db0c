//! Server numbers, and what a signal handler may touch of a server.
//!
//! A slot is found by its number and pinned by one atomic step, so that stopping a server is async-signal-safe and never
//! waits for a lock.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::Server;
use crate::deadline::{self, Deadline};
use crate::error::{Code, Error, Result};
use crate::sys;
use crate::sys::fork::PerProcess;

/// A server's number: above 0, never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerId(i32);

impl ServerId {
    /// The handle that a program holds.
    pub fn from_number(number: i32) -> Self {
        Self(number)
    }

    /// The number for a program.
    pub fn number(self) -> i32 {
        self.0
    }
}

/// How many servers a process may have at once.
const SLOTS: usize = 1024;

/// The next number. A forked child goes on counting, so what it did not make itself is its parent's.
static NEXT: AtomicI32 = AtomicI32::new(1);
static REGISTRY: PerProcess<Registry> = PerProcess::new();

struct Registry {
    first: i32,
    /// None where memory has been too short so far.
    slots: OnceLock<Vec<Slot>>,
    /// Taken by those who look for a free slot.
    claiming: Mutex<()>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { first: NEXT.load(Ordering::Relaxed), slots: OnceLock::new(), claiming: Mutex::new(()) }
    }
}

impl Registry {
    fn slots(&self) -> &[Slot] {
        self.slots.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// Makes the slots, for the one who claims the first; false without memory.
    fn make_slots(&self) -> bool {
        if self.slots.get().is_none() {
            let mut slots = Vec::new();
            if slots.try_reserve_exact(SLOTS).is_err() {
                return false;
            }
            slots.resize_with(SLOTS, Slot::default);
            let _ = self.slots.set(slots);
        }
        true
    }

    fn slot_of(&self, number: i32) -> Option<&Slot> {
        let index = usize::try_from(number).ok()?.checked_rem(self.slots().len())?;
        self.slots().get(index)
    }
}

/// A stop has not been asked for.
const RUNNING: u64 = 0;
/// A stop that waits for all.
const PATIENT: u64 = u64::MAX;
/// A stop whose time was over before the clock began.
const AT_ONCE: u64 = 1;
/// Signals do not stop this server.
const DEAF: i64 = -2;

/// The program has not closed the server.
const OPEN: i32 = 0;
/// It has, and waits for its end.
const CLOSED: i32 = 1;
/// It has, in a handler, and does not wait.
const CLOSED_BY_HANDLER: i32 = 2;

/// What stands for a server while its number is known.
pub struct Slot {
    /// The number in the upper half, 0 where the slot is free; in the lower half the calls that look at it just now.
    state: AtomicU64,
    /// When the drain time of a stop is over, on the monotonic clock, or one of the words above.
    stop: AtomicU64,
    /// The drain time of a stop by a signal in milliseconds, or -1, or [`DEAF`].
    signal_drain: AtomicI64,
    /// The eventfd that wakes the server's loop.
    wake: AtomicI32,
    server: Mutex<Option<Arc<Server>>>,
    /// Whether the program has closed the server, and from where.
    closed: AtomicI32,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            state: AtomicU64::new(0),
            stop: AtomicU64::new(RUNNING),
            signal_drain: AtomicI64::new(DEAF),
            wake: AtomicI32::new(-1),
            server: Mutex::new(None),
            closed: AtomicI32::new(OPEN),
        }
    }
}

/// A slot that cannot be freed meanwhile.
struct Pinned(&'static Slot);

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.state.fetch_sub(1, Ordering::Release);
    }
}

impl Slot {
    fn pin(&'static self, number: i32) -> Option<Pinned> {
        let mut state = self.state.load(Ordering::Acquire);
        while state >> 32 == u64::from(number.unsigned_abs()) {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(Pinned(self)),
                Err(now) => state = now,
            }
        }
        None
    }

    fn number(&self) -> i32 {
        i32::try_from(self.state.load(Ordering::Acquire) >> 32).unwrap_or(0)
    }

    /// Asks for a stop; where one was asked for before, its time is over now.
    pub fn ask_to_stop(&self, drain: Option<Duration>) {
        let end = drain.map_or(PATIENT, |drain| deadline::clock_after(drain).max(AT_ONCE));
        if self.stop.compare_exchange(RUNNING, end, Ordering::AcqRel, Ordering::Acquire).is_err() {
            self.stop.store(AT_ONCE, Ordering::Release);
        }
        self.wake();
    }

    fn wake(&self) {
        if let Ok(wake) = sys::borrow(self.wake.load(Ordering::Acquire), "wake") {
            sys::wake(wake);
        }
    }

    /// Until when a stop that was asked for lets connections finish.
    pub fn stop(&self) -> Option<Deadline> {
        match self.stop.load(Ordering::Acquire) {
            RUNNING => None,
            PATIENT => Some(Deadline::NEVER),
            end => Some(Deadline::after(deadline::clock_left(end))),
        }
    }

    /// Lets signals stop this server, or no longer.
    pub fn heed_signals(&self, drain: Option<Option<Duration>>) {
        let milliseconds = match drain {
            None => DEAF,
            Some(None) => -1,
            Some(Some(drain)) => i64::try_from(drain.as_millis()).unwrap_or(i64::MAX),
        };
        self.signal_drain.store(milliseconds, Ordering::Release);
    }

    /// Whether the program has closed the server.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) != OPEN
    }

    /// A handler of the server has closed it: whoever runs it gives the slot back.
    pub fn close_by_handler(&self) {
        self.closed.store(CLOSED_BY_HANDLER, Ordering::Release);
    }

    /// Whether that has happened.
    pub fn is_closed_by_handler(&self) -> bool {
        self.closed.load(Ordering::Acquire) == CLOSED_BY_HANDLER
    }

    /// Frees the slot and lets the server go.
    pub fn release(&self) {
        let number = self.state.load(Ordering::Acquire) >> 32 << 32;
        // Who has it pinned is within a few instructions of letting it go, and takes no lock on the way.
        while self.state.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            std::thread::yield_now();
        }
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(server);
    }
}

/// Gives a server a number. `make` gets the number and its slot.
pub fn register(make: impl FnOnce(ServerId, &'static Slot) -> Result<Arc<Server>>) -> Result<ServerId> {
    let short_of_memory = || Error::system("server", Errno::NOMEM);
    let registry = REGISTRY.get().ok_or_else(short_of_memory)?;
    let (number, slot) = claim(registry)?;
    match make(ServerId(number), slot) {
        Ok(server) => {
            slot.wake.store(server.wake_descriptor(), Ordering::Release);
            *slot.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
            Ok(ServerId(number))
        }
        Err(error) => {
            slot.release();
            Err(error)
        }
    }
}

fn claim(registry: &'static Registry) -> Result<(i32, &'static Slot)> {
    let _claiming = registry.claiming.lock().unwrap_or_else(PoisonError::into_inner);
    if !registry.make_slots() {
        return Err(Error::system("server", Errno::NOMEM));
    }
    for _ in 0..registry.slots().len() {
        let number = NEXT.load(Ordering::Relaxed);
        if number == i32::MAX {
            break;
        }
        NEXT.store(number + 1, Ordering::Relaxed);
        let Some(slot) = registry.slot_of(number) else { break };
        // A slot is free when its state is 0; a server that goes away gives it back after its last use.
        let free = slot.state.load(Ordering::Acquire) == 0
            && slot.server.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        if free {
            slot.stop.store(RUNNING, Ordering::Relaxed);
            slot.signal_drain.store(DEAF, Ordering::Relaxed);
            slot.wake.store(-1, Ordering::Relaxed);
            slot.closed.store(OPEN, Ordering::Relaxed);
            slot.state.store(u64::from(number.unsigned_abs()) << 32, Ordering::Release);
            return Ok((number, slot));
        }
    }
    Err(Error::new(Code::LimitReached, "server", format_args!("{SLOTS} servers are open"))
        .hint(format_args!("close those that are done, with oyez_server_close()")))
}

fn pinned(id: ServerId, function: &'static str) -> Result<Pinned> {
    let registry = REGISTRY.get().ok_or_else(|| Error::system(function, Errno::NOMEM))?;
    let gone = || {
        if (1..registry.first).contains(&id.0) {
            Error::new(Code::Forked, function, format_args!("server {} belongs to the parent process", id.0))
                .hint(format_args!("a child makes its own server, or uses none"))
        } else {
            Error::new(Code::Closed, function, format_args!("there is no server {}", id.0))
        }
    };
    let slot = registry.slot_of(id.0).ok_or_else(gone)?;
    let pinned = slot.pin(id.0).filter(|_| id.0 > 0).ok_or_else(gone)?;
    if pinned.0.is_closed() { Err(gone()) } else { Ok(pinned) }
}

/// The server of a number.
pub fn find(id: ServerId, function: &'static str) -> Result<Arc<Server>> {
    let pinned = pinned(id, function)?;
    let server = pinned.0.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
    server.ok_or_else(|| Error::new(Code::Closed, function, format_args!("there is no server {}", id.0)))
}

/// Asks a server to stop. Async-signal-safe where it lives.
pub fn stop(id: ServerId, drain: Option<Duration>) -> Result<()> {
    pinned(id, "oyez_server_stop")?.0.ask_to_stop(drain);
    Ok(())
}

/// Takes a server's number away from the program; the slot stays until [`Slot::release`].
pub fn begin_close(id: ServerId) -> Result<Arc<Server>> {
    let server = find(id, "oyez_server_close")?;
    let pinned = pinned(id, "oyez_server_close")?;
    if pinned.0.closed.swap(CLOSED, Ordering::AcqRel) != OPEN {
        return Err(Error::new(Code::Closed, "oyez_server_close", format_args!("server {} is closed", id.0)));
    }
    Ok(server)
}

/// What a stop signal does, in its handler: stops each server that heeds signals. See signal-safety(7).
pub fn on_signal() {
    let Some(registry) = REGISTRY.existing() else { return };
    for slot in registry.slots() {
        let number = slot.number();
        let Some(pinned) = (number > 0).then(|| slot.pin(number)).flatten() else { continue };
        let drain = pinned.0.signal_drain.load(Ordering::Acquire);
        if drain != DEAF {
            pinned.0.ask_to_stop(u64::try_from(drain).ok().map(Duration::from_millis));
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Slot({})", self.number())
    }
}
