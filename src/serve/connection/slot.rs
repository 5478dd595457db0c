//! What is kept of a connection, and what becomes of it when nobody uses it any longer.

use std::net::{Ipv6Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::admission::Source;
use super::super::table::{self, ConnectionId, Index, State};
use super::super::{Server, counters};
use super::in_loop::Times;
use super::{Ending, NO_LIMIT};
use crate::error::Result;
use crate::{deadline, sys};

/// What the table keeps of a connection. All of it is atomic or locked, so that any thread may look at any time.
#[derive(Debug)]
pub struct Slot {
    pub(in crate::serve) state: State,
    pub(in crate::serve) index: Index,
    pub(in crate::serve) next_free: Index,
    pub(super) fd: AtomicI32,
    pub(super) ending: AtomicU8,
    /// Set once the end of the stream was read: closing then destroys nothing.
    pub(super) at_end: AtomicU8,
    /// Set when the end of the drain time has reset the connection.
    pub(super) cut: AtomicU8,
    /// Set where no handler's thread holds the owner's pin: the connection was accepted by hand.
    pub(super) by_hand: AtomicU8,
    /// Set where the handler runs on the server's own thread.
    pub(super) sequential: AtomicU8,
    pub(super) user: AtomicUsize,
    /// The inode of the socket, which has 32 bits, once its descriptor was shown to the program, which may have closed it
    /// by mistake.
    pub(super) exposed: AtomicU32,
    pub(super) opened: AtomicU64,
    pub(super) read_ms: AtomicU32,
    pub(super) write_ms: AtomicU32,
    pub(super) idle_ms: AtomicU32,
    pub(super) lifetime_ms: AtomicU32,
    pub(in crate::serve) bytes_in: AtomicU64,
    pub(in crate::serve) bytes_out: AtomicU64,
    /// The number of the event loop that has it, 0 for none.
    pub(super) lane: AtomicU32,
    /// Its place there: the index, and above it which of that place's connections.
    pub(super) place: AtomicU64,
    /// Bytes that were written and wait to be sent.
    pub(super) queued: AtomicUsize,
    /// Set where a write was refused because of those: on_drain has to follow.
    pub(super) refused: AtomicBool,
    /// Set when the program, or its loop, has begun to end it.
    pub(super) ends: AtomicBool,
    /// Set where its address counts it, and it is to leave there.
    pub(super) counted: AtomicBool,
    pub(super) peer: Mutex<PeerAddress>,
    pub(super) server: Mutex<Option<Arc<Server>>>,
}

#[derive(Debug, Default)]
pub(super) enum PeerAddress {
    #[default]
    Unknown,
    V4(SocketAddrV4),
    /// Without the flow, which nobody is shown.
    V6 {
        ip: Ipv6Addr,
        port: u16,
        scope: u32,
    },
    /// The kernel keeps it for as long as the socket is open.
    Unix,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            state: State::default(),
            index: Index::new(0),
            next_free: Index::new(0),
            fd: AtomicI32::new(-1),
            ending: AtomicU8::new(0),
            at_end: AtomicU8::new(0),
            cut: AtomicU8::new(0),
            by_hand: AtomicU8::new(0),
            sequential: AtomicU8::new(0),
            user: AtomicUsize::new(0),
            exposed: AtomicU32::new(0),
            opened: AtomicU64::new(0),
            read_ms: AtomicU32::new(NO_LIMIT),
            write_ms: AtomicU32::new(NO_LIMIT),
            idle_ms: AtomicU32::new(NO_LIMIT),
            lifetime_ms: AtomicU32::new(NO_LIMIT),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            lane: AtomicU32::new(0),
            place: AtomicU64::new(0),
            queued: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            peer: Mutex::new(PeerAddress::Unknown),
            server: Mutex::new(None),
        }
    }
}

impl Slot {
    pub(super) fn fill(&self, times: Times) {
        self.ending.store(Ending::Close as u8, Ordering::Relaxed);
        self.at_end.store(0, Ordering::Relaxed);
        self.cut.store(0, Ordering::Relaxed);
        self.user.store(0, Ordering::Relaxed);
        self.exposed.store(0, Ordering::Relaxed);
        self.bytes_in.store(0, Ordering::Relaxed);
        self.bytes_out.store(0, Ordering::Relaxed);
        self.lane.store(0, Ordering::Relaxed);
        self.queued.store(0, Ordering::Relaxed);
        self.refused.store(false, Ordering::Relaxed);
        self.ends.store(false, Ordering::Relaxed);
        self.read_ms.store(times.read, Ordering::Relaxed);
        self.write_ms.store(times.write, Ordering::Relaxed);
        self.idle_ms.store(times.idle, Ordering::Relaxed);
        self.lifetime_ms.store(times.lifetime, Ordering::Relaxed);
        if times.lifetime != NO_LIMIT {
            self.opened.store(deadline::clock(), Ordering::Relaxed);
        }
    }

    pub(in crate::serve) fn server(&self) -> Option<Arc<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn socket(&self) -> Result<BorrowedFd<'static>> {
        sys::borrow(self.fd.load(Ordering::Relaxed), "connection")
    }

    /// Lets go of a pin, and finishes the connection where it was the last one.
    pub(super) fn leave(&self) {
        if self.state.unpin() {
            let _ = self.finish(false);
        }
    }

    /// Nobody uses the descriptor any more: ends it as was said, and frees the slot. A socket that has to linger is
    /// returned where the caller keeps it.
    pub(super) fn finish(&self, keep: bool) -> Option<OwnedFd> {
        let fd = self.fd.swap(-1, Ordering::Relaxed);
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (bytes_in, bytes_out) =
            (self.bytes_in.swap(0, Ordering::Relaxed), self.bytes_out.swap(0, Ordering::Relaxed));
        let ending = self.ending.load(Ordering::Relaxed);
        let at_end = self.at_end.load(Ordering::Relaxed) != 0;
        let was_cut = self.cut.load(Ordering::Relaxed) != 0;
        if self.counted.swap(false, Ordering::Relaxed)
            && let Some(server) = &server
        {
            server.admission().addresses().leave(self.source());
        }
        let socket = self.take_socket(fd, ending, server.as_deref());
        table::give_back(self);
        let server = server?;
        counters::add(&server.counters().bytes_in, bytes_in);
        counters::add(&server.counters().bytes_out, bytes_out);
        let mut kept = None;
        match socket {
            // Not by SO_LINGER: a child of the program may have a copy of the descriptor, and closing this one then
            // does nothing.
            Some(socket) if ending == Ending::Abort as u8 => sys::socket::reset(socket.as_fd()),
            Some(socket) if !at_end && keep => {
                server.lingers_in_lane(true);
                kept = Some(socket);
            }
            Some(socket) if !at_end => server.linger(socket),
            // Dropping it closes it: its peer has sent all that it will.
            closed => drop(closed),
        }
        server.connection_finished(was_cut);
        kept
    }

    /// The descriptor if it is still the connection's. A program that closed it by mistake may have been given the
    /// same number for something else, which is left alone.
    fn take_socket(&self, fd: RawFd, ending: u8, server: Option<&Server>) -> Option<OwnedFd> {
        if ending == Ending::Detach as u8 {
            return None;
        }
        let socket = sys::borrow(fd, "connection").ok()?;
        let exposed = self.exposed.load(Ordering::Relaxed);
        if exposed != 0 && inode(socket) != Some(exposed) {
            if let Some(server) = server {
                server.report_foreign_close(fd);
            }
            return None;
        }
        Some(sys::own(socket))
    }

    /// Where its peer comes from.
    fn source(&self) -> Source {
        match *self.peer.lock().unwrap_or_else(PoisonError::into_inner) {
            PeerAddress::Unknown => Source::Unknown,
            PeerAddress::V4(address) => Source::of_ip((*address.ip()).into()),
            PeerAddress::V6 { ip, .. } => Source::of_ip(ip.into()),
            PeerAddress::Unix => Source::Unix,
        }
    }

    /// Lets its address count it, where it is a connection of that server and is not counted.
    pub fn count_address(&self, server: &Server) {
        if !self.is_of(server) || !self.state.pin(ConnectionId::of_slot(self)) {
            return;
        }
        if !self.counted.swap(true, Ordering::AcqRel) && !server.admission().addresses().note(self.source()) {
            self.counted.store(false, Ordering::Relaxed);
        }
        self.leave();
    }

    /// Whether the slot holds an open connection of that server.
    pub fn is_of(&self, server: &Server) -> bool {
        let own = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        own.as_ref().is_some_and(|own| std::ptr::eq(Arc::as_ptr(own), server))
    }

    /// Breaks the connection off at the end of the drain time. True where there was one.
    pub fn cut(&self, server: &Server) -> bool {
        let id = ConnectionId::of_slot(self);
        // An event loop does it for its own.
        if self.lane().is_some() || !self.is_of(server) || !self.state.pin(id) {
            return false;
        }
        self.cut.store(1, Ordering::Relaxed);
        self.ending.store(Ending::Abort as u8, Ordering::Relaxed);
        if let Ok(socket) = self.socket() {
            sys::socket::reset(socket);
        }
        if self.by_hand.load(Ordering::Relaxed) != 0 && !self.state.close().closing {
            // Nobody else would let go of the owner's hold.
            self.leave();
        }
        self.leave();
        true
    }
}

impl ConnectionId {
    pub(super) fn of_slot(slot: &Slot) -> Self {
        table::id(slot.state.generation(), slot.index.load(Ordering::Relaxed))
    }
}

/// The inode of a socket, which has 32 bits.
pub(super) fn inode(socket: BorrowedFd<'_>) -> Option<u32> {
    rustix::fs::fstat(socket).ok().map(|found| found.st_ino as u32)
}
