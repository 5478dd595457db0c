//! A thread or a process that could not be made.

use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};
use rustix::io::Errno;
use rustix::process::{Resource, getpid, getrlimit, getuid};
use rustix::thread::CapabilitySet;
use std::mem::MaybeUninit;

use super::super::budget::Budget;
use super::super::{file, system};
use super::cgroup::{self, Controller};
use super::gauge::{Gauge, HowToRaise, ProcessLimit, Raise, Verdict};
use super::{for_limits, memory};
use crate::error::{Code, Error};
use crate::text::Line;

/// A thread or a process could not be made: which limit it was.
pub fn for_tasks(error: Error) -> Error {
    if error.errno() != Some(Errno::AGAIN) {
        return for_limits(error);
    }
    let is_thread = error.operation() == "pthread_create";
    let gauges = [
        cgroup::tightest(Controller::Pids),
        of_user(Budget::new()),
        threads_max(),
        pid_max(),
        // The C library says the same where there is no memory for the thread's stack.
        is_thread.then(stack).flatten(),
    ];
    let verdict = Verdict(&gauges);
    let error = error.with_code(Code::LimitReached).because(format_args!("{verdict}"));
    match verdict.reached() {
        Some(gauge) => error.hint(format_args!("{}", HowToRaise(gauge))),
        None if is_thread => error.hint(format_args!(
            "where no limit is reached it may be memory for the thread's stack: sysctl vm.max_map_count, `free -m`"
        )),
        None => error.hint(format_args!("a limit of a container or of a security policy shows in its own logs")),
    }
}

/// RLIMIT_NPROC, which counts all that the user has, in whichever process.
fn of_user(budget: Budget) -> Option<Gauge> {
    let limit = ProcessLimit::tasks();
    let most = limit.soft?;
    let used = count_of_user(most, budget);
    let gauge = Gauge::new("threads and processes of this user", "RLIMIT_NPROC", most, used, Raise::Process(limit));
    Some(gauge).filter(|gauge| !gauge.is_reached() || !is_exempt())
}

/// Whether the kernel lets this process pass RLIMIT_NPROC: as root or with these capabilities, if they are the initial
/// user namespace's.
fn is_exempt() -> bool {
    let may_pass = system::has_capability(CapabilitySet::SYS_RESOURCE | CapabilitySet::SYS_ADMIN).unwrap_or(false);
    system::is_in_initial_user_namespace() == Some(true) && (may_pass || getuid().is_root())
}

/// The threads of this user, as far as /proc shows them; `None` where there is no time to count them all.
fn count_of_user(enough: u64, budget: Budget) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, c"/proc", flags, Mode::empty()).ok()?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&directory, &mut buffer);
    // This process first: where it has them all, no time is needed for the others.
    let own = getpid().as_raw_nonzero().get().unsigned_abs();
    let mut count = threads_of(own).unwrap_or(0);
    while let Some(entry) = entries.next() {
        let pid = entry.ok()?.file_name().to_str().ok().and_then(|name| name.parse().ok());
        count += pid.filter(|&pid| pid != own).and_then(threads_of).unwrap_or(0);
        if budget.is_over() {
            return Some(count).filter(|&count| count >= enough);
        }
    }
    Some(count)
}

/// The threads of a process of this user.
fn threads_of(pid: u32) -> Option<u64> {
    let mut path = Line::<40>::new();
    path.set(format_args!("/proc/{pid}/status"));
    let mut buffer = [0; 4096];
    // Whoever owns the folder: that of a process that has changed its user is root's.
    let status = file::read(path.as_c_str(), &mut buffer)?;
    let is_own = memory::number_behind(status, "Uid:") == Some(getuid().as_raw().into());
    memory::number_behind(status, "Threads:").filter(|_| is_own)
}

fn threads_max() -> Option<Gauge> {
    let most = file::read_number(c"/proc/sys/kernel/threads-max")?;
    Some(Gauge::new("threads of the system", "kernel.threads-max", most, threads_of_system(), Raise::Sysctl))
}

fn pid_max() -> Option<Gauge> {
    /// The lowest numbers are not given twice: RESERVED_PIDS of the kernel's pid.c.
    const RESERVED: u64 = 300;
    let most = file::read_number(c"/proc/sys/kernel/pid_max")?;
    // Another namespace has numbers of its own, and since Linux 6.14 a limit of its own.
    let used = is_initial_pid_namespace().then(threads_of_system).flatten();
    Some(Gauge::new("threads of the system", "kernel.pid_max", most, used, Raise::Sysctl).with_need(RESERVED))
}

/// The initial one has a number that the kernel never changes: PROC_PID_INIT_INO.
fn is_initial_pid_namespace() -> bool {
    const INITIAL: u64 = 0xefff_fffc;
    rustix::fs::stat(c"/proc/self/ns/pid").is_ok_and(|found| found.st_ino == INITIAL)
}

/// All threads there are: the second number of the fourth field of proc_loadavg(5).
fn threads_of_system() -> Option<u64> {
    let mut buffer = [0; 128];
    let load = file::read(c"/proc/loadavg", &mut buffer)?;
    load.split_ascii_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// The address space, of which a thread's stack takes a part.
fn stack() -> Option<Gauge> {
    /// What the C library takes where the stack has no limit. See pthread_create(3).
    const UNLIMITED: u64 = 2 << 20;
    let stack = getrlimit(Resource::Stack).current.unwrap_or(UNLIMITED);
    memory::address_space().map(|gauge| gauge.with_need(stack / 1024))
}
