//! The text of an address: what it means, and where exactly it is wrong.
//!
//! Nothing is left to a forgiving parser. getaddrinfo(3) takes port 65536 for 0 and `010.0.0.1` for 8.0.0.1, so only
//! host and service names, which are checked here, ever reach it.

mod display;
mod endpoint;
mod fault;
mod inherited;
pub mod interfaces;
mod literal;
mod name;
mod networks;
mod piece;
mod settings;
#[cfg(test)]
mod tests;
mod unix;

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};

use crate::error::{Error, Result};
use crate::text::Escaped;
pub use display::{display, display_ip};
pub use networks::{Network, networks};
use piece::Piece;
pub use settings::{Setting, Settings};
pub use unix::UnixName;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// A TCP endpoint.
    Tcp(Endpoint<'a>),
    /// A UDP endpoint, `udp:` and the same forms.
    Udp(Endpoint<'a>),
    /// A Unix socket file: not empty, at most 107 bytes, none of them NUL.
    UnixPath(&'a [u8]),
    /// A Unix socket in the abstract namespace, without the `@`: not empty, at most 107 bytes, none of them NUL.
    UnixAbstract(&'a [u8]),
    /// A descriptor that the process has already; not negative.
    Descriptor(i32),
    /// The first socket that the service manager passed, or the one of that name.
    Systemd(Option<&'a str>),
}

/// An address and port of the Internet protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// Every address of the host, IPv6 and IPv4.
    Any {
        /// The port; 0 is a free one.
        port: u16,
    },
    /// One numeric address; a link-local one has its scope id.
    Literal(SocketAddr),
    /// A link-local address, on an interface that is yet to be looked up.
    Scoped {
        /// The address, in fe80::/10.
        address: Ipv6Addr,
        /// The name of the interface.
        zone: &'a str,
        /// The port; 0 is a free one.
        port: u16,
    },
    /// A host that is yet to be resolved.
    Name {
        /// The host's name, which cannot be read as an IPv4 address in any notation.
        host: &'a str,
        /// The port, or its name.
        service: Service<'a>,
    },
}

/// A port, or the name of one in services(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service<'a> {
    /// The port; 0 is a free one.
    Port(u16),
    /// A service name.
    Name(&'a str),
}

/// One address text, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Spec<'a> {
    /// Where to listen.
    pub address: Address<'a>,
    /// What stands behind the `?`.
    pub settings: Settings<'a>,
    text: Piece<'a>,
}

/// One address of a list.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The address.
    pub spec: Spec<'a>,
    /// Whether it had a `-` in front: it is skipped where the host cannot have it.
    pub optional: bool,
}

/// Takes one address and its `?name=value&...` apart.
pub fn parse(text: &[u8]) -> Result<Spec<'_>> {
    let text = Piece::whole(text)?;
    if let Some(comma) = text.find(b',') {
        let expected = "one address here; several are for oyez_serve and oyez_server_listen";
        return Err(text.fault(comma, "there is more than one address", expected));
    }
    if text.first() == Some(b'-') {
        let expected = "an address; optional ones are for oyez_serve and oyez_server_listen";
        return Err(text.fault(0, "a `-` in front is for lists of addresses", expected));
    }
    Spec::read(text)
}

/// Takes a list of addresses apart: separated by commas, and one that starts with `-` is optional.
///
/// All of them are checked before the first is given. A fault's caret stands in the whole list.
pub fn list(text: &[u8]) -> Result<impl Iterator<Item = Listed<'_>>> {
    let text = Piece::whole(text)?;
    text.split_all(b',').try_for_each(|item| Listed::read(item).map(drop))?;
    Ok(text.split_all(b',').flat_map(Listed::read))
}

impl<'a> Listed<'a> {
    fn read(item: Piece<'a>) -> Result<Self> {
        let required = item.after(b"-");
        Ok(Self { spec: Spec::read(required.unwrap_or(item))?, optional: required.is_some() })
    }
}

impl<'a> Spec<'a> {
    fn read(text: Piece<'a>) -> Result<Self> {
        let (text, settings) = match text.split(b'?') {
            Some((text, settings)) => (text.as_subject(), Some(settings.about(text))),
            None => (text.as_subject(), None),
        };
        Ok(Self { address: address(text)?, settings: Settings::read(settings)?, text })
    }

    /// The error of a setting whose name is not known, or does not fit this kind of address.
    pub fn fault_at_name(&self, setting: &Setting<'_>, expected: fmt::Arguments<'_>) -> Error {
        let name = Escaped(setting.name.as_bytes());
        let position = setting.name_position();
        self.text.fault_in_whole(position, format_args!("`{name}` is no option of this address"), expected)
    }

    /// The error of a setting whose value cannot be meant.
    pub fn fault_at_value(&self, setting: &Setting<'_>, expected: fmt::Arguments<'_>) -> Error {
        let (name, value) = (Escaped(setting.name.as_bytes()), Escaped(setting.value.as_bytes()));
        let position = setting.value_position();
        self.text.fault_in_whole(position, format_args!("`{value}` is no value of {name}"), expected)
    }
}

impl fmt::Display for Spec<'_> {
    /// The address on one line, without what stands behind the `?`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.text.bytes()).fmt(out)
    }
}

fn address(text: Piece<'_>) -> Result<Address<'_>> {
    if let Some(name) = text.after(b"unix:") {
        unix::read(name)
    } else if let Some(number) = text.after(b"fd:") {
        inherited::descriptor(number)
    } else if let Some(name) = text.after(b"systemd:") {
        inherited::systemd(name)
    } else if let Some(udp) = text.after(b"udp:") {
        endpoint::read(udp).map(Address::Udp)
    } else {
        endpoint::read(text).map(Address::Tcp)
    }
}
