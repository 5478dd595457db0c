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
use crate::deadline::Deadline;

/// How long the kernel may take to complete a handshake on this host.
const HANDSHAKE: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000 };

/// How long a stop waits for handshakes that are under way: the kernel repeats a packet that was lost after a second, and
/// some never answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// When it looks again whether there are any.
const AGAIN: Duration = Duration::from_millis(1);

/// How long handlers whose connections were cut get to return.
const GRACE: Duration = Duration::from_millis(250);

/// How far a stop has come.
#[derive(Debug)]
pub struct Drain {
    /// How many connections were under way at its beginning.
    under_way: usize,
    /// How many had been drained before.
    drained: u64,
    /// Lingering connections have been told to hurry.
    hastened: bool,
    /// Until when listeners stay open for handshakes that are under way.
    handshakes: Deadline,
}

impl Server {
    /// Begins a stop: lets nobody begin to connect, and takes those in who have been connected.
    pub(super) fn begin_drain(self: &Arc<Self>) -> Drain {
        let mut drain = Drain {
            under_way: self.active(),
            drained: value(&self.counters().drained),
            hastened: false,
            handshakes: Deadline::after(Duration::ZERO),
        };
        self.wake_lanes();
        let refused = self.refuse_beginners();
        self.listeners().set_all_ready();
        // At rest nobody is on his way; to look for that takes longer than such a stop does.
        if refused && (self.accept_all() || drain.under_way > 0) {
            drain.handshakes = Deadline::after(PATIENCE);
        }
        drain
    }

    /// Lets nobody begin to connect any more, where that can be had. True where it could.
    pub(super) fn refuse_beginners(self: &Arc<Self>) -> bool {
        let (mut index, mut refused) = (0, false);
        while let Some(listener) = self.listeners().get(index) {
            let (works, sink) = listener.refuse_beginners(|socket, peer| self.take_in(socket, &peer));
            sink.into_iter().for_each(|sink| self.listeners().keep_sink(sink));
            refused |= works;
            index += 1;
        }
        if refused {
            // Who began before that is being connected on another processor, or has been.
            let _ = rustix::thread::nanosleep(&HANDSHAKE);
        }
        refused
    }

    /// Takes a client in whom no listener gave.
    fn take_in(self: &Arc<Self>, socket: OwnedFd, peer: &Peer) {
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
        // No event tells the end of a handshake that comes to nothing.
        let limit = if drain.handshakes.is_over() { limit } else { limit.earlier(Deadline::after(AGAIN)) };
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
        if !drain.handshakes.is_over() && self.listeners().have_handshakes() {
            self.listeners().set_all_ready();
            self.accept_all();
            return false;
        }
        drain.handshakes = Deadline::after(Duration::ZERO);
        self.listeners().set_all_ready();
        self.accept_all();
        while self.children().is_some_and(Children::wait_for_copies) && self.accept_all() {}
        self.listeners().close_if(self.sets(), |listener| !listener.is_ready())
    }

    /// Accepts those that wait in the kernel's queues. True where there was somebody.
    fn accept_all(self: &Arc<Self>) -> bool {
        let mut found = false;
        while let Some(connection) = self.accept_any() {
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
        while let Some(connection) = self.accept_any() {
            self.turn.lock().unwrap_or_else(PoisonError::into_inner).push_back(connection);
        }
        self.listeners().close_if(self.sets(), |_| true);
        let lanes = self.cut_lanes();
        let cut = table::all().filter(|slot| slot.cut(self)).count() as u64;
        add(&self.counters().cut, cut);
        let cut = cut + lanes;
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
