//! Descriptors, memory, threads and processes that are used up: which limit it was.
//!
//! What is looked at here is looked at when there may be no descriptor and no memory left: nothing is allocated but the
//! error's own text, and what cannot be read is said to be unknown.

mod cgroup;
mod gauge;
mod memory;
mod tasks;

pub use tasks::for_tasks;

use rustix::io::Errno;

use gauge::{Bound, ProcessLimit};

use super::file;
use crate::error::Error;

/// Descriptors, memory or the watches of epoll(7) are used up.
pub fn for_limits(error: Error) -> Error {
    match error.errno() {
        Some(Errno::MFILE) => descriptors_of_process(error),
        Some(Errno::NFILE) => descriptors_of_system(error),
        Some(Errno::NOMEM | Errno::NOBUFS) => memory::for_memory(error),
        Some(Errno::NOSPC) if error.operation() == "epoll_ctl" => watches(error),
        _ => error,
    }
}

fn descriptors_of_process(error: Error) -> Error {
    let limit = ProcessLimit::descriptors();
    let (soft, hard) = (Bound(limit.soft), Bound(limit.hard));
    let error = match open_descriptors() {
        Some(open) => error.because(format_args!(
            "this process has {open} descriptors open; its limit is {soft}, its hard limit {hard}"
        )),
        None => error.because(format_args!(
            "this process's limit is {soft} descriptors, its hard limit {hard}; how many are open cannot be seen here"
        )),
    };
    let bound = if limit.has_room() { "" } else { "; sysctl fs.nr_open bounds it" };
    error.hint(format_args!("close some, or {limit}{bound}"))
}

/// How many descriptors this process has open. The folder is not opened, which would take a descriptor: since Linux 6.2
/// its size is their number; it was 0 before.
pub fn open_descriptors() -> Option<u64> {
    let size = rustix::fs::stat(c"/proc/self/fd").ok()?.st_size;
    u64::try_from(size).ok().filter(|&size| size > 0)
}

/// The kernel says the same where it has no memory for a socket (sock_alloc), and then no limit is reached.
fn descriptors_of_system(error: Error) -> Error {
    let mut buffer = [0; 128];
    // Three numbers: open files, always 0, and fs.file-max.
    let counts = file::read(c"/proc/sys/fs/file-nr", &mut buffer).unwrap_or_default();
    let mut numbers = counts.split_ascii_whitespace().map(|number| number.parse::<u64>().ok());
    let (open, most) = (numbers.next().flatten(), numbers.nth(1).flatten());
    match (open, most) {
        (Some(open), Some(most)) if open < most => error
            .because(format_args!(
                "the system has {open} files open now, and fs.file-max is {most}, which is not reached"
            ))
            .hint(format_args!("memory for a socket may have been short: `free -m` and `dmesg` show that")),
        (Some(open), Some(most)) => error
            .because(format_args!("the system has {open} files open, and fs.file-max is {most}"))
            .hint(format_args!(
                "root raises it: `sysctl -w fs.file-max={}`; `lsof -n | awk '{{print $1}}' | sort | uniq -c | sort -n` \
                 shows who has most open",
                most.saturating_mul(2)
            )),
        _ => error
            .because(format_args!(
                "the descriptors of the whole system are used up; how many cannot be read without one"
            ))
            .hint(format_args!("see /proc/sys/fs/file-nr; root raises sysctl fs.file-max")),
    }
}

/// See fs.epoll.max_user_watches in epoll(7).
fn watches(error: Error) -> Error {
    let most = file::read_number(c"/proc/sys/fs/epoll/max_user_watches");
    match most {
        Some(most) => error
            .because(format_args!("this user may have {most} descriptors in epoll sets, fs.epoll.max_user_watches"))
            .hint(format_args!("root raises it: `sysctl -w fs.epoll.max_user_watches={}`", most.saturating_mul(2))),
        None => error
            .because(format_args!("this user may have no more descriptors in epoll sets"))
            .hint(format_args!("root raises sysctl fs.epoll.max_user_watches")),
    }
}

/// What bounds every backlog in this network namespace; `None` where it cannot be read.
pub fn largest_backlog() -> Option<u64> {
    file::read_number(c"/proc/sys/net/core/somaxconn")
}
