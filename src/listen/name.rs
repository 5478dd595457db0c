//! Host and service names, by the system's resolver.

use std::net::{IpAddr, SocketAddr};

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType, getaddrinfo};

use crate::address::Service;
use crate::diagnose::Protocol;
use crate::error::{Code, Error, Result};
use crate::text::Escaped;

/// The addresses of a host and service, in the order of the system's preference (RFC 6724).
pub fn resolve(host: &str, service: Service<'_>, protocol: Protocol) -> Result<Vec<SocketAddr>> {
    let socktype = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::DGram,
    };
    let hints = AddrInfoHints { socktype: socktype.into(), ..AddrInfoHints::default() };
    // A port in digits never reaches the resolver, which takes 65536 for 0.
    let (name, port) = match service {
        Service::Port(port) => (None, Some(port)),
        Service::Name(name) => (Some(name), None),
    };
    let found = getaddrinfo(Some(host), name, Some(hints)).map_err(|error| failed(host, name, &error))?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for entry in found.flatten() {
        let mut address = entry.sockaddr;
        if let Some(port) = port {
            address.set_port(port);
        }
        if !addresses.contains(&address) && is_unicast(address.ip()) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn is_unicast(address: IpAddr) -> bool {
    !address.is_multicast()
}

fn failed(host: &str, service: Option<&str>, error: &LookupError) -> Error {
    let words = std::io::Error::from(LookupError::new(error.error_num())).to_string();
    // Behind the standard library's own words stand the resolver's.
    let words = words.rsplit(": ").next().unwrap_or_default();
    let failed = |what, name: &str| {
        Error::new(Code::NameNotFound, "resolve", format_args!("the {what} {}: {words}", Escaped(name.as_bytes())))
    };
    match (error.kind(), service) {
        (LookupErrorKind::Service, Some(service)) => failed("service", service)
            .hint(format_args!("`getent services {service}` asks the same list, /etc/services; a port in digits needs none")),
        (LookupErrorKind::Again, _) => failed("host", host).hint(format_args!(
            "the name servers of /etc/resolv.conf did not answer; `getent ahosts {host}` asks them again; an address in \
             digits needs none"
        )),
        _ => failed("host", host).hint(format_args!(
            "`getent ahosts {host}` asks the same resolver: /etc/hosts, and what /etc/nsswitch.conf names; an address in \
             digits needs none"
        )),
    }
}
