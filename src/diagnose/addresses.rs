//! An address, an interface or a whole family that this host does not have.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::system;
use crate::address::interfaces::{Here, Interfaces, SHOWN, all_here};
use crate::error::Error;
use crate::text::Escaped;

/// bind(2) said that this host has no such address.
pub fn explain_missing(error: Error, asked: SocketAddr) -> Error {
    let asked = asked.ip();
    let here = all_here();
    if let Some(found) = here.iter().find(|here| here.ip == asked) {
        return unusable(error, found);
    }
    if asked.is_loopback() && !here.iter().any(|here| here.ip.is_loopback() && here.is_up) {
        return error.because(format_args!("the loopback interface is down")).hint(format_args!("`ip link set lo up`"));
    }
    if asked.is_ipv6() && !here.iter().any(|here| here.ip.is_ipv6()) {
        return without_ipv6(error);
    }
    let nearest = Nearest::to(asked, here);
    error.because(format_args!("this host has {nearest}")).hint(format_args!(
        "`ip -brief address` lists the addresses of this host; free_bind=on takes one that it will have later"
    ))
}

/// The address is on an interface, and cannot be bound nevertheless.
fn unusable(error: Error, found: &Here) -> Error {
    let interface = Escaped(found.interface.as_bytes());
    if !found.is_up {
        return error
            .because(format_args!("it is on {interface}, which is down"))
            .hint(format_args!("`ip link set {interface} up`"));
    }
    error
        .because(format_args!(
            "it is on {interface}, but not usable: duplicate address detection goes on, or has failed"
        ))
        .hint(format_args!(
            "`ip -6 address show dev {interface} tentative` shows which; free_bind=on takes the address at once"
        ))
}

/// There is no IPv6.
fn without_ipv6(error: Error) -> Error {
    match system::ipv6_switched_off() {
        Some(sysctl) => error
            .because(format_args!("IPv6 is switched off: {sysctl} is 1"))
            .hint(format_args!("`sudo sysctl {sysctl}=0`, or an IPv4 address; `:PORT` takes IPv4 alone then")),
        None => error
            .because(format_args!("this host has no IPv6 address at all"))
            .hint(format_args!("take an IPv4 address; `:PORT` takes what there is")),
    }
}

/// socket(2) said that the kernel has no such family.
pub fn explain_family(error: Error, is_ipv6: bool) -> Error {
    if !is_ipv6 {
        return error.hint(format_args!("this kernel, or its sandbox, lacks the address family"));
    }
    error.because(format_args!("this kernel has no IPv6, or a sandbox keeps it away")).hint(format_args!(
        "the kernel's ipv6.disable=1 does it; take an IPv4 address, or `:PORT`, which takes IPv4 then"
    ))
}

/// Addresses of this host, those with the most leading bits in common first.
struct Nearest {
    asked: IpAddr,
    here: Vec<Here>,
}

impl Nearest {
    fn to(asked: IpAddr, mut here: Vec<Here>) -> Self {
        here.retain(|here| here.ip.is_ipv4() == asked.is_ipv4());
        here.sort_by_key(|here| std::cmp::Reverse(common_bits(asked, here.ip)));
        Self { asked, here }
    }
}

fn common_bits(one: IpAddr, two: IpAddr) -> u32 {
    match (one, two) {
        (IpAddr::V4(one), IpAddr::V4(two)) => (u32::from(one) ^ u32::from(two)).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(two)) => (u128::from(one) ^ u128::from(two)).leading_zeros(),
        _ => 0,
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.asked.is_ipv4() { "IPv4" } else { "IPv6" };
        if self.here.is_empty() {
            return write!(out, "no {family} address");
        }
        let mut lead = "";
        for here in self.here.iter().take(SHOWN) {
            write!(out, "{lead}{} on {}", here.ip, Escaped(here.interface.as_bytes()))?;
            lead = ", ";
        }
        match self.here.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(out, ", and {more} more"),
        }
    }
}

/// There is no interface of that name.
pub fn explain_interface(error: Error, name: &[u8]) -> Error {
    error
        .because(format_args!("there is no interface {}; this host has {}", Escaped(name), Interfaces(None)))
        .hint(format_args!("`ip -brief link` lists the interfaces of this host"))
}
