//! The connection that this thread, or this process, serves just now: its handler finds it without a lock.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::super::table::ConnectionId;
use super::super::{Server, events};
use super::call::Hold;
use super::slot::Slot;
use crate::sys::fork;

/// The connection whose handler runs on this thread.
#[derive(Clone, Copy)]
struct Current {
    id: u64,
    epoch: u64,
    slot: Option<&'static Slot>,
    /// Set when the handler itself has ended the connection, and with it its owner's hold.
    gone: bool,
}

thread_local! {
    // No destructor and no allocation, so it can be read at any time.
    static CURRENT: Cell<Current> = const { Cell::new(Current { id: 0, epoch: 0, slot: None, gone: false }) };
}

/// The connection that a child process was made for: its parent's number stays good there.
static CHILDS_OWN: AtomicU64 = AtomicU64::new(0);
/// The slot and process behind it.
static CHILDS_SLOT: OnceLock<&'static Slot> = OnceLock::new();
static CHILDS_EPOCH: AtomicU64 = AtomicU64::new(0);

/// Whether this thread runs a handler of that server.
pub fn is_in_handler_of(server: &Server) -> bool {
    let current = CURRENT.get();
    let slot = current.slot.filter(|_| current.epoch == fork::epoch());
    events::is_serving_for(server)
        || slot.is_some_and(|slot| slot.server().is_some_and(|own| std::ptr::eq(Arc::as_ptr(&own), server)))
}

/// Runs `handler` with the connection found on this thread. False if the handler has ended it.
pub(super) fn serve(slot: &'static Slot, id: ConnectionId, handler: impl FnOnce(ConnectionId)) -> bool {
    let current = Current { id: id.number(), epoch: fork::epoch(), slot: Some(slot), gone: false };
    let outer = CURRENT.replace(current);
    handler(id);
    !CURRENT.replace(outer).gone
}

/// From now on this process is the one that was made for that connection.
pub(super) fn note_childs(slot: &'static Slot, id: ConnectionId) {
    let _ = CHILDS_SLOT.set(slot);
    CHILDS_EPOCH.store(fork::epoch(), Ordering::Relaxed);
    CHILDS_OWN.store(id.number(), Ordering::Relaxed);
}

/// How this thread or process holds the connection of that number, and its slot, if that is still open. `None` where it
/// does not serve it.
pub(super) fn find(id: ConnectionId) -> Option<(Hold, Option<&'static Slot>)> {
    let current = CURRENT.get();
    let childs_own = CHILDS_OWN.load(Ordering::Relaxed) == id.number() && id.number() != 0;
    let is_open = |slot: &&'static Slot| slot.state.is_open(id);
    if current.id == id.number() && current.epoch == fork::epoch() {
        let hold = if childs_own { Hold::Child } else { Hold::Handler };
        return Some((hold, current.slot.filter(|_| !current.gone).filter(is_open)));
    }
    (childs_own && CHILDS_EPOCH.load(Ordering::Relaxed) == fork::epoch())
        .then(|| (Hold::Child, CHILDS_SLOT.get().copied().filter(is_open)))
}

/// The handler of this thread has ended its connection.
pub(super) fn note_gone() {
    CURRENT.set(Current { gone: true, ..CURRENT.get() });
}
