//! An event loop: what happens on its connections, and what is due.
//!
//! It belongs to the thread that runs it. Its state is never borrowed while a function of the program runs, so that
//! those may do anything, also end the connection that they were called for: what is over is noted, and looked after
//! when the function has returned.

use std::cell::{Cell, RefCell, RefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::Shutdown;

use super::super::connection::{Ending, Owned, Slot, gone, in_lane};
use super::super::linger::{Peer, drop_input};
use super::super::token::Token;
use super::super::{ConnectionId, Server, counters};
use super::conn::{Conn, Pace, Place, Receive, Room, State, Why};
use super::connections::{Connections, unseen};
use super::inbox::Command;
use super::lane::Lane;
use crate::deadline::Deadline;
use crate::error::{Code, Error, Result};
use crate::sys::fork;
use crate::sys::ring::Ring;

/// How much is read at once.
pub const BUFFER: usize = 64 * 1024;

/// What the kernel is asked to tell: each change once.
pub const INPUT: EventFlags = EventFlags::IN.union(EventFlags::PRI).union(EventFlags::RDHUP).union(EventFlags::ET);

/// The same, and that there is room for output.
const EVENTS: EventFlags = INPUT.union(EventFlags::OUT);

/// An event loop, on its thread.
pub struct EventLoop {
    pub(super) server: Arc<Server>,
    pub(super) lane: Arc<Lane>,
    connections: RefCell<Connections>,
    /// What input is read into.
    pub(super) buffer: RefCell<Vec<u8>>,
    /// The connection that a function of the program runs for just now: there is never more than one.
    serving: Cell<Option<Guest>>,
    /// By which input and output go where that is not by system calls.
    pub(super) ring: Option<Ring>,
    /// The ring waits for the set of events.
    pub(super) polling: Cell<bool>,
    /// Of the process in which the loop runs: a child that the program forks has none of its connections.
    epoch: u64,
}

/// A connection for which a function of the program runs: found without a look into the table of all connections.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Its number.
    pub id: ConnectionId,
    /// Its slot, which its owner holds meanwhile.
    pub slot: &'static Slot,
    /// Its place in the loop.
    pub place: Place,
}

/// An event loop that no thread runs just now.
#[derive(Debug)]
pub struct Parked {
    connections: Connections,
    buffer: Vec<u8>,
}

impl Parked {
    /// One without connections; `None` without memory.
    pub fn new() -> Option<Self> {
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(BUFFER).ok()?;
        buffer.resize(BUFFER, 0);
        Some(Self { connections: Connections::new()?, buffer })
    }
}

impl EventLoop {
    /// The loop of a lane, for this thread to run.
    pub fn new(server: &Arc<Server>, lane: &Arc<Lane>, parked: Parked, ring: Option<Ring>) -> Self {
        let mut parked = parked;
        parked.connections.by_ring = ring.is_some();
        Self {
            server: Arc::clone(server),
            lane: Arc::clone(lane),
            connections: RefCell::new(parked.connections),
            buffer: RefCell::new(parked.buffer),
            serving: Cell::new(None),
            ring,
            polling: Cell::new(false),
            epoch: fork::epoch(),
        }
    }

    /// This thread runs it no longer.
    pub fn park(self) -> Parked {
        Parked { connections: self.connections.into_inner(), buffer: self.buffer.into_inner() }
    }

    /// Its server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Its lane.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    pub(super) fn connections(&self) -> RefMut<'_, Connections> {
        self.connections.borrow_mut()
    }

    /// Whether it has no connections.
    pub fn is_empty(&self) -> bool {
        self.connections().table.len() == 0
    }

    /// When it has something to do although nothing happens.
    pub fn next_look(&self) -> Deadline {
        self.connections().next_look()
    }

    /// A foreign loop decides when this one looks.
    pub fn is_driven(&self) {
        self.connections().is_driven();
    }

    /// A turn begins: time has passed.
    pub fn begin_turn(&self) {
        self.connections().begin_turn();
    }

    /// Takes a connection in.
    pub fn open(&self, owned: Owned) {
        let mut connections = self.connections();
        // Not the turn's tick: the server accepts between turns, and the last one may be long ago.
        let now = connections.refresh();
        let Some(socket) = owned.socket() else { return owned.end(Ending::Abort) };
        if !connections.make_room() {
            drop(connections);
            return self.turn_away(owned);
        }
        let conn = Conn::new(owned, socket, now);
        let events = conn.events();
        let place = connections.table.add(conn);
        if let Some(conn) = connections.table.get(place) {
            conn.owned.slot().belong_to(self.lane.number(), place);
        }
        let token = token(place);
        if let Some(conn) = connections.table.get(place).filter(|_| self.ring.is_some()) {
            // Whatever has come is received once on_open has returned.
            conn.readable = false;
            connections.go_on_later(place);
        } else if epoll::add(self.lane.epoll(&self.server), socket, token, events).is_err() {
            let conn = connections.table.take(place);
            connections.table.free(place);
            drop(connections);
            return conn.into_iter().for_each(|conn| self.turn_away(conn.owned));
        }
        connections.arm(place);
        drop(connections);
        if let Some(on_open) = self.server.events().and_then(|events| events.on_open.as_ref()) {
            self.call(place, on_open);
        }
    }

    fn turn_away(&self, owned: Owned) {
        self.lane.inbox.count(false);
        owned.end(Ending::Abort);
    }

    /// Runs a function of the program for a connection. `None` where that panicked, or the connection is gone.
    pub(super) fn call<T>(&self, place: Place, function: impl FnOnce(ConnectionId) -> T) -> Option<T> {
        let guest = self.connections().table.get(place)?.guest(place);
        self.call_guest(guest, function)
    }

    pub(super) fn call_guest<T>(&self, guest: Guest, function: impl FnOnce(ConnectionId) -> T) -> Option<T> {
        self.serving.set(Some(guest));
        let outcome = catch_unwind(AssertUnwindSafe(|| function(guest.id)));
        self.serving.set(None);
        match outcome {
            Ok(value) => Some(value),
            Err(payload) => self.panicked(guest.place, payload),
        }
    }

    #[cold]
    fn panicked<T>(&self, place: Place, payload: Box<dyn std::any::Any + Send>) -> Option<T> {
        // Dropping a payload may panic again.
        std::mem::forget(payload);
        self.server.handler_failed(format_args!("a panic"));
        let why = Error::new(Code::Internal, "handler", format_args!("the program's function panicked"));
        self.connections().finish(place, Some(why), Ending::Abort);
        None
    }

    /// The kernel tells of a change.
    pub fn on_event(&self, place: Place, flags: EventFlags) {
        let mut connections = self.connections();
        let Some(conn) = connections.table.get(place) else {
            return connections.drop_lingering_input(&self.server, place);
        };
        let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        // A read ends at urgent data, so that a short one does not mean that there is no more.
        conn.hung_up |= flags.intersects(gone | EventFlags::PRI);
        conn.readable |= flags.intersects(EventFlags::IN | gone);
        if conn.room == Room::Full && flags.contains(EventFlags::OUT) {
            drop(connections);
            self.flush(place);
            return self.read(place);
        }
        let reading = conn.begin_read(&self.server, place);
        drop(connections);
        self.go_on_reading(place, reading);
    }

    /// Looks after the output of a connection that goes on, and reads what there is, as far as one turn goes.
    fn read(&self, place: Place) {
        if let Some(ring) = &self.ring {
            return self.settle(ring, place);
        }
        let looked = |conn: &mut Conn| (conn.room == Room::Again, conn.is_owed_drain());
        let (again, owed) = self.connections().table.get(place).map(looked).unwrap_or_default();
        if again {
            self.flush(place);
        } else if owed {
            self.drained(place);
        }
        self.watch(place);
        let reading = self.connections().begin_read(&self.server, place);
        self.go_on_reading(place, reading);
    }

    /// Has the kernel tell of room for output, or no longer, where it has not been asked for what a connection needs.
    fn watch(&self, place: Place) {
        let mut connections = self.connections();
        let Some(conn) = connections.table.get(place).filter(|conn| conn.state != State::Over) else { return };
        let events = conn.events();
        let full = conn.room == Room::Full;
        if conn.is_local && std::mem::replace(&mut conn.watched, full) != full {
            let _ = epoll::modify(self.lane.epoll(&self.server), conn.socket, token(place), events);
        }
    }

    /// The connection of that number, if a function of the program runs for it just now.
    pub fn serving(&self, id: ConnectionId) -> Option<Guest> {
        self.serving.get().filter(|guest| guest.id == id && self.epoch == fork::epoch())
    }

    /// Whether a function of the program runs.
    pub fn is_serving(&self) -> bool {
        self.serving.get().is_some() && self.epoch == fork::epoch()
    }

    /// Ends a connection.
    pub fn end(&self, place: Place, ending: Ending) {
        let mut connections = self.connections();
        let Some(conn) = connections.table.get(place) else { return };
        match conn.state {
            // Also what other threads have written before.
            State::Open if ending == Ending::Close && conn.owned.slot().queued() > 0 => {
                conn.state = State::Closing;
                connections.go_on_later(place);
            }
            State::Open | State::Closing => connections.finish(place, None, ending),
            State::Over => {}
        }
    }

    /// Reads nothing for a while, or goes on.
    pub fn pause(&self, place: Place, paused: bool) {
        let mut connections = self.connections();
        let now = connections.time();
        let Some(conn) = connections.table.get(place) else { return };
        let resumed = conn.pace == Pace::Paused && !paused;
        conn.pace = match (paused, resumed) {
            (true, _) => Pace::Paused,
            (false, true) => Pace::Resumed,
            (false, false) => conn.pace,
        };
        if paused && self.ring.is_some() {
            // What is being received has to end.
            connections.go_on_later(place);
        } else if resumed {
            conn.incomplete = now;
            connections.arm(place);
            connections.go_on_later(place);
        }
    }

    /// A connection's idle time has changed, and begins anew.
    pub fn rearm(&self, place: Place) {
        let mut connections = self.connections();
        let now = connections.time();
        if let Some(conn) = connections.table.get(place) {
            conn.active = now;
            connections.arm(place);
        }
    }

    /// Looks after what others want, what goes on, what is due and what is over.
    pub fn finish_turn(&self) {
        for command in self.lane.inbox.take() {
            self.obey(command);
        }
        let stops = self.server.slot().stop().is_some();
        if !stops && self.connections().is_done() {
            return;
        }
        self.tell_ring();
        while let Some((place, error)) = { self.connections().next_due(&self.server) } {
            counters::add(&self.server.counters().timeouts, 1);
            self.connections().finish(place, Some(error), Ending::Close);
        }
        let going_on = self.connections().go_on.len();
        for _ in 0..going_on {
            let place = self.connections().next_to_go_on();
            if let Some((place, has_input)) = place {
                if has_input {
                    self.deliver_kept(place);
                }
                self.read(place);
            }
        }
        if stops {
            self.stop();
        }
        if !self.connections().over.is_empty() {
            self.tell_ring();
        }
        while let Some((place, why, ending)) = { self.connections().over.pop_front() } {
            self.close(place, &why, ending);
        }
    }

    fn obey(&self, command: Command) {
        match command {
            Command::Open(owned) => self.open(owned),
            Command::Write(id, bytes) => {
                if let Some(slot) = in_lane(id, self.lane.number()) {
                    self.write_queued(slot.place(), slot, &bytes);
                }
            }
            Command::End(id, ending) => self.with(id, |place| self.end(place, ending)),
            Command::Pause(id, paused) => self.with(id, |place| self.pause(place, paused)),
            Command::Rearm(id) => self.with(id, |place| self.rearm(place)),
            Command::Evict => drop(self.evict()),
        }
    }

    /// Closes lingering connections whose reply has arrived. True where there was one.
    pub fn evict(&self) -> bool {
        self.tell_ring();
        self.connections().evict(&self.server)
    }

    fn with(&self, id: ConnectionId, action: impl FnOnce(Place)) {
        if let Some(slot) = in_lane(id, self.lane.number()) {
            action(slot.place());
        }
    }

    /// The server stops: what is idle is closed, and when the time is over the rest is reset.
    fn stop(&self) {
        let over = self.server.slot().stop().is_some_and(Deadline::is_over);
        if self.connections().stopping && !over {
            return;
        }
        // What has arrived is served before a connection counts as idle.
        self.look_at_ring();
        self.tell_ring();
        self.connections().stopping = true;
        let places = self.connections().table.places();
        for index in 0..places {
            let Some(place) = self.connections().table.place(index) else { continue };
            let lingering = self.connections().take_lingering(place);
            if let Some(socket) = lingering {
                self.forget(place, true);
                self.hand_over(socket);
                continue;
            }
            if let Some(conn) = self.connections().table.get(place).filter(|_| self.ring.is_none()) {
                conn.readable = true;
            }
            self.read(place);
        }
        if over {
            self.connections().cut(&self.server);
        }
    }

    /// Gives a connection's descriptor away.
    pub fn detach(&self, place: Place) -> Result<()> {
        let mut connections = self.connections();
        let Some(conn) = connections.table.get(place).filter(|conn| conn.state == State::Open) else {
            return Err(gone("oyez_conn_detach"));
        };
        let slot = conn.owned.slot();
        let socket = conn.socket;
        if conn.unseen {
            return Err(unseen());
        }
        if slot.queued() > 0 {
            connections.send_gathered(place);
        }
        if slot.queued() > 0 {
            slot.refuse();
            let cause = format_args!("output is queued: wait for on_drain");
            return Err(Error::invalid("oyez_conn_detach", cause).with_errno(Errno::BUSY));
        }
        match &self.ring {
            Some(ring) => connections.stop_receiving(ring, place)?,
            None => drop(epoll::delete(self.lane.epoll(&self.server), socket)),
        }
        connections.finish(place, None, Ending::Detach);
        Ok(())
    }

    fn close(&self, place: Place, why: &Why, ending: Ending) {
        if let Some(on_close) = self.server.events().and_then(|events| events.on_close.as_ref()) {
            self.call(place, |id| on_close(id, why.as_ref()));
        }
        let mut connections = self.connections();
        let Connections { table, wheel, .. } = &mut *connections;
        wheel.take(table, place.index);
        let Some(conn) = table.take(place) else { return };
        let stopping = connections.stopping;
        drop(connections);
        self.lane.inbox.count(false);
        let (socket, has_input, receiving) = (conn.socket, conn.readable, conn.receive != Receive::None);
        let lingers = ending == Ending::Close && !conn.is_local && !conn.owned.slot().is_at_end();
        let left = match lingers {
            true => conn.owned.end_to_linger(),
            false => Err(conn.owned),
        };
        let left = left.unwrap_or_else(|owned| {
            if lingers {
                // Another thread's call finishes it, and has it linger in the server's set.
                let _ = epoll::delete(self.lane.epoll(&self.server), socket);
            }
            owned.end(ending);
            None
        });
        match left {
            Some(socket) if !stopping => self.linger(place, socket, has_input, receiving),
            left => {
                self.forget(place, receiving);
                self.connections().table.free(place);
                if let Some(socket) = left {
                    self.hand_over(socket);
                }
            }
        }
    }

    /// Ends this side of a connection, and waits for the other.
    fn linger(&self, place: Place, socket: OwnedFd, has_input: bool, receiving: bool) {
        let ended = rustix::net::shutdown(&socket, Shutdown::Write).is_err();
        if ended || (has_input && drop_input(socket.as_fd()) == Peer::Done) {
            self.forget(place, receiving);
            self.connections().table.free(place);
            drop(socket);
            return self.server.lingers_in_lane(false);
        }
        self.connections().linger(place, socket, receiving);
        self.watch_lingering(place);
    }

    /// While the server stops it looks after lingering connections itself.
    fn hand_over(&self, socket: OwnedFd) {
        let _ = epoll::delete(self.lane.epoll(&self.server), &socket);
        self.server.linger(socket);
        self.server.lingers_in_lane(false);
    }
}

/// What the kernel keeps with a connection in the epoll set.
pub fn token(place: Place) -> EventData {
    Token::Connection { index: place.index, turn: place.turn }.into()
}

impl Conn {
    /// What the kernel is to tell of it. Of a Unix socket it tells that there is room with everything the peer takes, so
    /// that is asked for only where there was none.
    fn events(&self) -> EventFlags {
        if self.is_local && self.room != Room::Full { INPUT } else { EVENTS }
    }
}
