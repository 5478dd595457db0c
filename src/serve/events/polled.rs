//! An event server inside a foreign loop.

use std::sync::{Arc, TryLockError};
use std::time::Duration;

use rustix::io::Errno;

use super::super::Server;
use super::super::server::Phase;
use super::super::stop::Drain;
use super::{EventLoop, Parked, on_lane, on_own_loop};
use crate::deadline::Deadline;
use crate::error::{Error, Result};

/// When a thread that waits for the end looks again whether anybody polls.
const AGAIN: Duration = Duration::from_millis(10);

/// What lasts from one poll to the next.
#[derive(Debug, Default)]
pub struct Polling {
    /// How far a stop has come.
    drain: Option<Drain>,
    /// The loop.
    parked: Option<Parked>,
}

impl Server {
    /// Does what there is to do, and waits for it until `limit`. An error where the server has stopped and is drained.
    pub fn poll(self: &Arc<Self>, limit: Deadline) -> Result<()> {
        const FUNCTION: &str = "oyez_server_poll";
        self.check_polled(FUNCTION)?;
        self.begin_polling(FUNCTION)?;
        let ended = self.poll_once(FUNCTION, limit)?;
        // Why it had to end is told once.
        if ended { Err(self.take_failure().unwrap_or_else(|| has_stopped(FUNCTION))) } else { Ok(()) }
    }

    /// Whether a foreign loop may drive the server.
    pub(in super::super) fn check_polled(&self, function: &'static str) -> Result<()> {
        if self.events().is_none() {
            return Err(self.misuse(function, format_args!("it has a handler and a loop of its own")));
        }
        match self.life().phase {
            Phase::New | Phase::Polled => Ok(()),
            Phase::Running => Err(self.misuse(function, format_args!("it runs already, on threads of its own"))),
            Phase::Ended => Err(has_stopped(function)),
        }
    }

    fn begin_polling(&self, function: &'static str) -> Result<()> {
        let mut life = self.life();
        if life.phase == Phase::New {
            if self.listeners().len() == 0 {
                return Err(self.misuse(function, format_args!("it listens nowhere: call oyez_server_listen() first")));
            }
            life.phase = Phase::Polled;
        }
        Ok(())
    }

    /// One turn; true when the server has stopped and is drained.
    fn poll_once(self: &Arc<Self>, function: &'static str, limit: Deadline) -> Result<bool> {
        let mut polling = match self.polling.try_lock() {
            Ok(polling) => polling,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let error = self.misuse(function, format_args!("it is being polled just now"));
                return Err(error.with_errno(Errno::BUSY));
            }
        };
        let Polling { drain, parked } = &mut *polling;
        // Without a ring: one belongs to one thread, and this may be another one each time.
        let polled = on_lane(self, 0, parked.take(), |_| {
            if self.slot().stop().is_none() {
                let more = self.accept_some();
                self.watch_listeners();
                self.look_at_queues();
                let wait =
                    if more { Deadline::after(Duration::ZERO) } else { limit.earlier(self.next_look_at_queues()) };
                self.turn(wait).map_err(|errno| Error::system("epoll_wait", errno))?;
            }
            // A function of the program that has closed the server leaves nobody to poll it again.
            while self.slot().stop().is_some() {
                let drain = drain.get_or_insert_with(|| self.begin_drain());
                let closed = self.slot().is_closed_by_handler();
                if self.drain_some(drain, if closed { Deadline::NEVER } else { limit }) {
                    self.set_phase(Phase::Ended);
                    if closed {
                        self.slot().release();
                    }
                    return Ok(true);
                }
                let drained = self.listeners().len() == 0 && self.active() == 0 && self.nobody_lingers();
                if !closed && !drained {
                    break;
                }
            }
            self.set_timer(drain.as_ref().map_or(Deadline::NEVER, Drain::next_look));
            on_own_loop(self, EventLoop::is_driven);
            Ok(false)
        });
        let (outcome, left) = polled.map_err(|errno| Error::system(function, errno))?;
        *parked = left;
        outcome
    }

    /// Polls until the server has stopped and is drained; false where the time is over before. While another thread
    /// polls, that does it.
    pub(in super::super) fn poll_to_the_end(self: &Arc<Self>, limit: Deadline) -> Result<bool> {
        loop {
            let ended = match self.poll_once("oyez_server_wait", limit) {
                Err(error) if error.errno() == Some(Errno::BUSY) => {
                    self.wait_for_end(limit.earlier(Deadline::after(AGAIN)))
                }
                outcome => outcome?,
            };
            if ended || limit.is_over() {
                return Ok(ended);
            }
        }
    }
}

fn has_stopped(function: &'static str) -> Error {
    Error::system(function, Errno::CANCELED).because(format_args!("the server has stopped"))
}
