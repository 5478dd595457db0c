//! A connection that is being served: its slot, the calls on it, and its end.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::Shutdown;

use super::admission::Source;
use super::events::{self, Place};
use super::table::{self, ConnectionId, Index, State};
use super::{Server, counters, transfer};
use crate::accept::Peer;
use crate::deadline::{self, Deadline};
use crate::error::{Code, Error, Result};
use crate::sys::fork;
use crate::text::Text;
use crate::{address, listen, sys};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// In order: what was written arrives.
    Close = 0,
    /// By a reset.
    Abort = 1,
    /// Somebody else owns the descriptor now.
    Detach = 2,
}

/// A limit that is not there.
const NO_LIMIT: u32 = 0;

/// What the table keeps of a connection. All of it is atomic or locked, so that any thread may look at any time.
#[derive(Debug)]
pub struct Slot {
    pub(super) state: State,
    pub(super) index: Index,
    pub(super) next_free: Index,
    fd: AtomicI32,
    ending: AtomicU8,
    /// Set once the end of the stream was read: closing then destroys nothing.
    at_end: AtomicU8,
    /// Set when the end of the drain time has reset the connection.
    cut: AtomicU8,
    /// Set where no handler's thread holds the owner's pin: the connection was accepted by hand.
    by_hand: AtomicU8,
    /// Set where the handler runs on the server's own thread.
    sequential: AtomicU8,
    user: AtomicUsize,
    /// The inode of the socket, which has 32 bits, once its descriptor was shown to the program, which may have closed it
    /// by mistake.
    exposed: AtomicU32,
    opened: AtomicU64,
    read_ms: AtomicU32,
    write_ms: AtomicU32,
    idle_ms: AtomicU32,
    lifetime_ms: AtomicU32,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    /// The number of the event loop that has it, 0 for none.
    lane: AtomicU32,
    /// Its place there: the index, and above it which of that place's connections.
    place: AtomicU64,
    /// Bytes that were written and wait to be sent.
    queued: AtomicUsize,
    /// Set when the program, or its loop, has begun to end it.
    ends: AtomicBool,
    /// Set where its address counts it, and it is to leave there.
    counted: AtomicBool,
    peer: Mutex<PeerAddress>,
    server: Mutex<Option<Arc<Server>>>,
}

#[derive(Debug, Default)]
enum PeerAddress {
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
            ends: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            peer: Mutex::new(PeerAddress::Unknown),
            server: Mutex::new(None),
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
        let current = Current { id: self.id.number(), epoch: fork::epoch(), slot: Some(self.slot), gone: false };
        let outer = CURRENT.replace(current);
        handler(self.id);
        let gone = CURRENT.replace(outer).gone;
        (!gone).then_some(self)
    }
}

/// The limits of a connection in milliseconds; 0 is none.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Times {
    pub idle: u32,
    pub read: u32,
    pub write: u32,
    pub lifetime: u32,
}

/// What an event loop and the calls on its connections share.
impl Slot {
    /// The number of the event loop that has the connection; `None` in other servers.
    pub fn lane(&self) -> Option<u32> {
        Some(self.lane.load(Ordering::Acquire)).filter(|&number| number != 0)
    }

    /// The connection belongs to that event loop, at that place.
    pub fn belong_to(&self, number: u32, place: Place) {
        self.place.store(place.token(), Ordering::Relaxed);
        self.lane.store(number, Ordering::Release);
    }

    /// Its place there.
    pub fn place(&self) -> Place {
        Place::of_token(self.place.load(Ordering::Relaxed))
    }

    /// Its limits.
    pub fn times(&self) -> Times {
        Times {
            idle: self.idle_ms.load(Ordering::Relaxed),
            read: self.read_ms.load(Ordering::Relaxed),
            write: self.write_ms.load(Ordering::Relaxed),
            lifetime: self.lifetime_ms.load(Ordering::Relaxed),
        }
    }

    /// Whether its end has begun.
    pub fn is_ending(&self) -> bool {
        self.ends.load(Ordering::Acquire)
    }

    /// Begins its end; true where that had begun before.
    pub fn begin_to_end(&self) -> bool {
        self.ends.swap(true, Ordering::AcqRel)
    }

    /// How many bytes wait to be sent.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }

    /// More bytes wait.
    pub fn queue(&self, more: usize) {
        self.queued.fetch_add(more, Ordering::AcqRel);
    }

    /// More bytes wait, unless that would be more than `most`: then the error is how many do.
    pub fn queue_within(&self, more: usize, most: usize) -> std::result::Result<(), usize> {
        let add = |queued: usize| queued.checked_add(more).filter(|&all| all <= most);
        self.queued.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).map(drop)
    }

    /// Fewer bytes wait.
    pub fn unqueue(&self, less: usize) {
        self.queued.fetch_sub(less, Ordering::AcqRel);
    }

    /// Bytes were read, on the thread of the connection's loop: nobody else counts.
    pub fn count_in(&self, bytes: usize) {
        self.bytes_in.store(self.bytes_in.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }

    /// Bytes were sent, on that thread.
    pub fn count_out(&self, bytes: usize) {
        self.bytes_out.store(self.bytes_out.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }

    /// Whether it is a Unix socket.
    pub fn is_local(&self) -> bool {
        matches!(*self.peer.lock().unwrap_or_else(PoisonError::into_inner), PeerAddress::Unix)
    }

    /// Its end has not begun after all.
    pub fn take_end_back(&self) {
        self.ends.store(false, Ordering::Release);
    }

    /// The end of the stream was read: closing then destroys nothing.
    pub fn note_end(&self) {
        self.at_end.store(1, Ordering::Relaxed);
    }

    /// Whether it was.
    pub fn is_at_end(&self) -> bool {
        self.at_end.load(Ordering::Relaxed) != 0
    }

    /// The end of the drain time ends it.
    pub fn note_cut(&self) {
        self.cut.store(1, Ordering::Relaxed);
    }
}

/// The slot of a connection, if that event loop has it.
pub fn in_lane(id: ConnectionId, number: u32) -> Option<&'static Slot> {
    table::slot_of(id).filter(|slot| slot.state.is_open(id) && slot.lane() == Some(number))
}

/// The connection whose handler runs on this thread.
#[derive(Clone, Copy)]
struct Current {
    id: u64,
    epoch: u64,
    slot: Option<&'static Slot>,
    /// Set when the handler itself has ended the connection, and with it its owner's hold.
    gone: bool,
}

thread_local! {
    // No destructor and no allocation, so it can be read at any time.
    static CURRENT: Cell<Current> = const { Cell::new(Current { id: 0, epoch: 0, slot: None, gone: false }) };
}

/// The connection that a child process was made for: its parent's number stays good there.
static CHILDS_OWN: AtomicU64 = AtomicU64::new(0);

/// Whether this thread runs a handler of that server.
pub fn is_in_handler_of(server: &Server) -> bool {
    let current = CURRENT.get();
    let slot = current.slot.filter(|_| current.epoch == fork::epoch());
    events::is_serving_for(server)
        || slot.is_some_and(|slot| slot.server().is_some_and(|own| std::ptr::eq(Arc::as_ptr(&own), server)))
}

impl Slot {
    fn fill(&self, times: Times) {
        self.ending.store(Ending::Close as u8, Ordering::Relaxed);
        self.at_end.store(0, Ordering::Relaxed);
        self.cut.store(0, Ordering::Relaxed);
        self.user.store(0, Ordering::Relaxed);
        self.exposed.store(0, Ordering::Relaxed);
        self.bytes_in.store(0, Ordering::Relaxed);
        self.bytes_out.store(0, Ordering::Relaxed);
        self.lane.store(0, Ordering::Relaxed);
        self.queued.store(0, Ordering::Relaxed);
        self.ends.store(false, Ordering::Relaxed);
        self.read_ms.store(times.read, Ordering::Relaxed);
        self.write_ms.store(times.write, Ordering::Relaxed);
        self.idle_ms.store(times.idle, Ordering::Relaxed);
        self.lifetime_ms.store(times.lifetime, Ordering::Relaxed);
        if times.lifetime != NO_LIMIT {
            self.opened.store(deadline::clock(), Ordering::Relaxed);
        }
    }

    pub(super) fn server(&self) -> Option<Arc<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn socket(&self) -> Result<BorrowedFd<'static>> {
        sys::borrow(self.fd.load(Ordering::Relaxed), "connection")
    }

    /// Lets go of a pin, and finishes the connection where it was the last one.
    fn leave(&self) {
        if self.state.unpin() {
            let _ = self.finish(false);
        }
    }

    /// Nobody uses the descriptor any more: ends it as was said, and frees the slot. A socket that has to linger is
    /// returned where the caller keeps it.
    fn finish(&self, keep: bool) -> Option<OwnedFd> {
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
    fn of_slot(slot: &Slot) -> Self {
        table::id(slot.state.generation(), slot.index.load(Ordering::Relaxed))
    }
}

fn inode(socket: BorrowedFd<'_>) -> Option<u32> {
    rustix::fs::fstat(socket).ok().map(|found| found.st_ino as u32)
}

/// A connection for the time of one call: its descriptor stays open.
pub struct Connection {
    slot: &'static Slot,
    /// How the call holds on to it.
    hold: Hold,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
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
        let current = CURRENT.get();
        let childs_own = CHILDS_OWN.load(Ordering::Relaxed) == id.number() && id.number() != 0;
        if current.id == id.number() && current.epoch == fork::epoch() {
            let hold = if childs_own { Hold::Child } else { Hold::Handler };
            let open = current.slot.filter(|slot| !current.gone && slot.state.is_open(id));
            return open.map(|slot| Self { slot, hold }).ok_or_else(|| gone(function));
        }
        if childs_own && CHILDS_EPOCH.load(Ordering::Relaxed) == fork::epoch() {
            let slot = CHILDS_SLOT.get().copied().filter(|slot| slot.state.is_open(id));
            return slot.map(|slot| Self { slot, hold: Hold::Child }).ok_or_else(|| gone(function));
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
                CURRENT.set(Current { gone: true, ..CURRENT.get() });
                self.slot.leave();
            }
            Hold::Pin if self.slot.by_hand.load(Ordering::Relaxed) != 0 => self.slot.leave(),
            // A handler on another thread lets go when it returns; a child's parent when the child is gone.
            Hold::Pin | Hold::Child => {}
        }
    }
}

/// The error of a call on a connection that is over.
pub fn gone(function: &'static str) -> Error {
    Error::new(Code::Closed, function, format_args!("the connection is closed"))
}

/// The slot and process behind [`CHILDS_OWN`].
static CHILDS_SLOT: std::sync::OnceLock<&'static Slot> = std::sync::OnceLock::new();
static CHILDS_EPOCH: AtomicU64 = AtomicU64::new(0);

impl Owned {
    /// Makes this connection the one that this process was made for, and runs its handler.
    pub fn serve_in_child(self, handler: impl FnOnce(ConnectionId)) {
        let _ = CHILDS_SLOT.set(self.slot);
        CHILDS_EPOCH.store(fork::epoch(), Ordering::Relaxed);
        CHILDS_OWN.store(self.id.number(), Ordering::Relaxed);
        let bytes = self.slot;
        self.serve(handler);
        if let Some(server) = bytes.server() {
            counters::add(&server.counters().bytes_in, bytes.bytes_in.load(Ordering::Relaxed));
            counters::add(&server.counters().bytes_out, bytes.bytes_out.load(Ordering::Relaxed));
        }
    }
}
