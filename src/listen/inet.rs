//! TCP listeners and bound UDP sockets.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, Protocol, SocketType, ipproto};

use super::{Options, Switch, backlog, before_bind, make_socket, name};
use crate::address::Endpoint;
use crate::diagnose;
use crate::error::{Code, Error, Result};
use crate::sys::socket::{bind_to_device, set_option};
use crate::text::Escaped;

/// What the socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A listening TCP socket.
    Stream,
    /// A bound UDP socket.
    Datagram,
}

/// Listens at an endpoint.
pub fn listen(endpoint: &Endpoint<'_>, kind: Kind, options: &Options<'_>) -> Result<OwnedFd> {
    match *endpoint {
        Endpoint::Any { port } => listen_everywhere(port, kind, options),
        Endpoint::Literal(address) => listen_at(address, kind, options),
        Endpoint::Scoped { address, zone, port } => {
            let zone = interface_index(zone)?;
            listen_at(SocketAddr::V6(SocketAddrV6::new(address, port, 0, zone)), kind, options)
        }
        Endpoint::Name { host, service } => listen_at_first(host, &name::resolve(host, service, kind)?, kind, options),
    }
}

fn interface_index(zone: &str) -> Result<u32> {
    let socket = make_socket(AddressFamily::INET6, SocketType::DGRAM, None, &Options::default())
        .map_err(|errno| diagnose::for_socket(Error::system("socket", errno)))?;
    rustix::net::netdevice::name_to_index(&socket, zone).map_err(|errno| {
        Error::system("interface", errno)
            .because(format_args!("there is no interface {}", Escaped(zone.as_bytes())))
            .hint(format_args!("`ip link` lists the interfaces of this host"))
    })
}

/// IPv6 and IPv4 on one socket; IPv4 alone where the kernel has no IPv6.
fn listen_everywhere(port: u16, kind: Kind, options: &Options<'_>) -> Result<OwnedFd> {
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match bind_and_listen(everywhere, Some(false), kind, options) {
        Err(error) if lacks_ipv6(&error) => listen_at(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), kind, options),
        outcome => outcome,
    }
}

fn lacks_ipv6(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// A name may stand for several addresses, of which this host may lack some.
fn listen_at_first(host: &str, addresses: &[SocketAddr], kind: Kind, options: &Options<'_>) -> Result<OwnedFd> {
    let mut first = None;
    for &address in addresses {
        match listen_at(address, kind, options) {
            Ok(socket) => return Ok(socket),
            Err(error) => {
                let error = error.because(format_args!("{} is {}", Escaped(host.as_bytes()), address.ip()));
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or_else(|| Error::new(Code::NameNotFound, "resolve", format_args!("the name has no address"))))
}

/// One address and nothing else: an IPv6 address does not take IPv4 with it.
fn listen_at(address: SocketAddr, kind: Kind, options: &Options<'_>) -> Result<OwnedFd> {
    let only_ipv6 = address.is_ipv6().then_some(true);
    bind_and_listen(address, only_ipv6, kind, options)
}

fn bind_and_listen(address: SocketAddr, only_ipv6: Option<bool>, kind: Kind, options: &Options<'_>) -> Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = make(family, kind, options).map_err(|errno| diagnose::for_socket(Error::system("socket", errno)))?;
    required_options(socket.as_fd(), only_ipv6, kind, options)?;
    optional_options(socket.as_fd(), kind, options);
    before_bind(socket.as_fd(), options)?;
    let port = Some(address.port());
    retry_on_intr(|| rustix::net::bind(&socket, &address))
        .map_err(|errno| diagnose::for_bind(Error::system("bind", errno), port))?;
    if kind == Kind::Stream {
        // bind(2) can succeed and listen(2) find the port taken, when both sockets have SO_REUSEADDR.
        retry_on_intr(|| rustix::net::listen(&socket, backlog(options)))
            .map_err(|errno| diagnose::for_bind(Error::system("listen", errno), port))?;
    }
    Ok(socket)
}

fn make(family: AddressFamily, kind: Kind, options: &Options<'_>) -> std::result::Result<OwnedFd, Errno> {
    if kind == Kind::Datagram {
        return make_socket(family, SocketType::DGRAM, None, options);
    }
    if options.multipath == Switch::On {
        // Multipath TCP falls back to TCP on the wire; so does the listener where the kernel has none.
        if let Ok(socket) = make_socket(family, SocketType::STREAM, Some(ipproto::MPTCP), options) {
            return Ok(socket);
        }
    }
    make_socket(family, SocketType::STREAM, None::<Protocol>, options)
}

/// What the caller relies on: a failure ends the call.
fn required_options(socket: BorrowedFd<'_>, only_ipv6: Option<bool>, kind: Kind, options: &Options<'_>) -> Result<()> {
    let failed =
        |option: &'static str| move |errno| Error::system("setsockopt", errno).because(format_args!("option {option}"));
    if options.reuse_address.or(kind == Kind::Stream) {
        set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).map_err(failed("reuse_address"))?;
    }
    if options.reuse_port.or(false) {
        set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).map_err(failed("reuse_port"))?;
    }
    if let Some(only) = only_ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(only)).map_err(failed("IPV6_V6ONLY"))?;
    }
    if options.free_bind.or(false) {
        // Linux takes IP_FREEBIND at this level for IPv6 sockets too (ip(7)).
        set_option(socket, libc::IPPROTO_IP, libc::IP_FREEBIND, 1).map_err(failed("free_bind"))?;
    }
    if let Some(interface) = options.interface {
        bind_to_device(socket, interface).map_err(|errno| {
            failed("interface")(errno)
                .because(format_args!("interface {}", Escaped(interface)))
                .hint(format_args!("`ip link` lists the interfaces of this host"))
        })?;
    }
    Ok(())
}

/// What makes a server better and may be missing: the socket works without.
fn optional_options(socket: BorrowedFd<'_>, kind: Kind, options: &Options<'_>) {
    let set = |level, name, value| {
        let _ = set_option(socket, level, name, value);
    };
    if let Some(bytes) = options.receive_buffer {
        set(libc::SOL_SOCKET, libc::SO_RCVBUF, bytes);
    }
    if let Some(bytes) = options.send_buffer {
        set(libc::SOL_SOCKET, libc::SO_SNDBUF, bytes);
    }
    if kind == Kind::Datagram {
        return;
    }
    if options.no_delay.or(true) {
        set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    }
    if options.keep_alive_seconds != Some(-1) {
        set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    }
    if let Some(seconds @ 1..) = options.keep_alive_seconds {
        set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds);
        set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, seconds);
    }
    if let Some(seconds @ 1..) = options.defer_accept_seconds {
        set(libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds);
    }
    match options.fast_open {
        // The queue is clamped to the backlog by the kernel.
        Some(1) => set(libc::IPPROTO_TCP, libc::TCP_FASTOPEN, backlog(options)),
        Some(length @ 2..) => set(libc::IPPROTO_TCP, libc::TCP_FASTOPEN, length),
        _ => {}
    }
}
