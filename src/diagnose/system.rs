//! Settings of the system that decide what can be bound.

use rustix::thread::{CapabilitySet, capabilities};

use super::file;

/// The ports from which the system takes free ones, and those of outgoing connections (ip(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "command", derive(serde::Serialize))]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl PortRange {
    /// The range in force in this network namespace.
    pub fn of_this_system() -> Option<Self> {
        let mut buffer = [0; 64];
        let text = file::read(c"/proc/sys/net/ipv4/ip_local_port_range", &mut buffer)?;
        let mut numbers = text.split_ascii_whitespace().map_while(|number| number.parse().ok());
        Some(Self { first: numbers.next()?, last: numbers.next()? })
    }

    /// Whether a port is among them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// Whether the system may give a port to an outgoing connection.
pub fn is_outgoing(port: u16) -> bool {
    PortRange::of_this_system().is_some_and(|range| range.contains(port)) && !is_reserved(port)
}

/// Whether a port is kept out of that range.
fn is_reserved(port: u16) -> bool {
    let mut buffer = [0; 4096];
    let list = file::read(c"/proc/sys/net/ipv4/ip_local_reserved_ports", &mut buffer).unwrap_or_default();
    list.trim().split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
    })
}

/// How many TCP sockets this network namespace has, those in TIME_WAIT among them.
pub fn connections() -> Option<u64> {
    let mut buffer = [0; 1024];
    let text = file::read(c"/proc/net/sockstat", &mut buffer)?;
    let mut words = text.lines().find_map(|line| line.strip_prefix("TCP: "))?.split_ascii_whitespace();
    let mut value = |name| words.by_ref().skip_while(|word| *word != name).nth(1)?.parse::<u64>().ok();
    Some(value("inuse")? + value("tw")? + connections_of_ipv6().unwrap_or(0))
}

/// The kernel counts the sockets of IPv6 apart, but for those in TIME_WAIT.
fn connections_of_ipv6() -> Option<u64> {
    let mut buffer = [0; 1024];
    let text = file::read(c"/proc/net/sockstat6", &mut buffer)?;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP6: inuse "))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The first port that takes no privilege (ip_unprivileged_port_start in ip(7)).
pub fn first_unprivileged_port() -> u16 {
    let limit = file::read_number(c"/proc/sys/net/ipv4/ip_unprivileged_port_start");
    limit.and_then(|limit| u16::try_from(limit).ok()).unwrap_or(1024)
}

/// Whether this thread has CAP_NET_BIND_SERVICE; `None` where the kernel does not tell.
pub fn may_bind_privileged() -> Option<bool> {
    has_capability(CapabilitySet::NET_BIND_SERVICE)
}

/// Whether this thread has CAP_FOWNER, by which it may remove anybody's file from a sticky directory.
pub fn may_remove_any_file() -> bool {
    has_capability(CapabilitySet::FOWNER).unwrap_or(false)
}

/// Whether one of these capabilities is in effect (capabilities(7)).
pub fn has_capability(any: CapabilitySet) -> Option<bool> {
    capabilities(None).ok().map(|sets| sets.effective.intersects(any))
}

/// Whether a seccomp filter looks at this thread's system calls (seccomp(2)).
pub fn has_seccomp_filter() -> bool {
    let mut buffer = [0; 4096];
    status_field("Seccomp", &mut buffer) == Some("2")
}

fn status_field<'b>(name: &str, buffer: &'b mut [u8]) -> Option<&'b str> {
    let status = file::read_bytes(c"/proc/thread-self/status", buffer)?;
    // The first line is the process's name, which may be no UTF-8.
    status.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        line.strip_prefix(name)?.strip_prefix(':').map(str::trim)
    })
}

/// Whether this process is in the initial user namespace, outside of which capabilities count for less
/// (user_namespaces(7)); `None` where /proc does not tell.
pub fn is_in_initial_user_namespace() -> Option<bool> {
    let mut buffer = [0; 256];
    let map = file::read(c"/proc/self/uid_map", &mut buffer).filter(|map| !map.is_empty())?;
    Some(map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

/// Whether IPv6 is switched off by sysctl, and the name of that.
pub fn ipv6_switched_off() -> Option<&'static str> {
    let is_one = |path| file::read_number(path) == Some(1);
    if is_one(c"/proc/sys/net/ipv6/conf/all/disable_ipv6") {
        return Some("net.ipv6.conf.all.disable_ipv6");
    }
    is_one(c"/proc/sys/net/ipv6/conf/lo/disable_ipv6").then_some("net.ipv6.conf.lo.disable_ipv6")
}
