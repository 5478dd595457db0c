//! An event loop: its connections, what happens on them, and what is due.
//!
//! A lane belongs to the thread that runs it. Its state is behind a lock that is never held while a function of the
//! program runs, so that those may do anything, also end the connection that they were called for: what is over is
//! noted, and looked after when the function has returned.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::super::connection::{Ending, Guest, Owned, Slot, gone, in_lane};
use super::super::token::Token;
use super::super::{ConnectionId, Server};
use super::conn::{Conn, Place, State, Why};
use super::connections::{Connections, Next, Reading, too_much};
use super::inbox::{Command, Inbox};
use super::wheel::{NEVER, TICK_MS};
use crate::deadline::{self, Deadline};
use crate::error::{Code, Error, Result};
use crate::sys;

/// How often one connection is read in a turn before others get theirs.
const READS: usize = 4;

/// What the kernel is asked to tell: each change once.
const EVENTS: EventFlags =
    EventFlags::IN.union(EventFlags::PRI).union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// An event loop.
#[derive(Debug)]
pub struct Lane {
    /// Never used twice in a process.
    number: u64,
    /// The way in from other threads.
    pub inbox: Inbox,
    /// None where the server's own set is used.
    epoll: Option<OwnedFd>,
    connections: Mutex<Connections>,
    /// The clock at the first tick.
    start: u64,
}

impl Lane {
    /// A loop on the server's own set of events, or with one of its own.
    pub fn new(own_set: bool) -> std::result::Result<Self, Errno> {
        let inbox = Inbox::new()?;
        let epoll = match own_set {
            true => {
                let epoll = sys::above_standard(epoll::create(CreateFlags::CLOEXEC)?);
                epoll::add(&epoll, inbox.descriptor(), Token::Wake.into(), EventFlags::IN)?;
                Some(epoll)
            }
            false => None,
        };
        let connections = Connections::new().ok_or(Errno::NOMEM)?;
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Self { number, inbox, epoll, connections: Mutex::new(connections), start: deadline::clock() })
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its set of events.
    pub fn epoll<'a>(&'a self, server: &'a Server) -> BorrowedFd<'a> {
        self.epoll.as_ref().map_or(server.epoll(), AsFd::as_fd)
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tick that it is now.
    fn tick(&self) -> u32 {
        let milliseconds = deadline::clock().saturating_sub(self.start) / 1_000_000;
        u32::try_from(milliseconds / TICK_MS).unwrap_or(NEVER - 1)
    }

    /// Whether it has no connections.
    pub fn is_empty(&self) -> bool {
        self.connections().table.len() == 0
    }

    /// When it has something to do although nothing happens.
    pub fn next_look(&self) -> Deadline {
        let connections = self.connections();
        if !connections.go_on.is_empty() || !connections.over.is_empty() {
            return Deadline::after(std::time::Duration::ZERO);
        }
        let Some(tick) = connections.wheel.next_tick() else { return Deadline::NEVER };
        let time = self.start.saturating_add(u64::from(tick) * TICK_MS * 1_000_000);
        Deadline::after(deadline::clock_left(time))
    }

    /// A turn begins: time has passed.
    pub fn begin_turn(&self) {
        self.connections().now = self.tick();
    }

    /// Takes a connection in, on the lane's thread.
    pub fn open(&self, server: &Arc<Server>, owned: Owned) {
        let mut connections = self.connections();
        // Not the turn's tick: the server accepts between turns, and the last one may be long ago.
        let now = self.tick();
        connections.now = now;
        let Some(socket) = owned.socket() else { return owned.end(Ending::Abort) };
        let room = connections.make_room();
        let added = if room { connections.table.add(Conn::new(owned, now)) } else { Err(Conn::new(owned, now)) };
        let place = match added {
            Ok(place) => place,
            Err(conn) => {
                drop(connections);
                return self.turn_away(conn);
            }
        };
        if let Some(conn) = connections.table.get(place) {
            conn.owned.slot().belong_to(self.number, place);
        }
        let token = Token::Connection { index: place.index, turn: place.turn };
        if epoll::add(self.epoll(server), socket, token.into(), EVENTS).is_err() {
            let conn = connections.table.remove(place);
            drop(connections);
            return conn.into_iter().for_each(|conn| self.turn_away(conn));
        }
        connections.arm(place);
        drop(connections);
        if let Some(on_open) = server.events().and_then(|events| events.on_open.as_ref()) {
            self.call(server, place, on_open);
        }
    }

    fn turn_away(&self, conn: Conn) {
        self.inbox.count(false);
        conn.owned.end(Ending::Abort);
    }

    /// Runs a function of the program for a connection. `None` where that panicked, or the connection is gone.
    fn call<T>(&self, server: &Server, place: Place, function: impl FnOnce(ConnectionId) -> T) -> Option<T> {
        let guest = self.connections().table.get(place)?.owned.guest();
        self.call_guest(server, place, guest, function)
    }

    fn call_guest<T>(
        &self,
        server: &Server,
        place: Place,
        guest: Guest,
        function: impl FnOnce(ConnectionId) -> T,
    ) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| guest.call(function))) {
            Ok(value) => Some(value),
            Err(payload) => {
                std::mem::forget(payload);
                server.handler_failed(format_args!("a panic"));
                let why = Error::new(Code::Internal, "handler", format_args!("the program's function panicked"));
                self.connections().finish(place, Some(why), Ending::Abort);
                None
            }
        }
    }

    /// The kernel tells of a change.
    pub fn on_event(&self, server: &Arc<Server>, place: Place, flags: EventFlags) {
        let mut connections = self.connections();
        let Some(conn) = connections.table.get(place) else { return };
        let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        // A read ends at urgent data, so that a short one does not mean that there is no more.
        conn.hung_up |= flags.intersects(gone | EventFlags::PRI);
        conn.readable |= flags.intersects(EventFlags::IN | gone);
        conn.writable |= flags.contains(EventFlags::OUT);
        if conn.writable && !conn.output.is_empty() {
            drop(connections);
            self.flush(server, place);
            return self.read(server, place);
        }
        let reading = connections.begin_read(server, place);
        drop(connections);
        self.go_on_reading(server, place, reading);
    }

    /// Reads what there is, as far as one turn goes.
    fn read(&self, server: &Arc<Server>, place: Place) {
        let reading = self.connections().begin_read(server, place);
        self.go_on_reading(server, place, reading);
    }

    fn go_on_reading(&self, server: &Arc<Server>, place: Place, reading: Option<Reading>) {
        let mut reading = reading;
        for _ in 0..READS {
            let Some(mut now) = reading else { break };
            let window = now.buffer.get_mut(..now.window).unwrap_or_default();
            let received = rustix::net::recv(now.socket, window, RecvFlags::DONTWAIT).map(|(_, length)| length);
            let consumed = match received {
                Ok(length) if now.dropped => length,
                Ok(length @ 1..) if now.is_first => self.deliver(server, place, &now, length),
                _ => 0,
            };
            let mut connections = self.connections();
            let next = connections.end_read(server, place, &now, received, consumed);
            connections.buffer = now.buffer;
            reading = match next {
                Next::Wait => None,
                Next::Read => connections.begin_read(server, place),
                Next::Deliver => {
                    drop(connections);
                    self.deliver_kept(server, place);
                    self.connections().begin_read(server, place)
                }
            };
        }
        if let Some(now) = reading {
            let mut connections = self.connections();
            connections.buffer = now.buffer;
            connections.go_on_later(place);
        }
        if server.slot().stop().is_some() {
            self.connections().close_if_stopping(place);
        }
    }

    /// Gives fresh input to the program; how much of it was consumed.
    fn deliver(&self, server: &Arc<Server>, place: Place, reading: &Reading, length: usize) -> usize {
        let Some(on_data) = server.events().and_then(|events| events.on_data.as_ref()) else { return length };
        let bytes = reading.buffer.get(..length).unwrap_or_default();
        let consumed = self.call_guest(server, place, reading.guest, |id| on_data(id, bytes));
        consumed.unwrap_or(length).min(length)
    }

    /// Gives the program what it has left before.
    fn deliver_kept(&self, server: &Arc<Server>, place: Place) {
        let Some(on_data) = server.events().and_then(|events| events.on_data.as_ref()) else { return };
        let mut connections = self.connections();
        let Some(conn) = connections.table.get(place).filter(|conn| conn.state == State::Open) else { return };
        let mut kept = std::mem::take(&mut conn.input);
        drop(connections);
        let consumed = self.call(server, place, |id| on_data(id, &kept)).unwrap_or(kept.len()).min(kept.len());
        if consumed == kept.len() {
            kept = Vec::new();
        } else {
            kept.drain(..consumed);
        }
        let mut connections = self.connections();
        let now = connections.now;
        if let Some(conn) = connections.table.get(place) {
            if consumed > 0 {
                conn.incomplete = now;
            }
            conn.input = kept;
        }
        connections.limit_input(server, place);
    }

    /// Sends what waits.
    fn flush(&self, server: &Arc<Server>, place: Place) {
        let done = self.connections().flush(place);
        if !done {
            return;
        }
        if let Some(on_drain) = server.events().and_then(|events| events.on_drain.as_ref()) {
            self.call(server, place, on_drain);
        }
        self.connections().end_if_sent(place);
    }

    /// Sends bytes, or queues them. On the lane's thread. `None` where earlier ones are still in the inbox, behind
    /// which these belong.
    pub fn write(&self, server: &Server, place: Place, bytes: &[u8]) -> Option<Result<()>> {
        let mut connections = self.connections();
        let Some(conn) = connections.table.get(place).filter(|conn| conn.state == State::Open) else {
            return Some(Err(gone("oyez_conn_write")));
        };
        let queued = conn.owned.slot().queued();
        if queued > conn.output.front().len() {
            return None;
        }
        if bytes.len() > server.options().max_output.saturating_sub(queued) {
            return Some(Err(too_much(server, queued, bytes.len())));
        }
        Some(connections.send(place, bytes).map(|queued| {
            if let Some(conn) = connections.table.get(place).filter(|_| queued > 0) {
                conn.owned.slot().queue(queued);
            }
        }))
    }

    /// Sends bytes that another thread has written, and that count as queued since then.
    fn write_queued(&self, place: Place, slot: &Slot, bytes: &[u8]) {
        let mut connections = self.connections();
        // Its writer was told that it will be sent: an error ends the connection, and is its reason.
        let queued = connections.send(place, bytes).unwrap_or(0);
        slot.unqueue(bytes.len() - queued);
        connections.end_if_sent(place);
    }

    /// Ends a connection. On the lane's thread.
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

    /// Reads nothing for a while, or goes on. On the lane's thread.
    pub fn pause(&self, place: Place, paused: bool) {
        let mut connections = self.connections();
        let now = connections.now;
        let Some(conn) = connections.table.get(place) else { return };
        let resumed = conn.paused && !paused;
        conn.paused = paused;
        if resumed {
            (conn.resumed, conn.incomplete) = (true, now);
            connections.arm(place);
            connections.go_on_later(place);
        }
    }

    /// A connection's times have changed. On the lane's thread.
    pub fn rearm(&self, place: Place) {
        self.connections().arm(place);
    }

    /// Looks after what others want, what goes on, what is due and what is over.
    pub fn finish_turn(&self, server: &Arc<Server>) {
        for command in self.inbox.take() {
            self.obey(server, command);
        }
        let stops = server.slot().stop().is_some();
        let going_on = {
            let mut connections = self.connections();
            if !stops && connections.is_done() {
                return;
            }
            connections.go_on.len()
        };
        for _ in 0..going_on {
            let place = self.connections().next_to_go_on();
            if let Some((place, has_input)) = place {
                if has_input {
                    self.deliver_kept(server, place);
                }
                self.read(server, place);
            }
        }
        if stops {
            self.stop(server);
        }
        while let Some((place, error)) = { self.connections().next_due() } {
            super::super::counters::add(&server.counters().timeouts, 1);
            self.connections().finish(place, Some(error), Ending::Close);
        }
        while let Some((place, why, ending)) = { self.connections().over.pop_front() } {
            self.close(server, place, &why, ending);
        }
    }

    fn obey(&self, server: &Arc<Server>, command: Command) {
        match command {
            Command::Open(owned) => self.open(server, owned),
            Command::Write(id, bytes) => {
                if let Some(slot) = in_lane(id, self.number) {
                    self.write_queued(slot.place(), slot, &bytes);
                }
            }
            Command::End(id, ending) => self.with(id, |place| self.end(place, ending)),
            Command::Pause(id, paused) => self.with(id, |place| self.pause(place, paused)),
            Command::Rearm(id) => self.with(id, |place| self.rearm(place)),
        }
    }

    fn with(&self, id: ConnectionId, action: impl FnOnce(Place)) {
        if let Some(slot) = in_lane(id, self.number) {
            action(slot.place());
        }
    }

    /// The server stops: what is idle is closed, and when the time is over the rest is reset.
    fn stop(&self, server: &Arc<Server>) {
        let over = server.slot().stop().is_some_and(Deadline::is_over);
        let first = !std::mem::replace(&mut self.connections().stopping, true);
        if !first && !over {
            return;
        }
        let places = self.connections().table.places();
        for index in 0..places {
            let Some(place) = self.connections().table.place(index) else { continue };
            // What has arrived is served before the connection counts as idle.
            if let Some(conn) = self.connections().table.get(place) {
                conn.readable = true;
            }
            self.read(server, place);
        }
        if over {
            self.connections().cut(server);
        }
    }

    /// Gives a connection's descriptor away. On the lane's thread.
    pub fn detach(&self, server: &Server, place: Place) -> Result<()> {
        let mut connections = self.connections();
        let Some(conn) = connections.table.get(place).filter(|conn| conn.state == State::Open) else {
            return Err(gone("oyez_conn_detach"));
        };
        if conn.owned.slot().queued() > 0 {
            let cause = format_args!("output is queued: wait for on_drain");
            return Err(Error::invalid("oyez_conn_detach", cause).with_errno(Errno::BUSY));
        }
        if let Some(socket) = conn.socket() {
            let _ = epoll::delete(self.epoll(server), socket);
        }
        connections.finish(place, None, Ending::Detach);
        Ok(())
    }

    fn close(&self, server: &Arc<Server>, place: Place, why: &Why, ending: Ending) {
        if let Some(on_close) = server.events().and_then(|events| events.on_close.as_ref()) {
            self.call(server, place, |id| on_close(id, why.as_ref()));
        }
        let mut connections = self.connections();
        let Connections { table, wheel, .. } = &mut *connections;
        wheel.take(table, place.index);
        let Some(conn) = table.remove(place) else { return };
        drop(connections);
        if ending == Ending::Close
            && !conn.owned.slot().is_at_end()
            && let Some(socket) = conn.socket()
        {
            // It lingers in the server's set.
            let _ = epoll::delete(self.epoll(server), socket);
        }
        self.inbox.count(false);
        conn.owned.end(ending);
    }
}
