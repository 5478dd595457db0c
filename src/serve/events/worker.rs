//! The threads of an event server's other lanes.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::epoll::Event;
use rustix::io::Errno;

use super::super::connection::Ending;
use super::super::run::ACCEPTS;
use super::super::token::Token;
use super::super::{Level, Server};
use super::inbox::Command;
use super::{EventLoop, Lane, Place, on_lane};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::sys::signal::Signals;
use crate::sys::thread::{self, Main, Thread};

/// How many events one turn takes.
pub const AT_ONCE: usize = 256;

/// How long a loop rests that hears of no event.
const BRIEF: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// The threads.
#[derive(Default)]
pub struct Workers {
    threads: Mutex<Vec<Thread>>,
    /// The lane of the thread that comes to life next.
    next: AtomicUsize,
    /// Whether they run.
    started: AtomicBool,
}

impl Workers {
    /// Whether they run.
    pub fn are_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// How many lanes are served; one alone in a server that a foreign loop drives.
    pub fn lanes(&self) -> usize {
        if self.are_started() { usize::MAX } else { 1 }
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Workers")
    }
}

impl Server {
    /// Starts a thread for each lane but the first.
    pub(in super::super) fn start_workers(self: &Arc<Self>) -> Result<()> {
        let workers = self.workers();
        let room = workers.threads.lock().unwrap_or_else(PoisonError::into_inner).try_reserve(self.lanes().len());
        room.map_err(|_| crate::diagnose::for_limits(Error::system("server", Errno::NOMEM)))?;
        for _ in self.lanes().iter().skip(1) {
            let started = thread::spawn::<Worker>(self, Signals::asynchronous());
            match started {
                Ok(thread) => workers.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread),
                Err(errno) => {
                    self.end_workers();
                    return Err(crate::diagnose::for_tasks(Error::system("pthread_create", errno)));
                }
            }
        }
        workers.started.store(true, Ordering::Release);
        self.listeners().spread(self.sets());
        Ok(())
    }

    /// Lets the threads end, and waits for that. Their lanes are empty, or soon will be.
    pub(in super::super) fn end_workers(&self) {
        let workers = self.workers();
        self.lanes().iter().for_each(|lane| lane.inbox.close());
        let threads = std::mem::take(&mut *workers.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.into_iter().for_each(Thread::join);
        workers.next.store(0, Ordering::Relaxed);
        self.drop_rings();
    }

    /// Has every lane look.
    pub(in super::super) fn wake_lanes(&self) {
        self.lanes().iter().for_each(|lane| lane.inbox.wake());
    }
}

/// A thread of a lane.
struct Worker;

impl Main for Worker {
    type Shared = Server;

    fn main(server: Arc<Server>) {
        let index = server.workers().next.fetch_add(1, Ordering::Relaxed) + 1;
        let ran = on_lane(&server, index, None, |own| own.into_iter().for_each(|own| own.run_to_the_end(index)));
        if let Err(errno) = ran {
            fail(&server, "server", errno);
            server.lanes().get(index).into_iter().for_each(|lane| turn_away(lane));
        }
    }
}

/// The server ends because of a loop's failure.
fn fail(server: &Server, operation: &'static str, errno: Errno) {
    let error = Error::system(operation, errno);
    server.report(Level::Error, c"server_failed", format_args!("{error}"));
    server.fail(error);
}

/// Until a lane that has no loop is to end: resets the connections that were given to it.
fn turn_away(lane: &Lane) {
    while !lane.inbox.is_closing() {
        for command in lane.inbox.take() {
            if let Command::Open(owned) = command {
                lane.inbox.count(false);
                owned.end(Ending::Abort);
            }
        }
        let _ = rustix::thread::nanosleep(&BRIEF);
    }
}

impl EventLoop {
    /// Runs. Where it hears of no event any more the server ends, and it looks by itself until its connections are closed.
    fn run_to_the_end(&self, index: usize) {
        let Err(errno) = self.run(index) else { return };
        fail(self.server(), "epoll_wait", errno);
        while !(self.lane().inbox.is_closing() && self.is_empty()) {
            self.finish_turn();
            let _ = rustix::thread::nanosleep(&BRIEF);
        }
    }

    fn run(&self, index: usize) -> std::result::Result<(), Errno> {
        let (server, inbox) = (self.server(), &self.lane().inbox);
        let mut events = [MaybeUninit::<Event>::uninit(); AT_ONCE];
        let mut accepts = false;
        while !(inbox.is_closing() && self.is_empty()) {
            let stop = server.slot().stop().unwrap_or(Deadline::NEVER);
            // A stop whose time is over has been looked after, unless something came in since.
            let stop = if stop.is_over() && self.is_empty() { Deadline::NEVER } else { stop };
            let next = if accepts { Deadline::after(Duration::ZERO) } else { self.next_look().earlier(stop) };
            let happened = self.wait(&mut events, next)?;
            for event in happened.iter() {
                match Token::of(event.data) {
                    Token::Connection { index, turn } => self.on_event(Place { index, turn }, event.flags),
                    Token::Listener(number) => {
                        server.listeners().set_ready(number);
                        accepts = true;
                    }
                    _ => {}
                }
            }
            if accepts {
                accepts = self.accept_own(index);
            }
            self.finish_turn();
        }
        Ok(())
    }

    /// Accepts from the lane's own listeners; true where more may be waiting.
    fn accept_own(&self, index: usize) -> bool {
        let server = self.server();
        for _ in 0..ACCEPTS {
            let accepted = if server.may_accept() { server.accept_of_lane(index) } else { None };
            let Some(accepted) = accepted else {
                if server.listeners().is_lane_ready(index) {
                    // There is no room, and nobody is watched for while that is so; the server's loop looks after when
                    // it ends.
                    server.watch_listeners();
                    server.wake();
                }
                return false;
            };
            self.lane().inbox.count(true);
            self.open(accepted);
        }
        true
    }
}
