//! SIGINT and SIGTERM for the servers that asked for them, and the old dispositions back when the last one is done.

use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::sys::fork::PerProcess;
use crate::sys::signal::{self, Dispositions};

use super::registry;

static HANDLER: PerProcess<Mutex<Handler>> = PerProcess::new();

#[derive(Default)]
struct Handler {
    users: usize,
    before: Option<Dispositions>,
}

/// The handler is installed until this is dropped.
pub struct Caught(());

/// Installs the handler, unless another server has done so.
pub fn catch() -> Result<Caught> {
    let failed = |errno| Error::system("sigaction", errno);
    let handler = HANDLER.get().ok_or_else(|| failed(rustix::io::Errno::NOMEM))?;
    let mut handler = handler.lock().unwrap_or_else(PoisonError::into_inner);
    if handler.users == 0 {
        handler.before = Some(signal::install_stop_handler(registry::on_signal).map_err(failed)?);
    }
    handler.users += 1;
    Ok(Caught(()))
}

impl Drop for Caught {
    fn drop(&mut self) {
        let Some(handler) = HANDLER.existing() else { return };
        let mut handler = handler.lock().unwrap_or_else(PoisonError::into_inner);
        handler.users = handler.users.saturating_sub(1);
        if handler.users == 0
            && let Some(before) = handler.before.take()
        {
            signal::remove_stop_handler(&before);
        }
    }
}
