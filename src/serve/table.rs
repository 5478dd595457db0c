//! Connection numbers and the slots behind them.
//!
//! A number names a slot and the slot's generation, so that a stale one finds nothing. A slot is pinned by one atomic
//! step while a call uses its descriptor; the last one to leave a closing slot finishes it. Slots live for ever.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::connection::Slot;
use crate::sys::fork::{self, PerProcess};

/// A connection's number: never 0, never used twice in a process.
///
/// From the top: 8 bits of the process's epoch, so that a forked child knows its parent's numbers; 34 bits of the
/// slot's generation; 22 bits of the slot's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(u64);

const INDEX_BITS: u32 = 22;
const GENERATION_BITS: u32 = 34;
/// A slot that has had so many connections is not used again.
const LAST_GENERATION: u64 = (1 << GENERATION_BITS) - 1;

impl ConnectionId {
    /// The handle that a program holds.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number for a program.
    pub fn number(self) -> u64 {
        self.0
    }

    fn new(generation: u64, index: u32) -> Self {
        Self(process_tag() << (INDEX_BITS + GENERATION_BITS) | generation << INDEX_BITS | u64::from(index))
    }

    fn index(self) -> u32 {
        (self.0 & ((1 << INDEX_BITS) - 1)) as u32
    }

    /// The slot's generation.
    pub fn generation(self) -> u64 {
        self.0 >> INDEX_BITS & LAST_GENERATION
    }

    /// Whether an ancestor of this process made the number.
    pub fn is_of_ancestor(self) -> bool {
        self.0 != 0 && self.0 >> (INDEX_BITS + GENERATION_BITS) < process_tag()
    }
}

/// 0 in a process that no user of oyez forked, so that its first numbers are small.
fn process_tag() -> u64 {
    fork::epoch().saturating_sub(1).min(0xff)
}

/// The slots lie in chunks, and the chunks in groups: none is ever moved, and few are made before they are needed.
const CHUNK_BITS: u32 = 8;
const CHUNK: u32 = 1 << CHUNK_BITS;
const GROUP_BITS: u32 = 7;
const GROUP: u32 = 1 << GROUP_BITS;
const GROUPS: usize = 1 << (INDEX_BITS - CHUNK_BITS - GROUP_BITS);

static TABLE: PerProcess<Table> = PerProcess::new();

type Chunk = OnceLock<Vec<Slot>>;

struct Table {
    groups: [OnceLock<Vec<Chunk>>; GROUPS],
    free: Mutex<FreeList>,
}

impl Default for Table {
    fn default() -> Self {
        Self { groups: [const { OnceLock::new() }; GROUPS], free: Mutex::default() }
    }
}

/// So many values, or nothing where memory is short.
fn filled<T: Default>(length: u32) -> Option<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(length as usize).ok()?;
    values.resize_with(length as usize, T::default);
    Some(values)
}

/// Free slots, the longest unused first: a stale number then meets an empty slot for long.
#[derive(Default)]
struct FreeList {
    /// Indices plus one; 0 is none.
    first: u32,
    last: u32,
    /// How many chunks have been made.
    chunks: u32,
}

impl Table {
    fn slot(&self, index: u32) -> Option<&Slot> {
        self.chunk(index >> CHUNK_BITS)?.get()?.get((index % CHUNK) as usize)
    }

    fn chunk(&self, number: u32) -> Option<&Chunk> {
        self.groups.get((number >> GROUP_BITS) as usize)?.get()?.get((number % GROUP) as usize)
    }

    fn free(&self) -> std::sync::MutexGuard<'_, FreeList> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a chunk of free slots; nothing where memory is short or the table is full.
    fn grow(&self, free: &mut FreeList) {
        let number = free.chunks;
        let Some(group) = self.groups.get((number >> GROUP_BITS) as usize) else { return };
        if group.get().is_none() {
            let Some(chunks) = filled(GROUP) else { return };
            let _ = group.set(chunks);
        }
        let Some((chunk, slots)) = self.chunk(number).zip(filled(CHUNK)) else { return };
        if chunk.set(slots).is_ok() {
            free.chunks += 1;
            for index in (number << CHUNK_BITS)..(number + 1) << CHUNK_BITS {
                self.append(free, index);
            }
        }
    }

    fn append(&self, free: &mut FreeList, index: u32) {
        let Some(slot) = self.slot(index) else { return };
        slot.next_free.store(0, Ordering::Relaxed);
        match free.last.checked_sub(1).and_then(|last| self.slot(last)) {
            Some(last) => last.next_free.store(index + 1, Ordering::Relaxed),
            None => free.first = index + 1,
        }
        free.last = index + 1;
    }

    fn take(&self) -> Option<(u32, &Slot)> {
        let mut free = self.free();
        if free.first == 0 {
            self.grow(&mut free);
        }
        let index = free.first.checked_sub(1)?;
        let slot = self.slot(index)?;
        free.first = slot.next_free.load(Ordering::Relaxed);
        if free.first == 0 {
            free.last = 0;
        }
        Some((index, slot))
    }
}

/// Whether there is a free slot, for which memory is taken where need be.
pub fn has_room() -> bool {
    TABLE.get().is_some_and(|table| {
        let mut free = table.free();
        if free.first == 0 {
            table.grow(&mut free);
        }
        free.first != 0
    })
}

/// A slot that nobody uses, and the number that its next connection will have.
pub fn take() -> Option<(ConnectionId, &'static Slot)> {
    let (index, slot) = TABLE.get()?.take()?;
    let generation = (slot.state.generation() + 1).min(LAST_GENERATION);
    slot.index.store(index, Ordering::Relaxed);
    Some((ConnectionId::new(generation, index), slot))
}

/// The number of a slot's connection of that generation.
pub fn id(generation: u64, index: u32) -> ConnectionId {
    ConnectionId::new(generation, index)
}

/// Gives a slot back.
pub fn give_back(slot: &Slot) {
    if slot.state.generation() >= LAST_GENERATION {
        return;
    }
    if let Some(table) = TABLE.existing() {
        table.append(&mut table.free(), slot.index.load(Ordering::Relaxed));
    }
}

/// The slot that a number names, whoever uses it now.
pub fn slot_of(id: ConnectionId) -> Option<&'static Slot> {
    if id.0 >> (INDEX_BITS + GENERATION_BITS) != process_tag() {
        return None;
    }
    TABLE.existing()?.slot(id.index())
}

/// Every slot that was ever used.
pub fn all() -> impl Iterator<Item = &'static Slot> {
    let groups = TABLE.existing().into_iter().flat_map(|table| table.groups.iter()).filter_map(OnceLock::get);
    groups.flatten().filter_map(OnceLock::get).flatten()
}

/// A slot's generation, whether its connection is closing, and how many calls use it.
#[derive(Debug, Default)]
pub struct State(AtomicU64);

const CLOSING: u64 = 1 << 29;
const PINS: u64 = CLOSING - 1;
const GENERATION_SHIFT: u32 = 30;

/// What a slot was, before a step was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// How many had it pinned.
    pub pins: u64,
    /// Whether its connection was closing.
    pub closing: bool,
}

impl Before {
    fn of(state: u64) -> Self {
        Self { pins: state & PINS, closing: state & CLOSING != 0 }
    }
}

impl State {
    /// The generation of the present or the last connection.
    pub fn generation(&self) -> u64 {
        self.0.load(Ordering::Acquire) >> GENERATION_SHIFT
    }

    /// Whether the slot has that connection, and nobody has begun to close it.
    pub fn is_open(&self, id: ConnectionId) -> bool {
        let state = self.0.load(Ordering::Acquire);
        state >> GENERATION_SHIFT == id.generation() && state & CLOSING == 0
    }

    /// Whether somebody has begun to close it.
    pub fn is_closing(&self) -> bool {
        self.0.load(Ordering::Acquire) & CLOSING != 0
    }

    /// Opens the slot for a connection, pinned once for its owner.
    pub fn open(&self, id: ConnectionId) {
        self.0.store(id.generation() << GENERATION_SHIFT | 1, Ordering::Release);
    }

    /// Pins the slot if it is open for that connection.
    pub fn pin(&self, id: ConnectionId) -> bool {
        let mut state = self.0.load(Ordering::Acquire);
        loop {
            let open = state >> GENERATION_SHIFT == id.generation() && state & CLOSING == 0 && state & PINS != 0;
            if !open || state & PINS == PINS {
                return false;
            }
            match self.0.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    /// Lets go of a pin; true for the last one to leave a closing slot, who has to finish it.
    pub fn unpin(&self) -> bool {
        let before = Before::of(self.0.fetch_sub(1, Ordering::AcqRel));
        before.closing && before.pins == 1
    }

    /// Begins to close: no call comes in any more.
    pub fn close(&self) -> Before {
        Before::of(self.0.fetch_or(CLOSING, Ordering::AcqRel))
    }

    /// Begins to close if no more than `pins` calls use the slot.
    pub fn close_if_unused(&self, pins: u64) -> Option<Before> {
        let state = self.0.load(Ordering::Acquire);
        if state & PINS > pins || state & CLOSING != 0 {
            return None;
        }
        self.0.compare_exchange(state, state | CLOSING, Ordering::AcqRel, Ordering::Acquire).ok().map(Before::of)
    }
}

/// An index within the table, kept with the slot.
pub type Index = AtomicU32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_its_place() {
        let table = Table::default();
        for _ in 0..GROUP + 1 {
            table.grow(&mut table.free());
        }
        let count = ((GROUP + 1) * CHUNK) as usize;
        let places: std::collections::HashSet<_> =
            (0..count as u32).map(|index| std::ptr::from_ref(table.slot(index).unwrap())).collect();
        assert_eq!(places.len(), count);
        assert!(table.slot(count as u32).is_none());
        assert!(table.slot(u32::MAX).is_none());
    }

    #[test]
    fn the_longest_unused_slot_is_taken_first() {
        let table = Table::default();
        let first: Vec<u32> = (0..CHUNK).map(|_| table.take().unwrap().0).collect();
        assert_eq!(first, (0..CHUNK).collect::<Vec<_>>());
        for index in [7, 3, 5] {
            table.append(&mut table.free(), index);
        }
        assert_eq!([7, 3, 5].map(|_| table.take().unwrap().0), [7, 3, 5]);
        assert_eq!(table.take().unwrap().0, CHUNK);
    }

    #[test]
    fn a_stale_number_pins_nothing() {
        let state = State::default();
        let id = ConnectionId::new(1, 0);
        state.open(id);
        assert!(state.pin(id));
        assert!(!state.pin(ConnectionId::new(2, 0)));
        assert_eq!(state.close(), Before { pins: 2, closing: false });
        assert!(!state.pin(id));
        assert!(!state.unpin());
        assert!(state.unpin());
        assert!(!state.is_open(id));
    }
}
