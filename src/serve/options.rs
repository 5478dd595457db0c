//! How a server serves.

use std::time::Duration;

use super::{Limits, Log};

/// Where handlers run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// On a bounded pool of threads.
    #[default]
    Threads,
    /// On the thread that runs the server, one connection at a time.
    Sequential,
    /// In a child process for each connection.
    Processes,
}

/// By which of the kernel's interfaces an event server waits, reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// As the environment variable OYEZ_BACKEND says, else io_uring(7) where it works, else epoll(7).
    #[default]
    Auto,
    /// By epoll(7) and system calls.
    Epoll,
    /// By io_uring(7), or not at all.
    IoUring,
}

/// The most handlers that run at once, where the program names no number.
const WORKERS: u32 = 256;

/// What one connection of an event server may keep in memory, where the program names nothing else.
const MAX_INPUT: usize = 1024 * 1024;
const MAX_OUTPUT: usize = 16 * 1024 * 1024;

/// What `include/oyez.h` documents as `oyez_server_options`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Options {
    pub model: Model,
    pub workers: Option<u32>,
    pub limits: Limits,
    /// `None` waits for all.
    pub drain: Option<Duration>,
    pub stop_on_signals: bool,
    pub log: Option<Log>,
    /// Input that may be left unconsumed, in bytes.
    pub max_input: usize,
    /// Output that may wait to be sent, in bytes.
    pub max_output: usize,
    pub backend: Backend,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model: Model::default(),
            workers: None,
            limits: Limits::default(),
            // Shorter than what service managers grant (docker stop: 10 s).
            drain: Some(Duration::from_secs(5)),
            stop_on_signals: false,
            log: None,
            max_input: MAX_INPUT,
            max_output: MAX_OUTPUT,
            backend: Backend::default(),
        }
    }
}

impl Options {
    /// How many loops an event server has: one for each processor that this process may use, unless it was told.
    pub fn lanes(&self) -> usize {
        self.workers
            .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |workers| workers as usize)
    }

    /// How many handlers may run at once.
    pub fn workers(&self) -> usize {
        match self.model {
            Model::Sequential => 1,
            Model::Threads | Model::Processes => self.workers.unwrap_or(WORKERS) as usize,
        }
    }
}
