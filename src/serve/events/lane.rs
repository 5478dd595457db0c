//! An event loop: its connections, what happens on them, and what is due.
//!
//! A lane belongs to the thread that runs it. Its state is behind a lock that is never held while a function of the
//! program runs, so that those may do anything, also end the connection that they were called for: what is over is
//! noted, and looked after when the function has returned.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::super::connection::{Ending, Guest, Owned, Slot, in_lane};
use super::super::token::Token;
use super::super::{ConnectionId, Server};
use super::conn::{Conn, Place, State, Table, Why};
use super::inbox::{Command, Inbox};
use super::wheel::{NEVER, TICK_MS, Wheel};
use crate::deadline::{self, Deadline};
use crate::error::{Code, Error, Result};
use crate::sys;

/// How much is read at once.
const BUFFER: usize = 64 * 1024;

/// How often one connection is read in a turn before others get theirs.
const READS: usize = 4;

/// What the kernel is asked to tell: each change once.
const EVENTS: EventFlags =
    EventFlags::IN.union(EventFlags::PRI).union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// What reading from a connection takes.
struct Reading {
    guest: Guest,
    socket: BorrowedFd<'static>,
    /// The lane's buffer.
    buffer: Vec<u8>,
    /// Nothing is left from before: the program gets the input as it is in the buffer.
    is_first: bool,
}

/// What follows when something was read.
enum Next {
    /// There is nothing more for now.
    Wait,
    /// There may be more.
    Read,
    /// The program gets it together with what it has left before.
    Deliver,
}

/// An event loop.
#[derive(Debug)]
pub struct Lane {
    /// Never used twice in a process.
    number: u64,
    /// The way in from other threads.
    pub inbox: Inbox,
    /// None where the server's own set is used.
    epoll: Option<OwnedFd>,
    inner: Mutex<Inner>,
    /// The clock at the first tick.
    start: u64,
}

#[derive(Debug)]
struct Inner {
    table: Table,
    wheel: Wheel,
    /// Connections with more to read, whose turn is over.
    go_on: VecDeque<Place>,
    /// Connections that are over.
    over: VecDeque<(Place, Why, Ending)>,
    /// What input is read into; not here while a function of the program looks at it.
    buffer: Vec<u8>,
    /// The tick of this turn.
    now: u32,
    /// The stop has been noticed.
    stopping: bool,
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
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(BUFFER).map_err(|_| Errno::NOMEM)?;
        buffer.resize(BUFFER, 0);
        let inner = Inner {
            table: Table::default(),
            wheel: Wheel::new(0),
            go_on: VecDeque::new(),
            over: VecDeque::new(),
            buffer,
            now: 0,
            stopping: false,
        };
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Self { number, inbox, epoll, inner: Mutex::new(inner), start: deadline::clock() })
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its set of events.
    pub fn epoll<'a>(&'a self, server: &'a Server) -> BorrowedFd<'a> {
        self.epoll.as_ref().map_or(server.epoll(), AsFd::as_fd)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tick that it is now.
    fn tick(&self) -> u32 {
        let milliseconds = deadline::clock().saturating_sub(self.start) / 1_000_000;
        u32::try_from(milliseconds / TICK_MS).unwrap_or(NEVER - 1)
    }

    /// Whether it has no connections.
    pub fn is_empty(&self) -> bool {
        self.inner().table.len() == 0
    }

    /// When it has something to do although nothing happens.
    pub fn next_look(&self) -> Deadline {
        let inner = self.inner();
        if !inner.go_on.is_empty() || !inner.over.is_empty() {
            return Deadline::after(std::time::Duration::ZERO);
        }
        let Some(tick) = inner.wheel.next_tick() else { return Deadline::NEVER };
        let time = self.start.saturating_add(u64::from(tick) * TICK_MS * 1_000_000);
        Deadline::after(deadline::clock_left(time))
    }

    /// A turn begins: time has passed.
    pub fn begin_turn(&self) {
        self.inner().now = self.tick();
    }

    /// Takes a connection in, on the lane's thread.
    pub fn open(&self, server: &Arc<Server>, owned: Owned) {
        let mut inner = self.inner();
        // Not the turn's tick: the server accepts between turns, and the last one may be long ago.
        let now = self.tick();
        inner.now = now;
        let Some(socket) = owned.socket() else { return owned.end(Ending::Abort) };
        let room = inner.make_room();
        let added = if room { inner.table.add(Conn::new(owned, now)) } else { Err(Conn::new(owned, now)) };
        let place = match added {
            Ok(place) => place,
            Err(conn) => {
                drop(inner);
                return self.turn_away(conn);
            }
        };
        if let Some(conn) = inner.table.get(place) {
            conn.owned.slot().belong_to(self.number, place);
        }
        let token = Token::Connection { index: place.index, turn: place.turn };
        if epoll::add(self.epoll(server), socket, token.into(), EVENTS).is_err() {
            let conn = inner.table.remove(place);
            drop(inner);
            return conn.into_iter().for_each(|conn| self.turn_away(conn));
        }
        inner.arm(place);
        drop(inner);
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
        let guest = self.inner().table.get(place)?.owned.guest();
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
                self.inner().finish(place, Some(why), Ending::Abort);
                None
            }
        }
    }

    /// The kernel tells of a change.
    pub fn on_event(&self, server: &Arc<Server>, place: Place, flags: EventFlags) {
        let mut inner = self.inner();
        let Some(conn) = inner.table.get(place) else { return };
        let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        // A read ends at urgent data, so that a short one does not mean that there is no more.
        conn.hung_up |= flags.intersects(gone | EventFlags::PRI);
        conn.readable |= flags.intersects(EventFlags::IN | gone);
        conn.writable |= flags.contains(EventFlags::OUT);
        if conn.writable && !conn.output.is_empty() {
            drop(inner);
            self.flush(server, place);
            return self.read(server, place);
        }
        let reading = inner.begin_read(place);
        drop(inner);
        self.go_on_reading(server, place, reading);
    }

    /// Reads what there is, as far as one turn goes.
    fn read(&self, server: &Arc<Server>, place: Place) {
        let reading = self.inner().begin_read(place);
        self.go_on_reading(server, place, reading);
    }

    fn go_on_reading(&self, server: &Arc<Server>, place: Place, reading: Option<Reading>) {
        let mut reading = reading;
        for _ in 0..READS {
            let Some(mut now) = reading else { break };
            let received = rustix::net::recv(now.socket, &mut now.buffer[..], RecvFlags::DONTWAIT);
            let received = received.map(|(_, length)| length);
            let consumed = match received {
                Ok(length @ 1..) if now.is_first => self.deliver(server, place, &now, length),
                _ => 0,
            };
            let mut inner = self.inner();
            let next = inner.end_read(server, place, &now, received, consumed);
            inner.buffer = now.buffer;
            reading = match next {
                Next::Wait => None,
                Next::Read => inner.begin_read(place),
                Next::Deliver => {
                    drop(inner);
                    self.deliver_kept(server, place);
                    self.inner().begin_read(place)
                }
            };
        }
        if let Some(now) = reading {
            let mut inner = self.inner();
            inner.buffer = now.buffer;
            inner.go_on_later(place);
        }
        if server.slot().stop().is_some() {
            self.inner().close_if_stopping(place);
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
        let mut inner = self.inner();
        let Some(conn) = inner.table.get(place).filter(|conn| conn.state == State::Open) else { return };
        let mut kept = std::mem::take(&mut conn.input);
        drop(inner);
        let consumed = self.call(server, place, |id| on_data(id, &kept)).unwrap_or(kept.len()).min(kept.len());
        if consumed == kept.len() {
            kept = Vec::new();
        } else {
            kept.drain(..consumed);
        }
        let mut inner = self.inner();
        let now = inner.now;
        if let Some(conn) = inner.table.get(place) {
            if consumed > 0 {
                conn.incomplete = now;
            }
            conn.input = kept;
        }
        inner.limit_input(server, place);
    }

    /// Sends what waits.
    fn flush(&self, server: &Arc<Server>, place: Place) {
        let done = self.inner().flush(place);
        if !done {
            return;
        }
        if let Some(on_drain) = server.events().and_then(|events| events.on_drain.as_ref()) {
            self.call(server, place, on_drain);
        }
        self.inner().end_if_sent(place);
    }

    /// Sends bytes, or queues them. On the lane's thread. `None` where earlier ones are still in the inbox, behind
    /// which these belong.
    pub fn write(&self, server: &Server, place: Place, bytes: &[u8]) -> Option<Result<()>> {
        let mut inner = self.inner();
        let Some(conn) = inner.table.get(place).filter(|conn| conn.state == State::Open) else {
            return Some(Err(gone()));
        };
        let queued = conn.owned.slot().queued();
        if queued > conn.output.front().len() {
            return None;
        }
        if bytes.len() > server.options().max_output.saturating_sub(queued) {
            return Some(Err(too_much(server, queued, bytes.len())));
        }
        Some(inner.send(place, bytes).map(|queued| {
            if let Some(conn) = inner.table.get(place).filter(|_| queued > 0) {
                conn.owned.slot().queue(queued);
            }
        }))
    }

    /// Sends bytes that another thread has written, and that count as queued since then.
    fn write_queued(&self, place: Place, slot: &Slot, bytes: &[u8]) {
        let mut inner = self.inner();
        // Its writer was told that it will be sent: an error ends the connection, and is its reason.
        let queued = inner.send(place, bytes).unwrap_or(0);
        slot.unqueue(bytes.len() - queued);
        inner.end_if_sent(place);
    }

    /// Ends a connection. On the lane's thread.
    pub fn end(&self, place: Place, ending: Ending) {
        let mut inner = self.inner();
        let Some(conn) = inner.table.get(place) else { return };
        match conn.state {
            // Also what other threads have written before.
            State::Open if ending == Ending::Close && conn.owned.slot().queued() > 0 => conn.state = State::Closing,
            State::Open | State::Closing => inner.finish(place, None, ending),
            State::Over => {}
        }
    }

    /// Reads nothing for a while, or goes on. On the lane's thread.
    pub fn pause(&self, place: Place, paused: bool) {
        let mut inner = self.inner();
        let Some(conn) = inner.table.get(place) else { return };
        let resumed = conn.paused && !paused;
        conn.paused = paused;
        if resumed {
            conn.resumed = true;
            inner.go_on_later(place);
        }
    }

    /// A connection's times have changed. On the lane's thread.
    pub fn rearm(&self, place: Place) {
        self.inner().arm(place);
    }

    /// Looks after what others want, what goes on, what is due and what is over.
    pub fn finish_turn(&self, server: &Arc<Server>) {
        for command in self.inbox.take() {
            self.obey(server, command);
        }
        let going_on = self.inner().go_on.len();
        for _ in 0..going_on {
            let place = self.inner().next_to_go_on();
            if let Some((place, has_input)) = place {
                if has_input {
                    self.deliver_kept(server, place);
                }
                self.read(server, place);
            }
        }
        if server.slot().stop().is_some() {
            self.stop(server);
        }
        while let Some((place, error)) = { self.inner().next_due(server) } {
            super::super::counters::add(&server.counters().timeouts, 1);
            self.inner().finish(place, Some(error), Ending::Close);
        }
        while let Some((place, why, ending)) = { self.inner().over.pop_front() } {
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
        let first = !std::mem::replace(&mut self.inner().stopping, true);
        if !first && !over {
            return;
        }
        let places = self.inner().table.places();
        for index in 0..places {
            let Some(place) = self.inner().table.place(index) else { continue };
            // What has arrived is served before the connection counts as idle.
            if let Some(conn) = self.inner().table.get(place) {
                conn.readable = true;
            }
            self.read(server, place);
        }
        if over {
            self.inner().cut(server);
        }
    }

    /// Gives a connection's descriptor away. On the lane's thread.
    pub fn detach(&self, server: &Server, place: Place) -> Result<()> {
        let mut inner = self.inner();
        let Some(conn) = inner.table.get(place).filter(|conn| conn.state == State::Open) else { return Err(gone()) };
        if conn.owned.slot().queued() > 0 {
            let cause = format_args!("output is queued: wait for on_drain");
            return Err(Error::invalid("oyez_conn_detach", cause).with_errno(Errno::BUSY));
        }
        if let Some(socket) = conn.socket() {
            let _ = epoll::delete(self.epoll(server), socket);
        }
        inner.finish(place, None, Ending::Detach);
        Ok(())
    }

    fn close(&self, server: &Arc<Server>, place: Place, why: &Why, ending: Ending) {
        if let Some(on_close) = server.events().and_then(|events| events.on_close.as_ref()) {
            self.call(server, place, |id| on_close(id, why.as_ref()));
        }
        let mut inner = self.inner();
        let Inner { table, wheel, .. } = &mut *inner;
        wheel.take(table, place.index);
        let Some(conn) = table.remove(place) else { return };
        drop(inner);
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

impl Conn {
    fn may_read(&self) -> bool {
        self.state == State::Open && self.readable && !self.paused && !self.ended
    }

    /// Sends what the kernel takes at once.
    fn send(&mut self, bytes: &[u8]) -> std::result::Result<usize, Errno> {
        let Some(socket) = self.socket() else { return Err(Errno::BADF) };
        loop {
            match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => {
                    self.owned.slot().count_out(sent);
                    return Ok(sent);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// When it is looked at next, and what is over if that is no later than `now`.
    fn due(&self, now: u32) -> (u32, Option<&'static str>) {
        let limits = self.owned.slot().times();
        let after = |since: u32, milliseconds: u32| match milliseconds {
            0 => NEVER,
            // One more, because the first tick may be almost over.
            limit => since.saturating_add(limit.div_ceil(TICK_MS as u32)).saturating_add(1),
        };
        let reads = !self.served || !self.input.is_empty();
        let ends = [
            (after(self.opened, limits.lifetime), "the connection's lifetime is over"),
            (after(self.active, limits.idle), "the connection was silent for too long"),
            (if reads { after(self.incomplete, limits.read) } else { NEVER }, "input stayed incomplete for too long"),
            (if self.waits == NEVER { NEVER } else { after(self.waits, limits.write) }, "output was not taken in time"),
        ];
        let first = ends.iter().min_by_key(|(due, _)| *due).copied().unwrap_or((NEVER, ""));
        (first.0, (first.0 <= now).then_some(first.1))
    }
}

impl Inner {
    /// Notes for one more connection must not need memory later.
    fn make_room(&mut self) -> bool {
        let count = self.table.len() + 1;
        self.over.try_reserve(count).and_then(|()| self.go_on.try_reserve(count)).is_ok()
    }

    /// Has a connection looked at when it may be due, unless that happens earlier anyway.
    fn arm(&mut self, place: Place) {
        let now = self.now;
        let Some(conn) = self.table.get(place) else { return };
        let (due, _) = conn.due(now);
        if due < conn.link.due {
            self.wheel.put(&mut self.table, place.index, due);
        }
    }

    /// The next connection whose time is over.
    fn next_due(&mut self, _server: &Server) -> Option<(Place, Error)> {
        let now = self.now;
        while let Some(index) = self.wheel.next_due(&mut self.table, now) {
            let Some(place) = self.table.place(index) else { continue };
            let Some(conn) = self.table.get(place).filter(|conn| conn.state != State::Over) else { continue };
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
    fn finish(&mut self, place: Place, why: Why, ending: Ending) {
        let Some(conn) = self.table.get(place).filter(|conn| conn.state != State::Over) else { return };
        conn.state = State::Over;
        conn.owned.slot().begin_to_end();
        // A peer that does not get everything must be able to tell.
        let whole = ending != Ending::Close || conn.output.is_empty();
        let ending = if whole { ending } else { Ending::Abort };
        self.over.push_back((place, why, ending));
    }

    /// The peer sends nothing more: what is queued is sent, and that is the end.
    fn end_of_stream(&mut self, place: Place) {
        let Some(conn) = self.table.get(place) else { return };
        conn.readable = false;
        conn.owned.slot().note_end();
        conn.ended = true;
        self.end_if_sent(place);
    }

    /// Where either side has ended the stream and nothing waits to be sent, the connection is over.
    fn end_if_sent(&mut self, place: Place) {
        let Some(conn) = self.table.get(place).filter(|conn| conn.owned.slot().queued() == 0) else { return };
        match conn.state {
            State::Closing => self.finish(place, None, Ending::Close),
            State::Open if conn.ended => self.finish(place, Some(ended()), Ending::Close),
            State::Open | State::Over => {}
        }
    }

    /// What is needed to read from a connection; `None` where nothing is to be read.
    fn begin_read(&mut self, place: Place) -> Option<Reading> {
        // Without its buffer it is in the middle of another read, below on this stack.
        let conn = self.table.get(place).filter(|conn| conn.may_read() && !self.buffer.is_empty())?;
        let (guest, socket, is_first) = (conn.owned.guest(), conn.socket()?, conn.input.is_empty());
        Some(Reading { guest, socket, is_first, buffer: std::mem::take(&mut self.buffer) })
    }

    /// Notes what recv(2) said, and keeps what the program has not consumed.
    fn end_read(
        &mut self,
        server: &Server,
        place: Place,
        reading: &Reading,
        received: std::result::Result<usize, Errno>,
        consumed: usize,
    ) -> Next {
        let now = self.now;
        let Some(conn) = self.table.get(place) else { return Next::Wait };
        let length = match received {
            Ok(0) => {
                self.end_of_stream(place);
                return Next::Wait;
            }
            Ok(length) => length,
            Err(Errno::INTR) => return Next::Read,
            Err(Errno::AGAIN) => {
                conn.readable = false;
                return Next::Wait;
            }
            Err(errno) => {
                self.finish(place, Some(Error::system("read", errno).with_code(Code::Closed)), Ending::Abort);
                return Next::Wait;
            }
        };
        conn.active = now;
        conn.served = true;
        conn.owned.slot().count_in(length);
        // A buffer that was not filled has taken all there was, and the next event tells of more; unless the end is
        // behind it, of which the kernel has told already.
        conn.readable = length == reading.buffer.len() || conn.hung_up;
        let next = if conn.readable { Next::Read } else { Next::Wait };
        if consumed == length {
            return next;
        }
        self.keep(place, reading.buffer.get(consumed..length).unwrap_or_default());
        if !reading.is_first {
            return Next::Deliver;
        }
        self.limit_input(server, place);
        next
    }

    /// Keeps what the program has not consumed, behind what it has left before.
    fn keep(&mut self, place: Place, rest: &[u8]) {
        let now = self.now;
        let Some(conn) = self.table.get(place).filter(|conn| conn.state == State::Open) else { return };
        if conn.input.is_empty() {
            conn.incomplete = now;
        }
        if conn.input.try_reserve(rest.len()).is_err() {
            return self.finish(place, Some(Error::system("read", Errno::NOMEM)), Ending::Abort);
        }
        conn.input.extend_from_slice(rest);
    }

    fn limit_input(&mut self, server: &Server, place: Place) {
        let Some(conn) = self.table.get(place) else { return };
        let (length, most) = (conn.input.len(), server.options().max_input);
        if length > most {
            let cause = format_args!("{length} bytes of input were not consumed, more than max_input, {most}");
            let error = Error::new(Code::LimitReached, "read", cause).with_errno(Errno::MSGSIZE);
            self.finish(place, Some(error), Ending::Close);
        } else if length > 0 {
            self.arm(place);
        }
    }

    /// Sends what waits. True where all of it has been sent just now, and the connection goes on.
    fn flush(&mut self, place: Place) -> bool {
        let now = self.now;
        let Some(conn) = self.table.get(place).filter(|conn| conn.state != State::Over) else { return false };
        while !conn.output.is_empty() {
            let output = std::mem::take(&mut conn.output);
            let sent = conn.send(output.front());
            conn.output = output;
            match sent {
                Ok(0) => {
                    conn.writable = false;
                    return false;
                }
                Ok(sent) => {
                    conn.output.advance(sent);
                    conn.owned.slot().unqueue(sent);
                    (conn.active, conn.waits) = (now, now);
                }
                Err(errno) => {
                    let why = Error::system("write", errno).with_code(Code::Closed);
                    self.finish(place, Some(why), Ending::Abort);
                    return false;
                }
            }
        }
        conn.waits = NEVER;
        let goes_on = conn.state == State::Open;
        if !goes_on {
            self.end_if_sent(place);
        }
        goes_on
    }

    /// Sends what the kernel takes at once, and keeps the rest: how much that is.
    fn send(&mut self, place: Place, bytes: &[u8]) -> Result<usize> {
        let now = self.now;
        let Some(conn) = self.table.get(place).filter(|conn| conn.state != State::Over) else { return Err(gone()) };
        let sent = if conn.output.is_empty() && conn.writable { conn.send(bytes) } else { Ok(0) };
        let sent = match sent {
            Ok(sent) => sent,
            Err(errno) => {
                let error = Error::system("write", errno).with_code(Code::Closed);
                self.finish(place, Some(error.clone()), Ending::Abort);
                return Err(error);
            }
        };
        if sent > 0 {
            conn.active = now;
        }
        let rest = bytes.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(0);
        }
        conn.writable = false;
        if let Err(errno) = conn.output.push(rest) {
            let error = Error::system("write", errno);
            if sent > 0 {
                // A part is on its way, so the stream is broken.
                self.finish(place, Some(error.clone()), Ending::Abort);
            }
            return Err(error);
        }
        if conn.waits == NEVER {
            conn.waits = now;
            self.arm(place);
        }
        Ok(rest.len())
    }

    fn go_on_later(&mut self, place: Place) {
        let Some(conn) = self.table.get(place).filter(|conn| !conn.goes_on) else { return };
        conn.goes_on = true;
        self.go_on.push_back(place);
    }

    /// The next connection that goes on, and whether the program gets what it has left, because it has resumed it.
    fn next_to_go_on(&mut self) -> Option<(Place, bool)> {
        let place = self.go_on.pop_front()?;
        let conn = self.table.get(place)?;
        conn.goes_on = false;
        let again = std::mem::take(&mut conn.resumed) && !conn.input.is_empty() && !conn.paused;
        (conn.state == State::Open).then_some((place, again))
    }

    /// Closes a connection that is idle while the server stops.
    fn close_if_stopping(&mut self, place: Place) {
        if self.stopping && self.table.get(place).is_some_and(|conn| conn.is_idle()) {
            self.finish(place, Some(stopped("the server stops")), Ending::Close);
        }
    }

    /// Resets what is left when the drain time is over.
    fn cut(&mut self, server: &Server) {
        for index in 0..self.table.places() {
            let Some(place) = self.table.place(index) else { continue };
            let Some(conn) = self.table.get(place).filter(|conn| conn.state != State::Over) else { continue };
            conn.owned.slot().note_cut();
            super::super::counters::add(&server.counters().cut, 1);
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

pub(super) fn gone() -> Error {
    Error::new(Code::Closed, "oyez_conn_write", format_args!("the connection is closed"))
}

pub(super) fn too_much(server: &Server, queued: usize, more: usize) -> Error {
    let most = server.options().max_output;
    let cause = format_args!("{queued} bytes are queued, and {more} more would pass max_output, {most}");
    Error::new(Code::LimitReached, "oyez_conn_write", cause)
        .hint(format_args!("wait for on_drain before writing more, write less at once, or raise max_output"))
}
