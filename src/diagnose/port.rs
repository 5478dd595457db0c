//! A socket that could not be made, bound, or told to listen at a port.

use std::net::SocketAddr;

use rustix::io::Errno;

use super::limits::for_limits;
use super::sockets::Protocol;
use super::{addresses, in_use, policy};
use crate::error::Error;
use crate::text::Escaped;

/// What was tried.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Where.
    pub address: SocketAddr,
    /// Whether IPv4 is left alone.
    pub only_ipv6: bool,
    /// By which protocol.
    pub protocol: Protocol,
    /// With SO_REUSEADDR.
    pub reuse_address: bool,
    /// With SO_REUSEPORT.
    pub reuse_port: bool,
}

/// A socket could not be bound, or could not listen.
pub fn for_bind(error: Error, attempt: &Attempt) -> Error {
    match error.errno() {
        Some(Errno::ADDRINUSE) => in_use::explain(error, attempt),
        Some(Errno::ACCESS | Errno::PERM) => policy::explain_bind(error, attempt.address.port()),
        Some(Errno::ADDRNOTAVAIL) => addresses::explain_missing(error, attempt.address),
        _ => for_limits(error),
    }
}

/// A socket could not be made.
pub fn for_socket(error: Error, is_ipv6: bool) -> Error {
    match error.errno() {
        Some(Errno::ACCESS | Errno::PERM) => policy::explain_socket(error),
        Some(Errno::AFNOSUPPORT) => addresses::explain_family(error, is_ipv6),
        _ => for_limits(error),
    }
}

/// A socket could not be tied to an interface.
pub fn for_interface(error: Error, name: &[u8]) -> Error {
    match error.errno() {
        Some(Errno::NODEV) => addresses::explain_interface(error, name),
        Some(Errno::PERM | Errno::ACCESS) => error
            .and_because(format_args!("interface {}", Escaped(name)))
            .hint(format_args!("it takes CAP_NET_RAW here (SO_BINDTODEVICE in socket(7))")),
        _ => error.and_because(format_args!("interface {}", Escaped(name))),
    }
}
