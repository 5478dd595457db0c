//! Input and output of an event loop through io_uring(7): input comes without being asked for each time, and the output
//! of a turn leaves with one system call.
//!
//! Listeners, wake-ups and timers stay in the loop's epoll set, for which the ring waits as well. Connections are
//! accepted by accept4(2): the accepts of a ring that go on by themselves do not tell the peers' addresses.

use std::mem::MaybeUninit;
use std::time::Duration;

use rustix::event::epoll::{self, Event};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::super::connection::Ending;
use super::conn::{Pace, Place, Receive, Room, State};
use super::event_loop::{EventLoop, INPUT, token};
use crate::deadline::Deadline;
use crate::error::{Code, Error};
use crate::sys::ring::{self, Ring};

/// How much of what the ring tells is looked at before the output that came of it is sent.
const AT_ONCE: usize = 128;

/// How often the ring is asked for what has come before a stop.
const LOOKS: usize = 256;

impl EventLoop {
    /// Waits for something to happen. What happens on connections by the ring has been looked after when it returns.
    pub fn wait<'e>(&self, events: &'e mut [MaybeUninit<Event>], deadline: Deadline) -> Result<&'e mut [Event], Errno> {
        let mut limit = deadline.timespec();
        if let Some(ring) = &self.ring {
            if !self.polling.replace(true) {
                ring.poll(self.lane.epoll(&self.server))?;
            }
            ring.enter(deadline)?;
            self.begin_turn();
            self.look_at(ring);
            if self.polling.get() {
                return Ok(&mut []);
            }
            limit = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let happened = epoll::wait(self.lane.epoll(&self.server), events, limit.as_ref());
        self.begin_turn();
        match happened {
            Ok((happened, _)) => Ok(happened),
            Err(Errno::INTR) => Ok(&mut []),
            Err(errno) => Err(errno),
        }
    }

    fn look_at(&self, ring: &Ring) {
        for _ in 0..ring.waiting().min(AT_ONCE) {
            match ring.next() {
                None => return,
                Some(ring::Event::Polled) => self.polling.set(false),
                Some(ring::Event::Received { token, input, goes_on, has_more }) => {
                    self.on_received(Place::of_token(token), input, goes_on, has_more);
                }
                Some(ring::Event::Sent { token, bytes, from, outcome }) => {
                    let place = Place::of_token(token);
                    let drained = self.connections().end_send(place, bytes, from, outcome);
                    if drained {
                        self.drained(place);
                    }
                    let mut connections = self.connections();
                    if connections.stopping {
                        connections.go_on_later(place);
                    }
                }
                Some(ring::Event::Other) => {}
            }
        }
    }

    /// Looks at all that the ring can tell now.
    pub(super) fn look_at_ring(&self) {
        let Some(ring) = &self.ring else { return };
        // The kernel does only some of what it has put off each time; and somebody may send without end.
        for _ in 0..LOOKS {
            self.check_ring(ring.enter(Deadline::after(Duration::ZERO)));
            if ring.waiting() == 0 {
                return;
            }
            for _ in 0..=ring.waiting() / AT_ONCE {
                self.look_at(ring);
            }
        }
    }

    fn on_received(&self, place: Place, input: Result<ring::Input<'_>, Errno>, goes_on: bool, has_more: bool) {
        let mut connections = self.connections();
        let now = connections.turn();
        let Some(conn) = connections.table.get(place) else {
            let received = input.map(|input| input.len());
            let watch = connections.end_lingering_receive(&self.server, place, received, goes_on);
            drop(connections);
            if watch {
                self.watch_lingering(place);
            }
            return;
        };
        if !goes_on {
            conn.receive = Receive::None;
        }
        conn.readable = has_more || matches!(input, Err(Errno::NOBUFS));
        match input {
            Ok(input) if input.is_empty() => {
                // A paused connection hears of the end when it goes on: receiving says it again.
                if !(conn.state == State::Open && conn.pace == Pace::Paused) {
                    connections.end_of_stream(place);
                }
            }
            Ok(input) => {
                (conn.active, conn.served) = (now, true);
                conn.owned.slot().count_in(input.len());
                drop(connections);
                self.hand_out(place, &input);
                connections = self.connections();
            }
            Err(Errno::NOBUFS | Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => {
                let why = Error::system("read", errno).with_code(Code::Closed);
                connections.finish(place, Some(why), Ending::Abort);
            }
        }
        if !goes_on || connections.stopping {
            connections.go_on_later(place);
        }
    }

    /// Gives input to the program, or keeps it.
    fn hand_out(&self, place: Place, input: &[u8]) {
        let window = self.server.options().max_input.max(1);
        let mut rest = input;
        while !rest.is_empty() {
            let mut connections = self.connections();
            let Some(conn) = connections.table.get(place).filter(|conn| conn.state == State::Open) else { return };
            let paused = conn.pace == Pace::Paused;
            if paused || !conn.input.is_empty() {
                conn.unseen = true;
                connections.keep(place, rest);
                drop(connections);
                if !paused {
                    self.deliver_kept(place);
                }
                return;
            }
            let guest = conn.guest(place);
            drop(connections);
            let (part, behind) = rest.split_at(rest.len().min(window));
            self.unseen(place, !behind.is_empty());
            let consumed = self.deliver(guest, Some(part));
            rest = behind;
            let left = part.get(consumed..).unwrap_or_default();
            if !left.is_empty() {
                let mut connections = self.connections();
                connections.keep(place, left);
                connections.limit_input(&self.server, place);
            }
        }
    }

    fn unseen(&self, place: Place, unseen: bool) {
        if let Some(conn) = self.connections().table.get(place) {
            conn.unseen = unseen;
        }
    }

    /// Has the ring do what a connection wants of it.
    pub(super) fn settle(&self, ring: &Ring, place: Place) {
        let mut connections = self.connections();
        let Some(conn) = connections.table.get(place).filter(|conn| conn.state != State::Over) else { return };
        let token = place.token();
        let mut outcome = Ok(());
        match (conn.receive, conn.wants_input()) {
            (Receive::None, true) => {
                outcome = ring.receive(conn.socket, token);
                conn.receive = if outcome.is_ok() { Receive::Begun } else { Receive::None };
            }
            // What had come already has been told by now.
            (Receive::Begun, true) => conn.receive = Receive::UnderWay,
            (Receive::Begun | Receive::UnderWay, false) => {
                outcome = ring.cancel(token);
                conn.receive = Receive::Ending;
            }
            _ => {}
        }
        if conn.flying == 0 && !conn.output.is_empty() && conn.room != Room::Short {
            let (bytes, from) = conn.output.take();
            let length = bytes.len() - from;
            match ring.send(conn.socket, token, bytes, from, conn.room != Room::Free) {
                Ok(()) => conn.flying = u32::try_from(length).unwrap_or(u32::MAX),
                Err(_) => connections.finish(place, Some(Error::system("write", Errno::NOMEM)), Ending::Abort),
            }
        } else if conn.is_owed_drain() {
            drop(connections);
            self.drained(place);
            connections = self.connections();
        }
        if connections.stopping {
            // It counts as idle when everything that has come of it has been looked at.
            let begun = connections.table.get(place).is_some_and(|conn| conn.receive == Receive::Begun);
            if begun || ring.waiting() > 0 {
                connections.go_on_later(place);
            } else {
                connections.close_if_stopping(place);
            }
        }
        drop(connections);
        self.check_ring(outcome);
    }

    /// Tells the ring of everything: descriptors are about to be closed.
    pub(super) fn tell_ring(&self) {
        if let Some(ring) = &self.ring {
            self.check_ring(ring.submit());
        }
    }

    /// The ring need not receive any more where that is under way.
    pub(super) fn forget(&self, place: Place, receiving: bool) {
        if let Some(ring) = self.ring.as_ref().filter(|_| receiving) {
            self.check_ring(ring.cancel(place.token()));
        }
    }

    /// A connection lingers and nothing is received from it: the epoll set tells when there is something to drop.
    pub(super) fn watch_lingering(&self, place: Place) {
        if self.ring.is_none() {
            return;
        }
        let mut connections = self.connections();
        let Some(lingering) = connections.table.lingering(place).filter(|lingering| !lingering.receiving) else {
            return;
        };
        let set = self.lane.epoll(&self.server);
        if epoll::add(set, &lingering.socket, token(place), INPUT).is_err() {
            connections.end_lingering(&self.server, place);
        }
    }

    /// A ring that does not work ends the server.
    fn check_ring(&self, outcome: Result<(), Errno>) {
        if let Err(errno) = outcome {
            self.server.fail(Error::system("io_uring_enter", errno));
        }
    }
}
