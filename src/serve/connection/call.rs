//! The calls of a program on a connection.

use std::mem::MaybeUninit;
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::Shutdown;

use super::super::table::{self, ConnectionId};
use super::super::{counters, events, transfer};
use super::slot::{PeerAddress, Slot, inode};
use super::{Ending, NO_LIMIT, current, gone};
use crate::deadline::{self, Deadline};
use crate::error::{Code, Error, Result};
use crate::text::Text;
use crate::{address, listen, sys};

/// A connection for the time of one call: its descriptor stays open.
pub struct Connection {
    slot: &'static Slot,
    /// How the call holds on to it.
    hold: Hold,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// By a pin of its own.
    Pin,
    /// By being the thread of the handler, whose pin lasts.
    Handler,
    /// By being a process that was made for this connection.
    Child,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.hold == Hold::Pin {
            self.slot.leave();
        }
    }
}

impl Connection {
    /// The connection of a number. On the thread of its handler that takes no lock.
    pub fn find(id: ConnectionId, function: &'static str) -> Result<Self> {
        if let Some((hold, open)) = current::find(id) {
            return open.map(|slot| Self { slot, hold }).ok_or_else(|| gone(function));
        }
        if id.is_of_ancestor() {
            return Err(Error::new(
                Code::Forked,
                function,
                format_args!("the connection belongs to the parent process"),
            )
            .hint(format_args!("pass the descriptor to the child before fork(2), with oyez_conn_detach()")));
        }
        if let Some(slot) = events::serving(id) {
            let open = Some(slot).filter(|slot| slot.state.is_open(id));
            return open.map(|slot| Self { slot, hold: Hold::Handler }).ok_or_else(|| gone(function));
        }
        let slot = table::slot_of(id).filter(|slot| slot.state.pin(id)).ok_or_else(|| gone(function))?;
        Ok(Self { slot, hold: Hold::Pin })
    }

    /// The descriptor, for the program to use; the server's timeouts are set on it.
    pub fn expose(&self) -> Result<RawFd> {
        let socket = self.slot.socket()?;
        if let Some(inode) = inode(socket) {
            self.slot.exposed.store(inode, Ordering::Relaxed);
        }
        for (name, other) in [(libc::SO_RCVTIMEO, &self.slot.read_ms), (libc::SO_SNDTIMEO, &self.slot.write_ms)] {
            let time = [limit(other), limit(&self.slot.idle_ms)].into_iter().flatten().min();
            if let Some(time) = time {
                let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                let _ = sys::socket::set_time_option(socket, name, milliseconds);
            }
        }
        Ok(socket.as_raw_fd())
    }

    /// The client's address.
    pub fn peer(&self) -> Result<Text> {
        match &*self.slot.peer.lock().unwrap_or_else(PoisonError::into_inner) {
            PeerAddress::Unknown => Ok(Text::new()),
            PeerAddress::V4(address) => Ok(address::display_ip(&SocketAddr::V4(*address))),
            &PeerAddress::V6 { ip, port, scope } => {
                Ok(address::display_ip(&SocketAddrV6::new(ip, port, 0, scope).into()))
            }
            PeerAddress::Unix => listen::peer_address(self.slot.socket()?).or_else(|_| Ok(Text::from("unix:"))),
        }
    }

    /// The address at which it arrived.
    pub fn local(&self) -> Result<Text> {
        listen::local_address(self.slot.socket()?)
    }

    /// Keeps a word of the program's.
    pub fn set_user(&self, user: usize) {
        self.slot.user.store(user, Ordering::Release);
    }

    /// That word.
    pub fn user(&self) -> usize {
        self.slot.user.load(Ordering::Acquire)
    }

    /// Sets how long the connection may be silent: -1 for ever, 0 as the server says.
    pub fn set_idle_timeout(&self, milliseconds: i32) -> Result<()> {
        let idle = match milliseconds {
            -1 => NO_LIMIT,
            0 => server_idle(self.slot),
            1.. => milliseconds.unsigned_abs(),
            _ => {
                let cause = format_args!("idle_ms is {milliseconds}, less than -1");
                return Err(Error::invalid("oyez_conn_set_timeout", cause));
            }
        };
        self.slot.idle_ms.store(idle, Ordering::Relaxed);
        self.slot.lane().map_or(Ok(()), |lane| events::rearm(self.slot, self.id(), lane))
    }

    /// Reads what there is.
    pub fn read(&self, buffer: &mut [MaybeUninit<u8>]) -> Result<usize> {
        self.check_has_no_lane("oyez_conn_read")?;
        let limits = self.limits(&self.slot.read_ms, "read")?;
        let length = self.judge(transfer::read(self.slot.socket()?, buffer, &limits))?;
        self.note_read(length, buffer.len());
        if length == 0 && !buffer.is_empty() && self.slot.state.is_closing() {
            // The end came from here, not from the peer.
            return Err(gone("oyez_conn_read"));
        }
        Ok(length)
    }

    /// Reads one line into `line` and puts a NUL behind it.
    pub fn read_line(&self, line: &mut [MaybeUninit<u8>]) -> Result<usize> {
        self.check_has_no_lane("oyez_conn_read_line")?;
        let limits = self.limits(&self.slot.read_ms, "read")?;
        let socket = self.slot.socket()?;
        let outcome = transfer::read_line(socket, line, &limits, |length| self.note_read(length, usize::MAX));
        let length = self.judge(outcome)?;
        if self.slot.state.is_closing() { Err(gone("oyez_conn_read_line")) } else { Ok(length) }
    }

    fn note_read(&self, length: usize, asked: usize) {
        if length == 0 && asked > 0 {
            self.slot.at_end.store(1, Ordering::Relaxed);
        }
        self.slot.bytes_in.fetch_add(length as u64, Ordering::Relaxed);
    }

    fn id(&self) -> ConnectionId {
        ConnectionId::of_slot(self.slot)
    }

    fn check_has_no_lane(&self, function: &'static str) -> Result<()> {
        match self.slot.lane() {
            None => Ok(()),
            Some(_) => Err(Error::invalid(function, format_args!("in an event server input comes by on_data"))),
        }
    }

    /// Reads nothing for a while, or goes on. For event servers.
    pub fn pause(&self, paused: bool, function: &'static str) -> Result<()> {
        match self.slot.lane() {
            Some(lane) => events::pause(self.slot, self.id(), lane, paused, function),
            None => Err(Error::invalid(function, format_args!("it is for the connections of event servers"))),
        }
    }

    /// Writes all of it to the connection of a number.
    pub fn write_to(id: ConnectionId, bytes: &[u8]) -> Result<()> {
        let mut outcome = None;
        if events::write_at_once(id, bytes, &mut outcome) {
            return Ok(());
        }
        match outcome {
            Some(outcome) => outcome,
            None => Self::find(id, "oyez_conn_write")?.write(bytes),
        }
    }

    /// Writes all of it.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        if let Some(lane) = self.slot.lane() {
            return events::write(self.slot, self.id(), lane, bytes);
        }
        let limits = self.limits(&self.slot.write_ms, "write")?;
        self.judge(transfer::write(self.slot.socket()?, bytes, &limits))?;
        self.slot.bytes_out.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Until when a call may wait, and what else may end it.
    fn limits(&self, other: &AtomicU32, operation: &'static str) -> Result<transfer::Limits> {
        let lifetime = limit(&self.slot.lifetime_ms).map(|lifetime| {
            let end = self.slot.opened.load(Ordering::Relaxed).saturating_add(lifetime.as_nanos() as u64);
            deadline::clock_left(end)
        });
        if lifetime.is_some_and(|left| left.is_zero()) {
            let over =
                Error::system(operation, Errno::AGAIN).because(format_args!("the connection's lifetime is over"));
            return self.judge(Err(over));
        }
        let shortest = [limit(other), limit(&self.slot.idle_ms), lifetime].into_iter().flatten().min();
        // On the server's own thread nobody else could end a wait when the drain time is over.
        let on_servers_thread = self.hold == Hold::Handler && self.slot.sequential.load(Ordering::Relaxed) != 0;
        let server = if on_servers_thread { self.slot.server() } else { None };
        Ok(transfer::Limits { deadline: Deadline::after_optional(shortest), server })
    }

    /// Says what a failed transfer means for this connection.
    fn judge<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| {
            let stopped = error.code() == Code::Stopped;
            if stopped
                && self.slot.cut.swap(1, Ordering::Relaxed) == 0
                && let Some(server) = self.slot.server()
            {
                counters::add(&server.counters().cut, 1);
            }
            if stopped || self.slot.cut.load(Ordering::Relaxed) != 0 {
                self.slot.ending.store(Ending::Abort as u8, Ordering::Relaxed);
                return error.with_code(Code::Stopped).because(format_args!("the server's drain time is over"));
            }
            if error.code() == Code::TimedOut
                && let Some(server) = self.slot.server()
            {
                counters::add(&server.counters().timeouts, 1);
            }
            error
        })
    }

    /// Closes without losing what was written.
    pub fn close(self) -> Result<()> {
        self.finish(Ending::Close, "oyez_conn_close")
    }

    /// Resets.
    pub fn abort(self) -> Result<()> {
        self.finish(Ending::Abort, "oyez_conn_abort")
    }

    fn finish(self, ending: Ending, function: &'static str) -> Result<()> {
        if let Some(lane) = self.slot.lane() {
            return events::end(self.slot, self.id(), lane, ending, function);
        }
        let before = self.slot.state.close();
        if before.closing {
            return Err(gone(function));
        }
        self.slot.ending.store(ending as u8, Ordering::Relaxed);
        let own_pins = self.own_pins();
        // Others are in the middle of a call: they must notice. And a child's parent has the descriptor as well.
        if before.pins > own_pins || self.hold == Hold::Child {
            let socket = self.slot.socket()?;
            match (ending, self.hold) {
                (Ending::Abort, _) => sys::socket::reset(socket),
                (_, Hold::Child) => drop(rustix::net::shutdown(socket, Shutdown::Write)),
                _ => drop(rustix::net::shutdown(socket, Shutdown::Both)),
            }
        }
        self.release_owner();
        Ok(())
    }

    /// The descriptor, which is the caller's from now on.
    pub fn detach(self) -> Result<OwnedFd> {
        let socket = self.slot.socket()?;
        if let Some(lane) = self.slot.lane() {
            return events::detach(self.slot, lane).map(|()| sys::own(socket));
        }
        if self.slot.state.close_if_unused(self.own_pins()).is_none() {
            return Err(Error::system("oyez_conn_detach", Errno::BUSY)
                .with_code(Code::InvalidArgument)
                .because(format_args!("another thread is in a call on the connection")));
        }
        self.slot.ending.store(Ending::Detach as u8, Ordering::Relaxed);
        self.release_owner();
        Ok(sys::own(socket))
    }

    /// How many pins are this call's own, or its connection's owner's where that waits for nobody else.
    fn own_pins(&self) -> u64 {
        let owner_waits_for_this = self.slot.by_hand.load(Ordering::Relaxed) != 0;
        u64::from(self.hold == Hold::Pin) + u64::from(owner_waits_for_this || self.hold != Hold::Pin)
    }

    /// Lets go of the owner's hold, where it is this call's to let go.
    fn release_owner(&self) {
        match self.hold {
            Hold::Handler => {
                current::note_gone();
                self.slot.leave();
            }
            Hold::Pin if self.slot.by_hand.load(Ordering::Relaxed) != 0 => self.slot.leave(),
            // A handler on another thread lets go when it returns; a child's parent when the child is gone.
            Hold::Pin | Hold::Child => {}
        }
    }
}

/// How long the server lets its connections be silent.
fn server_idle(slot: &Slot) -> u32 {
    slot.server().map_or(NO_LIMIT, |server| server.admission().times().idle)
}

fn limit(milliseconds: &AtomicU32) -> Option<Duration> {
    match milliseconds.load(Ordering::Relaxed) {
        NO_LIMIT => None,
        limit => Some(Duration::from_millis(u64::from(limit))),
    }
}
