//! The connections of an event loop, and what is noted of each between two steps. Nothing here calls the program.

use std::cell::Cell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::Shutdown;

use super::super::Server;
use super::super::connection::Ending;
use super::super::counters;
use super::super::linger::{PATIENCE, Peer, drop_input, has_arrived};
use super::conn::{Conn, Pace, Place, Receive, Room, State, Table, Why};
use super::wheel::{NEVER, TICK_MS, Wheel};
use crate::deadline::{self, Deadline};
use crate::error::{Code, Error, Result};
use crate::sys::ring::Ring;

/// All that an event loop knows of its connections.
#[derive(Debug)]
pub struct Connections {
    /// The connections.
    pub table: Table,
    /// When they are due.
    pub wheel: Wheel,
    /// Connections with more to read, whose turn is over.
    pub go_on: VecDeque<Place>,
    /// Connections that are over.
    pub over: VecDeque<(Place, Why, Ending)>,
    /// The clock at the first tick. Time in which the process did not run is left out, by moving this.
    start: u64,
    /// The clock when it was last looked at.
    looked: u64,
    /// The clock at which the loop was to look again at the latest; 0 where somebody else decides when it looks.
    expected: Cell<u64>,
    /// The tick of this turn, while there is a connection whose time may be over.
    now: u32,
    /// The stop has been noticed.
    pub stopping: bool,
    /// Input and output go through a ring.
    pub by_ring: bool,
    /// Vectors for output that is on its way through the ring, to be used again.
    pub(super) spare: Vec<Vec<u8>>,
}

/// A loop that looks so many nanoseconds later than it was to look has not run meanwhile.
const GAP: u64 = 1_000_000_000;

impl Conn {
    /// When it is looked at next, and what is over if that is no later than `now`.
    pub fn due(&self, now: u32) -> (u32, Option<&'static str>) {
        let limits = self.owned.slot().times();
        let after = |since: u32, milliseconds: u32| match milliseconds {
            0 => NEVER,
            // One more, because the first tick may be almost over.
            limit => since.saturating_add(limit.div_ceil(TICK_MS as u32)).saturating_add(1),
        };
        let reads = self.pace != Pace::Paused && (!self.served || !self.input.is_empty());
        let ends = [
            (after(self.opened, limits.lifetime), "the connection's lifetime is over"),
            (after(self.active, limits.idle), "the connection was silent for too long"),
            (if reads { after(self.incomplete, limits.read) } else { NEVER }, "input stayed incomplete for too long"),
            (if self.waits == NEVER { NEVER } else { after(self.waits, limits.write) }, "output was not taken in time"),
            (if self.room == Room::Short { now.saturating_add(1) } else { NEVER }, ""),
        ];
        let first = ends.iter().min_by_key(|(due, _)| *due).copied().unwrap_or((NEVER, ""));
        (first.0, (first.0 <= now).then_some(first.1))
    }
}

impl Connections {
    /// None; `None` without memory.
    pub fn new() -> Option<Self> {
        Some(Self {
            table: Table::default(),
            wheel: Wheel::new(0)?,
            go_on: VecDeque::new(),
            over: VecDeque::new(),
            start: deadline::clock(),
            looked: deadline::clock(),
            expected: Cell::new(0),
            now: 0,
            stopping: false,
            by_ring: false,
            spare: Vec::new(),
        })
    }

    /// Looks at the clock, where a connection's time may be over.
    pub fn begin_turn(&mut self) {
        if self.wheel.is_empty() {
            return;
        }
        let clock = deadline::clock();
        if self.expected.get() != 0 && clock.saturating_sub(self.expected.get()) > GAP {
            // The process was stopped at some time since the last look, or a function of the program has held the loop
            // up. What its clients have sent meanwhile is yet to be read: none of them was silent for that.
            self.start = self.start.saturating_add(clock.saturating_sub(self.looked));
        }
        self.refresh();
    }

    /// Somebody else decides when the loop looks.
    pub fn is_driven(&self) {
        self.expected.set(0);
    }

    /// Looks at the clock.
    pub fn refresh(&mut self) -> u32 {
        self.looked = deadline::clock();
        let milliseconds = self.looked.saturating_sub(self.start) / 1_000_000;
        self.now = u32::try_from(milliseconds / TICK_MS).unwrap_or(NEVER - 1);
        self.wheel.catch_up(self.now);
        self.now
    }

    /// The tick of this turn: looked up where no connection's time has made that necessary so far.
    pub fn time(&mut self) -> u32 {
        if self.wheel.is_empty() { self.refresh() } else { self.now }
    }

    /// The tick of this turn, for what matters only where a connection's time may be over.
    pub fn turn(&self) -> u32 {
        self.now
    }

    /// When there is something to do although nothing happens.
    pub fn next_look(&self) -> Deadline {
        let Some(tick) = self.wheel.next_tick() else {
            let waits = self.go_on.is_empty() && self.over.is_empty();
            return if waits { Deadline::NEVER } else { Deadline::after(Duration::ZERO) };
        };
        let time = self.start.saturating_add(u64::from(tick) * TICK_MS * 1_000_000);
        self.expected.set(time);
        if !self.go_on.is_empty() || !self.over.is_empty() {
            return Deadline::after(Duration::ZERO);
        }
        Deadline::after(deadline::clock_left(time))
    }

    /// Notes for one more connection must not need memory later.
    pub fn make_room(&mut self) -> bool {
        let count = self.table.len() + 1;
        let notes = self.over.try_reserve(count).and_then(|()| self.go_on.try_reserve(count));
        notes.is_ok() && self.table.make_room()
    }

    /// Has a connection looked at when it may be due, unless that happens earlier anyway.
    pub fn arm(&mut self, place: Place) {
        let now = self.now;
        let Some(conn) = self.table.get(place) else { return };
        let (due, _) = conn.due(now);
        if due < conn.link.due {
            self.wheel.put(&mut self.table, place.index, due);
        }
    }

    /// Whether nothing goes on, is over or is due.
    pub fn is_done(&mut self) -> bool {
        let is_due = self.wheel.is_due(self.now);
        self.go_on.is_empty() && self.over.is_empty() && !is_due
    }

    /// The next connection whose time is over.
    pub fn next_due(&mut self, server: &Server) -> Option<(Place, Error)> {
        let now = self.now;
        while let Some(index) = self.wheel.next_due(&mut self.table, now) {
            let Some(place) = self.table.place(index) else { continue };
            self.end_lingering(server, place);
            let Some(conn) = self.table.get(place).filter(|conn| conn.state != State::Over) else { continue };
            if conn.room == Room::Short {
                conn.room = Room::Again;
                self.go_on_later(place);
            }
            let Some(conn) = self.table.get(place) else { continue };
            match conn.due(now) {
                (_, Some(cause)) => {
                    return Some((place, Error::system("wait", Errno::AGAIN).because(format_args!("{cause}"))));
                }
                (NEVER, None) => {}
                (due, None) => self.wheel.put(&mut self.table, index, due),
            }
        }
        None
    }

    /// The connection is over.
    pub fn finish(&mut self, place: Place, why: Why, ending: Ending) {
        if ending == Ending::Close {
            // What was written in this turn.
            self.send_gathered(place);
        }
        let Some(conn) = self.table.get(place).filter(|conn| conn.state != State::Over) else { return };
        conn.state = State::Over;
        conn.owned.slot().begin_to_end();
        // A peer that does not get everything must be able to tell.
        let whole = ending != Ending::Close || (conn.output.is_empty() && conn.flying == 0);
        let ending = if whole { ending } else { Ending::Abort };
        self.over.push_back((place, why, ending));
    }

    /// The peer sends nothing more: what is queued is sent, and that is the end.
    pub fn end_of_stream(&mut self, place: Place) {
        let Some(conn) = self.table.get(place) else { return };
        conn.readable = false;
        conn.owned.slot().note_end();
        conn.ended = true;
        self.end_if_sent(place);
    }

    /// Where either side has ended the stream and nothing waits to be sent, the connection is over.
    pub fn end_if_sent(&mut self, place: Place) {
        let Some(conn) = self.table.get(place).filter(|conn| conn.owned.slot().queued() == 0) else { return };
        match conn.state {
            State::Closing => self.finish(place, None, Ending::Close),
            // What on_drain adds comes first.
            State::Open if conn.is_owed_drain() => self.go_on_later(place),
            State::Open if conn.ended => self.finish(place, Some(ended()), Ending::Close),
            State::Open | State::Over => {}
        }
    }

    /// Ends a receive of the ring at once, so that the descriptor can be given away.
    pub fn stop_receiving(&mut self, ring: &Ring, place: Place) -> Result<()> {
        if self.table.get(place).is_none_or(|conn| conn.receive == Receive::None) {
            return Ok(());
        }
        let failed = |errno| Error::system("io_uring_enter", errno);
        if ring.cancel_now(place.token()).map_err(failed)? {
            return Err(unseen());
        }
        Ok(())
    }

    /// The connection lingers in its place, for a while.
    pub fn linger(&mut self, place: Place, socket: OwnedFd, receiving: bool) {
        let ticks = u32::try_from(PATIENCE.as_millis() as u64 / TICK_MS).unwrap_or(NEVER);
        let now = self.time();
        self.table.leave(place, socket, receiving);
        self.wheel.put(&mut self.table, place.index, now.saturating_add(ticks));
    }

    /// A connection lingers no longer: its socket, yet to be closed. `None` where none lingers there.
    pub fn take_lingering(&mut self, place: Place) -> Option<OwnedFd> {
        self.table.lingering(place)?;
        self.wheel.take(&mut self.table, place.index);
        self.table.free(place).map(|lingering| lingering.socket)
    }

    /// A receive of the ring on a connection that lingers has brought something, which is dropped. True where the epoll
    /// set has to watch it from now on: a peer that sends without end would take the buffers of the others.
    pub fn end_lingering_receive(
        &mut self,
        server: &Server,
        place: Place,
        received: std::result::Result<usize, Errno>,
        goes_on: bool,
    ) -> bool {
        let Some(lingering) = self.table.lingering(place) else { return false };
        lingering.receiving = goes_on;
        let more = Err(Errno::NOBUFS) == received || Err(Errno::CANCELED) == received || matches!(received, Ok(1..));
        if !more {
            self.end_lingering(server, place);
        }
        more && !goes_on
    }

    /// Something happened on a connection that lingers.
    pub fn drop_lingering_input(&mut self, server: &Server, place: Place) {
        let Some(lingering) = self.table.lingering(place) else { return };
        if drop_input(lingering.socket.as_fd()) == Peer::Done {
            self.end_lingering(server, place);
        }
    }

    /// Closes a connection that lingers.
    pub fn end_lingering(&mut self, server: &Server, place: Place) {
        let receiving = self.table.lingering(place).is_some_and(|lingering| lingering.receiving);
        if let Some(socket) = self.take_lingering(place) {
            if receiving {
                // The ring holds on to the socket: its receive has to end.
                let _ = rustix::net::shutdown(&socket, Shutdown::Read);
            }
            drop(socket);
            server.lingers_in_lane(false);
        }
    }

    /// Closes those whose reply has arrived. True where there was one.
    pub fn evict(&mut self, server: &Server) -> bool {
        let before = self.table.len();
        for index in 0..self.table.places() {
            let Some(place) = self.table.place(index) else { continue };
            if self.table.lingering(place).is_some_and(|lingering| has_arrived(lingering.socket.as_fd())) {
                self.end_lingering(server, place);
            }
        }
        self.table.len() < before
    }

    pub fn go_on_later(&mut self, place: Place) {
        let Some(conn) = self.table.get(place).filter(|conn| !conn.goes_on) else { return };
        conn.goes_on = true;
        self.go_on.push_back(place);
    }

    /// The next connection that goes on, and whether the program gets what it has left, because it has resumed it.
    pub fn next_to_go_on(&mut self) -> Option<(Place, bool)> {
        let place = self.go_on.pop_front()?;
        let conn = self.table.get(place)?;
        conn.goes_on = false;
        let again = conn.pace == Pace::Resumed && !conn.input.is_empty();
        if conn.pace == Pace::Resumed {
            conn.pace = Pace::Reading;
        }
        (conn.state != State::Over).then_some((place, again))
    }

    /// Closes a connection that is idle while the server stops.
    pub fn close_if_stopping(&mut self, place: Place) {
        let looked = |conn: &Conn| !self.by_ring || conn.receive == Receive::UnderWay;
        if self.stopping && self.table.get(place).is_some_and(|conn| conn.is_idle() && looked(conn)) {
            self.finish(place, Some(stopped("the server stops")), Ending::Close);
        }
    }

    /// Resets what is left when the drain time is over.
    pub fn cut(&mut self, server: &Server) {
        for index in 0..self.table.places() {
            let Some(place) = self.table.place(index) else { continue };
            let Some(conn) = self.table.get(place).filter(|conn| conn.state != State::Over) else { continue };
            conn.owned.slot().note_cut();
            counters::add(&server.counters().cut, 1);
            self.finish(place, Some(stopped("the server's drain time is over")), Ending::Abort);
        }
    }
}

fn ended() -> Error {
    Error::new(Code::Closed, "read", format_args!("the peer has ended the stream"))
}

fn stopped(cause: &str) -> Error {
    Error::new(Code::Stopped, "stop", format_args!("{cause}"))
}

/// The error of a connection that cannot be given away because some of its input is here.
pub(super) fn unseen() -> Error {
    let cause = format_args!("input has come that on_data has not seen yet: call it again from there");
    Error::invalid("oyez_conn_detach", cause).with_errno(Errno::BUSY)
}
