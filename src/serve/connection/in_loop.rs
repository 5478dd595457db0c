//! What an event loop and the calls on its connections share: their slots.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::super::events::Place;
use super::super::table::{self, ConnectionId};
use super::slot::{PeerAddress, Slot};

/// The limits of a connection in milliseconds; 0 is none.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Times {
    pub idle: u32,
    pub read: u32,
    pub write: u32,
    pub lifetime: u32,
}

impl Slot {
    /// The number of the event loop that has the connection; `None` in other servers.
    pub fn lane(&self) -> Option<u32> {
        Some(self.lane.load(Ordering::Acquire)).filter(|&number| number != 0)
    }

    /// The connection belongs to that event loop, at that place.
    pub fn belong_to(&self, number: u32, place: Place) {
        self.place.store(place.token(), Ordering::Relaxed);
        self.lane.store(number, Ordering::Release);
    }

    /// Its place there.
    pub fn place(&self) -> Place {
        Place::of_token(self.place.load(Ordering::Relaxed))
    }

    /// Its limits.
    pub fn times(&self) -> Times {
        Times {
            idle: self.idle_ms.load(Ordering::Relaxed),
            read: self.read_ms.load(Ordering::Relaxed),
            write: self.write_ms.load(Ordering::Relaxed),
            lifetime: self.lifetime_ms.load(Ordering::Relaxed),
        }
    }

    /// Whether its end has begun.
    pub fn is_ending(&self) -> bool {
        self.ends.load(Ordering::Acquire)
    }

    /// Begins its end; true where that had begun before.
    pub fn begin_to_end(&self) -> bool {
        self.ends.swap(true, Ordering::AcqRel)
    }

    /// How many bytes wait to be sent.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }

    /// More bytes wait.
    pub fn queue(&self, more: usize) {
        self.queued.fetch_add(more, Ordering::AcqRel);
    }

    /// More bytes wait, unless that would be more than `most`: then the error is how many do.
    pub fn queue_within(&self, more: usize, most: usize) -> std::result::Result<(), usize> {
        let add = |queued: usize| queued.checked_add(more).filter(|&all| all <= most);
        self.queued.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).map(drop)
    }

    /// The same, but where it is refused because of others that wait, the loop hears of it when those are sent.
    pub fn queue_or_refuse(&self, more: usize, most: usize) -> std::result::Result<(), usize> {
        match self.queue_within(more, most) {
            Err(1..) => {
                self.refuse();
                // They may have been sent just before that was noted.
                self.queue_within(more, most)
            }
            outcome => outcome,
        }
    }

    /// Fewer bytes wait: how many do still.
    pub fn unqueue(&self, less: usize) -> usize {
        self.queued.fetch_sub(less, Ordering::SeqCst).wrapping_sub(less)
    }

    /// Something was refused because of what waits: on_drain has to follow.
    pub fn refuse(&self) {
        self.refused.store(true, Ordering::SeqCst);
    }

    /// Whether one was, and has not been told that nothing waits any longer.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }

    /// It is being told, unless something waits again, of which it will be told.
    pub fn settle_refusal(&self) {
        if self.queued() == 0 {
            self.refused.store(false, Ordering::SeqCst);
        }
    }

    /// Bytes were read, on the thread of the connection's loop: nobody else counts.
    pub fn count_in(&self, bytes: usize) {
        self.bytes_in.store(self.bytes_in.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }

    /// Bytes were sent, on that thread.
    pub fn count_out(&self, bytes: usize) {
        self.bytes_out.store(self.bytes_out.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }

    /// Whether it is a Unix socket.
    pub fn is_local(&self) -> bool {
        matches!(*self.peer.lock().unwrap_or_else(PoisonError::into_inner), PeerAddress::Unix)
    }

    /// Its end has not begun after all.
    pub fn take_end_back(&self) {
        self.ends.store(false, Ordering::Release);
    }

    /// The end of the stream was read: closing then destroys nothing.
    pub fn note_end(&self) {
        self.at_end.store(1, Ordering::Relaxed);
    }

    /// Whether it was.
    pub fn is_at_end(&self) -> bool {
        self.at_end.load(Ordering::Relaxed) != 0
    }

    /// The end of the drain time ends it.
    pub fn note_cut(&self) {
        self.cut.store(1, Ordering::Relaxed);
    }
}

/// The slot of a connection, if that event loop has it.
pub fn in_lane(id: ConnectionId, number: u32) -> Option<&'static Slot> {
    table::slot_of(id).filter(|slot| slot.state.is_open(id) && slot.lane() == Some(number))
}
