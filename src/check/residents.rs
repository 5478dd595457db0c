//! The sockets that are at an address already, and the processes that have them open.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::address::{Address, Endpoint, Service, Spec, display_ip};
use crate::diagnose::sockets::{self, PortSocket, State};
use crate::diagnose::{self, Budget, Protocol, User, Who};
use crate::text::Text;

/// A socket that is bound to the same port, path or name. What cannot be seen is `None`.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "command", derive(serde::Serialize))]
pub struct Resident {
    /// Where it is bound.
    pub address: Text,
    /// Whether it listens, rather than being bound only.
    pub listens: bool,
    /// The user who made it.
    pub user: Option<Text>,
    /// The first of the processes that have it open.
    pub pid: Option<u32>,
    /// That one's name.
    pub name: Option<Text>,
    /// Its descriptor there.
    pub descriptor: Option<u32>,
    /// How many processes have it open, as far as was seen.
    pub processes: usize,
    /// How many clients wait to be accepted.
    pub queue: Option<u32>,
    /// How many may.
    pub backlog: Option<u32>,
    /// Packets that the kernel dropped at it.
    pub drops: Option<u32>,
    /// Who it is, in words.
    #[cfg_attr(feature = "command", serde(skip))]
    pub who: Text,
}

/// Those at an address; none where they cannot be listed.
pub fn at(spec: &Spec<'_>) -> Vec<Resident> {
    let budget = Budget::new();
    if let Some((protocol, port)) = port(spec) {
        return at_port(protocol, port, budget);
    }
    let (socket, address) = match spec.address {
        Address::UnixPath(path) => (diagnose::socket_at(Path::new(OsStr::from_bytes(path)), budget), spec),
        Address::UnixAbstract(name) => (sockets::with_abstract_name(name, budget).ok().flatten(), spec),
        _ => return Vec::new(),
    };
    let resident = socket.map(|socket| {
        let who = Who::of(socket.inode, socket.uid, budget);
        let (queue, backlog) = socket.queue.filter(|_| socket.listens).unzip();
        Resident { queue, backlog, ..Resident::of(Text::format(format_args!("{address}")), socket.listens, &who) }
    });
    resident.into_iter().collect()
}

/// Whether there is a file at the path that is asked for.
pub fn has_file(spec: &Spec<'_>) -> bool {
    matches!(spec.address, Address::UnixPath(path) if Path::new(OsStr::from_bytes(path)).symlink_metadata().is_ok())
}

fn at_port(protocol: Protocol, port: u16, budget: Budget) -> Vec<Resident> {
    let mut found: Vec<PortSocket> = Vec::new();
    if port != 0 {
        // Who did not answer in time, or at all, is not listed; binding says whether the port is free.
        let _ = sockets::at_port(protocol, port, budget, |socket| found.push(socket));
    }
    let resident = |socket: PortSocket| {
        let who = Who::of(socket.inode, Some(socket.uid), budget);
        let listens = socket.state == State::Listening;
        let waits = (listens && protocol == Protocol::Tcp).then_some((socket.queue, socket.backlog));
        let (queue, backlog) = waits.unzip();
        Resident { queue, backlog, drops: socket.drops, ..Resident::of(display_ip(&socket.address), listens, &who) }
    };
    found.into_iter().map(resident).collect()
}

impl Resident {
    fn of(address: Text, listens: bool, who: &Who) -> Self {
        let holder = who.holders.found.first();
        Self {
            address,
            listens,
            user: who.uid.or(holder.map(|holder| holder.uid)).map(|uid| Text::format(format_args!("{}", User(uid)))),
            pid: holder.map(|holder| holder.pid),
            name: holder.map(|holder| Text::format(format_args!("{}", holder.name()))),
            descriptor: holder.map(|holder| holder.fd),
            processes: who.holders.found.len(),
            queue: None,
            backlog: None,
            drops: None,
            who: Text::format(format_args!("{who}")),
        }
    }
}

/// The port that is asked for; `None` where there is none, or it is not written as a number.
pub fn port(spec: &Spec<'_>) -> Option<(Protocol, u16)> {
    let (protocol, endpoint) = match spec.address {
        Address::Tcp(endpoint) => (Protocol::Tcp, endpoint),
        Address::Udp(endpoint) => (Protocol::Udp, endpoint),
        _ => return None,
    };
    let port = match endpoint {
        Endpoint::Any { port } | Endpoint::Scoped { port, .. } => port,
        Endpoint::Literal(address) => address.port(),
        Endpoint::Name { service: Service::Port(port), .. } => port,
        Endpoint::Name { service: Service::Name(_), .. } => return None,
    };
    Some((protocol, port))
}
