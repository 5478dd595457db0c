//! From an address text to a listening socket, in one call.

mod inet;
mod inherited;
mod name;
mod options;
mod owner;
mod unix;

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny};

pub use inherited::{check, set_nonblocking};
pub use options::{BeforeBind, Options, Switch};
pub use unix::SocketFile;

use crate::address::{self, Address, Spec};
use crate::diagnose::{self, Protocol};
use crate::error::{Code, Error, Result};
use crate::text::Text;

/// A listening socket (or a bound datagram socket), with the file that goes with it.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    file: Option<SocketFile>,
    /// The backlog that was asked for; none where it is the system's to choose.
    backlog: Option<i32>,
    /// Which of the listeners that share the address it is.
    copy: usize,
    /// Somebody else made it, and has a copy.
    inherited: bool,
}

impl Listener {
    /// A listener without a file of ours.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, file: None, backlog: None, copy: 0, inherited: false }
    }

    /// Whether somebody else made it, who has a copy.
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// Which of the listeners that share an address it is, from 0 on.
    pub fn copy(&self) -> usize {
        self.copy
    }

    /// Gives the descriptor away; [`unlisten`] still knows the file.
    pub fn release(self) -> RawFd {
        if let Some(file) = self.file {
            unix::remember(self.fd.as_fd(), file);
        }
        self.fd.into_raw_fd()
    }

    /// Closes it, and removes its Unix socket file if that is still ours.
    pub fn close(self) {
        if let Some(file) = self.file {
            // First the file: once the socket is closed, a successor may take the name.
            file.remove();
        }
    }

    /// The backlog that was asked for and the smaller one in force, where the system grants less.
    pub fn clamped_backlog(&self) -> Option<(u32, u32)> {
        let asked = u32::try_from(self.backlog?).ok()?;
        // Of a Unix listener the kernel does not tell, and clamps it by the same bound.
        let told = crate::sys::socket::accept_queue(self.as_fd()).ok().map(|(_, backlog)| backlog);
        let in_force = told.or_else(|| diagnose::largest_backlog()?.try_into().ok())?;
        (in_force < asked).then_some((asked, in_force))
    }

    /// Takes it apart.
    pub fn into_parts(self) -> (OwnedFd, Option<SocketFile>) {
        (self.fd, self.file)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Listens at one address.
pub fn listen<'a>(text: &'a [u8], options: &Options<'a>) -> Result<Listener> {
    listen_at(&address::parse(text)?, options)
}

/// Listens at each address of a list; where one fails, at none. `skipped` hears of the optional ones that this host
/// cannot have. A TCP address whose port may be shared (`reuse_port`) gets so many listeners `each`.
pub fn listen_all<'a>(
    text: &'a [u8],
    options: &Options<'a>,
    each: usize,
    mut skipped: impl FnMut(&Error),
) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    let mut last_skipped = None;
    for listed in address::list(text)? {
        let room = listeners.try_reserve(each.max(1)).map_err(|_| Error::system("listen", Errno::NOMEM));
        let first = room.and_then(|()| listen_at(&listed.spec, options));
        match first.and_then(|first| with_copies(&mut listeners, first, &listed.spec, options, each)) {
            Ok(()) => {}
            Err(error) if listed.optional && cannot_be_had(&error) => {
                skipped(&error);
                last_skipped = Some(error);
            }
            Err(error) => {
                listeners.into_iter().for_each(Listener::close);
                return Err(error);
            }
        }
    }
    match (listeners.is_empty(), last_skipped) {
        (true, Some(error)) => Err(error),
        _ => Ok(listeners),
    }
}

/// Adds a listener, and others at the same address where they may share its port.
fn with_copies<'a>(
    listeners: &mut Vec<Listener>,
    first: Listener,
    spec: &Spec<'a>,
    options: &Options<'a>,
    each: usize,
) -> Result<()> {
    let options = options.with_settings(spec)?;
    let shares = matches!(spec.address, Address::Tcp(_)) && options.reuse_port.or(false);
    let wanted = inet::Wanted { protocol: Protocol::Tcp, options: &options, trial: false };
    listeners.push(first);
    for copy in 1..if shares { each } else { 1 } {
        let Some(first) = listeners.len().checked_sub(copy).and_then(|index| listeners.get(index)) else { break };
        let fd = wanted.beside(first.as_fd()).map_err(|error| error.at(spec))?;
        listeners.push(Listener { backlog: options.backlog, copy, ..Listener::new(fd) });
    }
    Ok(())
}

/// Whether the host lacks what the address needs, as opposed to somebody being there already.
pub fn cannot_be_had(error: &Error) -> bool {
    matches!(error.code(), Code::AddressNotAvailable | Code::Unsupported | Code::NameNotFound)
}

fn listen_at<'a>(spec: &Spec<'a>, options: &Options<'a>) -> Result<Listener> {
    let options = options.with_settings(spec)?;
    let wanted = |protocol| inet::Wanted { protocol, options: &options, trial: false };
    let made = match spec.address {
        Address::Tcp(endpoint) => wanted(Protocol::Tcp).at(&endpoint).map(Listener::new),
        Address::Udp(endpoint) => wanted(Protocol::Udp).at(&endpoint).map(Listener::new),
        Address::UnixPath(path) => {
            unix::listen_at_path(path, &options).map(|(fd, file)| Listener { file: Some(file), ..Listener::new(fd) })
        }
        Address::UnixAbstract(name) => unix::listen_at_name(name, &options).map(Listener::new),
        Address::Descriptor(fd) => inherited::descriptor(fd, &options).map(Listener::new),
        Address::Systemd(name) => inherited::systemd(name, &options).map(Listener::new),
    };
    let inherited = matches!(spec.address, Address::Descriptor(_) | Address::Systemd(_));
    made.map(|made| Listener { backlog: options.backlog, inherited, ..made }).map_err(|error| error.at(spec))
}

/// Tries an address without taking it. Of TCP and UDP there is a bound socket then, which nobody can find.
pub fn trial<'a>(spec: &Spec<'a>, options: &Options<'a>) -> Result<Option<OwnedFd>> {
    let wanted = |protocol| inet::Wanted { protocol, options, trial: true };
    let tried = match spec.address {
        Address::Tcp(endpoint) => wanted(Protocol::Tcp).at(&endpoint).map(Some),
        Address::Udp(endpoint) => wanted(Protocol::Udp).at(&endpoint).map(Some),
        Address::UnixPath(path) => unix::try_path(path, options).map(|()| None),
        Address::UnixAbstract(name) => unix::try_name(name).map(|()| None),
        Address::Descriptor(fd) => inherited::find(fd).map(|_| None),
        Address::Systemd(name) => inherited::find_passed(name).map(|_| None),
    };
    tried.map_err(|error| error.at(spec))
}

/// Closes a listener that [`Listener::release`] gave away, and removes its file if that is still ours.
pub fn unlisten(listener: OwnedFd) {
    if let Some(file) = unix::recall(listener.as_fd()) {
        file.remove();
    }
}

/// The port that a socket is bound to.
pub fn local_port(socket: BorrowedFd<'_>) -> Result<u16> {
    let address = local(socket)?;
    let port = match std::net::SocketAddr::try_from(address.clone()) {
        Ok(address) => address.port(),
        Err(_) => {
            return Err(Error::system("getsockname", Errno::AFNOSUPPORT)
                .with_code(Code::InvalidArgument)
                .because(format_args!("{} has no port", address::display(&address))));
        }
    };
    if port == 0 {
        return Err(Error::system("getsockname", Errno::ADDRNOTAVAIL)
            .with_code(Code::InvalidArgument)
            .because(format_args!("the socket is not bound")));
    }
    Ok(port)
}

/// The address that a socket is bound to.
pub fn local_address(socket: BorrowedFd<'_>) -> Result<Text> {
    Ok(address::display(&local(socket)?))
}

/// The address of the other end.
pub fn peer_address(socket: BorrowedFd<'_>) -> Result<Text> {
    let peer = rustix::net::getpeername(socket).map_err(|errno| Error::system("getpeername", errno))?;
    Ok(peer.as_ref().map(address::display).unwrap_or_default())
}

fn local(socket: BorrowedFd<'_>) -> Result<SocketAddrAny> {
    rustix::net::getsockname(socket).map_err(|errno| Error::system("getsockname", errno))
}

/// The steps that every kind of socket shares: made close-on-exec from the first instant, and the hook before bind.
fn make_socket(
    family: AddressFamily,
    kind: rustix::net::SocketType,
    protocol: Option<rustix::net::Protocol>,
    options: &Options<'_>,
) -> std::result::Result<OwnedFd, Errno> {
    use rustix::net::SocketFlags;
    let mut flags = SocketFlags::empty();
    flags.set(SocketFlags::CLOEXEC, options.close_on_exec.or(true));
    flags.set(SocketFlags::NONBLOCK, options.nonblocking.or(false));
    let socket = rustix::io::retry_on_intr(|| rustix::net::socket_with(family, kind, flags, protocol))?;
    Ok(crate::sys::above_standard(socket))
}

fn before_bind(socket: BorrowedFd<'_>, options: &Options<'_>) -> Result<()> {
    use std::os::fd::AsRawFd;
    let Some(hook) = &options.before_bind else { return Ok(()) };
    hook.call(socket.as_raw_fd()).map_err(|errno| {
        Error::system("before_bind", errno).because(format_args!("the program's before_bind stopped the call"))
    })
}

/// The backlog to ask listen(2) for: by default more than any system grants, so that it gives its most.
fn backlog(options: &Options<'_>) -> i32 {
    options.backlog.unwrap_or(i32::MAX)
}
