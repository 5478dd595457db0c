//! A connection of an event loop, and the table of them.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::super::connection::Owned;
use super::event_loop::Guest;
use super::output::Output;
use super::wheel::{Link, Links, NEVER};
use crate::error::Error;

/// What a loop keeps of a connection. Buffers belong to the loop: an idle connection has none.
#[derive(Debug)]
pub struct Conn {
    /// The hold on the connection's number and descriptor.
    pub owned: Owned,
    /// Its descriptor, which is open as long as `owned` is here.
    pub socket: BorrowedFd<'static>,
    /// Input that on_data has left.
    pub input: Vec<u8>,
    /// Output that the kernel has not taken yet.
    pub output: Output,
    /// Where it is on the wheel.
    pub link: Link,
    /// How many bytes are in a send that is under way in the ring.
    pub flying: u32,
    /// The tick at which it was opened.
    pub opened: u32,
    /// The tick of its last input or output.
    pub active: u32,
    /// The tick since which input has been incomplete.
    pub incomplete: u32,
    /// The tick since which output has waited.
    pub waits: u32,
    /// What it is doing.
    pub state: State,
    /// There may be something to read.
    pub readable: bool,
    /// Whether the kernel takes output.
    pub room: Room,
    /// Whether the ring receives.
    pub receive: Receive,
    /// The peer has ended its side, is gone, or uses urgent data: a short read is not the last one.
    pub hung_up: bool,
    /// It is a Unix socket.
    pub is_local: bool,
    /// The kernel has been asked to tell of room for output, of a Unix socket.
    pub watched: bool,
    /// The peer has ended the stream: what is queued is sent, and what on_drain adds, and that is all.
    pub ended: bool,
    /// Whether the program reads.
    pub pace: Pace,
    /// It is on the list of those that go on in the next turn.
    pub goes_on: bool,
    /// on_data has seen something of it.
    pub served: bool,
    /// There is input that on_data has not seen, here and no longer in the kernel.
    pub unseen: bool,
}

/// Whether the kernel takes output of a connection: what it said of the last that it was given. What is written while
/// output waits is kept behind that, and changes nothing here. On epoll output waits unless it is free, and only then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It does.
    Free,
    /// Its queue is full; it will tell when it is no longer.
    Full,
    /// It had no memory, and will not tell when it has: that is tried again with the next tick.
    Short,
    /// It had no memory, and this turn, or the ring, tries again.
    Again,
}

/// Whether the program reads from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It does.
    Reading,
    /// Not for a while.
    Paused,
    /// It goes on: what was left is given again, once.
    Resumed,
}

/// Whether the ring receives from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// It does not.
    None,
    /// It is about to: what has come already is not known yet.
    Begun,
    /// It does.
    UnderWay,
    /// It does, and has been told to end that.
    Ending,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Input is read and output taken.
    Open,
    /// Nothing is taken any more, and input is dropped; what is queued is sent.
    Closing,
    /// It is over, and on_close is yet to be called.
    Over,
}

impl Conn {
    /// One that was accepted just now.
    pub fn new(owned: Owned, socket: BorrowedFd<'static>, now: u32) -> Self {
        Self {
            is_local: owned.slot().is_local(),
            owned,
            socket,
            input: Vec::new(),
            output: Output::default(),
            flying: 0,
            link: Link::default(),
            opened: now,
            active: now,
            incomplete: now,
            waits: NEVER,
            state: State::Open,
            // Its first bytes may be there already.
            readable: true,
            watched: false,
            room: Room::Free,
            receive: Receive::None,
            hung_up: false,
            ended: false,
            pace: Pace::Reading,
            goes_on: false,
            served: false,
            unseen: false,
        }
    }

    /// For a call of the program's functions.
    pub fn guest(&self, place: Place) -> Guest {
        Guest { id: self.owned.id(), slot: self.owned.slot(), place }
    }

    /// Whether a stop may close it at once: it has been served, and nothing is under way.
    pub fn is_idle(&self) -> bool {
        let quiet = self.input.is_empty() && self.owned.slot().queued() == 0 && !self.readable;
        self.state == State::Open && self.served && quiet && self.pace != Pace::Paused
    }
}

/// A connection that is over for the program, until its last bytes have arrived.
#[derive(Debug)]
pub struct Lingering {
    /// Its descriptor.
    pub socket: OwnedFd,
    /// Where it is on the wheel.
    pub link: Link,
    /// A receive is under way in the ring.
    pub receiving: bool,
}

/// The connections of a loop, by their places.
#[derive(Debug, Default)]
pub struct Table {
    /// In chunks, so that none is ever moved: copying a million of them would hold up everybody.
    chunks: Vec<Vec<Entry>>,
    free: Vec<u32>,
    count: usize,
}

#[derive(Debug, Default)]
struct Entry {
    /// Counts the connections of this place: an event for one that is gone finds another number.
    turn: u32,
    occupant: Occupant,
}

#[derive(Debug, Default)]
enum Occupant {
    #[default]
    Nobody,
    Conn(Conn),
    Lingering(Lingering),
}

/// A place and which of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The place.
    pub index: u32,
    /// Which of its connections, 24 bits.
    pub turn: u32,
}

const TURNS: u32 = (1 << 24) - 1;

/// How many places there are in a chunk, and at most.
const CHUNK: usize = 256;
const LAST: u32 = u32::MAX - 1;

impl Place {
    /// As one word of 56 bits.
    pub fn token(self) -> u64 {
        u64::from(self.turn) << 32 | u64::from(self.index)
    }

    /// The place of such a word.
    pub fn of_token(token: u64) -> Self {
        Self { index: token as u32, turn: (token >> 32) as u32 }
    }
}

impl Table {
    /// Makes room for one more. False without memory.
    pub fn make_room(&mut self) -> bool {
        if !self.free.is_empty() {
            return true;
        }
        // Giving a place back must not need memory.
        let places = self.places();
        if places >= LAST || self.free.try_reserve(places as usize + 1).is_err() {
            return false;
        }
        if self.chunks.last().is_some_and(|chunk| chunk.len() < CHUNK) {
            return true;
        }
        let mut chunk = Vec::new();
        let room = self.chunks.try_reserve(1).and_then(|()| chunk.try_reserve_exact(CHUNK));
        if room.is_ok() {
            self.chunks.push(chunk);
        }
        room.is_ok()
    }

    /// Takes a connection in, for which room was made.
    pub fn add(&mut self, conn: Conn) -> Place {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = self.places();
            if let Some(chunk) = self.chunks.last_mut() {
                chunk.push(Entry::default());
            }
            index
        });
        let mut turn = 0;
        if let Some(entry) = self.at(index) {
            turn = (entry.turn + 1) & TURNS;
            *entry = Entry { turn, occupant: Occupant::Conn(conn) };
        }
        self.count += 1;
        Place { index, turn }
    }

    fn at(&mut self, index: u32) -> Option<&mut Entry> {
        self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)
    }

    fn entry(&mut self, place: Place) -> Option<&mut Entry> {
        self.at(place.index).filter(|entry| entry.turn == place.turn)
    }

    /// The connection there, if it is still that one.
    pub fn get(&mut self, place: Place) -> Option<&mut Conn> {
        match &mut self.entry(place)?.occupant {
            Occupant::Conn(conn) => Some(conn),
            Occupant::Nobody | Occupant::Lingering(_) => None,
        }
    }

    /// The connection that lingers there.
    pub fn lingering(&mut self, place: Place) -> Option<&mut Lingering> {
        match &mut self.entry(place)?.occupant {
            Occupant::Lingering(lingering) => Some(lingering),
            Occupant::Nobody | Occupant::Conn(_) => None,
        }
    }

    /// The present connection of an index, also one that lingers.
    pub fn place(&self, index: u32) -> Option<Place> {
        let entry = self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)?;
        match entry.occupant {
            Occupant::Nobody => None,
            Occupant::Conn(_) | Occupant::Lingering(_) => Some(Place { index, turn: entry.turn }),
        }
    }

    /// Takes a connection out of its place, which is then to be given to [`Table::leave`] or [`Table::free`].
    pub fn take(&mut self, place: Place) -> Option<Conn> {
        let occupant = &mut self.entry(place)?.occupant;
        match std::mem::take(occupant) {
            Occupant::Conn(conn) => Some(conn),
            other => {
                *occupant = other;
                None
            }
        }
    }

    /// The connection lingers in its place.
    pub fn leave(&mut self, place: Place, socket: OwnedFd, receiving: bool) {
        if let Some(entry) = self.entry(place) {
            entry.occupant = Occupant::Lingering(Lingering { socket, link: Link::default(), receiving });
        }
    }

    /// Nobody has the place any longer. Returns who lingered there.
    pub fn free(&mut self, place: Place) -> Option<Lingering> {
        let occupant = std::mem::take(&mut self.entry(place)?.occupant);
        self.free.push(place.index);
        self.count -= 1;
        match occupant {
            Occupant::Lingering(lingering) => Some(lingering),
            Occupant::Nobody | Occupant::Conn(_) => None,
        }
    }

    /// How many there are, with those that linger.
    pub fn len(&self) -> usize {
        self.count
    }

    /// How many places there are, with and without a connection.
    pub fn places(&self) -> u32 {
        let before = self.chunks.len().saturating_sub(1) * CHUNK;
        (before + self.chunks.last().map_or(0, Vec::len)) as u32
    }
}

impl Links for Table {
    fn link(&mut self, index: u32) -> Option<&mut Link> {
        match &mut self.at(index)?.occupant {
            Occupant::Nobody => None,
            Occupant::Conn(conn) => Some(&mut conn.link),
            Occupant::Lingering(lingering) => Some(&mut lingering.link),
        }
    }
}

/// Why a connection ends; `None` is by the program's own will.
pub type Why = Option<Error>;
