//! A port that is in use: by whom, where, and how it can be had.

use std::fmt::{Display, Formatter, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::geteuid;

use super::Attempt;
use super::budget::Budget;
use super::processes::User;
use super::sockets::{self, PortSocket, Protocol, State};
use super::system::PortRange;
use super::who::Who;
use crate::address::display_ip;
use crate::error::{Error, SystemWords};
use crate::text::Text;

/// bind(2) or listen(2) said that the port is in use.
pub fn explain(error: Error, attempt: &Attempt) -> Error {
    if attempt.address.port() == 0 {
        return no_free_port(error);
    }
    let budget = Budget::new();
    let mut owners = Owners::default();
    let looked = owners.look(attempt, budget);
    owners.cut_short = looked == Err(Errno::TIMEDOUT);
    match (&owners.socket, looked) {
        (Some(socket), _) => owned(error, attempt, socket, budget),
        (None, Ok(()) | Err(Errno::TIMEDOUT)) if owners.connections() > 0 => connected(error, attempt, &owners, budget),
        (None, Ok(())) => error
            .because(format_args!("nothing is to be seen that holds it"))
            .hint(format_args!("whoever held it may be gone by now: try again; {}", look(attempt))),
        (None, Err(Errno::TIMEDOUT)) => error
            .because(format_args!("there are too many sockets to find out in time who holds it"))
            .hint(format_args!("{}", look(attempt))),
        (None, Err(errno)) => error
            .because(format_args!("who holds it could not be asked: sock_diag: {}", SystemWords(errno)))
            .hint(format_args!("{}", look(attempt))),
    }
}

fn no_free_port(error: Error) -> Error {
    match PortRange::of_this_system() {
        Some(PortRange { first, last }) => error
            .because(format_args!("every port from {first} to {last}, the range for free ones, is in use"))
            .hint(format_args!(
                "widen the range: `sudo sysctl -w net.ipv4.ip_local_port_range='1024 65535'`; `ss -tuan` shows the users"
            )),
        None => error.because(format_args!("no free port is left")),
    }
}

/// The command that shows all there is at the port.
fn look(attempt: &Attempt) -> Text {
    let flags = if attempt.protocol == Protocol::Tcp { "-tanp" } else { "-uanp" };
    Text::format(format_args!("as root, `ss {flags} 'sport = :{}'` shows the port's sockets", attempt.address.port()))
}

/// What there is at the port that stands in the way.
#[derive(Default)]
struct Owners {
    /// One that listens, or is bound.
    socket: Option<PortSocket>,
    /// Connections that live, or are about to end.
    open: usize,
    /// One of them.
    connection: Option<PortSocket>,
    /// Connections that are over, and the time that the last of them is kept.
    time_wait: usize,
    longest: Duration,
    /// Time was up before all were counted.
    cut_short: bool,
}

impl Owners {
    fn look(&mut self, attempt: &Attempt, budget: Budget) -> Result<(), Errno> {
        let port = attempt.address.port();
        sockets::at_port(attempt.protocol, port, budget, |socket| self.add(attempt, socket))?;
        if attempt.protocol == Protocol::Udp || self.socket.is_some() {
            return Ok(());
        }
        // Both families may have some; the one that was asked for comes first, and one is enough for an answer.
        let asked_ipv6 = attempt.address.is_ipv6();
        for ipv6 in [asked_ipv6, !asked_ipv6] {
            if self.connections() == 0 {
                sockets::connections_at_port(port, ipv6, budget, |socket| self.add(attempt, socket))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, attempt: &Attempt, socket: PortSocket) {
        if !attempt.meets(&socket) {
            return;
        }
        match socket.state {
            // A datagram socket that has a peer is bound all the same.
            State::Connected if attempt.protocol == Protocol::Udp => {
                self.socket.get_or_insert(socket);
            }
            State::Listening | State::Bound => {
                // The one that was asked for tells more than one that takes every address.
                let better = self.socket.as_ref().is_none_or(|before| {
                    let rank =
                        |socket: &PortSocket| (socket.state == State::Listening, socket.address == attempt.address);
                    rank(before) < rank(&socket)
                });
                if better {
                    self.socket = Some(socket);
                }
            }
            State::TimeWait => {
                self.time_wait += 1;
                self.longest = self.longest.max(socket.expires);
            }
            State::Connected => {
                self.open += 1;
                if self.connection.as_ref().is_none_or(|before| before.inode == 0) {
                    self.connection = Some(socket);
                }
            }
        }
    }

    fn connections(&self) -> usize {
        self.open + self.time_wait
    }
}

impl Attempt {
    /// Whether a socket's address and this one have something in common.
    pub(super) fn meets(&self, socket: &PortSocket) -> bool {
        let any = |ip: IpAddr| ip.is_unspecified();
        let (asked, held) = (self.address.ip().to_canonical(), socket.address.ip().to_canonical());
        match (asked, held) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => asked == held || any(asked) || any(held),
            (IpAddr::V4(_), IpAddr::V6(_)) => any(held) && !socket.only_ipv6,
            (IpAddr::V6(_), IpAddr::V4(_)) => any(asked) && !self.only_ipv6,
        }
    }
}

/// Somebody has bound the port.
fn owned(error: Error, attempt: &Attempt, socket: &PortSocket, budget: Budget) -> Error {
    let who = Who::of(socket.inode, Some(socket.uid), budget);
    let (place, unshared) = (Place(socket), unshared(attempt, socket));
    let error = match (socket.state, attempt.protocol) {
        (State::Bound, _) => error.because(format_args!("{who} has bound {place}, without listening{unshared}")),
        (State::Connected, _) => {
            let peer = display_ip(&socket.peer);
            error.because(format_args!("{who} has bound {place}, connected to {peer}{unshared}"))
        }
        (_, Protocol::Udp) => error.because(format_args!("{who} has bound {place}{unshared}")),
        _ => error.because(format_args!("{who} listens on {place}{unshared}")),
    };
    let flags = if attempt.protocol == Protocol::Tcp { "-ltnp" } else { "-lunp" };
    let port = attempt.address.port();
    let advice = who.advice(format_args!("ss {flags} 'sport = :{port}'"));
    match (attempt.reuse_port, socket.uid == geteuid().as_raw()) {
        (true, true) => error
            .hint(format_args!("a port is shared only if every socket there has reuse_port (SO_REUSEPORT); {advice}")),
        (true, false) => error.hint(format_args!("run both as one user; {advice}")),
        (false, _) => error.hint(format_args!("{advice}; or take another port (0 takes a free one)")),
    }
}

/// Why a port that was to be shared is not.
fn unshared(attempt: &Attempt, socket: &PortSocket) -> Text {
    let (owner, user) = (socket.uid, geteuid().as_raw());
    match (attempt.reuse_port, owner == user) {
        (false, _) => Text::new(),
        (true, true) => Text::from(", and does not have reuse_port"),
        (true, false) => Text::format(format_args!(
            ", and users do not share a port: that is {}, and this process {}",
            User(owner),
            User(user)
        )),
    }
}

/// Nobody listens, but connections are left.
fn connected(error: Error, attempt: &Attempt, owners: &Owners, budget: Budget) -> Error {
    let mut left = Text::new();
    // What no longer fits into memory is left out.
    let _ = owners.write_connections(&mut left, budget.with_a_rest());
    let error = error.because(format_args!("nobody listens, but {left}"));
    let outgoing = Outgoing(attempt.address.port());
    if attempt.reuse_address {
        return error.hint(format_args!("they have no SO_REUSEADDR, so the port is free when they are gone{outgoing}"));
    }
    error.hint(format_args!(
        "reuse_address=on, the default, takes the port at once if the connections were accepted with it; or wait for \
         their end{outgoing}"
    ))
}

impl Owners {
    fn write_connections(&self, out: &mut Text, budget: Budget) -> std::fmt::Result {
        if self.cut_short {
            out.write_str("at least ")?;
        }
        if let Some(one) = &self.connection {
            // Closed by its process, it has no owner, and the kernel brings it to its end.
            let who = match one.inode {
                0 => Text::from("no process any more"),
                inode => Text::format(format_args!("{}", Who::of(inode, Some(one.uid), budget))),
            };
            let peer = display_ip(&one.peer);
            match self.open {
                1 => write!(out, "one connection is open, to {peer}, of {who}")?,
                open => write!(out, "{open} connections are open, one of them to {peer}, of {who}")?,
            }
        }
        let longest = self.longest.as_millis().div_ceil(1000);
        let (lead, noun) = match (self.open, self.time_wait) {
            (_, 0) => return Ok(()),
            (0, 1) => ("", "ended connection keeps"),
            (0, _) => ("", "ended connections keep"),
            (_, 1) => (", and ", "ended one keeps"),
            (_, _) => (", and ", "ended ones keep"),
        };
        write!(out, "{lead}{} {noun} it in TIME_WAIT, for {longest} s more at the latest", self.time_wait)
    }
}

/// The system may have given the port to an outgoing connection, and may do it again.
struct Outgoing(u16);

impl Display for Outgoing {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        let Some(PortRange { first, last }) = PortRange::of_this_system().filter(|range| range.contains(self.0)) else {
            return Ok(());
        };
        write!(
            out,
            "; the system gives ports from {first} to {last} to outgoing connections, unless \
             net.ipv4.ip_local_reserved_ports has them"
        )
    }
}

/// Where a socket is bound, with what that takes.
struct Place<'a>(&'a PortSocket);

impl Display for Place<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        let Self(socket) = self;
        write!(out, "{}", display_ip(&socket.address))?;
        match socket.address {
            SocketAddr::V6(address) if address.ip().is_unspecified() && !socket.only_ipv6 => {
                out.write_str(", every address of IPv6 and IPv4")
            }
            SocketAddr::V6(address) if address.ip().is_unspecified() => out.write_str(", every address of IPv6"),
            SocketAddr::V4(address) if address.ip().is_unspecified() => out.write_str(", every address of IPv4"),
            _ => Ok(()),
        }
    }
}
