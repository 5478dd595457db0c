//! Event servers: one thread serves many connections, by functions that are called for what happens.
//!
//! A server has one or more [`Lane`]s, each with an [`EventLoop`] on its own thread. The first is the server's own loop,
//! which accepts for all of them and gives each connection to the lane that has fewest; a connection stays there. Calls
//! on a connection act at once on its loop's thread, and are queued to it from any other.

mod backend;
mod by_ring;
mod conn;
mod connections;
mod event_loop;
mod inbox;
mod lane;
mod output;
mod polled;
mod reading;
mod sending;
mod wheel;
mod worker;

use std::sync::Arc;

use rustix::io::Errno;

pub use backend::{Choice, choose};
pub use conn::Place;
pub use event_loop::{EventLoop, Parked};
pub use lane::Lane;
pub use polled::Polling;
pub use worker::Workers;

use super::connection::{Ending, Owned, Slot, gone};
use super::{ConnectionId, Server};
use crate::error::{Error, Result};
use crate::sys::ring::Ring;
use crate::sys::scoped::Scoped;
use inbox::Command;

/// A function for a connection.
pub type OnConnection = Box<dyn Fn(ConnectionId) + Send + Sync>;
/// A function for input; it tells how much it consumed.
pub type OnData = Box<dyn Fn(ConnectionId, &[u8]) -> usize + Send + Sync>;
/// A function for the end of a connection, and its reason.
pub type OnClose = Box<dyn Fn(ConnectionId, Option<&Error>) + Send + Sync>;

/// The functions of the program. All those of one connection are called on one thread, in order.
#[derive(Default)]
pub struct Events {
    /// A connection was accepted.
    pub on_open: Option<OnConnection>,
    /// Input has come: how much of it was consumed. What is left is given again with what follows. Without this
    /// function input is dropped.
    pub on_data: Option<OnData>,
    /// All that was queued has been sent.
    pub on_drain: Option<OnConnection>,
    /// The connection is over; exactly once for each that was opened. There is no reason where the program ended it.
    pub on_close: Option<OnClose>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Events")
    }
}

thread_local! {
    /// The event loop that this thread runs just now.
    static HERE: Scoped<EventLoop> = const { Scoped::new() };
}

/// Runs `body` as the thread of a lane, with its loop, and gives the loop back parked. A server that has no lanes has no
/// loop either.
pub fn on_lane<T>(
    server: &Arc<Server>,
    index: usize,
    parked: Option<Parked>,
    body: impl FnOnce(Option<&EventLoop>) -> T,
) -> std::result::Result<(T, Option<Parked>), Errno> {
    let Some(lane) = server.lanes().get(index) else { return Ok((body(None), None)) };
    let parked = parked.or_else(Parked::new).ok_or(Errno::NOMEM)?;
    let ring = lane.take_ring();
    ring.as_ref().map_or(Ok(()), Ring::enable)?;
    let event_loop = EventLoop::new(server, lane, parked, ring);
    let value = HERE.with(|here| here.set(&event_loop, || body(Some(&event_loop))));
    Ok((value, Some(event_loop.park())))
}

/// Does something with the loop of that lane if this is its thread.
fn here<T>(number: u32, action: impl FnOnce(&EventLoop) -> T) -> Option<T> {
    HERE.with(|here| here.with(|own| own.filter(|own| own.lane().number() == number).map(action)))
}

/// Does something with the loop that the server's own thread runs, if it has one and this is that thread.
pub fn on_own_loop<T>(server: &Server, action: impl FnOnce(&EventLoop) -> T) -> Option<T> {
    here(server.lanes().first()?.number(), action)
}

/// Queues a command to a connection's lane.
fn post(slot: &Slot, number: u32, command: Command, function: &'static str) -> Result<()> {
    let gone = || gone(function);
    let server = slot.server().ok_or_else(gone)?;
    let lane = server.lanes().iter().find(|lane| lane.number() == number).ok_or_else(gone)?;
    lane.inbox.post(command).map_err(|_| Error::system(function, Errno::NOMEM))
}

/// The slot of a connection whose function runs on this thread.
pub fn serving(id: ConnectionId) -> Option<&'static Slot> {
    HERE.with(|here| here.with(|own| own?.serving(id).map(|guest| guest.slot)))
}

/// Whether a function of that server runs on this thread.
pub fn is_serving_for(server: &Server) -> bool {
    let is_its = |own: &&EventLoop| std::ptr::eq(Arc::as_ptr(own.server()), server) && own.is_serving();
    HERE.with(|here| here.with(|own| own.filter(is_its).is_some()))
}

/// Sends bytes on the connection whose function runs on this thread, where that is all there is to do: true if all of
/// them have been sent. `outcome` hears of anything else that was done.
#[inline]
pub fn write_at_once(id: ConnectionId, bytes: &[u8], outcome: &mut Option<Result<()>>) -> bool {
    HERE.with(|here| {
        here.with(|own| {
            let Some(own) = own else { return false };
            let Some(sent) = own.write_at_once(id, bytes) else { return false };
            if sent != Ok(bytes.len()) {
                *outcome = own.write_rest(id, bytes, sent);
            }
            sent == Ok(bytes.len())
        })
    })
}

/// Sends bytes on a connection of a lane, or queues them.
pub fn write(slot: &Slot, id: ConnectionId, number: u32, bytes: &[u8]) -> Result<()> {
    const FUNCTION: &str = "oyez_conn_write";
    if slot.is_ending() {
        return Err(gone(FUNCTION));
    }
    if let Some(Some(outcome)) = here(number, |own| own.write(slot.place(), bytes)) {
        return outcome;
    }
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| Error::system(FUNCTION, Errno::NOMEM))?;
    copy.extend_from_slice(bytes);
    let server = slot.server().ok_or_else(|| gone(FUNCTION))?;
    if let Err(queued) = slot.queue_or_refuse(bytes.len(), server.options().max_output) {
        return Err(sending::too_much(&server, queued, bytes.len()));
    }
    post(slot, number, Command::Write(id, copy), FUNCTION).inspect_err(|_| {
        slot.unqueue(bytes.len());
    })
}

/// Ends a connection of a lane.
pub fn end(slot: &Slot, id: ConnectionId, number: u32, ending: Ending, function: &'static str) -> Result<()> {
    if slot.begin_to_end() {
        return Err(gone(function));
    }
    if here(number, |own| own.end(slot.place(), ending)).is_some() {
        return Ok(());
    }
    post(slot, number, Command::End(id, ending), function).inspect_err(|_| slot.take_end_back())
}

/// Takes a connection away from its lane.
pub fn detach(slot: &Slot, number: u32) -> Result<()> {
    const FUNCTION: &str = "oyez_conn_detach";
    if slot.is_ending() {
        return Err(gone(FUNCTION));
    }
    here(number, |own| own.detach(slot.place())).unwrap_or_else(|| {
        Err(Error::invalid(FUNCTION, format_args!("only the server's own functions can do that, on their thread")))
    })
}

/// Reads nothing for a while, or goes on.
pub fn pause(slot: &Slot, id: ConnectionId, number: u32, paused: bool, function: &'static str) -> Result<()> {
    if slot.is_ending() {
        return Err(gone(function));
    }
    match here(number, |own| own.pause(slot.place(), paused)) {
        Some(()) => Ok(()),
        None => post(slot, number, Command::Pause(id, paused), function),
    }
}

/// A connection's times have changed.
pub fn rearm(slot: &Slot, id: ConnectionId, number: u32) -> Result<()> {
    const FUNCTION: &str = "oyez_conn_set_timeout";
    if slot.is_ending() {
        return Err(gone(FUNCTION));
    }
    match here(number, |own| own.rearm(slot.place())) {
        Some(()) => Ok(()),
        None => post(slot, number, Command::Rearm(id), FUNCTION),
    }
}

impl Server {
    /// Has the loops close lingering connections whose reply has arrived. True where this thread's own closed one.
    pub(super) fn evict_from_lanes(&self) -> bool {
        for lane in self.lanes().iter().skip(1) {
            let _ = lane.inbox.post(Command::Evict);
        }
        on_own_loop(self, EventLoop::evict).unwrap_or(false)
    }

    /// Gives a connection to the lane that has fewest.
    pub(super) fn give_to_lane(self: &Arc<Self>, connection: Owned) {
        let least =
            self.lanes().iter().take(self.workers().lanes()).enumerate().min_by_key(|(_, lane)| lane.inbox.load());
        let Some((index, lane)) = least else { return connection.end(Ending::Abort) };
        lane.inbox.count(true);
        let mut connection = Some(connection);
        if index == 0 {
            on_own_loop(self, |own| connection.take().into_iter().for_each(|connection| own.open(connection)));
        }
        let Some(connection) = connection else { return };
        if let Err(Command::Open(connection)) = lane.inbox.post(Command::Open(connection)) {
            lane.inbox.count(false);
            connection.end(Ending::Abort);
        }
    }
}
