//! TCP listeners and bound UDP sockets.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketType, ipproto};

use super::{Options, Switch, backlog, before_bind, make_socket, name};
use crate::address::Endpoint;
use crate::diagnose::{self, Attempt, Protocol};
use crate::error::{Code, Error, Result};
use crate::sys::socket::{bind_to_device, set_option};
use crate::text::Escaped;

/// A TCP listener or a bound UDP socket, as it is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What the socket carries.
    pub protocol: Protocol,
    /// How it is made.
    pub options: &'a Options<'a>,
    /// Whether it is bound only, to see whether it could be: it is not told to listen, and nobody notices it.
    pub trial: bool,
}

impl Wanted<'_> {
    /// At an endpoint.
    pub fn at(&self, endpoint: &Endpoint<'_>) -> Result<OwnedFd> {
        match *endpoint {
            Endpoint::Any { port } => self.everywhere(port),
            Endpoint::Literal(address) => self.at_one(address),
            Endpoint::Scoped { address, zone, port } => {
                let zone = interface_index(zone)?;
                self.at_one(SocketAddr::V6(SocketAddrV6::new(address, port, 0, zone)))
            }
            Endpoint::Name { host, service } => self.at_first(host, &name::resolve(host, service, self.protocol)?),
        }
    }

    /// IPv6 and IPv4 on one socket; IPv4 alone where the kernel has no IPv6.
    fn everywhere(&self, port: u16) -> Result<OwnedFd> {
        let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        match self.bound(everywhere, Some(false)) {
            Err(error) if lacks_ipv6(&error) => self.at_one(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
            outcome => outcome,
        }
    }

    /// A name may stand for several addresses, of which this host may lack some.
    fn at_first(&self, host: &str, addresses: &[SocketAddr]) -> Result<OwnedFd> {
        let mut first = None;
        for &address in addresses {
            match self.at_one(address) {
                Ok(socket) => return Ok(socket),
                Err(error) => {
                    let error = error.and_because(format_args!("{} is {}", Escaped(host.as_bytes()), address.ip()));
                    first.get_or_insert(error);
                }
            }
        }
        Err(first.unwrap_or_else(|| Error::new(Code::NameNotFound, "resolve", format_args!("the name has no address"))))
    }

    /// One address and nothing else: an IPv6 address does not take IPv4 with it.
    fn at_one(&self, address: SocketAddr) -> Result<OwnedFd> {
        self.bound(address, address.is_ipv6().then_some(true))
    }

    /// At the address where that one listens.
    pub fn beside(&self, listener: BorrowedFd<'_>) -> Result<OwnedFd> {
        let failed = |errno| Error::system("getsockname", errno);
        let address: SocketAddr = rustix::net::getsockname(listener).and_then(SocketAddr::try_from).map_err(failed)?;
        let only_ipv6 = address.is_ipv6().then(|| rustix::net::sockopt::ipv6_v6only(listener).unwrap_or(true));
        self.bound(address, only_ipv6)
    }

    fn bound(&self, address: SocketAddr, only_ipv6: Option<bool>) -> Result<OwnedFd> {
        let Self { protocol, options, trial } = *self;
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = make(family, protocol, options)
            .map_err(|errno| diagnose::for_socket(Error::system("socket", errno), address.is_ipv6()))?;
        required_options(socket.as_fd(), only_ipv6, protocol, options)?;
        optional_options(socket.as_fd(), protocol, options);
        before_bind(socket.as_fd(), options)?;
        let failed = |step| {
            let attempt = Attempt {
                address,
                only_ipv6: only_ipv6 == Some(true),
                protocol,
                reuse_address: reuses_address(protocol, options),
                reuse_port: options.reuse_port.or(false),
            };
            move |errno| diagnose::for_bind(Error::system(step, errno), &attempt)
        };
        retry_on_intr(|| rustix::net::bind(&socket, &address)).map_err(failed("bind"))?;
        if protocol == Protocol::Tcp && !trial {
            // bind(2) can succeed and listen(2) find the port taken, when both sockets have SO_REUSEADDR.
            retry_on_intr(|| rustix::net::listen(&socket, backlog(options))).map_err(failed("listen"))?;
        }
        Ok(socket)
    }
}

fn interface_index(zone: &str) -> Result<u32> {
    let socket = make_socket(AddressFamily::INET6, SocketType::DGRAM, None, &Options::default())
        .map_err(|errno| diagnose::for_socket(Error::system("socket", errno), true))?;
    rustix::net::netdevice::name_to_index(&socket, zone)
        .map_err(|errno| diagnose::for_interface(Error::system("interface", errno), zone.as_bytes()))
}

fn lacks_ipv6(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn make(family: AddressFamily, protocol: Protocol, options: &Options<'_>) -> std::result::Result<OwnedFd, Errno> {
    if protocol == Protocol::Udp {
        return make_socket(family, SocketType::DGRAM, None, options);
    }
    if options.multipath == Switch::On {
        // Multipath TCP falls back to TCP on the wire; so does the listener where the kernel has none.
        if let Ok(socket) = make_socket(family, SocketType::STREAM, Some(ipproto::MPTCP), options) {
            return Ok(socket);
        }
    }
    make_socket(family, SocketType::STREAM, None::<rustix::net::Protocol>, options)
}

/// Whether the socket gets SO_REUSEADDR. With UDP it would let a second copy share the port, so it has to be asked for.
fn reuses_address(protocol: Protocol, options: &Options<'_>) -> bool {
    options.reuse_address.or(protocol == Protocol::Tcp)
}

/// What the caller relies on: a failure ends the call.
fn required_options(
    socket: BorrowedFd<'_>,
    only_ipv6: Option<bool>,
    protocol: Protocol,
    options: &Options<'_>,
) -> Result<()> {
    let failed =
        |option: &'static str| move |errno| Error::system("setsockopt", errno).because(format_args!("option {option}"));
    if reuses_address(protocol, options) {
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
        bind_to_device(socket, interface)
            .map_err(|errno| diagnose::for_interface(failed("interface")(errno), interface))?;
    }
    Ok(())
}

/// What makes a server better and may be missing: the socket works without.
fn optional_options(socket: BorrowedFd<'_>, protocol: Protocol, options: &Options<'_>) {
    let set = |level, name, value| {
        let _ = set_option(socket, level, name, value);
    };
    if let Some(bytes) = options.receive_buffer {
        set(libc::SOL_SOCKET, libc::SO_RCVBUF, bytes);
    }
    if let Some(bytes) = options.send_buffer {
        set(libc::SOL_SOCKET, libc::SO_SNDBUF, bytes);
    }
    if protocol == Protocol::Udp {
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
