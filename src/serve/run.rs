//! The loop of a server: a turn accepts, and looks after what has happened; a stop drains.

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, Event};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::connection::Owned;
use super::events::{Choice, EventLoop, Place, on_lane, on_own_loop};
use super::server::Phase;
use super::token::Token;
use super::{Level, Server, signals};
use crate::deadline::Deadline;
use crate::diagnose;
use crate::error::{Error, Result};
use crate::sys::signal::{self, NoSigpipe, STOP_SIGNALS, Signals};
use crate::sys::socket;
use crate::sys::thread::{self, Main};

/// How many connections one turn accepts before others get their turn.
pub const ACCEPTS: usize = 64;

/// How many events one turn takes.
const EVENTS: usize = 256;

impl Server {
    /// Runs until stopped and drained, on this thread.
    pub fn run(self: &Arc<Self>) -> Result<()> {
        self.begin("oyez_server_run")?;
        if let Err(error) = self.make_rings().and_then(|()| self.catch_signals()) {
            self.drop_rings();
            self.life().phase = Phase::New;
            return Err(error);
        }
        // Where every thread of the program has the signals blocked, this one takes them.
        let mask = match self.options().stop_on_signals {
            true => signal::unblock(Signals::of(&STOP_SIGNALS)),
            false => signal::block(Signals::of(&[])),
        };
        self.remember_mask(mask);
        let no_sigpipe = self.is_sequential().then(NoSigpipe::new);
        let outcome = self.run_to_the_end();
        if matches!(self.backend(), Some(Choice::IoUring(_))) {
            crate::sys::ring::settle();
        }
        drop(no_sigpipe);
        signal::restore(mask);
        outcome
    }

    /// Runs on a thread of its own.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        self.begin("oyez_server_start")?;
        let started = self.make_rings().and_then(|()| self.catch_signals()).and_then(|()| {
            self.remember_mask(signal::block(Signals::of(&[])));
            self.make_runner().map_err(|errno| diagnose::for_tasks(Error::system("pthread_create", errno)))
        });
        if started.is_err() {
            self.drop_rings();
            self.release_signals();
            self.life().phase = Phase::New;
        }
        started
    }

    fn make_runner(self: &Arc<Self>) -> std::result::Result<(), Errno> {
        let mut life = self.life();
        life.thread = Some(thread::spawn::<Runner>(self, self.signals_blocked_in_runner())?);
        Ok(())
    }

    fn signals_blocked_in_runner(&self) -> Signals {
        let mut blocked = Signals::asynchronous();
        if self.options().stop_on_signals {
            blocked.remove(&STOP_SIGNALS);
        }
        if self.children().is_some() && signal::is_without_handler(libc::SIGCHLD) {
            // A child's end is told to the thread that made it. Blocked there, it would count as pending and interrupt
            // the program's other threads, although nobody handles it.
            blocked.remove(&[libc::SIGCHLD]);
        }
        blocked
    }

    /// From now on stop signals stop this server, if it asked for that.
    fn catch_signals(&self) -> Result<()> {
        if self.options().stop_on_signals {
            self.slot().heed_signals(Some(self.options().drain));
            let caught = signals::catch();
            self.life().signals = Some(caught?);
        }
        Ok(())
    }

    fn release_signals(&self) {
        self.slot().heed_signals(None);
        let caught = self.life().signals.take();
        drop(caught);
    }

    fn begin(&self, function: &'static str) -> Result<()> {
        if self.is_by_hand() {
            return Err(self.misuse(function, format_args!("it has no handler: accept with oyez_server_accept()")));
        }
        let mut life = self.life();
        match life.phase {
            Phase::New if self.listeners().len() == 0 => {
                return Err(self.misuse(function, format_args!("it listens nowhere: call oyez_server_listen() first")));
            }
            Phase::New => life.phase = Phase::Running,
            Phase::Polled => {
                return Err(self.misuse(function, format_args!("oyez_server_poll() drives it")));
            }
            Phase::Running => return Err(self.misuse(function, format_args!("it runs already"))),
            Phase::Ended => {
                return Err(Error::system(function, Errno::CANCELED).because(format_args!("the server has stopped")));
            }
        }
        Ok(())
    }

    fn run_to_the_end(self: &Arc<Self>) -> Result<()> {
        let outcome = self.start_workers().and_then(|()| {
            let ran = on_lane(self, 0, None, |_| self.loop_until_drained());
            ran.map_err(|errno| Error::system("oyez_server_run", errno))?.0
        });
        self.end_workers();
        self.release_signals();
        // Where it did not even begin, nobody else would tell those who wait.
        self.listeners().close_if(self.sets(), |_| true);
        self.set_phase(Phase::Ended);
        if self.slot().is_closed_by_handler() {
            self.slot().release();
        }
        outcome
    }

    fn loop_until_drained(self: &Arc<Self>) -> Result<()> {
        let looped = self.loop_until_stopped();
        if looped.is_err() {
            // Nobody else would end the drain time.
            self.slot().ask_to_stop(self.options().drain);
        }
        let mut drain = self.begin_drain();
        while !self.drain_some(&mut drain, Deadline::NEVER) {}
        match (looped, self.take_failure()) {
            (Err(error), _) | (Ok(()), Some(error)) => Err(error),
            (Ok(()), None) => Ok(()),
        }
    }

    fn loop_until_stopped(self: &Arc<Self>) -> Result<()> {
        while self.slot().stop().is_none() {
            let more = self.accept_some();
            self.watch_listeners();
            let wait = if more { Deadline::after(Duration::ZERO) } else { self.next_look_at_queues() };
            self.turn(wait).map_err(|errno| Error::system("epoll_wait", errno))?;
            if !self.listeners().are_watched() {
                self.look_at_queues();
            }
        }
        Ok(())
    }

    /// Accepts what there is room for; true where more may be waiting.
    pub(super) fn accept_some(self: &Arc<Self>) -> bool {
        for accepted in 0..ACCEPTS {
            let next = if self.may_accept() { self.accept_any() } else { None };
            let Some(connection) = next else {
                if accepted > 0 {
                    self.look_at_queues();
                }
                return false;
            };
            self.dispatch(connection);
        }
        self.look_at_queues();
        true
    }

    pub(super) fn may_accept(&self) -> bool {
        self.slot().stop().is_none() && !self.is_paused() && self.has_room()
    }

    /// For a thread of the pool that has become free while all were busy.
    pub(super) fn accept_for_free_thread(self: &Arc<Self>) -> Option<Owned> {
        if self.slot().stop().is_some() || self.is_paused() {
            return None;
        }
        self.listeners().set_all_ready();
        self.accept_any()
    }

    fn has_room(&self) -> bool {
        match (self.pool(), self.children()) {
            (Some(pool), _) => pool.has_room(),
            (_, Some(children)) => children.has_room(),
            _ => true,
        }
    }

    /// Gives a connection to its handler.
    pub(super) fn dispatch(self: &Arc<Self>, connection: Owned) {
        match (self.pool(), self.children()) {
            (Some(pool), _) => pool.give(self, connection),
            (_, Some(children)) => children.give(self, connection),
            _ if self.events().is_some() => self.give_to_lane(connection),
            _ => self.serve_one(connection),
        }
    }

    /// Watches the listeners while accepting from them has a point: a ready one would make the loop spin otherwise.
    pub(super) fn watch_listeners(&self) {
        let has_point = || {
            let room = !self.admission().is_full() && self.shortage().rests().is_none();
            // A stop takes in whoever waits.
            room && (self.slot().stop().is_some() || !self.is_paused() && self.has_room())
        };
        self.listeners().watch(has_point(), self.sets());
        // Of several threads another one may have looked after what has changed since, when they were watched still.
        if !self.listeners().are_watched() && has_point() {
            self.listeners().watch(true, self.sets());
        }
    }

    /// Waits for something to happen, at most until `limit`, and looks after it.
    pub(super) fn turn(self: &Arc<Self>, limit: Deadline) -> std::result::Result<(), Errno> {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let deadline = limit.earlier(self.next_look());
        let own = on_own_loop(self, |own| own.wait(&mut events, deadline));
        let happened = match own {
            Some(happened) => happened?,
            None => match epoll::wait(self.epoll(), &mut events, deadline.timespec().as_ref()) {
                Ok((happened, _)) => happened,
                Err(Errno::INTR) => &mut [],
                Err(errno) => return Err(errno),
            },
        };
        let mut children_ended = false;
        for event in happened.iter() {
            match Token::of(event.data) {
                Token::Wake => drain_counter(self.waker()),
                Token::Timer => self.timer().into_iter().for_each(drain_counter),
                Token::Listener(number) => self.listeners().set_ready(number),
                Token::Linger(number) => self.lingering().on_event(number),
                Token::Connection { index, turn } => {
                    on_own_loop(self, |own| own.on_event(Place { index, turn }, event.flags));
                }
                Token::Child(place) => {
                    children_ended = true;
                    self.children().into_iter().for_each(|children| children.on_event(self, place));
                }
            }
        }
        on_own_loop(self, EventLoop::finish_turn);
        self.look_after(children_ended);
        Ok(())
    }

    /// What is due although no event says so.
    fn look_after(self: &Arc<Self>, children_ended: bool) {
        self.lingering().expire();
        self.look_after_shortage();
        self.look_after_episodes(false);
        if let Some(pool) = self.pool() {
            pool.staff(self);
        }
        if let Some(children) = self.children()
            && !children_ended
        {
            children.look_after_unwatched(self);
        }
    }

    /// When something is due although no event will say so.
    pub(super) fn next_look(&self) -> Deadline {
        let pool = self.pool().map_or(Deadline::NEVER, super::pool::Pool::next_try);
        let children = self.children().map_or(Deadline::NEVER, super::children::Children::next_look);
        let own = on_own_loop(self, EventLoop::next_look).unwrap_or(Deadline::NEVER);
        let due = self.shortage().next_look().earlier(self.episodes().next_look()).earlier(self.lingering().deadline());
        due.earlier(pool).earlier(children).earlier(own)
    }

    /// Waits on the server's own thread for a handler's connection, and notices a stop meanwhile.
    pub(super) fn wait_in_handler(
        &self,
        connection: BorrowedFd<'_>,
        what: PollFlags,
        deadline: Deadline,
    ) -> std::result::Result<(), Errno> {
        loop {
            let stop = self.slot().stop().unwrap_or(Deadline::NEVER);
            if stop.is_over() {
                socket::reset(connection);
                return Err(Errno::CANCELED);
            }
            let waker = self.waker();
            let mut polled = [PollFd::from_borrowed_fd(connection, what), PollFd::new(&waker, PollFlags::IN)];
            match rustix::event::poll(&mut polled, deadline.earlier(stop).timespec().as_ref()) {
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
                Ok(_) => {}
            }
            let [connection, woken] = &polled;
            if !connection.revents().is_empty() {
                return Ok(());
            }
            if woken.revents().is_empty() {
                if deadline.is_over() {
                    return Err(Errno::AGAIN);
                }
            } else {
                // The loop looks at everything after the handler, whether or not it is woken.
                drain_counter(waker);
            }
        }
    }
}

/// Empties an eventfd or a timerfd.
pub(super) fn drain_counter(fd: BorrowedFd<'_>) {
    let mut count = [0; 8];
    let _ = rustix::io::read(fd, &mut count);
}

/// The thread of oyez_server_start().
struct Runner;

impl Main for Runner {
    type Shared = Server;

    fn main(server: Arc<Server>) {
        if let Err(error) = server.run_to_the_end() {
            server.report(Level::Error, c"server_failed", format_args!("{error}"));
        }
    }
}
