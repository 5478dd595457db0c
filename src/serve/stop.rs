//! The end of a server: whom the kernel has connected is served, what is under way is finished in time, the rest is cut.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustix::time::Timespec;

use super::children::Children;
use super::connection::{Ending, Owned};
use super::counters::{add, value};
use super::events::{EventLoop, on_own_loop};
use super::token::Token;
use super::{Level, Server, table};
use crate::accept::Peer;
use crate::deadline::{self, Deadline};

/// How long the kernel may take to complete a handshake on this host.
const HANDSHAKE: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000 };

/// How long a stop waits for handshakes that are under way: the kernel repeats a packet that was lost after a second, and
/// some never answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The same where the kernel does not tell whether there are any.
const BLIND: Duration = Duration::from_millis(200);

/// How soon it looks again at the soonest. A look takes longer the more connections this host has: no more than a fifth
/// of the time is spent so.
const AGAIN: Duration = Duration::from_millis(1);
const PAUSE: u32 = 4;

/// For so long after a client has come others may be on their way.
const BUSY: Duration = Duration::from_secs(5);

/// How many of those who still wait at the end of the drain time are counted, beyond what the kernel tells.
const LAST: u64 = 1024;

/// How long handlers whose connections were cut get to return.
const GRACE: Duration = Duration::from_millis(250);

/// Handshakes that a stop waits for, with the listeners open.
#[derive(Debug)]
pub struct Handshakes {
    until: Deadline,
    blind_until: Deadline,
    next_look: Deadline,
}

impl Handshakes {
    fn now() -> Deadline {
        Deadline::after(Duration::ZERO)
    }

    /// None.
    fn over() -> Self {
        Self { until: Self::now(), blind_until: Self::now(), next_look: Self::now() }
    }

    /// Those that there may be.
    fn begun() -> Self {
        Self { until: Deadline::after(PATIENCE), blind_until: Deadline::after(BLIND), next_look: Self::now() }
    }

    /// Whether there are any yet.
    pub fn are_awaited(&mut self, server: &Server) -> bool {
        if self.until.is_over() {
            return false;
        }
        if !self.next_look.is_over() {
            return true;
        }
        let start = deadline::clock();
        let found = server.listeners().have_handshakes();
        let took = Duration::from_nanos(deadline::clock().saturating_sub(start));
        self.next_look = Deadline::after((took * PAUSE).max(AGAIN));
        let awaited = found.unwrap_or(!self.blind_until.is_over());
        if !awaited {
            self.until = Self::now();
        }
        awaited
    }

    /// When to look again: no event tells the end of a handshake that comes to nothing.
    pub fn next_look(&self) -> Deadline {
        if self.until.is_over() { Deadline::NEVER } else { self.next_look.earlier(self.until) }
    }
}

/// How far a stop has come.
#[derive(Debug)]
pub struct Drain {
    /// How many connections were under way at its beginning.
    under_way: usize,
    /// How many had been drained before.
    drained: u64,
    /// Lingering connections have been told to hurry.
    hastened: bool,
    handshakes: Handshakes,
}

impl Drain {
    /// When it has something to do although nothing happens.
    pub fn next_look(&self) -> Deadline {
        self.handshakes.next_look()
    }
}

impl Server {
    /// Begins a stop: lets nobody begin to connect, and takes those in who have been connected.
    pub(super) fn begin_drain(self: &Arc<Self>) -> Drain {
        let mut drain = Drain {
            under_way: self.active(),
            drained: value(&self.counters().drained),
            hastened: false,
            handshakes: Handshakes::over(),
        };
        self.wake_lanes();
        let (handshakes, elsewhere) = self.refuse_beginners();
        elsewhere.into_iter().for_each(|(socket, peer)| self.take_in(socket, &peer));
        drain.handshakes = handshakes;
        drain
    }

    /// Lets nobody begin to connect any more, where that can be had. With the handshakes that are to be waited for come
    /// those who were completed elsewhere meanwhile. Whom one serves may fork: not before all is in its place.
    pub(super) fn refuse_beginners(&self) -> (Handshakes, Vec<(OwnedFd, Peer)>) {
        let (mut refused, mut elsewhere) = (false, Vec::new());
        for listener in self.listeners().each() {
            refused |= listener.refuse_beginners(|socket, peer| {
                if elsewhere.try_reserve(1).is_ok() {
                    elsewhere.push((socket, peer));
                }
            });
        }
        if refused {
            // Who began before that is being connected on another processor, or has been.
            let _ = rustix::thread::nanosleep(&HANDSHAKE);
        }
        self.listeners().set_all_ready();
        // At rest nobody is on his way, and to look for that would take longer than such a stop does.
        let busy = self.active() > 0 || !elsewhere.is_empty() || self.last_accept().elapsed_since() < BUSY;
        (if refused && busy { Handshakes::begun() } else { Handshakes::over() }, elsewhere)
    }

    /// Takes a client in whom no listener gave.
    pub(super) fn take_in(self: &Arc<Self>, socket: OwnedFd, peer: &Peer) {
        // Although there may be as many as may be: nobody else would have it.
        self.admission().force_place();
        match self.admit(socket, peer) {
            Some(admitted) => self.serve_in_turn(admitted),
            None => self.leave_place(),
        }
    }

    /// A turn of a stop: serves whom the kernel has connected, closes the listeners, lets connections finish, and when
    /// the time is over cuts the rest. True when that is done.
    pub(super) fn drain_some(self: &Arc<Self>, drain: &mut Drain, limit: Deadline) -> bool {
        let deadline = self.slot().stop().unwrap_or(Deadline::NEVER);
        let closed = self.empty_queues(drain);
        let limit = limit.earlier(drain.next_look());
        if closed && !drain.hastened {
            drain.hastened = true;
            self.lingering().hasten(self.epoll(), |number| Token::Linger(number).into());
        }
        self.serve_those_who_wait();
        if !deadline.is_over() {
            if closed && self.is_drained() {
                self.end_handlers(drain, 0);
                return true;
            }
            self.watch_listeners();
            if self.turn(deadline.earlier(limit)).is_ok() {
                return false;
            }
            // No event will tell of anything any more: the drain time ends here.
            self.slot().ask_to_stop(None);
        }
        let cut = self.cut();
        self.end_handlers(drain, cut);
        true
    }

    /// Accepts those that wait in the kernel's queues, and closes each listener whose queue was seen empty. True once
    /// none is left.
    fn empty_queues(self: &Arc<Self>, drain: &mut Drain) -> bool {
        let awaited = drain.handshakes.are_awaited(self);
        self.listeners().set_all_ready();
        self.accept_all();
        if awaited {
            return false;
        }
        while self.children().is_some_and(Children::wait_for_copies) && self.accept_all() {}
        self.listeners().close_if(self.sets(), |listener| !listener.is_ready())
    }

    /// Accepts those that wait in the kernel's queues. True where there was somebody.
    fn accept_all(self: &Arc<Self>) -> bool {
        let mut found = false;
        while !self.slot().stop().is_some_and(Deadline::is_over)
            && let Some(connection) = self.accept_any()
        {
            found = true;
            self.serve_in_turn(connection);
        }
        found
    }

    /// Has a connection served now, or, where handlers run here or the program accepts by hand, when its turn comes.
    fn serve_in_turn(self: &Arc<Self>, connection: Owned) {
        if self.is_sequential() || self.is_by_hand() {
            let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            if turn.try_reserve(1).is_ok() {
                turn.push_back(connection);
                return;
            }
        }
        if self.is_by_hand() {
            return connection.end(Ending::Abort);
        }
        self.dispatch(connection);
    }

    /// The next of those who were accepted before their turn.
    pub(super) fn next_in_turn(&self) -> Option<Owned> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// In the sequential model those who were accepted for the stop are served one after another.
    fn serve_those_who_wait(self: &Arc<Self>) {
        loop {
            let Some(connection) = self.next_in_turn() else { return };
            if self.slot().stop().is_some_and(Deadline::is_over) {
                let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                turn.push_front(connection);
                return;
            }
            self.serve_one(connection);
        }
    }

    fn is_drained(&self) -> bool {
        let quiet = match (self.pool(), self.children()) {
            (Some(pool), _) => pool.is_quiet(),
            (_, Some(children)) => children.is_quiet(),
            _ => true,
        };
        quiet && self.active() == 0 && self.nobody_lingers()
    }

    /// The drain time is over: resets what is unfinished. Returns how many that were.
    pub(super) fn cut(self: &Arc<Self>) -> u64 {
        // Those still in the kernel's queue are reset by the close; as many as can be accepted are counted.
        let mut waiting = 0;
        for _ in 0..self.listeners().kernel_view().queue + LAST {
            let Some(connection) = self.accept_any() else { break };
            add(&self.counters().cut, 1);
            waiting += 1;
            connection.slot().note_cut();
            connection.end(Ending::Abort);
        }
        self.listeners().close_if(self.sets(), |_| true);
        let lanes = self.cut_lanes();
        let cut = table::all().filter(|slot| slot.cut(self)).count() as u64;
        add(&self.counters().cut, cut);
        let cut = cut + lanes + waiting;
        if let Some(pool) = self.pool() {
            pool.dismiss_waiting();
        }
        if let Some(children) = self.children() {
            children.kill();
        }
        while let Some(connection) = self.next_in_turn() {
            connection.end(Ending::Abort);
        }
        self.lingering().clear();
        cut
    }

    /// The loops of an event server reset what they have. Returns how many that were.
    fn cut_lanes(self: &Arc<Self>) -> u64 {
        if self.lanes().is_empty() {
            return 0;
        }
        let before = value(&self.counters().cut);
        let grace = Deadline::after(GRACE);
        self.wake_lanes();
        on_own_loop(self, EventLoop::finish_turn);
        while self.active() > 0 && !grace.is_over() {
            if self.turn(grace).is_err() {
                let _ = rustix::thread::nanosleep(&HANDSHAKE);
                on_own_loop(self, EventLoop::finish_turn);
            }
        }
        value(&self.counters().cut).saturating_sub(before)
    }

    /// Waits for handlers whose connections are gone, lets threads go, and reports how the stop went.
    fn end_handlers(self: &Arc<Self>, drain: &Drain, cut: u64) {
        let grace = Deadline::after(GRACE);
        if let Some(children) = self.children() {
            while !children.is_quiet() && !grace.is_over() {
                if self.turn(grace).is_err() {
                    children.look_without_events(self);
                }
            }
        }
        let patience = if cut == 0 { Duration::from_secs(5) } else { GRACE };
        let running = self.pool().map_or(0, |pool| pool.close(patience));
        self.lingering().clear();
        self.look_after_episodes(true);
        let drained = value(&self.counters().drained).saturating_sub(drain.drained);
        let under_way = drain.under_way;
        let level = if cut == 0 && running == 0 { Level::Info } else { Level::Warning };
        let line = format_args!(
            "stopped: {under_way} connections were under way, {} finished, {cut} were reset, {running} handlers still run",
            drained
        );
        self.report(level, c"stopped", line);
    }
}
