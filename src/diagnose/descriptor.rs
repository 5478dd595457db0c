//! What an open descriptor is, in words, and which of them are listening sockets.

use std::fmt::{self, Display, Formatter};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{CWD, FileType, fstat, readlinkat_raw};
use rustix::io::fcntl_getfd;
use rustix::net::{AddressFamily, SocketType, getpeername, getsockname, ipproto, sockopt};
use rustix::process::{Pid, test_kill_process};

use super::budget::Budget;
use super::file;
use crate::text::{Escaped, Line};
use crate::{address, sys};

/// Shows what a descriptor is, such as "a pipe" or "a UDP socket bound to 127.0.0.1:53".
pub struct Descriptor<'fd>(pub BorrowedFd<'fd>);

impl Display for Descriptor<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match sockopt::socket_type(self.0) {
            Ok(kind) => write_socket(self.0, kind, out),
            Err(_) => write_file(self.0, out),
        }
    }
}

impl Descriptor<'_> {
    /// Whether it is open at all.
    pub fn is_open(&self) -> bool {
        fcntl_getfd(self.0).is_ok()
    }

    /// Whether it is a socket with another end.
    pub fn is_connected(&self) -> bool {
        getpeername(self.0).is_ok()
    }
}

fn write_socket(socket: BorrowedFd<'_>, kind: SocketType, out: &mut Formatter<'_>) -> fmt::Result {
    write!(out, "{}", Name(socket, kind))?;
    let family = sockopt::socket_domain(socket);
    if !matches!(family, Ok(AddressFamily::INET | AddressFamily::INET6 | AddressFamily::UNIX)) {
        // The addresses of other families have no text.
        return Ok(());
    }
    let local = getsockname(socket).map(|address| address::display(&address)).unwrap_or_default();
    match getpeername(socket) {
        Ok(Some(peer)) if address::display(&peer).as_str() == "unix:" => out.write_str(" that is connected"),
        Ok(Some(peer)) => write!(out, " that is connected to {}", address::display(&peer)),
        _ if is_nowhere(local.as_str()) => out.write_str(" that is not bound"),
        _ => write!(out, " bound to {local}"),
    }?;
    let could_listen = matches!(kind, SocketType::STREAM | SocketType::SEQPACKET);
    let does_not = could_listen && getpeername(socket).is_err() && !sys::socket::is_listening(socket);
    out.write_str(if does_not { " and does not listen" } else { "" })
}

/// Whether a socket has no address yet.
fn is_nowhere(local: &str) -> bool {
    matches!(local, "" | "unix:" | "0.0.0.0:0" | "[::]:0")
}

/// The protocol of a socket, with its article.
struct Name<'fd>(BorrowedFd<'fd>, SocketType);

impl Display for Name<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Self(socket, kind) = *self;
        let family = sockopt::socket_domain(socket).unwrap_or(AddressFamily::UNSPEC);
        let protocol = sockopt::socket_protocol(socket).ok().flatten();
        out.write_str(match (family, kind) {
            (AddressFamily::UNIX, SocketType::STREAM) => "a Unix stream socket",
            (AddressFamily::UNIX, SocketType::DGRAM) => "a Unix datagram socket",
            (AddressFamily::UNIX, _) => "a Unix packet socket (SOCK_SEQPACKET)",
            (AddressFamily::NETLINK, _) => "a netlink socket",
            (AddressFamily::VSOCK, _) => "a vsock socket",
            (AddressFamily::INET | AddressFamily::INET6, SocketType::RAW) => "a raw IP socket",
            (AddressFamily::INET | AddressFamily::INET6, _) => match protocol {
                Some(ipproto::TCP) => "a TCP socket",
                Some(ipproto::MPTCP) => "a Multipath TCP socket",
                Some(ipproto::UDP) => "a UDP socket",
                Some(ipproto::SCTP) => "an SCTP socket",
                _ => "an IP socket",
            },
            (family, kind) => return write!(out, "a socket of family {} and type {}", family.as_raw(), kind.as_raw()),
        })
    }
}

fn write_file(fd: BorrowedFd<'_>, out: &mut Formatter<'_>) -> fmt::Result {
    let mut buffer = [0; 512];
    let link = link(fd, &mut buffer);
    if let Some(name) = link.strip_prefix(b"anon_inode:") {
        return write_anonymous(name, out);
    }
    let kind = fstat(fd).map_or(FileType::Unknown, |found| FileType::from_raw_mode(found.st_mode));
    let words = match kind {
        FileType::Fifo if link.is_empty() || link.starts_with(b"pipe:") => return out.write_str("a pipe"),
        FileType::Fifo => "the named pipe",
        FileType::Directory => "the directory",
        FileType::CharacterDevice | FileType::BlockDevice => "the device",
        FileType::Socket => "opened with O_PATH, the socket file",
        FileType::RegularFile | FileType::Symlink | FileType::Unknown => "the file",
    };
    if link.is_empty() {
        return write!(out, "{words} of a name that cannot be seen without /proc");
    }
    write!(out, "{words} {}", Escaped(link))
}

/// What the kernel calls the file of a descriptor; nothing where /proc is not there.
fn link<'b>(fd: BorrowedFd<'_>, buffer: &'b mut [u8; 512]) -> &'b [u8] {
    let mut path = Line::<40>::new();
    path.set(format_args!("/proc/self/fd/{}", fd.as_raw_fd()));
    let length = readlinkat_raw(CWD, path.as_c_str(), &mut buffer[..]).unwrap_or(0);
    buffer.get(..length).unwrap_or_default()
}

/// Files that have no place in any directory.
fn write_anonymous(name: &[u8], out: &mut Formatter<'_>) -> fmt::Result {
    let words = match name {
        b"[eventpoll]" => "an epoll instance",
        b"[eventfd]" => "an eventfd",
        b"[timerfd]" => "a timerfd",
        b"[signalfd]" => "a signalfd",
        b"[pidfd]" => "a pidfd",
        b"[io_uring]" => "an io_uring",
        b"inotify" => "an inotify instance",
        _ => return write!(out, "the kernel's {}", Escaped(name)),
    };
    out.write_str(words)
}

/// Shows which descriptors of this process are what could be passed as a listener.
pub struct Listening;

impl Listening {
    /// So many are named.
    const SHOWN: usize = 5;
    /// Inherited descriptors have low numbers; looking ends here.
    const HIGHEST: i32 = 4096;

    /// The listening stream sockets.
    fn all() -> impl Iterator<Item = BorrowedFd<'static>> {
        let budget = Budget::new();
        (0..Self::HIGHEST).take_while(move |fd| fd % 128 != 0 || !budget.is_over()).filter_map(|fd| {
            let socket = sys::borrow(fd, "inherit").ok()?;
            let is_one = sys::socket::is_listening(socket) && sockopt::socket_type(socket) == Ok(SocketType::STREAM);
            is_one.then_some(socket)
        })
    }

    /// The first of them.
    pub fn first() -> Option<BorrowedFd<'static>> {
        Self::all().next()
    }
}

impl Display for Listening {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let mut count = 0;
        for socket in Self::all() {
            match count {
                0 => out.write_str("the listening sockets are ")?,
                Self::SHOWN => return out.write_str(", and more"),
                _ => out.write_str(", ")?,
            }
            write!(out, "{} ({})", socket.as_raw_fd(), Local(socket))?;
            count += 1;
        }
        if count == 0 { out.write_str("no descriptor of this process is a listening socket") } else { Ok(()) }
    }
}

/// Shows where a socket is bound.
pub struct Local<'fd>(pub BorrowedFd<'fd>);

impl Display for Local<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}", getsockname(self.0).map(|address| address::display(&address)).unwrap_or_default())
    }
}

/// Shows a process by its number and, where that can be seen, its name: "812 (nginx)".
pub struct Process(pub i32);

impl Process {
    /// Whether there is one of that number.
    pub fn is_running(&self) -> bool {
        // A process of another user answers as well, by EPERM.
        Pid::from_raw(self.0).is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
    }
}

impl Display for Process {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; 64];
        match file::process_name(self.0, &mut buffer) {
            Some(name) if !name.is_empty() => write!(out, "{} ({})", self.0, Escaped(name)),
            _ => write!(out, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn shown(fd: impl AsFd) -> String {
        Descriptor(fd.as_fd()).to_string()
    }

    #[test]
    fn files_are_shown_by_kind_and_name() {
        assert_eq!(shown(File::open("/etc/passwd").unwrap()), "the file /etc/passwd");
        assert_eq!(shown(File::open("/").unwrap()), "the directory /");
        assert_eq!(shown(File::open("/dev/null").unwrap()), "the device /dev/null");
        assert_eq!(shown(rustix::pipe::pipe().unwrap().0), "a pipe");
        let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        assert_eq!(shown(epoll), "an epoll instance");
        let counter = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        assert_eq!(shown(counter), "an eventfd");
    }

    #[test]
    fn sockets_are_shown_with_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(shown(TcpStream::connect(address).unwrap()), format!("a TCP socket that is connected to {address}"));
        assert_eq!(shown(&listener), format!("a TCP socket bound to {address}"));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(shown(&socket), format!("a UDP socket bound to {}", socket.local_addr().unwrap()));
        let fresh = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        assert_eq!(shown(fresh), "a TCP socket that is not bound and does not listen");
        assert_eq!(shown(UnixStream::pair().unwrap().0), "a Unix stream socket that is connected");
    }

    #[test]
    fn processes_are_shown_by_name() {
        let own = Process(rustix::process::getpid().as_raw_nonzero().get());
        assert!(own.is_running());
        assert!(own.to_string().contains(" ("));
        assert!(!Process(i32::MAX).is_running());
        assert_eq!(Process(i32::MAX).to_string(), i32::MAX.to_string());
    }
}
