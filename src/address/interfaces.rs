//! The interfaces of this host and their addresses.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::text::Escaped;

/// How many addresses or interfaces a text names.
pub const SHOWN: usize = 5;

/// An address of this host.
#[derive(Clone, Debug)]
pub struct Here {
    /// The address.
    pub ip: IpAddr,
    /// The interface that it is on.
    pub interface: String,
    /// Whether that is switched on.
    pub is_up: bool,
}

/// All addresses of this host; none where they cannot be listed.
pub fn all_here() -> Vec<Here> {
    let Ok(entries) = getifaddrs() else { return Vec::new() };
    let here = entries.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let ip = v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))?;
        Some(Here { ip, interface: entry.interface_name, is_up: entry.flags.contains(InterfaceFlags::IFF_UP) })
    });
    here.collect()
}

/// The interfaces of this host; with an address, those that have it or, where none has, a link-local one.
pub struct Interfaces(pub Option<Ipv6Addr>);

impl Interfaces {
    fn names(&self) -> Vec<String> {
        let mut names = match self.0 {
            None => nix::net::if_::if_nameindex()
                .map(|list| list.iter().map(|entry| entry.name().to_string_lossy().into_owned()).collect())
                .unwrap_or_default(),
            Some(address) => {
                let here = all_here();
                let exact = here.iter().any(|here| here.ip == address);
                let fits = |ip: IpAddr| match ip {
                    IpAddr::V6(ip) if exact => ip == address,
                    IpAddr::V6(ip) => ip.is_unicast_link_local(),
                    IpAddr::V4(_) => false,
                };
                here.into_iter().filter(|here| fits(here.ip)).map(|here| here.interface).collect::<Vec<_>>()
            }
        };
        names.dedup();
        names
    }
}

impl fmt::Display for Interfaces {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names();
        if names.is_empty() {
            return out.write_str("none");
        }
        let mut lead = "";
        for name in names.iter().take(SHOWN) {
            write!(out, "{lead}{}", Escaped(name.as_bytes()))?;
            lead = ", ";
        }
        match names.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(out, ", and {more} more"),
        }
    }
}
