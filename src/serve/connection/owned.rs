//! The hold on a connection: who has it ends the connection.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::super::table::{self, ConnectionId};
use super::super::{Server, counters};
use super::slot::{PeerAddress, Slot};
use super::{Ending, current};
use crate::accept::Peer;
use crate::sys;

/// A connection that was accepted, and whose owner this is: who holds it ends it.
#[derive(Debug)]
pub struct Owned {
    slot: &'static Slot,
    id: ConnectionId,
}

impl Owned {
    /// Gives an accepted descriptor a number. Where there is none left the client is reset.
    /// `counted` tells whether its address counts it.
    pub fn open(server: &Arc<Server>, fd: OwnedFd, peer: &Peer, counted: bool) -> Option<Self> {
        use std::os::fd::IntoRawFd;
        let Some((id, slot)) = table::take() else {
            sys::socket::reset(std::os::fd::AsFd::as_fd(&fd));
            return None;
        };
        slot.fill(server.admission().times());
        slot.counted.store(counted, Ordering::Relaxed);
        slot.by_hand.store(u8::from(server.is_by_hand()), Ordering::Relaxed);
        slot.sequential.store(u8::from(server.is_sequential()), Ordering::Relaxed);
        *slot.peer.lock().unwrap_or_else(PoisonError::into_inner) = match peer.socket_address() {
            None => PeerAddress::Unknown,
            Some(address) => address.clone().try_into().map_or(PeerAddress::Unix, |address| match address {
                SocketAddr::V4(address) => PeerAddress::V4(address),
                SocketAddr::V6(v6) => PeerAddress::V6 { ip: *v6.ip(), port: v6.port(), scope: v6.scope_id() },
            }),
        };
        *slot.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(server));
        slot.fd.store(fd.into_raw_fd(), Ordering::Relaxed);
        slot.state.open(id);
        server.connection_opened();
        Some(Self { slot, id })
    }

    /// Its number.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The descriptor's number.
    pub fn descriptor(&self) -> RawFd {
        self.slot.fd.load(Ordering::Relaxed)
    }

    /// Ends it, unless the program has begun to do so, and lets it go.
    pub fn end(self, ending: Ending) {
        if !self.slot.state.close().closing {
            self.slot.ending.store(ending as u8, Ordering::Relaxed);
        }
        self.slot.leave();
    }

    /// Ends it in order and lets it go, but gives its socket back where that has to linger. The error is itself where
    /// another thread is in a call on it, and would finish it later.
    pub fn end_to_linger(self) -> std::result::Result<Option<OwnedFd>, Self> {
        let before = self.slot.state.close();
        if !before.closing {
            self.slot.ending.store(Ending::Close as u8, Ordering::Relaxed);
        }
        if before.pins > 1 {
            return Err(self);
        }
        Ok(if self.slot.state.unpin() { self.slot.finish(true) } else { None })
    }

    /// Its descriptor, which is open as long as this is.
    pub fn socket(&self) -> Option<BorrowedFd<'static>> {
        self.slot.socket().ok()
    }

    /// What the slot keeps for the event loop that has the connection.
    pub fn slot(&self) -> &'static Slot {
        self.slot
    }

    /// Runs `handler` with the connection found without a lock on this thread. `None` if the handler has closed it.
    pub fn serve(self, handler: impl FnOnce(ConnectionId)) -> Option<Self> {
        current::serve(self.slot, self.id, handler).then_some(self)
    }

    /// Makes this connection the one that this process was made for, and runs its handler.
    pub fn serve_in_child(self, handler: impl FnOnce(ConnectionId)) {
        current::note_childs(self.slot, self.id);
        let bytes = self.slot;
        self.serve(handler);
        if let Some(server) = bytes.server() {
            counters::add(&server.counters().bytes_in, bytes.bytes_in.load(Ordering::Relaxed));
            counters::add(&server.counters().bytes_out, bytes.bytes_out.load(Ordering::Relaxed));
        }
    }
}
