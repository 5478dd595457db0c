//! What the host grants, whatever the address.

use std::net::{Ipv6Addr, SocketAddr};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustix::process::{Resource, getrlimit};

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

/// Whether there is IPv6.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "command", derive(serde::Serialize))]
pub struct Ipv6 {
    /// Whether an IPv6 address of this host can be bound.
    pub available: bool,
    /// Whether one socket takes IPv6 and IPv4.
    pub dual_stack: bool,
    /// Why not.
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
        let made = socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let socket = match made {
            Ok(socket) => socket,
            Err(errno) => return Self::off(Text::format(format_args!("socket: {}", SystemWords(errno)))),
        };
        // Binding every address works with IPv6 switched off as well, and takes IPv4 then.
        match bind(&socket, &SocketAddr::from((Ipv6Addr::LOCALHOST, 0))) {
            Ok(()) => Self { available: true, dual_stack: true, reason: None },
            Err(errno) => {
                let reason = match diagnose::ipv6_switched_off() {
                    Some(sysctl) => Text::format(format_args!("{sysctl} is 1")),
                    None => Text::format(format_args!("bind [::1]:0: {}", SystemWords(errno))),
                };
                Self::off(reason)
            }
        }
    }

    fn off(reason: Text) -> Self {
        Self { available: false, dual_stack: false, reason: Some(reason) }
    }
}
