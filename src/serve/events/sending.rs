//! Output of an event loop's connections: what the kernel takes at once, what waits until it takes more, and what is told
//! of that.

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::super::connection::{Ending, Slot, gone};
use super::super::{ConnectionId, Server};
use super::conn::{Conn, Place, Room, State};
use super::connections::Connections;
use super::event_loop::EventLoop;
use super::wheel::{NEVER, TICK_MS};
use crate::error::{Code, Error, Result};

/// What is written at once and is longer than this is sent at once also where output goes through a ring: copying it
/// would cost more than the system call.
const DIRECT: usize = 4096;

/// How many ticks the kernel may be without memory for a connection's output before that is over.
const SHORTAGE: u32 = (2000 / TICK_MS) as u32;

/// How many vectors are kept to be used again, and how large each may be.
const SPARE: usize = 1024;
const SPARE_SIZE: usize = 16 * 1024;

impl EventLoop {
    /// Sends bytes of the connection whose function runs, where that is all there is to do; how much of them, as send(2)
    /// says. `None` where it is not that simple, and nothing has been done.
    pub fn write_at_once(&self, id: ConnectionId, bytes: &[u8]) -> Option<std::result::Result<usize, Errno>> {
        let guest = self.serving(id)?;
        let mut connections = self.connections();
        let now = connections.turn();
        let by_ring = connections.by_ring;
        let conn = connections.table.get(guest.place)?;
        let simple = conn.state == State::Open && conn.may_send();
        let fits = bytes.len() <= self.server.options().max_output;
        if by_ring || !(simple && fits) || guest.slot.queued() > 0 || guest.slot.is_ending() {
            return None;
        }
        let sent = conn.send(bytes);
        if matches!(sent, Ok(1..)) {
            conn.active = now;
        }
        Some(sent)
    }

    /// Looks after what [`EventLoop::write_at_once`] has not sent.
    #[cold]
    pub fn write_rest(
        &self,
        id: ConnectionId,
        bytes: &[u8],
        sent: std::result::Result<usize, Errno>,
    ) -> Option<Result<()>> {
        let guest = self.serving(id)?;
        let queued = self.connections().queue_rest(guest.place, bytes, sent);
        Some(queued.map(|queued| guest.slot.queue(queued)))
    }

    /// Sends bytes, or queues them. `None` where earlier ones are still in the inbox, behind which these belong.
    pub fn write(&self, place: Place, bytes: &[u8]) -> Option<Result<()>> {
        let mut connections = self.connections();
        let open = |conn: &&mut Conn| conn.state == State::Open && !conn.owned.slot().is_ending();
        let Some(conn) = connections.table.get(place).filter(open) else {
            return Some(Err(gone("oyez_conn_write")));
        };
        let queued = conn.owned.slot().queued();
        if queued > conn.output.front().len() + conn.flying as usize {
            return None;
        }
        if bytes.len() > self.server.options().max_output.saturating_sub(queued) {
            if connections.send_gathered(place) {
                drop(connections);
                return self.write(place, bytes);
            }
            if let Some(conn) = connections.table.get(place).filter(|_| queued > 0) {
                conn.owned.slot().refuse();
            }
            return Some(Err(too_much(&self.server, queued, bytes.len())));
        }
        match connections.send(place, bytes) {
            Ok(0) => {}
            Ok(queued) => connections.table.get(place).into_iter().for_each(|conn| conn.owned.slot().queue(queued)),
            Err(error) => return Some(Err(error)),
        }
        Some(Ok(()))
    }

    /// Sends bytes that another thread has written, and that count as queued since then.
    pub(super) fn write_queued(&self, place: Place, slot: &Slot, bytes: &[u8]) {
        let mut connections = self.connections();
        let queued = connections.send(place, bytes).unwrap_or_else(|error| {
            // Its writer was told that it will be sent.
            connections.finish(place, Some(error), Ending::Abort);
            0
        });
        connections.unqueue(place, slot, bytes.len() - queued);
        connections.end_if_sent(place);
    }

    /// Sends what waits.
    pub(super) fn flush(&self, place: Place) {
        let done = self.connections().flush(place);
        if done {
            self.drained(place);
        }
    }

    /// All that waited has been sent.
    pub(super) fn drained(&self, place: Place) {
        if let Some(conn) = self.connections().table.get(place) {
            // Before the function, in which a write may be refused again.
            conn.owned.slot().settle_refusal();
        }
        if let Some(on_drain) = self.server.events().and_then(|events| events.on_drain.as_ref()) {
            self.call(place, on_drain);
        }
        self.connections().end_if_sent(place);
    }
}

impl Conn {
    /// Whether what is written can be sent at once: nothing is before it, and the kernel takes output.
    pub fn may_send(&self) -> bool {
        self.output.is_empty() && self.room == Room::Free && self.flying == 0
    }

    /// Whether on_drain has to be called because a write was refused, and nothing is queued any longer.
    pub fn is_owed_drain(&self) -> bool {
        let slot = self.owned.slot();
        slot.is_refused() && slot.queued() == 0 && self.state == State::Open
    }

    /// Sends what the kernel takes at once.
    pub fn send(&mut self, bytes: &[u8]) -> std::result::Result<usize, Errno> {
        loop {
            match rustix::net::send(self.socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
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
}

impl Connections {
    /// Sends what the kernel takes at once, and keeps the rest: how much that is.
    pub fn send(&mut self, place: Place, bytes: &[u8]) -> Result<usize> {
        let now = self.turn();
        let Some(conn) = self.table.get(place).filter(|conn| conn.state != State::Over) else {
            return Err(gone("oyez_conn_write"));
        };
        if !conn.may_send() || (self.by_ring && bytes.len() < DIRECT) {
            return self.gather(place, bytes);
        }
        let sent = conn.send(bytes);
        if sent == Ok(bytes.len()) {
            conn.active = now;
            return Ok(0);
        }
        self.queue_rest(place, bytes, sent)
    }

    /// Keeps bytes behind those that wait, or for the ring, which sends them with the end of the turn: how many they are.
    fn gather(&mut self, place: Place, bytes: &[u8]) -> Result<usize> {
        let Some(conn) = self.table.get(place) else { return Ok(0) };
        conn.output.use_room(|| self.spare.pop());
        conn.output.push(bytes).map_err(|errno| Error::system("write", errno))?;
        if self.by_ring {
            self.go_on_later(place);
        }
        Ok(bytes.len())
    }

    /// Keeps what the kernel has not taken just now: how much that is.
    #[cold]
    pub fn queue_rest(&mut self, place: Place, bytes: &[u8], sent: std::result::Result<usize, Errno>) -> Result<usize> {
        let now = self.turn();
        let Some(conn) = self.table.get(place) else { return Ok(0) };
        let shortage = sent.err().filter(|&errno| is_shortage(errno));
        let sent = match sent {
            Ok(sent) => sent,
            Err(_) if shortage.is_some() => 0,
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
        if let Err(errno) = conn.output.push(rest) {
            let error = Error::system("write", errno);
            if sent > 0 {
                // A part is on its way, so the stream is broken.
                self.finish(place, Some(error.clone()), Ending::Abort);
            }
            return Err(error);
        }
        self.hold_back(place, shortage, false);
        Ok(rest.len())
    }

    /// Sends what waits. True where all of it has been sent just now, and the connection goes on.
    pub fn flush(&mut self, place: Place) -> bool {
        let now = self.turn();
        if self.table.get(place).is_none_or(|conn| conn.state == State::Over) {
            return false;
        }
        while let Some(conn) = self.table.get(place).filter(|conn| !conn.output.is_empty()) {
            let output = std::mem::take(&mut conn.output);
            let sent = conn.send(output.front());
            conn.output = output;
            match sent {
                Ok(0) => {
                    self.hold_back(place, None, false);
                    return false;
                }
                Err(errno) if is_shortage(errno) => {
                    self.hold_back(place, Some(errno), false);
                    return false;
                }
                Ok(sent) => {
                    conn.output.advance(sent);
                    (conn.active, conn.waits) = (now, now);
                    let slot = conn.owned.slot();
                    self.unqueue(place, slot, sent);
                }
                Err(errno) => {
                    let why = Error::system("write", errno).with_code(Code::Closed);
                    self.finish(place, Some(why), Ending::Abort);
                    return false;
                }
            }
        }
        let Some(conn) = self.table.get(place) else { return false };
        (conn.room, conn.waits) = (Room::Free, NEVER);
        let goes_on = conn.state == State::Open;
        if conn.watched {
            self.go_on_later(place);
        }
        if !goes_on {
            self.end_if_sent(place);
        }
        goes_on
    }

    /// Sends at once what was kept for the ring, where nothing is under way. True where it is worth trying again what did
    /// not go.
    pub fn send_gathered(&mut self, place: Place) -> bool {
        let by_ring = self.by_ring;
        let gathered =
            |conn: &&mut Conn| by_ring && conn.flying == 0 && conn.room == Room::Free && !conn.output.is_empty();
        if self.table.get(place).filter(gathered).is_none() {
            return false;
        }
        self.flush(place);
        self.table.get(place).is_some_and(|conn| conn.state == State::Open)
    }

    /// Bytes on their way through the ring have been sent, in part or whole, or not. True where nothing waits any more,
    /// although the kernel had not taken it at once, and the connection goes on.
    pub fn end_send(
        &mut self,
        place: Place,
        bytes: Vec<u8>,
        from: usize,
        outcome: std::result::Result<usize, Errno>,
    ) -> bool {
        let now = self.turn();
        let Some(conn) = self.table.get(place) else {
            self.recycle(bytes);
            return false;
        };
        conn.flying = 0;
        let shortage = outcome.err().filter(|&errno| is_shortage(errno));
        let sent = match outcome {
            Ok(sent) => sent,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) if shortage.is_some() => 0,
            Err(errno) => {
                self.finish(place, Some(Error::system("write", errno).with_code(Code::Closed)), Ending::Abort);
                self.recycle(bytes);
                return false;
            }
        };
        let slot = conn.owned.slot();
        slot.count_out(sent);
        if sent > 0 {
            conn.active = now;
        }
        self.unqueue(place, slot, sent);
        let Some(conn) = self.table.get(place) else { return false };
        if from + sent < bytes.len() {
            if conn.output.put_back(bytes, from + sent).is_err() {
                self.finish(place, Some(Error::system("write", Errno::NOMEM)), Ending::Abort);
                return false;
            }
            self.hold_back(place, shortage, sent > 0);
            return false;
        }
        let drained = conn.output.is_empty();
        if !drained {
            if conn.waits != NEVER {
                conn.waits = now;
            }
            self.go_on_later(place);
            self.recycle(bytes);
            return false;
        }
        let waited = std::mem::replace(&mut conn.room, Room::Free) != Room::Free;
        conn.waits = NEVER;
        let goes_on = conn.state == State::Open;
        self.recycle(bytes);
        if !(goes_on && waited) {
            self.end_if_sent(place);
        }
        goes_on && waited
    }

    /// The kernel has just refused output of a connection: its queue is full, or it has no memory and said so.
    fn hold_back(&mut self, place: Place, shortage: Option<Errno>, progress: bool) {
        let now = self.time();
        let by_ring = self.by_ring;
        let Some(conn) = self.table.get(place) else { return };
        let was_short = matches!(conn.room, Room::Short | Room::Again);
        // A queue that was full has been emptied somewhat before memory can be what is short.
        if conn.waits == NEVER || progress || (shortage.is_some() && !was_short) {
            conn.waits = now;
        }
        if let Some(errno) = shortage {
            if now.saturating_sub(conn.waits) > SHORTAGE {
                return self.finish(place, Some(Error::system("write", errno)), Ending::Abort);
            }
            conn.room = Room::Short;
        } else {
            conn.room = Room::Full;
            // The ring has to be told of it, or the epoll set.
            if by_ring || (conn.is_local && !conn.watched) {
                self.go_on_later(place);
            }
        }
        self.arm(place);
    }

    /// Fewer bytes are queued. Where those were the last, a refused write hears of that.
    fn unqueue(&mut self, place: Place, slot: &Slot, less: usize) {
        if slot.unqueue(less) == 0 && slot.is_refused() {
            self.go_on_later(place);
        }
    }

    /// Takes a vector to be used again.
    pub fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE && bytes.capacity() <= SPARE_SIZE && self.spare.try_reserve(1).is_ok() {
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}

/// Whether the kernel had no memory for it.
fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::NOBUFS | Errno::NOMEM)
}

pub(super) fn too_much(server: &Server, queued: usize, more: usize) -> Error {
    let most = server.options().max_output;
    let cause = format_args!("{queued} bytes are queued, and {more} more would pass max_output, {most}");
    Error::new(Code::LimitReached, "oyez_conn_write", cause)
        .hint(format_args!("wait for on_drain before writing more, write less at once, or raise max_output"))
}
