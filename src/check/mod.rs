//! What would become of an address, without taking it: could it be bound, who holds it, and what the host grants.
//!
//! A TCP or UDP address is bound for an instant and never told to listen, so that no client finds it. A Unix path, an
//! abstract name and an inherited descriptor are only looked at.

mod host;
mod residents;
mod words;

use std::os::fd::{AsFd, BorrowedFd};

use crate::address::{self, Address, Listed, Spec};
use crate::diagnose;
use crate::error::{Error, Result};
use crate::listen::{self, Options};
use crate::text::{Escaped, Text};
pub use host::{Descriptors, Host, Ipv6};
pub use residents::Resident;

/// Addresses, and the host that is to have them.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "command", derive(serde::Serialize))]
pub struct Report {
    /// One for each address that was asked about.
    pub addresses: Vec<Checked>,
    /// What holds for all of them.
    pub host: Host,
}

/// What is known about one address.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "command", derive(serde::Serialize))]
pub struct Checked {
    /// As it was written, without options.
    pub address: Text,
    /// Whether a server would do without it, because it has a `-` in front.
    pub optional: bool,
    /// Whether it can be had, whatever else is asked about.
    pub available: bool,
    /// Whether a server would go on without it.
    pub skipped: bool,
    /// The address that it comes to, where it was bound: with a name's first address, or the free port that was given.
    pub bound: Option<Text>,
    /// Whether a socket file is there on which nobody listens, and which a server would replace.
    pub stale_file: bool,
    /// Why not.
    pub failure: Option<Failure>,
    /// The sockets that are bound to the same port, path or name.
    pub residents: Vec<Resident>,
    /// How many clients may wait to be accepted.
    pub backlog: Option<Backlog>,
    /// What belongs to its port, where it has one and not just any.
    pub port: Option<Port>,
}

/// A failure's parts.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "command", derive(serde::Serialize))]
pub struct Failure {
    /// The name of its code.
    pub code: Text,
    /// The system's errno.
    pub errno: Option<i32>,
    /// The step that failed.
    pub operation: Text,
    /// The whole on one line.
    pub message: Text,
    /// What to do next.
    pub hint: Text,
}

/// What was asked of listen(2), and what it grants.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "command", derive(serde::Serialize))]
pub struct Backlog {
    /// `None` where the most is asked for.
    pub asked: Option<i32>,
    /// What is in force then.
    pub in_force: u64,
}

/// What is to be known about a port.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "command", derive(serde::Serialize))]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Whether binding it takes CAP_NET_BIND_SERVICE.
    pub privileged: bool,
    /// Whether the system may give it to an outgoing socket.
    pub outgoing: bool,
}

impl Report {
    /// Whether a server could be started at all of them.
    pub fn is_good(&self) -> bool {
        self.addresses.iter().all(|checked| checked.available || checked.skipped)
            && self.addresses.iter().any(|checked| checked.available)
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            code: Text::from(error.code().name().to_str().unwrap_or_default()),
            errno: error.errno().map(rustix::io::Errno::raw_os_error),
            operation: Text::from(error.operation()),
            message: Text::format(format_args!("{error}")),
            hint: Text::from(error.hint_text()),
        }
    }
}

/// Checks each address of a list. A text that is no list of addresses is an error.
pub fn check(list: &[u8]) -> Result<Report> {
    Ok(Report { addresses: all(list)?, host: Host::look() })
}

/// Checks each address of several lists. One that is no list of addresses becomes a part of the report.
pub fn check_each<'a>(lists: impl IntoIterator<Item = &'a [u8]>) -> Report {
    let addresses = lists.into_iter().flat_map(|list| all(list).unwrap_or_else(|error| vec![malformed(list, &error)]));
    Report { addresses: addresses.collect(), host: Host::look() }
}

fn all(list: &[u8]) -> Result<Vec<Checked>> {
    address::list(list)?.map(|listed| one(&listed)).collect()
}

fn malformed(text: &[u8], error: &Error) -> Checked {
    Checked {
        address: Text::format(format_args!("{}", Escaped(text))),
        optional: false,
        available: false,
        skipped: false,
        bound: None,
        stale_file: false,
        failure: Some(Failure::from(error)),
        residents: Vec::new(),
        backlog: None,
        port: None,
    }
}

fn one(listed: &Listed<'_>) -> Result<Checked> {
    let spec = &listed.spec;
    let options = Options::default().with_settings(spec)?;
    // Before the trial, whose own socket would be among them.
    let residents = residents::at(spec);
    let tried = listen::trial(spec, &options);
    let failure = tried.as_ref().err();
    let socket = tried.as_ref().ok().and_then(|socket| socket.as_ref()).map(AsFd::as_fd);
    Ok(Checked {
        address: Text::format(format_args!("{spec}")),
        optional: listed.optional,
        available: tried.is_ok(),
        skipped: listed.optional && failure.is_some_and(listen::cannot_be_had),
        bound: socket.and_then(|socket| listen::local_address(socket).ok()),
        stale_file: tried.is_ok() && residents::has_file(spec),
        failure: failure.map(Failure::from),
        residents,
        backlog: backlog(spec, options.backlog),
        port: port(spec, socket),
    })
}

fn backlog(spec: &Spec<'_>, asked: Option<i32>) -> Option<Backlog> {
    match spec.address {
        Address::Udp(_) => return None,
        // It has the one that whoever made it asked for.
        Address::Descriptor(_) | Address::Systemd(_) if asked.is_none() => return None,
        _ => {}
    }
    let most = diagnose::largest_backlog()?;
    let in_force = asked.and_then(|asked| u64::try_from(asked).ok()).map_or(most, |asked| asked.min(most));
    Some(Backlog { asked, in_force })
}

fn port(spec: &Spec<'_>, socket: Option<BorrowedFd<'_>>) -> Option<Port> {
    let number = match residents::port(spec) {
        Some((_, number)) => number,
        // A service has its number from the resolver.
        None => listen::local_port(socket?).ok()?,
    };
    (number != 0).then(|| Port {
        number,
        privileged: number < diagnose::first_unprivileged_port(),
        outgoing: diagnose::is_outgoing(number),
    })
}
