//! Memory that is used up: the process's, its control group's, the system's, or that for TCP.

use rustix::io::Errno;

use super::super::file;
use super::cgroup::{self, Controller};
use super::gauge::{Gauge, HowToRaise, ProcessLimit, Raise, Verdict};
use crate::error::Error;

/// Memory is used up: whose.
pub fn for_memory(error: Error) -> Error {
    let is_socket = matches!(error.operation(), "socket" | "accept" | "bind" | "listen" | "setsockopt");
    let gauges = [
        address_space(),
        data(),
        cgroup::tightest(Controller::Memory),
        is_socket.then(tcp).flatten(),
        promised(),
        available(),
    ];
    let verdict = Verdict(&gauges);
    let error = error.because(format_args!("{verdict}"));
    match verdict.reached() {
        Some(gauge) => error.hint(format_args!("{}", HowToRaise(gauge))),
        None if error.errno() == Some(Errno::NOBUFS) => error.hint(format_args!(
            "`free -m` and `ss -s` show the memory of the host and of its sockets; sysctl net.core.optmem_max bounds a \
             socket's options"
        )),
        None => error.hint(format_args!("`free -m` and `dmesg` show whether memory was short a moment ago")),
    }
}

/// RLIMIT_AS, where it is set.
pub fn address_space() -> Option<Gauge> {
    of_process(ProcessLimit::address_space(), "VmSize:", "kB of this process's address space", "RLIMIT_AS")
}

/// RLIMIT_DATA, where it is set.
fn data() -> Option<Gauge> {
    of_process(ProcessLimit::data(), "VmData:", "kB of this process's data", "RLIMIT_DATA")
}

/// How much was wanted is not known: a limit with little left counts as reached.
fn of_process(limit: ProcessLimit, label: &str, what: &'static str, name: &'static str) -> Option<Gauge> {
    let most = limit.soft? / 1024;
    let mut buffer = [0; 4096];
    let used = file::read(c"/proc/self/status", &mut buffer).and_then(|status| number_behind(status, label));
    Some(Gauge::new(what, name, most, used, Raise::Process(limit)).with_need((most / 32).max(1024)))
}

/// The memory of all TCP sockets, in pages. See tcp_mem in tcp(7).
fn tcp() -> Option<Gauge> {
    let mut buffer = [0; 128];
    let limits = file::read(c"/proc/sys/net/ipv4/tcp_mem", &mut buffer)?;
    let most = limits.split_ascii_whitespace().nth(2)?.parse().ok()?;
    let mut buffer = [0; 1024];
    let counts = file::read(c"/proc/net/sockstat", &mut buffer);
    let used = counts.and_then(|counts| {
        let tcp = counts.lines().find_map(|line| line.strip_prefix("TCP:"))?;
        tcp.split_once(" mem ")?.1.trim_ascii().parse().ok()
    });
    Some(Gauge::new("pages of memory for TCP", "net.ipv4.tcp_mem", most, used, Raise::Tcp))
}

/// What the kernel has promised, where it promises no more than it has. See vm.overcommit_memory in proc_sys_vm(5).
fn promised() -> Option<Gauge> {
    const STRICT: u64 = 2;
    if file::read_number(c"/proc/sys/vm/overcommit_memory") != Some(STRICT) {
        return None;
    }
    let mut buffer = [0; 4096];
    let memory = file::read(c"/proc/meminfo", &mut buffer)?;
    let (most, used) = (number_behind(memory, "CommitLimit:")?, number_behind(memory, "Committed_AS:"));
    let gauge = Gauge::new("kB of memory promised", "CommitLimit of /proc/meminfo", most, used, Raise::Machine);
    Some(gauge.with_need((most / 32).max(1024)))
}

/// The system's memory.
fn available() -> Option<Gauge> {
    let mut buffer = [0; 4096];
    let memory = file::read(c"/proc/meminfo", &mut buffer)?;
    let most = number_behind(memory, "MemTotal:")?;
    let used = number_behind(memory, "MemAvailable:").map(|available| most.saturating_sub(available));
    let gauge = Gauge::new("kB of the system's memory", "MemAvailable of /proc/meminfo", most, used, Raise::Machine);
    Some(gauge.with_need((most / 64).max(1024)))
}

/// The number behind a label at the beginning of a line.
pub fn number_behind(text: &str, label: &str) -> Option<u64> {
    let behind = text.lines().find_map(|line| line.strip_prefix(label))?;
    behind.split_ascii_whitespace().next()?.parse().ok()
}
