//! Child processes.

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It goes on.
    Running,
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// Somebody else reaped it, or the program ignores SIGCHLD: nobody can tell.
    Unknown,
}

/// Which side of a fork this is.
pub enum Fork {
    /// The parent, with its child.
    Parent(Pid),
    /// The child.
    Child,
}

/// Calls fork(2).
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: the child is a copy of this thread alone; the caller runs only what fork(2) allows such a child, and
    // then the program's handler, whose duty that is.
    match unsafe { libc::fork() } {
        0 => Ok(Fork::Child),
        // Pid::from_raw asserts in a debug build that a number is none of a failure.
        -1 => Err(Errno::from_raw_os_error(super::errno())),
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or(Errno::INVAL),
    }
}

/// Ends this process by _exit(2): nothing of the parent's is flushed twice, and no exit handler of it runs.
pub fn exit(status: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used any more.
    unsafe { libc::_exit(status) }
}

/// Reaps a child if it has ended. No other child is touched.
pub fn reap(child: Pid) -> End {
    loop {
        match rustix::process::waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(None) => return End::Running,
            Ok(Some(status)) => {
                let exited = status.exit_status().map(End::Exited);
                return exited.or(status.terminating_signal().map(End::Signalled)).unwrap_or(End::Unknown);
            }
            Err(Errno::INTR) => {}
            Err(_) => return End::Unknown,
        }
    }
}
