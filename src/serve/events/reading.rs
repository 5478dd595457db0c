//! Input of an event loop's connections: it is read, given to the program, and kept where the program leaves some of it.

use std::io::IoSliceMut;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags};

use super::super::Server;
use super::super::connection::Ending;
use super::conn::{Conn, Pace, Place, State};
use super::connections::Connections;
use super::event_loop::{BUFFER, EventLoop, Guest};
use crate::error::{Code, Error};

/// How often one connection is read in a turn before others get theirs.
const READS: usize = 4;

/// What reading from a connection takes.
#[derive(Clone, Copy)]
pub struct Reading {
    /// For the program's function.
    pub guest: Guest,
    /// Its socket.
    pub socket: BorrowedFd<'static>,
    /// How much may be read.
    pub window: usize,
    /// Nothing is left from before: the program gets the input as it is in the buffer.
    pub is_first: bool,
    /// It is a Unix socket.
    pub is_local: bool,
    /// The connection is closing: input is read and dropped, so that a peer that sends is not kept from reading.
    pub dropped: bool,
}

/// What follows when something was read.
pub enum Next {
    /// There is nothing more for now.
    Wait,
    /// There may be more.
    Read,
    /// The program gets it together with what it has left before.
    Deliver,
}

impl EventLoop {
    pub(super) fn go_on_reading(&self, place: Place, reading: Option<Reading>) {
        let mut reading = reading;
        let mut buffer = self.buffer.borrow_mut();
        for _ in 0..READS {
            let Some(now) = reading else { break };
            let window = buffer.get_mut(..now.window).unwrap_or_default();
            let (received, has_more) = receive(&now, window);
            let consumed = match received {
                Ok(length) if now.dropped => length,
                Ok(length @ 1..) if now.is_first => self.deliver(now.guest, window.get(..length)),
                _ => 0,
            };
            let rest = received.ok().and_then(|length| window.get(consumed..length)).unwrap_or_default();
            let mut connections = self.connections();
            reading = match connections.end_read(&self.server, place, &now, received, has_more, rest) {
                Next::Wait => None,
                Next::Read => connections.begin_read(&self.server, place),
                Next::Deliver => {
                    drop(connections);
                    self.deliver_kept(place);
                    self.connections().begin_read(&self.server, place)
                }
            };
        }
        let mut connections = self.connections();
        if reading.is_some() {
            connections.go_on_later(place);
        }
        connections.close_if_stopping(place);
    }

    /// Gives fresh input to the program; how much of it was consumed.
    pub(super) fn deliver(&self, guest: Guest, bytes: Option<&[u8]>) -> usize {
        let bytes = bytes.unwrap_or_default();
        let Some(on_data) = self.server.events().and_then(|events| events.on_data.as_ref()) else { return bytes.len() };
        let consumed = self.call_guest(guest, |id| on_data(id, bytes));
        consumed.unwrap_or(bytes.len()).min(bytes.len())
    }

    /// Gives the program what it has left before.
    pub(super) fn deliver_kept(&self, place: Place) {
        let Some(on_data) = self.server.events().and_then(|events| events.on_data.as_ref()) else { return };
        let mut connections = self.connections();
        let Some(conn) = connections.table.get(place).filter(|conn| conn.state == State::Open) else { return };
        let mut kept = std::mem::take(&mut conn.input);
        conn.unseen = false;
        drop(connections);
        let consumed = self.call(place, |id| on_data(id, &kept)).unwrap_or(kept.len()).min(kept.len());
        if consumed == kept.len() {
            kept = Vec::new();
        } else {
            kept.drain(..consumed);
        }
        let mut connections = self.connections();
        let now = connections.time();
        if let Some(conn) = connections.table.get(place) {
            if consumed > 0 {
                conn.incomplete = now;
            }
            conn.input = kept;
        }
        connections.limit_input(&self.server, place);
    }
}

impl Conn {
    /// Whether input is wanted.
    pub fn wants_input(&self) -> bool {
        (self.state == State::Closing || (self.state == State::Open && self.pace != Pace::Paused)) && !self.ended
    }

    pub fn may_read(&self) -> bool {
        self.readable && self.wants_input()
    }

    /// What is needed to read from it at its place; `None` where nothing is to be read.
    pub fn begin_read(&self, server: &Server, place: Place) -> Option<Reading> {
        if !self.may_read() {
            return None;
        }
        // What is left of a first read is within max_input; what is left later is, if the program goes on with it.
        let window = if self.input.is_empty() { server.options().max_input.clamp(1, BUFFER) } else { BUFFER };
        let (guest, socket) = (self.guest(place), self.socket);
        let (is_first, dropped) = (self.input.is_empty(), self.state == State::Closing);
        Some(Reading { guest, socket, window, is_first, is_local: self.is_local, dropped })
    }
}

impl Connections {
    /// What is needed to read from a connection; `None` where nothing is to be read.
    pub fn begin_read(&mut self, server: &Server, place: Place) -> Option<Reading> {
        self.table.get(place)?.begin_read(server, place)
    }

    /// Notes what recv(2) said, and keeps the rest that the program has not consumed.
    pub fn end_read(
        &mut self,
        server: &Server,
        place: Place,
        reading: &Reading,
        received: std::result::Result<usize, Errno>,
        has_more: bool,
        rest: &[u8],
    ) -> Next {
        let now = self.turn();
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
        // A window that was not filled has taken all there was, and the next event tells of more; unless the end is
        // behind it, of which the kernel has told already.
        conn.readable = length == reading.window || conn.hung_up || has_more;
        let next = if conn.readable { Next::Read } else { Next::Wait };
        if rest.is_empty() {
            return next;
        }
        self.keep(place, rest);
        if !reading.is_first {
            return Next::Deliver;
        }
        self.limit_input(server, place);
        next
    }

    /// Keeps what the program has not consumed, behind what it has left before.
    pub fn keep(&mut self, place: Place, rest: &[u8]) {
        let now = self.time();
        let Some(conn) = self.table.get(place).filter(|conn| conn.state == State::Open) else { return };
        if conn.input.is_empty() {
            conn.incomplete = now;
        }
        if conn.input.try_reserve(rest.len()).is_err() {
            return self.finish(place, Some(Error::system("read", Errno::NOMEM)), Ending::Abort);
        }
        conn.input.extend_from_slice(rest);
    }

    pub fn limit_input(&mut self, server: &Server, place: Place) {
        let Some(conn) = self.table.get(place) else { return };
        let (length, most) = (conn.input.len(), server.options().max_input);
        // A program that pauses has reasons, and nothing is added meanwhile.
        if length > most && conn.pace != Pace::Paused {
            let cause = format_args!("{length} bytes of input were not consumed, more than max_input, {most}");
            let error = Error::new(Code::LimitReached, "read", cause).with_errno(Errno::MSGSIZE);
            self.finish(place, Some(error), Ending::Close);
        } else if length > 0 {
            self.arm(place);
        }
    }
}

/// Receives what there is, and whether there may be more although the window is not full: a read of a Unix socket ends at
/// descriptors that the peer has passed, which are dropped here, and the kernel says so.
fn receive(reading: &Reading, window: &mut [u8]) -> (std::result::Result<usize, Errno>, bool) {
    if !reading.is_local {
        let received = rustix::net::recv(reading.socket, window, RecvFlags::DONTWAIT);
        return (received.map(|(_, length)| length), false);
    }
    let mut nothing = RecvAncillaryBuffer::default();
    let parts = &mut [IoSliceMut::new(window)];
    match rustix::net::recvmsg(reading.socket, parts, &mut nothing, RecvFlags::DONTWAIT) {
        Ok(message) => (Ok(message.bytes), message.flags.contains(ReturnFlags::CTRUNC)),
        Err(errno) => (Err(errno), false),
    }
}
