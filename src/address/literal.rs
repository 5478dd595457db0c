//! Numeric IPv4 and IPv6 addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::Endpoint;
use super::endpoint::{missing_port, port};
use super::interfaces::Interfaces;
use super::piece::Piece;
use crate::error::{Error, Result};

/// Interface names are shorter than this (IFNAMSIZ).
const LONGEST_ZONE: usize = 15;

/// Whether the last label is a decimal, octal or hexadecimal number.
///
/// inet_aton(3), and so getaddrinfo(3), reads such a name as an address: `1` as 0.0.0.1, `0x7f.1` as 127.0.0.1.
pub fn ends_in_a_number(host: Piece<'_>) -> bool {
    let name = host.bytes().strip_suffix(b".").unwrap_or(host.bytes());
    match name.rsplit(|&byte| byte == b'.').next() {
        None | Some([]) => false,
        Some([b'0', b'x' | b'X', digits @ ..]) => digits.iter().all(u8::is_ascii_hexdigit),
        Some(digits) => digits.iter().all(u8::is_ascii_digit),
    }
}

/// Reads four plain decimal numbers, and a port in digits.
pub fn ipv4<'a>(host: Piece<'a>, service: Piece<'a>) -> Result<Endpoint<'a>> {
    let address: Ipv4Addr = host.graphic()?.parse().map_err(|_| no_ipv4(host))?;
    Ok(Endpoint::Literal(SocketAddr::new(IpAddr::V4(address), port(service)?)))
}

fn no_ipv4(host: Piece<'_>) -> Error {
    let cause = "the IPv4 address is not four plain numbers from 0 to 255";
    let mut labels = host.split_all(b'.');
    for label in labels.by_ref().take(4) {
        if let Err(index) = label.number(255) {
            return label.fault(index, cause, "a number from 0 to 255 without leading zeros");
        }
    }
    match labels.next() {
        Some(fifth) => fifth.fault(0, cause, "`:` and the port, as four numbers are there already"),
        None => host.fault_at_end(cause, "`.` and more numbers, as in 127.0.0.1"),
    }
}

/// Reads `[address]:port` and `[address%zone]:port`.
pub fn bracketed(text: Piece<'_>) -> Result<Endpoint<'_>> {
    let inside = text.after(b"[").unwrap_or(text);
    let Some((inside, behind)) = inside.split(b']') else {
        return Err(text.fault_at_end("a bracket is not closed", "`]`, `:` and a port"));
    };
    let (digits, zone) = match inside.split(b'%') {
        Some((digits, zone)) => (digits, Some(zone)),
        None => (inside, None),
    };
    let address = ipv6(digits)?;
    let zone = check_zone(address, digits, zone)?;
    if behind.bytes().is_empty() {
        return Err(missing_port(behind));
    }
    let Some(service) = behind.after(b":") else {
        let cause = "the port is not separated from the address";
        return Err(behind.fault(0, cause, "`:` and a port"));
    };
    let port = port(service)?;
    let literal = |scope| Endpoint::Literal(SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope)));
    match zone {
        None => Ok(literal(0)),
        Some(zone) if zone.bytes().iter().all(u8::is_ascii_digit) => Ok(literal(scope_id(zone)?)),
        Some(zone) => Ok(Endpoint::Scoped { address, zone: zone.graphic()?, port }),
    }
}

fn ipv6(text: Piece<'_>) -> Result<Ipv6Addr> {
    if text.graphic()?.parse::<Ipv4Addr>().is_ok() {
        let expected = "an IPv6 address; IPv4 has no brackets, as in 127.0.0.1:9000";
        return Err(text.fault(0, "an IPv4 address is in brackets", expected));
    }
    let address: Ipv6Addr = text.graphic()?.parse().map_err(|_| no_ipv6(text))?;
    if let Some(inner) = address.to_ipv4_mapped() {
        let cause = "an IPv4 address is written as IPv6";
        return Err(text.fault(0, cause, format_args!("the IPv4 address itself, without brackets: {inner}")));
    }
    Ok(address)
}

fn no_ipv6(text: Piece<'_>) -> Error {
    let stranger = text.bytes().iter().position(|byte| !byte.is_ascii_hexdigit() && !matches!(byte, b':' | b'.'));
    let expected = "an IPv6 address, such as ::1";
    text.fault(stranger.unwrap_or(0), "this is no IPv6 address", expected)
}

/// Link-local addresses, and no others, mean nothing without the interface that they are on.
fn check_zone<'a>(address: Ipv6Addr, digits: Piece<'a>, zone: Option<Piece<'a>>) -> Result<Option<Piece<'a>>> {
    match (address.is_unicast_link_local(), zone) {
        (true, None) => {
            let there = Interfaces(Some(address));
            let expected = format_args!("`%` and the interface, as in [fe80::1%eth0]:9000; this host has {there}");
            Err(digits.fault_at_end("a link-local address has no interface", expected))
        }
        (false, Some(_)) => {
            let expected = "`]`, as only link-local addresses (fe80::) have an interface";
            Err(digits.fault_at_end("this address takes no interface", expected))
        }
        (true, Some(zone)) => check_interface(zone).map(Some),
        (false, None) => Ok(None),
    }
}

fn check_interface(zone: Piece<'_>) -> Result<Piece<'_>> {
    let expected = "the name of an interface, 1 to 15 bytes without `/`, `:` and `%`";
    let cause = "this cannot be an interface";
    match zone.bytes().iter().position(|byte| matches!(byte, b'/' | b':' | b'%')) {
        Some(index) => Err(zone.fault(index, cause, expected)),
        None if zone.bytes().is_empty() => Err(zone.fault(0, cause, expected)),
        None if zone.bytes().len() > LONGEST_ZONE => Err(zone.fault(LONGEST_ZONE, cause, expected)),
        None => Ok(zone),
    }
}

fn scope_id(zone: Piece<'_>) -> Result<u32> {
    match zone.number(u32::MAX) {
        Ok(0) | Err(_) => {
            let expected = "the index of an interface from 1 on, without leading zeros, or its name";
            Err(zone.fault(0, "this cannot be an interface", expected))
        }
        Ok(index) => Ok(index),
    }
}
