//! What the host grants, whatever the address.

use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustix::process::{Resource, getrlimit};

use crate::address::interfaces::{Here, all_here};
use crate::diagnose::{self, PortRange};
use crate::error::SystemWords;
use crate::text::Text;

/// What holds for every address. What cannot be seen is `None`.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "command", derive(serde::Serialize))]
pub struct Host {
    /// Descriptors of this process.
    pub descriptors: Descriptors,
    /// Ports below this one are privileged.
    pub privileged_below: u16,
    /// Whether this process may bind them.
    pub may_bind_privileged: Option<bool>,
    /// The ports that the system gives to outgoing connections.
    pub outgoing_ports: Option<PortRange>,
    /// The largest backlog that the system grants.
    pub largest_backlog: Option<u64>,
    /// IPv6 as it really is.
    pub ipv6: Ipv6,
}

/// The descriptors of this process, and of programs started as it was. `None` is without limit, or not to be seen.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "command", derive(serde::Serialize))]
pub struct Descriptors {
    /// How many are open.
    pub open: Option<u64>,
    /// How many may be.
    pub limit: Option<u64>,
    /// How far a program may raise that by itself.
    pub hard_limit: Option<u64>,
}

/// Whether there is IPv6. What cannot be seen is `None`.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "command", derive(serde::Serialize))]
pub struct Ipv6 {
    /// Whether this host has an IPv6 address.
    pub available: Option<bool>,
    /// Whether one socket takes IPv6 and IPv4.
    pub dual_stack: Option<bool>,
    /// Why not, or why that cannot be seen.
    pub reason: Option<Text>,
}

impl Host {
    /// Looks at this host.
    pub fn look() -> Self {
        let descriptors = getrlimit(Resource::Nofile);
        Self {
            descriptors: Descriptors {
                open: diagnose::open_descriptors(),
                limit: descriptors.current,
                hard_limit: descriptors.maximum,
            },
            privileged_below: diagnose::first_unprivileged_port(),
            may_bind_privileged: diagnose::may_bind_privileged(),
            outgoing_ports: PortRange::of_this_system(),
            largest_backlog: diagnose::largest_backlog(),
            ipv6: Ipv6::look(),
        }
    }
}

impl Ipv6 {
    fn look() -> Self {
        match socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None) {
            Ok(socket) if Self::has_address(&socket) => {
                Self { available: Some(true), dual_stack: Some(true), reason: None }
            }
            Ok(_) => Self::off(match diagnose::ipv6_switched_off() {
                Some(sysctl) => Text::format(format_args!("{sysctl} is 1")),
                None => Text::from("this host has no IPv6 address"),
            }),
            Err(Errno::AFNOSUPPORT) => Self::off(Text::from("this kernel has none, or a sandbox keeps it away")),
            Err(errno) => {
                let reason = Some(Text::format(format_args!("socket: {}", SystemWords(errno))));
                Self { available: None, dual_stack: None, reason }
            }
        }
    }

    /// Binding every address works with IPv6 switched off as well, and takes IPv4 then. It may also be switched off at
    /// the loopback interface alone.
    fn has_address(socket: &OwnedFd) -> bool {
        let is_usable = |here: &Here| here.is_up && here.ip.is_ipv6();
        bind(socket, &SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).is_ok() || all_here().iter().any(is_usable)
    }

    fn off(reason: Text) -> Self {
        Self { available: Some(false), dual_stack: Some(false), reason: Some(reason) }
    }
}
