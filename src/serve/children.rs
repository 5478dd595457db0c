//! The processes of the process model: a child for each connection, known by its pidfd.
//!
//! The parent keeps a copy of each connection until the child has ended. So it can close it in order when the handler
//! has returned, and reset it when the handler has crashed or the drain time is over.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::time::Timespec;

use super::Server;
use super::connection::{Ending, Owned};
use super::listeners::Held;
use super::token::Token;
use crate::deadline::Deadline;
use crate::diagnose;
use crate::error::{Error, Result};
use crate::sys::process::{self, End, Fork};
use crate::sys::shared::{Plain, Shared};
use crate::sys::{self, signal};

/// How often a child is looked after that has no pidfd, and how long fork(2) rests after it failed.
const REST: Duration = Duration::from_millis(50);

/// How long a loop rests that hears of no event.
const BRIEF: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// How often, and how long apart, it is looked whether a new child has closed its copies; that of a program that stops
/// its children is not waited for.
const LOOKS: usize = 10_000;
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000 };

/// A server's children.
pub struct Children {
    state: Mutex<State>,
    /// Which places' handlers have returned, said by the children themselves. A program that ignores SIGCHLD, or waits
    /// for any child, keeps their exit status from everybody else.
    returned: Shared<Bits>,
    /// Which places' children have closed their copies of the server's descriptors.
    apart: Shared<Bits>,
}

/// A bit for each place.
struct Bits([AtomicU64; 1024]);

impl Plain for Bits {}

impl Default for Bits {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Bits {
    fn set(&self, place: usize, value: bool) {
        let bit = 1 << (place % 64);
        match self.0.get(place / 64) {
            Some(word) if value => drop(word.fetch_or(bit, Ordering::AcqRel)),
            Some(word) => drop(word.fetch_and(!bit, Ordering::AcqRel)),
            None => {}
        }
    }

    fn get(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word.load(Ordering::Acquire) & (1 << (place % 64)) != 0)
    }
}

#[derive(Debug)]
struct State {
    children: Vec<Option<Child>>,
    running: usize,
    most: usize,
    /// Connections for which no child could be made yet.
    waiting: VecDeque<Owned>,
    /// fork(2) failed; until then it is not tried again.
    no_fork_until: Option<Deadline>,
}

#[derive(Debug)]
struct Child {
    pid: Pid,
    /// Tells when the child ends. `None` where no descriptor was free: then it is asked from time to time.
    pidfd: Option<OwnedFd>,
    connection: Owned,
    /// The drain time was over: that it ends now is not its own doing.
    killed: bool,
}

impl fmt::Debug for Children {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(out)
    }
}

impl Children {
    /// At most so many at once.
    pub fn new(most: usize) -> Result<Self> {
        let failed = |operation| move |errno| diagnose::for_limits(Error::system(operation, errno));
        let mut children = Vec::new();
        children.try_reserve_exact(most).map_err(|_| failed("server")(Errno::NOMEM))?;
        children.resize_with(most, || None);
        let state = State { children, running: 0, most, waiting: VecDeque::new(), no_fork_until: None };
        let returned = Shared::new().map_err(failed("mmap"))?;
        let apart = Shared::new().map_err(failed("mmap"))?;
        Ok(Self { state: Mutex::new(state), returned, apart })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connection would get a child at once.
    pub fn has_room(&self) -> bool {
        let state = self.state();
        state.running < state.most && state.waiting.is_empty()
    }

    /// Whether there is no child and nobody waits for one.
    pub fn is_quiet(&self) -> bool {
        let state = self.state();
        state.running == 0 && state.waiting.is_empty()
    }

    /// Waits until no child has a copy of a listener: one would keep it open. False where none had any.
    pub fn wait_for_copies(&self) -> bool {
        let mut waited = false;
        for _ in 0..LOOKS {
            let state = self.state();
            let mut children = state.children.iter().enumerate();
            if children.all(|(place, child)| child.is_none() || self.apart.get(place)) {
                break;
            }
            drop(state);
            waited = true;
            let _ = rustix::thread::nanosleep(&LOOK);
        }
        waited
    }

    /// Makes a child for a connection, or keeps the connection until there can be one.
    pub fn give(&self, server: &Arc<Server>, connection: Owned) {
        let mut state = self.state();
        if state.waiting.try_reserve(1).is_err() {
            drop(state);
            return connection.end(Ending::Abort);
        }
        state.waiting.push_back(connection);
        drop(state);
        self.staff(server);
    }

    /// Makes children for connections that wait.
    pub fn staff(&self, server: &Arc<Server>) {
        loop {
            let mut state = self.state();
            let may_fork = state.no_fork_until.is_none_or(Deadline::is_over);
            if !may_fork || state.running >= state.most {
                return;
            }
            let Some(place) = state.children.iter().position(Option::is_none) else { return };
            let Some(connection) = state.waiting.pop_front() else { return };
            self.returned.set(place, false);
            self.apart.set(place, false);
            // Held across the fork, so that the child has them, whatever other threads are doing.
            let listeners = server.listeners().held();
            let forked = process::fork();
            if let Ok(Fork::Child) = forked {
                self.run_child(server, connection, place, &state, &listeners);
            }
            drop((listeners, state));
            match forked {
                Ok(Fork::Child) => {}
                Ok(Fork::Parent(pid)) => self.adopt(server, place, pid, connection),
                Err(errno) => return self.no_fork(server, connection, errno),
            }
        }
    }

    fn adopt(&self, server: &Server, place: usize, pid: Pid, connection: Owned) {
        // Nobody else reaps this child, unless the program waits for any: its number is good until then.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map(sys::above_standard).ok();
        let mut state = self.state();
        state.no_fork_until = None;
        state.running += 1;
        let watched = pidfd.as_ref().is_some_and(|pidfd| {
            let token = Token::Child(u32::try_from(place).unwrap_or(u32::MAX));
            epoll::add(server.epoll(), pidfd, token.into(), EventFlags::IN).is_ok()
        });
        if let Some(free) = state.children.get_mut(place) {
            *free = Some(Child { pid, pidfd: pidfd.filter(|_| watched), connection, killed: false });
        }
    }

    fn no_fork(&self, server: &Server, connection: Owned, errno: Errno) {
        let mut state = self.state();
        // Its place is still there: it was taken out of the queue a moment ago.
        state.waiting.push_front(connection);
        let first = state.no_fork_until.is_none();
        state.no_fork_until = Some(Deadline::after(REST));
        drop(state);
        if first {
            let error = || diagnose::for_tasks(Error::system("fork", errno));
            server.report_shortage(c"processes_used_up", error, "connections wait for a free process");
        }
    }

    /// When something has to be looked after without an event.
    pub fn next_look(&self) -> Deadline {
        let state = self.state();
        let fork = state.no_fork_until.filter(|_| !state.waiting.is_empty()).unwrap_or(Deadline::NEVER);
        let unwatched = state.children.iter().flatten().any(|child| child.pidfd.is_none());
        if unwatched { Deadline::after(REST).earlier(fork) } else { fork }
    }

    /// Looks after the child at a place, which has ended.
    pub fn on_event(&self, server: &Arc<Server>, place: u32) {
        self.reap(server, place as usize);
        self.staff(server);
    }

    /// Looks after the children whose end makes no event.
    pub fn look_after_unwatched(&self, server: &Arc<Server>) {
        let places = self.state().children.len();
        for place in 0..places {
            let unwatched = self
                .state()
                .children
                .get(place)
                .is_some_and(|child| child.as_ref().is_some_and(|child| child.pidfd.is_none()));
            if unwatched {
                self.reap(server, place);
            }
        }
        self.staff(server);
    }

    /// Looks after all children, after a rest: for a loop that hears of no event any more.
    pub fn look_without_events(&self, server: &Server) {
        let _ = rustix::thread::nanosleep(&BRIEF);
        let places = self.state().children.len();
        (0..places).for_each(|place| self.reap(server, place));
    }

    fn reap(&self, server: &Server, place: usize) {
        let mut state = self.state();
        let Some(slot) = state.children.get_mut(place) else { return };
        let Some(pid) = slot.as_ref().map(|child| child.pid) else { return };
        let end = process::reap(pid);
        if end == End::Running {
            return;
        }
        let Some(child) = slot.take() else { return };
        state.running -= 1;
        drop(state);
        if let Some(pidfd) = &child.pidfd {
            let _ = epoll::delete(server.epoll(), pidfd);
        }
        match end {
            End::Signalled(_) | End::Unknown if child.killed => {}
            End::Exited(status) if status != 0 => server.handler_failed(format_args!("exit status {status}")),
            End::Signalled(signal) => server.handler_failed(format_args!("signal {signal}")),
            End::Unknown if !self.returned.get(place) => {
                server.handler_failed(format_args!("an end whose status somebody else took"));
            }
            _ => return child.connection.end(Ending::Close),
        }
        // The reply is not whole: the client must be able to tell.
        child.connection.end(Ending::Abort);
    }

    /// Ends all children, and turns away those who wait, at the end of the drain time.
    pub fn kill(&self) {
        loop {
            let Some(work) = self.state().waiting.pop_front() else { break };
            work.end(Ending::Abort);
        }
        for child in self.state().children.iter_mut().flatten() {
            child.killed = true;
            let _ = kill_process(child.pid, Signal::KILL);
        }
    }

    /// In a child: closes its copies of its siblings' descriptors.
    fn close_copies(state: &State) {
        for child in state.children.iter().flatten() {
            if let Ok(socket) = sys::borrow(child.connection.descriptor(), "child") {
                drop(sys::own(socket));
            }
            if let Some(pidfd) = &child.pidfd {
                drop(sys::own(pidfd.as_fd()));
            }
        }
        for waiting in &state.waiting {
            if let Ok(socket) = sys::borrow(waiting.descriptor(), "child") {
                drop(sys::own(socket));
            }
        }
    }

    /// A child's whole life: the handler, and nothing of the server's.
    fn run_child(
        &self,
        server: &Arc<Server>,
        connection: Owned,
        place: usize,
        state: &State,
        listeners: &Held<'_>,
    ) -> ! {
        signal::ignore_stop_signals();
        Self::close_copies(state);
        server.close_copies(listeners);
        self.apart.set(place, true);
        server.restore_mask_for_child();
        let whole = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            connection.serve_in_child(|id| server.handle(id));
        }));
        self.returned.set(place, whole.is_ok());
        // A handler's panic ends like a crash: the parent counts it and resets the connection.
        process::exit(if whole.is_ok() { 0 } else { 101 });
    }
}
