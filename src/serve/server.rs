//! A server: what it consists of, and what a program does with it.

use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

use super::acceptor::Shortage;
use super::admission::Admission;
use super::children::Children;
use super::connection::{Ending, Owned};
use super::counters::{self, Counters, Snapshot, add, value};
use super::episodes::{Episodes, Kind};
use super::events::{self, Choice, Events, Lane, Polling, Workers};
use super::exposition::ByErrno;
use super::linger::Linger;
use super::listeners::{Held, KernelView, Listeners, Sets};
use super::pool::{self, Pool};
use super::queues::{Last, Queues};
use super::registry::{self, Slot};
use super::stop::Handshakes;
use super::token::Token;
use super::{ConnectionId, Level, Limits, Model, Options, ServerId, connection, signals, table};
use crate::deadline::Deadline;
use crate::error::{Code, Error, Result};
use crate::listen::{self, Listener};
use crate::sys::shared::Shared;
use crate::sys::signal::{self, Signals};
use crate::sys::thread::Thread;
use crate::text::Text;
use crate::{diagnose, sys};

/// Serves one connection. It runs on whichever thread the model says, on several at once.
pub struct Handler(Box<dyn Fn(ConnectionId) + Send + Sync>);

impl Handler {
    /// This function; `None` without memory.
    pub fn new(function: impl Fn(ConnectionId) + Send + Sync + 'static) -> Option<Self> {
        sys::memory::boxed(function).map(|function| Self(function))
    }
}

/// A server. Programs hold its number; this is found by it.
pub struct Server {
    slot: &'static Slot,
    number: i32,
    options: Options,
    handler: Option<Handler>,
    epoll: OwnedFd,
    wake: OwnedFd,
    /// For a foreign loop that polls the epoll descriptor: makes it readable when a time is over.
    timer: Option<OwnedFd>,
    timer_set: AtomicBool,
    /// Threads that wait in oyez_server_accept().
    acceptors: AtomicUsize,
    listeners: Listeners,
    counters: Shared<Counters>,
    admission: Admission,
    shortage: Shortage,
    episodes: Episodes,
    /// Failed accepts.
    errors: ByErrno,
    queues: Queues,
    linger: Linger,
    /// How many connections linger in the event loops that had them.
    lingering_in_lanes: AtomicUsize,
    pool: Option<Pool>,
    children: Option<Children>,
    events: Option<Events>,
    /// The loops of an event server; the first is the server's own.
    lanes: Vec<Arc<Lane>>,
    workers: Workers,
    /// Of an event server.
    backend: Option<Choice>,
    paused: AtomicBool,
    /// Connections that are not over; those that linger are not among them.
    active: AtomicUsize,
    /// When a client came last.
    last_accept: Last,
    /// Of a server by hand in a stop: handshakes that are waited for.
    pub(super) handshakes: OnceLock<Mutex<Handshakes>>,
    /// Connections that wait for their turn: of the sequential model, and by hand.
    pub(super) turn: Mutex<std::collections::VecDeque<Owned>>,
    life: Mutex<Life>,
    ended: Condvar,
    /// Held by the thread that polls.
    pub(super) polling: Mutex<Polling>,
    /// Why the server has to end, where that is not by a stop.
    failure: Mutex<Option<Error>>,
    /// The signal mask that the program had, for children.
    mask: Mutex<Option<Signals>>,
}

/// What a server is doing.
#[derive(Default)]
pub(super) struct Life {
    pub(super) phase: Phase,
    /// The thread of oyez_server_start(), to be joined.
    pub(super) thread: Option<Thread>,
    /// Stop signals are caught for this server.
    pub(super) signals: Option<signals::Caught>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    New,
    /// A foreign loop drives it.
    Polled,
    Running,
    Ended,
}

/// The loops of an event server.
fn make_lanes(count: usize) -> std::result::Result<Vec<Arc<Lane>>, Errno> {
    let mut lanes = Vec::new();
    lanes.try_reserve_exact(count).map_err(|_| Errno::NOMEM)?;
    for index in 0..count {
        lanes.push(Arc::new(Lane::new(index > 0)?));
    }
    Ok(lanes)
}

impl Server {
    /// Makes a server and gives it a number.
    pub fn create(handler: Option<Handler>, options: Options) -> Result<ServerId> {
        registry::register(|id, slot| Ok(Arc::new(Self::make(handler, None, options, id, slot)?)))
    }

    /// Makes an event server and gives it a number.
    pub fn create_with_events(events: Events, options: Options) -> Result<ServerId> {
        registry::register(|id, slot| Ok(Arc::new(Self::make(None, Some(events), options, id, slot)?)))
    }

    fn make(
        handler: Option<Handler>,
        events: Option<Events>,
        options: Options,
        id: ServerId,
        slot: &'static Slot,
    ) -> Result<Self> {
        let failed = |operation| move |errno| diagnose::for_limits(Error::system(operation, errno));
        // The first clients shall not need memory.
        if !table::has_room() {
            return Err(failed("server")(Errno::NOMEM));
        }
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed("epoll_create"))?;
        let epoll = sys::above_standard(epoll);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed("eventfd"))?;
        let wake = sys::above_standard(wake);
        epoll::add(&epoll, &wake, Token::Wake.into(), EventFlags::IN).map_err(failed("epoll_ctl"))?;
        let timer = match handler {
            Some(_) => None,
            // A foreign loop may drive it.
            None => {
                let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
                let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(failed("timerfd_create"))?;
                let timer = sys::above_standard(timer);
                epoll::add(&epoll, &timer, Token::Timer.into(), EventFlags::IN).map_err(failed("epoll_ctl"))?;
                Some(timer)
            }
        };
        let backend = events.as_ref().map(|_| events::choose(&options)).transpose()?;
        let lanes = match events {
            None => Vec::new(),
            Some(_) => make_lanes(options.lanes()).map_err(failed("eventfd"))?,
        };
        if let Some(first) = lanes.first() {
            epoll::add(&epoll, first.inbox.descriptor(), Token::Wake.into(), EventFlags::IN)
                .map_err(failed("epoll_ctl"))?;
        }
        let (mut pool, mut children) = (None, None);
        match options.model {
            _ if handler.is_none() => {}
            Model::Threads => pool = Some(pool::for_workers(options.workers())?),
            Model::Processes => children = Some(Children::new(options.workers())?),
            Model::Sequential => {}
        }
        let server = Self {
            slot,
            number: id.number(),
            handler,
            epoll,
            wake,
            timer,
            timer_set: AtomicBool::new(false),
            acceptors: AtomicUsize::new(0),
            listeners: Listeners::default(),
            counters: counters::shared().map_err(failed("mmap"))?,
            admission: Admission::new(&options.limits, if children.is_some() { 2 } else { 1 }),
            shortage: Shortage::default(),
            episodes: Episodes::default(),
            errors: ByErrno::default(),
            queues: Queues::default(),
            linger: Linger::default(),
            lingering_in_lanes: AtomicUsize::new(0),
            pool,
            children,
            lanes,
            events,
            workers: Workers::default(),
            backend,
            paused: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            last_accept: Last::default(),
            handshakes: OnceLock::new(),
            turn: Mutex::default(),
            life: Mutex::default(),
            ended: Condvar::new(),
            polling: Mutex::default(),
            failure: Mutex::default(),
            mask: Mutex::default(),
            options,
        };
        server.compare_with_descriptors();
        Ok(server)
    }

    /// The server of a number.
    pub fn find(id: ServerId, function: &'static str) -> Result<Arc<Self>> {
        registry::find(id, function)
    }

    /// Listens at each address of a list, or at none. Returns the last listener's descriptor.
    pub fn listen<'a>(&self, addresses: &'a [u8], options: &listen::Options<'a>) -> Result<RawFd> {
        let mut options = options.clone();
        options.nonblocking = listen::Switch::On;
        let mut skipped = 0;
        // An event server has a listener for each lane where the port may be shared.
        let each = self.lanes.len();
        let listeners = listen::listen_all(addresses, &options, each, |error| {
            skipped += 1;
            self.report(Level::Warning, c"address_skipped", format_args!("optional address skipped: {error}"));
        })?;
        for listener in &listeners {
            // The operator's text may have said otherwise, or the descriptor was passed in.
            if let Err(error) = listen::check(listener.as_fd()) {
                listeners.into_iter().for_each(Listener::close);
                return Err(error);
            }
            let _ = listen::set_nonblocking(listener.as_fd(), true);
        }
        listeners.iter().for_each(|listener| self.report_backlog(listener));
        let descriptor = self.listeners.add(listeners, false, self.sets())?;
        self.wake();
        Ok(descriptor)
    }

    /// Reports that the system grants a smaller backlog than was asked for.
    fn report_backlog(&self, listener: &Listener) {
        let Some((asked, in_force)) = listener.clamped_backlog() else { return };
        let address = listen::local_address(listener.as_fd()).unwrap_or_default();
        let bound = match diagnose::largest_backlog() {
            Some(bound) => Text::format(format_args!("is {bound}")),
            None => Text::from("bounds it"),
        };
        let line = format_args!(
            "listen {address}: the backlog is {in_force}, not {asked} as asked (net.core.somaxconn {bound})"
        );
        self.report(Level::Info, c"backlog_clamped", line);
    }

    /// Takes over a descriptor that is listening already; on failure it stays the caller's.
    pub fn adopt(&self, listener: RawFd) -> Result<RawFd> {
        let socket = sys::borrow(listener, "oyez_server_adopt")?;
        listen::check(socket)?;
        let failed = |errno| Error::system("fcntl", errno);
        rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC).map_err(failed)?;
        listen::set_nonblocking(socket, true).map_err(failed)?;
        let outcome = self.listeners.adopt(socket, self.sets());
        self.wake();
        outcome
    }

    /// Other limits from now on. Connections that are open keep their times.
    pub fn set_limits(&self, limits: &Limits) {
        self.admission.set(limits);
        self.count_addresses();
        self.compare_with_descriptors();
        self.admission.make_room();
        self.listeners.set_all_ready();
        if self.is_by_hand() {
            self.watch_listeners();
        }
        self.wake();
    }

    /// Where a limit for each address begins, those that are open count as well.
    fn count_addresses(&self) {
        if self.admission.addresses().begin_to_count() {
            fence(Ordering::SeqCst);
            table::all().for_each(|slot| slot.count_address(self));
        }
    }

    /// Reports that there are fewer descriptors than connections may be.
    fn compare_with_descriptors(&self) {
        let Some(most) = self.admission.most() else { return };
        let room = self.admission.room_by_descriptors();
        if most > room {
            let line = format_args!("max_connections is {most}, but the limit of descriptors leaves room for {room}");
            self.report(Level::Warning, c"max_connections_beyond_descriptors", line);
        }
    }

    /// Accepts nothing for a while, or goes on.
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.paused.store(paused, Ordering::Release);
        self.listeners.set_all_ready();
        if self.is_by_hand() {
            self.watch_listeners();
        }
        self.wake();
        Ok(())
    }

    /// Asks a server to stop. Async-signal-safe.
    pub fn stop(id: ServerId, drain: Option<Duration>) -> Result<()> {
        registry::stop(id, drain)
    }

    /// Ends a server and gives everything back.
    pub fn close(id: ServerId) -> Result<()> {
        let server = registry::begin_close(id)?;
        let from_its_own_handler = connection::is_in_handler_of(&server);
        if server.slot.stop().is_none() {
            server.slot.ask_to_stop(server.options.drain);
        }
        if from_its_own_handler {
            // The server's loop gives the slot back when its handlers, this one among them, have returned.
            server.give_thread_up();
            return Ok(());
        }
        server.end();
        server.slot.release();
        Ok(())
    }

    /// What it has done, and what waits for it.
    pub fn snapshot(&self) -> Snapshot {
        let counters = &*self.counters;
        let KernelView { queue, backlog, dropped } = self.listeners.kernel_view();
        let open = || table::all().filter(|slot| slot.is_of(self));
        Snapshot {
            accepted: value(&counters.accepted),
            active: self.active.load(Ordering::Acquire) as u64,
            handler_failures: value(&counters.handler_failures),
            refused_limit: value(&counters.refused_limit),
            refused_address: value(&counters.refused_address),
            refused_rate: value(&counters.refused_rate),
            refused_rules: value(&counters.refused_rules),
            accept_errors: value(&counters.accept_errors),
            descriptor_pauses: value(&counters.descriptor_pauses),
            drained: value(&counters.drained),
            cut: value(&counters.cut),
            bytes_in: value(&counters.bytes_in) + open().map(|slot| value(&slot.bytes_in)).sum::<u64>(),
            bytes_out: value(&counters.bytes_out) + open().map(|slot| value(&slot.bytes_out)).sum::<u64>(),
            timeouts: value(&counters.timeouts),
            listeners: self.listeners.len() as u64,
            queue,
            backlog,
            dropped,
        }
    }

    /// Reports something to the program.
    pub(super) fn report(&self, level: Level, event: &'static CStr, line: fmt::Arguments<'_>) {
        if let Some(log) = &self.options.log {
            log.write(level, event, line);
        }
    }

    pub(super) fn report_foreign_close(&self, fd: RawFd) {
        self.report(
            Level::Error,
            c"foreign_close",
            format_args!("descriptor {fd} of a connection was closed by the program, not by oyez_conn_close()"),
        );
    }

    /// Runs the handler, on this thread.
    pub(super) fn handle(&self, id: ConnectionId) {
        if let Some(handler) = &self.handler {
            (handler.0)(id);
        }
    }

    /// Serves a connection with the handler, on this thread, and ends it.
    pub(super) fn serve_one(&self, connection: Owned) {
        let mut whole = true;
        let left = connection.serve(|id| {
            // A handler in Rust may panic: that is one connection's end, not the server's.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.handle(id))) {
                std::mem::forget(payload);
                whole = false;
            }
        });
        if !whole {
            self.handler_failed(format_args!("a panic"));
        }
        if let Some(connection) = left {
            connection.end(if whole { Ending::Close } else { Ending::Abort });
        }
    }

    pub(super) fn handler_failed(&self, how: fmt::Arguments<'_>) {
        add(&self.counters.handler_failures, 1);
        self.note(Kind::Crash, 1, format_args!("a handler ended by {how}; its client is reset"));
    }

    /// A thread of the pool is free again.
    pub(super) fn thread_is_free(&self) {
        if self.slot.stop().is_some() {
            self.wake();
        }
    }

    pub(super) fn connection_opened(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    /// A connection is over, and its descriptor closed or given away.
    pub(super) fn connection_finished(&self, was_cut: bool) {
        self.active.fetch_sub(1, Ordering::AcqRel);
        let stopping = self.slot.stop().is_some();
        if stopping && !was_cut {
            add(&self.counters.drained, 1);
        }
        let awaited = self.admission.leave_place();
        if self.shortage.relieve() || awaited || stopping {
            self.wake();
        }
    }

    /// Lets a connection linger until its last bytes have arrived.
    pub(super) fn linger(&self, socket: OwnedFd) {
        let first = self.linger.add(socket, self.epoll.as_fd(), |number| Token::Linger(number).into());
        if first || self.slot.stop().is_some() {
            self.wake();
        }
    }

    /// A connection begins to linger in its event loop, or that is over, and its descriptor closed.
    pub(super) fn lingers_in_lane(&self, begins: bool) {
        if begins {
            self.lingering_in_lanes.fetch_add(1, Ordering::AcqRel);
            return;
        }
        self.lingering_in_lanes.fetch_sub(1, Ordering::AcqRel);
        if self.shortage.relieve() || self.slot.stop().is_some() {
            self.wake();
        }
    }

    /// How many connections linger.
    pub(super) fn how_many_linger(&self) -> usize {
        self.lingering_in_lanes.load(Ordering::Acquire) + self.linger.len()
    }

    /// Whether no connection lingers.
    pub(super) fn nobody_lingers(&self) -> bool {
        self.how_many_linger() == 0
    }

    /// Closes lingering connections whose reply has arrived, because descriptors are needed. True where there was one.
    pub(super) fn evict_lingering(&self) -> bool {
        let evicted = self.linger.evict();
        let in_lanes = self.lingering_in_lanes.load(Ordering::Acquire) > 0 && self.evict_from_lanes();
        evicted || in_lanes
    }

    /// Ends the server because of a failure.
    pub(super) fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.slot.ask_to_stop(self.options.drain);
    }

    pub(super) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Wakes the loop.
    pub(super) fn wake(&self) {
        sys::wake(&self.wake);
    }

    pub(super) fn wake_descriptor(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    pub(super) fn waker(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub(super) fn sets(&self) -> Sets<'_> {
        Sets { own: self.epoll(), lanes: if self.workers.are_started() { &self.lanes } else { &[] } }
    }

    pub(super) fn epoll(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(super) fn timer(&self) -> Option<BorrowedFd<'_>> {
        self.timer.as_ref().map(AsFd::as_fd)
    }

    /// A thread begins to wait for a connection by hand.
    pub(super) fn acceptor_comes(&self) {
        self.acceptors.fetch_add(1, Ordering::AcqRel);
    }

    /// It has one, or gives up. A stop wakes one thread, which wakes the next.
    pub(super) fn acceptor_leaves(&self) {
        let others = self.acceptors.fetch_sub(1, Ordering::AcqRel) > 1;
        if self.slot.stop().is_none() {
            return;
        }
        if others {
            self.wake();
        } else {
            let _life = self.life();
            self.ended.notify_all();
        }
    }

    /// Waits until nobody waits for a connection by hand any more. False where the time is over before.
    pub(super) fn acceptors_are_gone(&self, deadline: Deadline) -> bool {
        let mut life = self.life();
        while self.acceptors.load(Ordering::Acquire) > 0 {
            life = match deadline.left() {
                None => self.ended.wait(life).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => self.ended.wait_timeout(life, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        true
    }

    /// Notes whether the timer will go off, and returns what was noted before.
    pub(super) fn timer_is_set(&self, now: bool) -> bool {
        self.timer_set.swap(now, Ordering::AcqRel)
    }

    pub(super) fn slot(&self) -> &'static Slot {
        self.slot
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    pub(super) fn errors(&self) -> &ByErrno {
        &self.errors
    }

    pub(super) fn last_accept(&self) -> &Last {
        &self.last_accept
    }

    pub(super) fn queues(&self) -> &Queues {
        &self.queues
    }

    pub(super) fn episodes(&self) -> &Episodes {
        &self.episodes
    }

    pub(super) fn shortage(&self) -> &Shortage {
        &self.shortage
    }

    pub(super) fn lingering(&self) -> &Linger {
        &self.linger
    }

    pub(super) fn pool(&self) -> Option<&Pool> {
        self.pool.as_ref()
    }

    pub(super) fn children(&self) -> Option<&Children> {
        self.children.as_ref()
    }

    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    pub(super) fn is_by_hand(&self) -> bool {
        self.handler.is_none() && self.events.is_none()
    }

    pub(super) fn events(&self) -> Option<&Events> {
        self.events.as_ref()
    }

    pub(super) fn backend(&self) -> Option<Choice> {
        self.backend
    }

    pub(super) fn lanes(&self) -> &[Arc<Lane>] {
        &self.lanes
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Whether handlers run on the loop's own thread.
    pub(super) fn is_sequential(&self) -> bool {
        self.handler.is_some() && self.options.model == Model::Sequential
    }

    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of the server's life.
    pub(super) fn wait_for_end(&self, deadline: Deadline) -> bool {
        let mut life = self.life();
        while life.phase != Phase::Ended {
            life = match deadline.left() {
                None => self.ended.wait(life).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => self.ended.wait_timeout(life, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        true
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        if phase == Phase::Ended {
            self.look_after_episodes(true);
        }
        self.life().phase = phase;
        self.ended.notify_all();
    }

    /// Remembers the program's signal mask, for children.
    pub(super) fn remember_mask(&self, mask: Signals) {
        *self.mask.lock().unwrap_or_else(PoisonError::into_inner) = Some(mask);
    }

    /// In a child: the signal mask of the program, with SIGPIPE blocked.
    pub(super) fn restore_mask_for_child(&self) {
        if let Ok(mask) = self.mask.try_lock()
            && let Some(mask) = *mask
        {
            signal::restore(mask);
        }
        signal::block(Signals::of(&[libc::SIGPIPE]));
    }

    /// In a child: closes its copies of the server's descriptors.
    pub(super) fn close_copies(&self, listeners: &Held<'_>) {
        listeners.close_copies();
        for fd in [Some(&self.epoll), Some(&self.wake), self.timer.as_ref()].into_iter().flatten() {
            drop(sys::own(fd.as_fd()));
        }
    }

    /// The error of a call that does not fit the server.
    pub(super) fn misuse(&self, function: &'static str, cause: fmt::Arguments<'_>) -> Error {
        Error::new(Code::InvalidArgument, function, format_args!("server {}: {cause}", self.number))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Server({})", self.number)
    }
}
