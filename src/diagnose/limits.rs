//! Descriptors, memory, threads and processes that are used up: which limit it was.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::error::Error;

/// Descriptors, memory or threads are used up.
pub fn for_limits(error: Error) -> Error {
    match error.errno() {
        Some(Errno::MFILE) => {
            let limit = getrlimit(Resource::Nofile);
            let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
            error.because(format_args!("all {soft} descriptors of this process are in use")).hint(format_args!(
                "close some, or raise the limit: `ulimit -n`, setrlimit(2) up to {hard}, or LimitNOFILE= of systemd"
            ))
        }
        Some(Errno::NFILE) => error
            .because(format_args!("the whole system's descriptors are in use"))
            .hint(format_args!("see /proc/sys/fs/file-nr; raise sysctl fs.file-max")),
        Some(Errno::NOMEM | Errno::NOBUFS) => {
            error.hint(format_args!("the kernel is short of memory: see free(1), and the limits of the memory cgroup"))
        }
        _ => error,
    }
}
