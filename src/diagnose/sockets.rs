//! The sockets of this network namespace, as the kernel lists them (sock_diag(7)).

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    Emitable, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Parseable,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM, TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN, TCP_TIME_WAIT,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla};
use netlink_packet_sock_diag::unix::nlas::{Nla as UnixNla, UnixDiagName};
use netlink_packet_sock_diag::unix::{ShowFlags, UnixRequest, UnixResponse};
use rustix::io::Errno;
use rustix::net::netlink::SOCK_DIAG;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::budget::Budget;
use super::system;
use crate::sys::socket::filled;

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a socket at a port is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It listens, or is a bound datagram socket.
    Listening,
    /// It is bound, and neither listens nor is connected.
    Bound,
    /// It is a connection, or is becoming one, or ceasing to be.
    Connected,
    /// The kernel keeps it after its end, so that stray packets find nobody else.
    TimeWait,
}

/// A socket at a port.
#[derive(Clone, Debug)]
pub struct PortSocket {
    /// Where it is bound.
    pub address: SocketAddr,
    /// The other end; port 0 where there is none.
    pub peer: SocketAddr,
    /// What it is there for.
    pub state: State,
    /// Whether an IPv6 socket leaves IPv4 alone.
    pub only_ipv6: bool,
    /// The user who made it.
    pub uid: u32,
    /// By this number the descriptors of processes refer to it; 0 where none does.
    pub inode: u32,
    /// Of a listening one: how many wait to be accepted.
    pub queue: u32,
    /// Of a listening one: how many may.
    pub backlog: u32,
    /// Packets that the kernel dropped at it.
    pub drops: Option<u32>,
    /// When its TIME_WAIT ends.
    pub expires: Duration,
}

/// A Unix socket that has a name.
#[derive(Clone, Copy, Debug)]
pub struct UnixSocket {
    /// By this number the descriptors of processes refer to it.
    pub inode: u32,
    /// The user who made it; the kernel tells since Linux 5.3.
    pub uid: Option<u32>,
    /// Whether it listens.
    pub listens: bool,
    /// How many wait to be accepted, and how many may.
    pub queue: Option<(u32, u32)>,
}

/// TCP_BOUND_INACTIVE of the kernel's tcp_states.h: bound and nothing more. Known to sock_diag since Linux 6.8; before,
/// such sockets are not listed.
const BOUND_INACTIVE: u8 = 13;

/// TCP_NEW_SYN_RECV of the same file: a handshake is under way, which so far has no socket.
const NEW_SYN_RECV: u8 = 12;

/// Where idiag_expires stands in struct inet_diag_msg, in milliseconds: the crate leaves it out for TIME_WAIT.
const EXPIRES: std::ops::Range<usize> = 52..56;

/// UDIAG_SHOW_UID and UNIX_DIAG_UID of linux/unix_diag.h, which the crate does not know.
const SHOW_UID: u32 = 0x40;
const DIAG_UID: u16 = 7;

/// What is shorter was not cut: the kernel fills a page less its own overhead at first, and the buffer later.
const SHORT: usize = 2048;

/// Where udiag_vfs_ino and udiag_vfs_dev stand in struct unix_diag_vfs.
type VfsBytes = [u8; 8];

/// Calls `look` with every socket bound to a port, connections of TCP aside.
///
/// An error where the kernel does not tell; what was seen until the budget where there are too many.
pub fn at_port(protocol: Protocol, port: u16, budget: Budget, mut look: impl FnMut(PortSocket)) -> Result<(), Errno> {
    let states = match protocol {
        Protocol::Udp => StateFlags::all(),
        Protocol::Tcp => StateFlags::LISTEN | StateFlags::from_bits_retain(1 << BOUND_INACTIVE),
    };
    for ipv6 in [false, true] {
        with_states(protocol, port, states.clone(), ipv6, budget, &mut look)?;
    }
    Ok(())
}

/// Calls `look` with every TCP connection of a port, of IPv4 or IPv6 sockets.
///
/// The kernel goes through all connections of the host for it, a microsecond for one or two, and cannot be interrupted:
/// where there are very many it is not asked.
pub fn connections_at_port(
    port: u16,
    ipv6: bool,
    budget: Budget,
    mut look: impl FnMut(PortSocket),
) -> Result<(), Errno> {
    if !few_connections() {
        return Err(Errno::TIMEDOUT);
    }
    let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE;
    with_states(Protocol::Tcp, port, states, ipv6, budget, &mut look)
}

/// Whether a handshake is under way at a port of IPv6 or of IPv4 sockets; `None` where the kernel does not tell, or it
/// would take long.
pub fn has_handshakes(port: u16, ipv6: bool) -> Option<bool> {
    if !few_connections() {
        return None;
    }
    let mut found = false;
    let states = StateFlags::SYN_RECV | StateFlags::from_bits_retain(1 << NEW_SYN_RECV);
    // A client of IPv4 has a socket of its family also where that of the listener is for both.
    for ipv6 in [ipv6, false] {
        with_states(Protocol::Tcp, port, states.clone(), ipv6, Budget::new(), &mut |_| found = true).ok()?;
        if !ipv6 || found {
            break;
        }
    }
    Some(found)
}

/// Whether there are so few connections on this host that the kernel goes through them in no more than some 30 ms.
fn few_connections() -> bool {
    const MOST: u64 = 50_000;
    system::connections().is_none_or(|count| count <= MOST)
}

fn with_states(
    protocol: Protocol,
    port: u16,
    states: StateFlags,
    ipv6: bool,
    budget: Budget,
    look: &mut impl FnMut(PortSocket),
) -> Result<(), Errno> {
    let (family, mut socket_id) = if ipv6 { (AF_INET6, SocketId::new_v6()) } else { (AF_INET, SocketId::new_v4()) };
    socket_id.source_port = port;
    socket_id.cookie = [0xff; 8];
    let request = InetRequest {
        family,
        protocol: if protocol == Protocol::Tcp { IPPROTO_TCP } else { IPPROTO_UDP },
        extensions: ExtensionFlags::SKMEMINFO,
        states,
        socket_id,
    };
    dump(SockDiagMessage::InetRequest(request), budget, |payload| {
        if let Some(socket) = port_socket(protocol, payload).filter(|socket| socket.address.port() == port) {
            look(socket);
        }
        ControlFlow::Continue(())
    })
}

fn port_socket(protocol: Protocol, payload: &[u8]) -> Option<PortSocket> {
    let response = InetResponse::parse(payload).ok()?;
    let (header, id) = (&response.header, &response.header.socket_id);
    let endpoint = |ip: IpAddr, port| match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, id.interface_id).into(),
        ip => SocketAddr::new(ip, port),
    };
    let only_ipv6 = response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true)));
    let drops = response.nlas.iter().find_map(|nla| match nla {
        Nla::MemInfo(memory) => Some(memory.drops),
        _ => None,
    });
    let peer = endpoint(id.destination_address, id.destination_port);
    let expires = payload.get(EXPIRES).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    Some(PortSocket {
        address: endpoint(id.source_address, id.source_port),
        peer,
        state: state(protocol, header.state, peer.port()),
        only_ipv6,
        uid: header.uid,
        inode: header.inode,
        queue: header.recv_queue,
        backlog: header.send_queue,
        drops,
        expires: Duration::from_millis(expires.into()),
    })
}

fn state(protocol: Protocol, number: u8, peer_port: u16) -> State {
    match (protocol, number) {
        (Protocol::Udp, _) if peer_port == 0 => State::Listening,
        (Protocol::Tcp, TCP_LISTEN) => State::Listening,
        (Protocol::Tcp, TCP_TIME_WAIT) => State::TimeWait,
        // The request names the state by a number of its own, the answer as a closed socket.
        (Protocol::Tcp, TCP_CLOSE) => State::Bound,
        _ => State::Connected,
    }
}

/// The Unix socket whose file this is, among those of this network namespace.
pub fn with_file(device: u64, inode: u64, budget: Budget) -> Result<Option<UnixSocket>, Errno> {
    let wanted = vfs_bytes(device, inode);
    let has_file = |nla: &UnixNla| match nla {
        UnixNla::Vfs(vfs) => {
            let mut bytes = VfsBytes::default();
            vfs.emit(&mut bytes);
            bytes == wanted
        }
        _ => false,
    };
    unix_socket(ShowFlags::VFS, budget, |socket| socket.nlas.iter().any(has_file))
}

/// Device and inode as the kernel tells them here: its own 32 bits of a device number, and the inode's lowest.
fn vfs_bytes(device: u64, inode: u64) -> VfsBytes {
    let device = (rustix::fs::major(device) << 20) | rustix::fs::minor(device);
    let mut bytes = VfsBytes::default();
    let both = (inode as u32).to_ne_bytes().into_iter().chain(device.to_ne_bytes());
    bytes.iter_mut().zip(both).for_each(|(place, byte)| *place = byte);
    bytes
}

/// The Unix stream socket of an abstract name, among those of this network namespace. Sockets of another type have
/// names of their own.
pub fn with_abstract_name(name: &[u8], budget: Budget) -> Result<Option<UnixSocket>, Errno> {
    let has_name = |nla: &UnixNla| matches!(nla, UnixNla::Name(UnixDiagName::Abstract(found)) if found == name);
    unix_socket(ShowFlags::NAME, budget, |socket| {
        i32::from(socket.header.kind) == libc::SOCK_STREAM && socket.nlas.iter().any(has_name)
    })
}

fn unix_socket(
    show: ShowFlags,
    budget: Budget,
    is_wanted: impl Fn(&UnixResponse) -> bool,
) -> Result<Option<UnixSocket>, Errno> {
    let request = UnixRequest {
        // A bound datagram socket has the state of a closed one.
        state_flags: netlink_packet_sock_diag::unix::StateFlags::from_bits_retain(u32::MAX),
        inode: 0,
        show_flags: show | ShowFlags::RQLEN | ShowFlags::from_bits_retain(SHOW_UID),
        cookie: [0xff; 8],
    };
    let mut found = None;
    dump(SockDiagMessage::UnixRequest(request), budget, |payload| {
        let Ok(response) = UnixResponse::parse(payload) else { return ControlFlow::Continue(()) };
        // A connection has the name of its listener. A datagram socket is in that state for any peer that has chosen it.
        let is_connection = response.header.state == TCP_ESTABLISHED && response.header.kind != SOCK_DGRAM;
        if is_connection || !is_wanted(&response) {
            return ControlFlow::Continue(());
        }
        let queue = response.nlas.iter().find_map(|nla| match nla {
            UnixNla::ReceiveQueueLength(queue, backlog) => Some((*queue, *backlog)),
            _ => None,
        });
        let listens = response.header.state == TCP_LISTEN;
        let uid = response.nlas.iter().find_map(uid);
        found = Some(UnixSocket { inode: response.header.inode, uid, listens, queue });
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// What an attribute says about the user.
fn uid(nla: &UnixNla) -> Option<u32> {
    let UnixNla::Other(nla) = nla else { return None };
    let mut bytes = [0; 4];
    if netlink_packet_core::Nla::kind(nla) != DIAG_UID || netlink_packet_core::Nla::value_len(nla) != bytes.len() {
        return None;
    }
    netlink_packet_core::Nla::emit_value(nla, &mut bytes);
    Some(u32::from_ne_bytes(bytes))
}

/// Sends a request and calls `look` with what each answer carries, until it breaks off or time is up.
fn dump(request: SockDiagMessage, budget: Budget, mut look: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), Errno> {
    let socket = ask(request, budget)?;
    let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 16 * 1024];
    loop {
        let (_, received) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()).map_err(late)?;
        let mut rest = filled(&buffer, received);
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            match message.message_type() {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(error_of(rest)),
                _ => {}
            }
            if look(message.payload()).is_break() {
                return Ok(());
            }
            // Each message is padded to a multiple of four bytes.
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        // A part that leaves room is the last one, whatever it took: the end is read without another search.
        if received > SHORT && budget.is_over() {
            return Err(Errno::TIMEDOUT);
        }
    }
}

fn late(errno: Errno) -> Errno {
    if errno == Errno::AGAIN { Errno::TIMEDOUT } else { errno }
}

fn error_of(message: &[u8]) -> Errno {
    let code = match NetlinkMessage::<SockDiagMessage>::deserialize(message).map(|message| message.payload) {
        Ok(NetlinkPayload::Error(error)) => error.raw_code(),
        _ => 0,
    };
    Errno::from_raw_os_error(if code == 0 { libc::EPROTO } else { code.saturating_neg() })
}

fn ask(request: SockDiagMessage, budget: Budget) -> Result<OwnedFd, Errno> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    let mut bytes = [0; 256];
    let length = message.buffer_len();
    message.serialize(bytes.get_mut(..length).ok_or(Errno::MSGSIZE)?);
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    let _ = set_socket_timeout(socket.as_fd(), Timeout::Recv, budget.longest_wait());
    rustix::net::send(&socket, bytes.get(..length).unwrap_or_default(), SendFlags::empty())?;
    Ok(socket)
}
