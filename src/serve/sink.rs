//! A socket beside a listener that is about to close: the kernel sends those to it who begin to connect, and it completes
//! nobody.
//!
//! Closing a listener resets whose handshake is under way. Where the process may not filter packets (CAP_NET_ADMIN), the
//! listener shares its port with this socket instead (SO_REUSEPORT), and a classic BPF program steers new clients to it
//! (SO_ATTACH_REUSEPORT_CBPF, both in socket(7)). Its own queue is filled by two connections from here, so that their
//! first packets are dropped there, to be repeated after a second.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, SocketFlags, SocketType, ipproto, sockopt};

use crate::accept::{self, Peer};
use crate::deadline::Deadline;
use crate::sys::socket::{self, Steering};
use crate::{stream, sys};

/// How long a connection within this host may take.
const PATIENCE: Duration = Duration::from_millis(50);

/// The queue is full when more wait than the backlog, of which the least is 1.
const BACKLOG: i32 = 1;
const FILLERS: usize = 2;

/// The socket, and the connections that fill its queue.
#[derive(Debug)]
pub struct Sink {
    socket: OwnedFd,
    fillers: [Filler; FILLERS],
}

#[derive(Debug)]
struct Filler {
    socket: OwnedFd,
    port: u16,
}

impl Sink {
    /// Steers new clients away from a TCP listener that nobody shares. `found` gets those whom the kernel completed here
    /// before that.
    pub fn beside(listener: BorrowedFd<'_>, mut found: impl FnMut(OwnedFd, Peer)) -> Result<Self, Errno> {
        let address = sole_address(listener)?;
        let target = reachable(address, sockopt::ipv6_v6only(listener).unwrap_or(true));
        let sink = Self { socket: stream_socket(address)?, fillers: [Filler::new(target)?, Filler::new(target)?] };
        sockopt::set_socket_reuseport(listener, true)?;
        let joined = sink.join(listener, address);
        if let Err(errno) = joined.and_then(|()| sink.fill(target, &mut found)) {
            // Whoever was completed here meanwhile is not lost.
            let _ = socket::steer(&sink.socket, &sink.steering(target, LISTENER));
            sink.rest(&mut found);
            sink.leave(listener);
            return Err(errno);
        }
        Ok(sink)
    }

    /// The listener shares its port with nobody any more, and its clients are steered nowhere.
    pub fn leave(&self, listener: BorrowedFd<'_>) {
        socket::steer_nowhere(listener);
        let _ = sockopt::set_socket_reuseport(listener, false);
    }

    /// Listens beside the listener, which still gets all clients but those that are to fill the queue here.
    fn join(&self, listener: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
        sockopt::set_socket_reuseaddr(&self.socket, true)?;
        sockopt::set_socket_reuseport(&self.socket, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&self.socket, sockopt::ipv6_v6only(listener)?)?;
        }
        rustix::net::bind(&self.socket, &address)?;
        // With room for those whom the kernel sends here before it is told not to.
        rustix::net::listen(&self.socket, i32::MAX)
    }

    fn fill(&self, target: SocketAddr, found: &mut impl FnMut(OwnedFd, Peer)) -> Result<(), Errno> {
        socket::steer(&self.socket, &self.steering(target, LISTENER))?;
        self.rest(found);
        rustix::net::listen(&self.socket, BACKLOG)?;
        for filler in &self.fillers {
            match rustix::net::connect(&filler.socket, &target) {
                Ok(()) => {}
                Err(Errno::INPROGRESS) => {
                    stream::wait(filler.socket.as_fd(), PollFlags::OUT, Deadline::after(PATIENCE))?;
                    sockopt::socket_error(&filler.socket)??;
                }
                Err(errno) => return Err(errno),
            }
        }
        let (waiting, most) = socket::accept_queue(self.socket.as_fd())?;
        if waiting <= most {
            return Err(Errno::AGAIN);
        }
        socket::steer(&self.socket, &self.steering(target, SINK))
    }

    /// Accepts those who wait here and are not this socket's own. Not once the queue is full: that would make room.
    fn rest(&self, found: &mut impl FnMut(OwnedFd, Peer)) {
        while let Ok((socket, peer)) = accept::try_accept(self.socket.as_fd()) {
            let came_from = peer.socket_address().cloned().and_then(internet);
            if came_from.is_none() || !self.fillers.iter().any(|filler| filler.address() == came_from) {
                found(socket, peer);
            }
        }
    }

    /// Its descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let fillers = self.fillers.iter().map(|filler| filler.socket.as_fd());
        fillers.chain([self.socket.as_fd()])
    }

    /// Who fills the queue goes here, and everybody else to `others`.
    fn steering(&self, target: SocketAddr, others: u32) -> Steering<FILLERS> {
        let ports = std::array::from_fn(|index| self.fillers.get(index).map_or(0, |filler| filler.port));
        Steering { ipv6: target.is_ipv6(), ports, matching: SINK, others }
    }
}

/// Places in the group of sockets that share the port: the first to come has the first.
const LISTENER: u32 = 0;
const SINK: u32 = 1;

impl Filler {
    fn new(target: SocketAddr) -> Result<Self, Errno> {
        let socket = stream_socket(target)?;
        // From the same address: one that is no longer this host's would be somebody else's.
        let mut own = target;
        own.set_port(0);
        rustix::net::bind(&socket, &own)?;
        let bound: SocketAddr = rustix::net::getsockname(&socket)?.try_into()?;
        Ok(Self { socket, port: bound.port() })
    }

    /// Where its connection comes from.
    fn address(&self) -> Option<SocketAddr> {
        rustix::net::getsockname(&self.socket).ok().and_then(internet)
    }
}

/// An address in the one form that compares.
fn internet(address: SocketAddrAny) -> Option<SocketAddr> {
    SocketAddr::try_from(address).ok().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// The address of a TCP listener to which no other socket belongs.
fn sole_address(listener: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    let tcp = sockopt::socket_protocol(listener)? == Some(ipproto::TCP);
    if !tcp || sockopt::socket_reuseport(listener)? || socket::is_bound_to_device(listener)? {
        return Err(Errno::OPNOTSUPP);
    }
    rustix::net::getsockname(listener)?.try_into()
}

/// An address at which a listener with that one is reached from here.
fn reachable(address: SocketAddr, only_ipv6: bool) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // A host may have no IPv6 address although it has the protocol.
        IpAddr::V6(ip) if ip.is_unspecified() && !only_ipv6 => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let mut reachable = address;
    reachable.set_ip(ip);
    reachable
}

fn stream_socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP)).map(sys::above_standard)
}
