//! The threads of the thread model: made when needed, at most so many, and let go when idle.
//!
//! All state is behind one lock, which is never held while a handler runs. Each seat has its own condition, so that the
//! thread that was idle last is woken first, and those that are not needed leave.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::Server;
use super::connection::{Ending, Owned};
use crate::deadline::Deadline;
use crate::diagnose;
use crate::error::{Error, Result};
use crate::sys::signal::Signals;
use crate::sys::thread::{self, Main, Thread};

/// How long a thread waits for work before it leaves.
const IDLE: Duration = Duration::from_secs(5);

/// How long making a thread rests after it failed.
const REST: Duration = Duration::from_millis(100);

/// A bounded pool of threads.
#[derive(Debug)]
pub struct Pool {
    state: Mutex<State>,
    /// One for each seat: its thread waits there for work.
    conditions: Vec<Condvar>,
    /// Somebody has left.
    left: Condvar,
}

#[derive(Debug, Default)]
struct State {
    seats: Vec<Seat>,
    /// Seats without a thread.
    vacant: Vec<usize>,
    /// Seats whose thread has not come to life yet.
    starting: VecDeque<usize>,
    /// Seats whose thread waits for work, the last to become idle on top.
    idle: Vec<usize>,
    /// Seats whose thread has left and is to be joined.
    ended: Vec<usize>,
    /// Connections for which there is no thread yet.
    waiting: VecDeque<Owned>,
    /// Nobody accepts, because nobody was free: who becomes free accepts for itself.
    saturated: bool,
    /// Making a thread failed; until then no other is tried.
    no_thread_until: Option<Deadline>,
    closing: bool,
}

#[derive(Default)]
struct Seat {
    work: Option<Owned>,
    thread: Option<Thread>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Seat({:?})", self.work)
    }
}

impl Pool {
    /// A pool of at most `size` threads, none of which is made yet. All memory that it needs is taken now.
    pub fn new(size: usize) -> Option<Self> {
        let mut state = State::default();
        let mut conditions = Vec::new();
        state.seats.try_reserve_exact(size).ok()?;
        state.vacant.try_reserve_exact(size).ok()?;
        state.starting.try_reserve_exact(size).ok()?;
        state.idle.try_reserve_exact(size).ok()?;
        state.ended.try_reserve_exact(size).ok()?;
        state.waiting.try_reserve_exact(size).ok()?;
        conditions.try_reserve_exact(size).ok()?;
        state.seats.resize_with(size, Seat::default);
        state.vacant.extend((0..size).rev());
        conditions.resize_with(size, Condvar::new);
        Some(Self { state: Mutex::new(state), conditions, left: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connection would find a thread. Where not, the next free thread accepts for itself.
    pub fn has_room(&self) -> bool {
        let mut state = self.state();
        state.saturated = !state.has_room();
        !state.saturated
    }

    /// Hands a connection to a thread, or keeps it until there is one.
    pub fn give(&self, server: &Arc<Server>, work: Owned) {
        let mut state = self.state();
        if let Some(index) = state.idle.pop() {
            if let Some(seat) = state.seats.get_mut(index) {
                seat.work = Some(work);
            }
            drop(state);
            if let Some(condition) = self.conditions.get(index) {
                condition.notify_one();
            }
            return;
        }
        if let Err(refused) = state.put_in_waiting(work) {
            drop(state);
            // Memory is short beyond what was taken at the start: this one client is turned away.
            refused.end(Ending::Abort);
            return;
        }
        drop(state);
        self.staff(server);
    }

    /// Makes threads for connections that wait, as far as there are seats.
    pub fn staff(&self, server: &Arc<Server>) {
        loop {
            let mut state = self.state();
            if !state.may_make_thread() || state.waiting.is_empty() || state.starting.len() >= state.waiting.len() {
                return;
            }
            let Some((index, ended)) = state.take_seat() else { return };
            state.starting.push_back(index);
            drop(state);
            if let Some(ended) = ended {
                ended.join();
            }
            match thread::spawn::<Worker>(server, Signals::asynchronous()) {
                Ok(thread) => self.state().keep_thread(index, thread),
                Err(errno) => return self.no_thread(server, index, errno),
            }
        }
    }

    fn no_thread(&self, server: &Server, index: usize, errno: Errno) {
        let mut state = self.state();
        state.starting.retain(|&starting| starting != index);
        state.vacant.push(index);
        let first = state.no_thread_until.is_none();
        state.no_thread_until = Some(Deadline::after(REST));
        drop(state);
        if first {
            let error = || diagnose::for_tasks(Error::system("pthread_create", errno));
            server.report_shortage(c"threads_used_up", error, "connections wait for a free thread");
        }
    }

    /// When to try again to make a thread for those who wait.
    pub fn next_try(&self) -> Deadline {
        let state = self.state();
        let waits = !state.waiting.is_empty() || state.saturated;
        // One that is over is due: it may have been none when the loop looked for room.
        state.no_thread_until.filter(|_| waits && state.has_seat()).unwrap_or(Deadline::NEVER)
    }

    /// Whether no connection waits and no handler runs.
    pub fn is_quiet(&self) -> bool {
        let state = self.state();
        state.waiting.is_empty() && state.busy() == 0
    }

    /// Turns away those who wait, at the end of the drain time.
    pub fn dismiss_waiting(&self) {
        loop {
            // Ending a connection may take other locks: not under this one.
            let Some(work) = self.state().waiting.pop_front() else { return };
            work.end(Ending::Abort);
        }
    }

    /// Lets all threads go, and waits for those that can within `grace`. Returns how many handlers still run; their
    /// threads end when they return.
    pub fn close(&self, grace: Duration) -> usize {
        let deadline = Deadline::after(grace);
        let mut state = self.state();
        state.closing = true;
        self.conditions.iter().for_each(Condvar::notify_all);
        while state.alive() > 0 {
            let Some(left) = deadline.left().filter(|left| !left.is_zero()) else { break };
            state = self.left.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let running = state.alive();
        // One after another: a list of them would need memory.
        while let Some(index) = state.ended.pop() {
            let thread = state.seats.get_mut(index).and_then(|seat| seat.thread.take());
            drop(state);
            thread.into_iter().for_each(Thread::join);
            state = self.state();
        }
        let State { seats, .. } = &mut *state;
        seats.iter_mut().filter_map(|seat| seat.thread.take()).for_each(Thread::detach);
        running
    }

    /// A thread comes to life: its seat.
    fn enter(&self) -> Option<usize> {
        self.state().starting.pop_front()
    }

    /// The next connection for the thread on this seat; `None` when it has to leave.
    fn next(&self, server: &Arc<Server>, seat: usize) -> Option<Owned> {
        let mut state = self.state();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                // The loop may have looked between this thread's coming to life and now, and found nobody free.
                let room_again = state.saturated && state.has_room();
                state.saturated &= !room_again;
                drop(state);
                if room_again {
                    server.wake();
                }
                return Some(work);
            }
            if state.closing {
                state.leave(seat);
                self.left.notify_all();
                return None;
            }
            if !state.saturated {
                break;
            }
            // All were busy, so nobody accepts: this thread does. Where nobody waits, the server's loop goes on.
            drop(state);
            if let Some(work) = server.accept_for_free_thread() {
                return Some(work);
            }
            state = self.state();
            if std::mem::take(&mut state.saturated) {
                server.wake();
            }
        }
        state.idle.push(seat);
        // A loop that drains looks whether all are idle: only now is this one.
        server.thread_is_free();
        self.wait(state, seat)
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, seat: usize) -> Option<Owned> {
        let deadline = Deadline::after(IDLE);
        loop {
            if let Some(work) = state.seats.get_mut(seat).and_then(|seat| seat.work.take()) {
                return Some(work);
            }
            let left = deadline.left().unwrap_or(IDLE);
            if state.closing || left.is_zero() {
                state.idle.retain(|&idle| idle != seat);
                state.leave(seat);
                self.left.notify_all();
                return None;
            }
            let condition = self.conditions.get(seat)?;
            state = condition.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn may_make_thread(&self) -> bool {
        self.no_thread_until.is_none_or(Deadline::is_over)
    }

    fn has_room(&self) -> bool {
        // Those who wait for a thread that is coming to life need no other.
        let unstaffed = self.waiting.len() > self.starting.len();
        !unstaffed && (!self.idle.is_empty() || (self.may_make_thread() && self.has_seat()))
    }

    fn has_seat(&self) -> bool {
        !self.vacant.is_empty() || !self.ended.is_empty()
    }

    /// A seat for a new thread, and the thread that sat there before.
    fn take_seat(&mut self) -> Option<(usize, Option<Thread>)> {
        if let Some(index) = self.ended.pop() {
            return Some((index, self.seats.get_mut(index).and_then(|seat| seat.thread.take())));
        }
        self.vacant.pop().map(|index| (index, None))
    }

    fn keep_thread(&mut self, index: usize, thread: Thread) {
        self.no_thread_until = None;
        match self.seats.get_mut(index) {
            Some(seat) => seat.thread = Some(thread),
            None => thread.detach(),
        }
    }

    fn put_in_waiting(&mut self, work: Owned) -> std::result::Result<(), Owned> {
        if self.waiting.try_reserve(1).is_err() {
            return Err(work);
        }
        self.waiting.push_back(work);
        Ok(())
    }

    fn leave(&mut self, seat: usize) {
        self.ended.push(seat);
    }

    /// Threads that have not left.
    fn alive(&self) -> usize {
        self.seats.len().saturating_sub(self.vacant.len()).saturating_sub(self.ended.len())
    }

    /// Threads that serve a connection, or are about to.
    fn busy(&self) -> usize {
        self.alive().saturating_sub(self.idle.len())
    }
}

/// A thread of the pool.
struct Worker;

impl Main for Worker {
    type Shared = Server;

    fn main(server: Arc<Server>) {
        let Some(pool) = server.pool() else { return };
        let Some(seat) = pool.enter() else { return };
        while let Some(work) = pool.next(&server, seat) {
            server.serve_one(work);
        }
    }
}

/// A pool as the options ask for it.
pub fn for_workers(workers: usize) -> Result<Pool> {
    Pool::new(workers).ok_or_else(|| diagnose::for_limits(Error::system("server", Errno::NOMEM)))
}
