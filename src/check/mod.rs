//! What would become of an address, without taking it: could it be bound, who holds it, and what the host grants.
//!
//! A TCP or UDP address is bound for an instant and never told to listen, so that no client finds it. A Unix path, an
//! abstract name and an inherited descriptor are only looked at.

mod host;
mod residents;
mod words;

use crate::address::{self, Address, Listed};
use crate::diagnose::{self, Protocol};
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
    /// Whether it can be had.
    pub available: bool,
    /// The address that it comes to, where it was bound: with a name's first address, or the free port that was given.
    pub bound: Option<Text>,
    /// Why not.
    pub failure: Option<Failure>,
    /// The sockets that are bound to the same port, path or name.
    pub residents: Vec<Resident>,
    /// How many clients may wait to be accepted.
    pub backlog: Option<Backlog>,
    /// What belongs to its port.
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
    /// Whether the system may give it to an outgoing connection.
    pub outgoing: bool,
}

impl Report {
    /// Whether a server could be started at all of them.
    pub fn is_good(&self) -> bool {
        self.addresses.iter().all(|checked| checked.available || checked.is_skipped())
            && self.addresses.iter().any(|checked| checked.available)
    }
}

impl Checked {
    /// Whether a server would go on without it.
    pub fn is_skipped(&self) -> bool {
        let lacking = ["OYEZ_ADDRESS_NOT_AVAILABLE", "OYEZ_UNSUPPORTED", "OYEZ_NAME_NOT_FOUND"];
        self.optional && self.failure.as_ref().is_some_and(|failure| lacking.contains(&failure.code.as_str()))
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
    Ok(address::list(list)?.map(|listed| one(&listed)).collect())
}

fn malformed(text: &[u8], error: &Error) -> Checked {
    Checked {
        address: Text::format(format_args!("{}", Escaped(text))),
        optional: false,
        available: false,
        bound: None,
        failure: Some(Failure::from(error)),
        residents: Vec::new(),
        backlog: None,
        port: None,
    }
}

fn one(listed: &Listed<'_>) -> Checked {
    let spec = &listed.spec;
    // Before the trial, whose own socket would be among them.
    let residents = residents::at(spec);
    let tried =
        Options::default().with_settings(spec).and_then(|options| Ok((listen::trial(spec, &options)?, options)));
    let mut checked = Checked {
        address: Text::format(format_args!("{spec}")),
        optional: listed.optional,
        available: tried.is_ok(),
        bound: None,
        failure: tried.as_ref().err().map(Failure::from),
        residents,
        backlog: None,
        port: None,
    };
    let bound = tried.as_ref().ok().and_then(|(socket, _)| socket.as_ref());
    checked.bound = bound.and_then(|socket| listen::local_address(std::os::fd::AsFd::as_fd(socket)).ok());
    let asked = tried.as_ref().ok().and_then(|(_, options)| options.backlog);
    if !matches!(spec.address, Address::Udp(_)) {
        checked.backlog = backlog(asked);
    }
    checked.port = residents::port(spec).map(|(protocol, number)| Port {
        number,
        privileged: number != 0 && number < diagnose::first_unprivileged_port(),
        outgoing: protocol == Protocol::Tcp && number != 0 && diagnose::is_outgoing(number),
    });
    checked
}

fn backlog(asked: Option<i32>) -> Option<Backlog> {
    let most = diagnose::largest_backlog()?;
    let in_force = asked.and_then(|asked| u64::try_from(asked).ok()).map_or(most, |asked| asked.min(most));
    Some(Backlog { asked, in_force })
}
