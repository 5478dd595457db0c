//! Servers that a program accepts from by hand, and the end of any server.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec};

use super::connection;
use super::server::Phase;
use super::{ConnectionId, Server};
use crate::deadline::Deadline;
use crate::diagnose;
use crate::error::{Code, Error, Result};

impl Server {
    /// Accepts one connection from any listener.
    pub fn accept_by_hand(self: &Arc<Self>, deadline: Deadline) -> Result<(ConnectionId, RawFd)> {
        const FUNCTION: &str = "oyez_server_accept";
        if !self.is_by_hand() {
            return Err(self.misuse(FUNCTION, format_args!("it has a handler, which gets the connections")));
        }
        if self.listeners().len() == 0 && self.slot().stop().is_none() {
            return Err(self.misuse(FUNCTION, format_args!("it listens nowhere: call oyez_server_listen() first")));
        }
        self.acceptor_comes();
        let outcome = self.wait_for_connection(FUNCTION, deadline);
        self.acceptor_leaves();
        outcome
    }

    fn wait_for_connection(
        self: &Arc<Self>,
        function: &'static str,
        deadline: Deadline,
    ) -> Result<(ConnectionId, RawFd)> {
        // Also a call that does not wait looks after what has happened.
        let mut looked = false;
        loop {
            let stop = self.slot().stop();
            self.look_at_queues();
            if stop.is_some() || !self.is_paused() {
                if stop.is_some() {
                    self.keep_beginners_out();
                }
                self.listeners().set_all_ready();
                if let Some(accepted) = self.next_in_turn().or_else(|| self.accept_any()) {
                    // This thread does not come back soon: others may have had nothing to wait for.
                    self.watch_listeners();
                    let id = accepted.id();
                    let fd = super::Connection::find(id, function)?.expose()?;
                    return Ok((id, fd));
                }
            }
            if let Some(stop) = stop {
                let awaited = self.awaits_handshakes();
                let full = awaited || self.shortage().rests().is_some() || self.admission().is_full();
                let nobody_waits = || self.listeners().close_if(self.sets(), |listener| !listener.is_ready());
                if stop.is_over() || !full && nobody_waits() {
                    return Err(match self.take_failure() {
                        Some(error) => error,
                        None => {
                            Error::system(function, Errno::CANCELED).because(format_args!("the server has stopped"))
                        }
                    });
                }
                if !full {
                    // Many were refused, and somebody may wait behind them.
                    continue;
                }
            }
            self.watch_listeners();
            self.set_timer(self.next_look_at_handshakes());
            if looked && deadline.is_over() {
                return Err(self.nobody_in_time(function));
            }
            let next = deadline.earlier(stop.unwrap_or(Deadline::NEVER)).earlier(self.next_look_at_queues());
            let next = next.earlier(self.next_look_at_handshakes());
            self.turn(next).map_err(|errno| Error::system("epoll_wait", errno))?;
            looked = true;
        }
    }

    /// In a stop: lets nobody begin to connect. Others who accept wait meanwhile.
    fn keep_beginners_out(self: &Arc<Self>) {
        let mut elsewhere = Vec::new();
        self.handshakes.get_or_init(|| {
            let (handshakes, found) = self.refuse_beginners();
            elsewhere = found;
            Mutex::new(handshakes)
        });
        elsewhere.into_iter().for_each(|(socket, peer)| self.take_in(socket, &peer));
    }

    /// Whether a stop keeps the listeners open for handshakes that are under way.
    fn awaits_handshakes(&self) -> bool {
        let handshakes =
            self.handshakes.get().map(|handshakes| handshakes.lock().unwrap_or_else(PoisonError::into_inner));
        handshakes.is_some_and(|mut handshakes| handshakes.are_awaited(self))
    }

    fn next_look_at_handshakes(&self) -> Deadline {
        let handshakes =
            self.handshakes.get().map(|handshakes| handshakes.lock().unwrap_or_else(PoisonError::into_inner));
        handshakes.map_or(Deadline::NEVER, |handshakes| handshakes.next_look())
    }

    fn nobody_in_time(&self, function: &'static str) -> Error {
        match self.shortage().rests() {
            Some(errno) => diagnose::for_limits(Error::system("accept", errno)),
            None if self.admission().is_full() => {
                Error::system(function, Errno::AGAIN).with_code(Code::LimitReached).because(format_args!(
                    "there are as many connections as max_connections allows, and none was closed in time"
                ))
            }
            None => Error::system(function, Errno::AGAIN).because(format_args!("nobody came in time")),
        }
    }

    /// One descriptor for a foreign loop.
    pub fn poll_fd(&self) -> Result<RawFd> {
        match self.is_by_hand() {
            true => self.set_timer(Deadline::NEVER),
            // Each oyez_server_poll() sets it: what its loop has to do is known there.
            false => self.check_polled("oyez_server_poll_fd")?,
        }
        self.watch_listeners();
        Ok(self.epoll().as_raw_fd())
    }

    /// Makes the epoll descriptor readable when something is due, or that is, which no event will tell a foreign loop.
    pub(super) fn set_timer(&self, also: Deadline) {
        let Some(timer) = self.timer() else { return };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A time of zero would switch the timer off.
        let shortest = Timespec { tv_sec: 0, tv_nsec: 1 };
        // The end of the drain time, too, has to be looked after where a foreign loop drives an event server.
        let stop = self.slot().stop().filter(|_| !self.is_by_hand()).unwrap_or(Deadline::NEVER);
        let next_look = self.next_look().earlier(stop).earlier(self.next_look_at_queues()).earlier(also);
        if next_look.is_never() && !self.timer_is_set(false) {
            return;
        }
        self.timer_is_set(!next_look.is_never());
        let it_value = next_look.timespec().map_or(zero, |left| if left == zero { shortest } else { left });
        let setting = Itimerspec { it_interval: zero, it_value };
        let _ = rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &setting);
    }

    /// Waits until stopped and drained.
    pub fn wait(self: &Arc<Self>, deadline: Deadline) -> Result<()> {
        const FUNCTION: &str = "oyez_server_wait";
        if connection::is_in_handler_of(self) {
            return Err(self
                .misuse(FUNCTION, format_args!("a handler cannot wait for its own server"))
                .with_errno(Errno::DEADLK));
        }
        let phase = self.life().phase;
        let ended = match phase {
            Phase::New if self.is_by_hand() => self.drain_by_hand(deadline)?,
            Phase::New => return Err(self.misuse(FUNCTION, format_args!("it was never started"))),
            Phase::Polled => self.poll_to_the_end(deadline)?,
            Phase::Running | Phase::Ended => self.wait_for_end(deadline),
        };
        if ended {
            return Ok(());
        }
        Err(Error::system(FUNCTION, Errno::AGAIN).because(format_args!("the server has not stopped yet")))
    }

    /// Waits for a stop, and for the connections that the program has not closed. True when that is over.
    fn drain_by_hand(self: &Arc<Self>, limit: Deadline) -> Result<bool> {
        loop {
            let stop = self.slot().stop();
            if let Some(stop) = stop {
                // They are woken for the stop one after another, and return.
                if !self.acceptors_are_gone(limit) {
                    return Ok(false);
                }
                self.keep_beginners_out();
                if self.active() == 0 && self.lingering().is_empty() && self.listeners().len() == 0 {
                    break;
                }
                if stop.is_over() {
                    self.cut();
                    break;
                }
                self.lingering().hasten(self.epoll(), |number| super::token::Token::Linger(number).into());
                if self.listeners().len() > 0 && !self.awaits_handshakes() && self.nobody_waits() {
                    self.listeners().close_if(self.sets(), |_| true);
                    continue;
                }
            }
            if limit.is_over() {
                return Ok(false);
            }
            self.listeners().watch(false, self.sets());
            let next = limit.earlier(stop.unwrap_or(Deadline::NEVER)).earlier(self.next_look_at_handshakes());
            self.turn(next).map_err(|errno| Error::system("epoll_wait", errno))?;
        }
        self.set_phase(Phase::Ended);
        Ok(true)
    }

    /// Whether the kernel's queues are empty, as far as it tells (it does of TCP; a Unix queue is polled).
    fn nobody_waits(&self) -> bool {
        let now = Deadline::after(std::time::Duration::ZERO);
        self.listeners().each().all(|listener| {
            let listener = std::os::fd::AsFd::as_fd(&*listener);
            crate::stream::wait(listener, rustix::event::PollFlags::IN, now).is_err()
        })
    }

    /// The end of a server that was asked to stop: waits for whoever runs it.
    pub(super) fn end(self: &Arc<Self>) {
        let phase = self.life().phase;
        match phase {
            Phase::New if self.is_by_hand() => {
                // An error here is one of epoll_wait(2): nothing would tell of the rest.
                if self.drain_by_hand(Deadline::NEVER).is_err() {
                    self.cut();
                }
            }
            Phase::New => {}
            Phase::Polled => {
                // An error here is that of epoll_wait(2).
                let _ = self.poll_to_the_end(Deadline::NEVER);
            }
            Phase::Running | Phase::Ended => {
                self.wait_for_end(Deadline::NEVER);
            }
        }
        self.listeners().close_if(self.sets(), |_| true);
        self.lingering().clear();
        self.set_phase(Phase::Ended);
        if let Some(thread) = self.take_thread() {
            thread.join();
        }
    }

    /// Nobody will join the thread of a server that its own handler has closed.
    pub(super) fn give_thread_up(&self) {
        if let Some(thread) = self.take_thread() {
            thread.detach();
        }
        self.slot().close_by_handler();
    }

    fn take_thread(&self) -> Option<crate::sys::thread::Thread> {
        self.life().thread.take()
    }
}
