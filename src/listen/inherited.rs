//! Descriptors that somebody else opened: named by number, or passed by the service manager (sd_listen_fds(3)).

use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};
use std::iter::{once, repeat};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};
use rustix::net::{SocketType, sockopt};
use rustix::process::getppid;

use super::{Options, Switch};
use crate::diagnose::{Descriptor, Listening, Local, Process};
use crate::error::{Code, Error, Result};
use crate::sys;
use crate::text::{Escaped, Text};

/// The first descriptor that the service manager passes.
const FIRST: i32 = 3;

/// Takes over an inherited descriptor if it is a listening stream socket; else it is left alone.
pub fn descriptor(fd: i32, options: &Options<'_>) -> Result<OwnedFd> {
    take(find(fd)?, options)
}

/// The inherited descriptor, left alone.
pub fn find(fd: i32) -> Result<BorrowedFd<'static>> {
    let socket = sys::borrow(fd, "inherit")?;
    check(socket)?;
    Ok(socket)
}

fn take(socket: BorrowedFd<'_>, options: &Options<'_>) -> Result<OwnedFd> {
    apply(socket, options)?;
    Ok(sys::own(socket))
}

/// Checks that a descriptor is what one can accept from, and says what it is where it is not.
pub fn check(socket: BorrowedFd<'_>) -> Result<()> {
    let fd = socket.as_raw_fd();
    let what = Descriptor(socket);
    let failed = |errno| Error::system("inherit", errno).with_code(Code::InvalidArgument);
    let kind = sockopt::socket_type(socket).map_err(|errno| match what.is_open() {
        true => hint_to_pass(failed(errno).because(format_args!("descriptor {fd} is {what}, not a socket"))),
        false => hint_to_pass(failed(errno).because(format_args!("descriptor {fd} is not open; {Listening}"))),
    })?;
    if kind != SocketType::STREAM {
        let error = failed(Errno::PROTOTYPE);
        return Err(hint_to_pass(error.because(format_args!("descriptor {fd} is {what}, not a stream socket"))));
    }
    if !sys::socket::is_listening(socket) {
        let error = failed(Errno::INVAL).because(format_args!("descriptor {fd} is {what}"));
        return Err(match what.is_connected() {
            true => error.hint(format_args!(
                "it is a connection: pass the listening socket itself (Accept=no in a socket unit, wait in inetd.conf)"
            )),
            false => error.hint(format_args!("whoever passes it must have called listen(2) on it")),
        });
    }
    Ok(())
}

/// What may have been meant instead.
fn hint_to_pass(error: Error) -> Error {
    match Listening::first() {
        Some(socket) => error.hint(format_args!(
            "if {} was meant, the address is fd:{}; else whoever starts the program must pass a listening socket, \
             without close-on-exec",
            Local(socket),
            socket.as_raw_fd()
        )),
        None => error.hint(format_args!(
            "whoever starts the program must pass a listening stream socket under that number, without close-on-exec"
        )),
    }
}

/// What can still be set on a socket that listens, where it was asked for.
fn apply(socket: BorrowedFd<'_>, options: &Options<'_>) -> Result<()> {
    let failed = |errno| Error::system("fcntl", errno);
    let close_on_exec = if options.close_on_exec.or(true) { FdFlags::CLOEXEC } else { FdFlags::empty() };
    rustix::io::fcntl_setfd(socket, close_on_exec).map_err(failed)?;
    if options.nonblocking != Switch::Default {
        set_nonblocking(socket, options.nonblocking == Switch::On).map_err(failed)?;
    }
    if let Some(backlog) = options.backlog {
        // On a socket that listens already this changes the backlog alone.
        rustix::net::listen(socket, backlog).map_err(|errno| Error::system("listen", errno))?;
    }
    Ok(())
}

/// Sets or clears O_NONBLOCK, for everybody who shares the socket.
pub fn set_nonblocking(socket: BorrowedFd<'_>, on: bool) -> std::result::Result<(), Errno> {
    let mut flags = rustix::fs::fcntl_getfl(socket)?;
    if flags.contains(OFlags::NONBLOCK) == on {
        return Ok(());
    }
    flags.set(OFlags::NONBLOCK, on);
    rustix::fs::fcntl_setfl(socket, flags)
}

/// The first socket that the service manager passed, or the one of that name.
pub fn systemd(name: Option<&str>, options: &Options<'_>) -> Result<OwnedFd> {
    take(find_passed(name)?, options)
}

/// The same, left alone.
pub fn find_passed(name: Option<&str>) -> Result<BorrowedFd<'static>> {
    let passed = Passed::from_environment()?;
    passed.check_all_open()?;
    let index = match name {
        None => 0,
        Some(name) => passed.index_of(name)?,
    };
    find(FIRST + index)
}

/// What LISTEN_FDS and its companions say.
struct Passed {
    count: i32,
    names: Option<OsString>,
}

impl Passed {
    fn from_environment() -> Result<Self> {
        let Some(count) = std::env::var_os("LISTEN_FDS") else {
            return Err(nothing(format_args!("LISTEN_FDS is not set")));
        };
        check_pid()?;
        let count = plain(count.as_bytes()).filter(|&count| count > 0 && count < i32::MAX - FIRST);
        let count = count.ok_or_else(|| malformed("LISTEN_FDS", "a count from 1 on"))?;
        let passed = Self { count, names: std::env::var_os("LISTEN_FDNAMES") };
        match passed.names().count() {
            names if passed.names.is_some() && names != count as usize => {
                Err(malformed("LISTEN_FDNAMES", "as many names as LISTEN_FDS says, with colons between them")
                    .because(format_args!("LISTEN_FDNAMES has {names} names, and LISTEN_FDS is {count}; {passed}")))
            }
            _ => Ok(passed),
        }
    }

    /// What promises more than there is promises something else than was meant.
    fn check_all_open(&self) -> Result<()> {
        for fd in FIRST..FIRST + self.count {
            let socket = sys::borrow(fd, "inherit")?;
            rustix::io::fcntl_getfd(socket).map_err(|errno| {
                Error::system("inherit", errno)
                    .because(format_args!("LISTEN_FDS is {}, and descriptor {fd} is not open; {Listening}", self.count))
                    .hint(format_args!(
                        "the sockets are the descriptors from {FIRST} on: something closed one before, such as a \
                         wrapper or a second use of `systemd:`"
                    ))
            })?;
        }
        Ok(())
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.names.iter().flat_map(|names| names.as_bytes().split(|&byte| byte == b':'))
    }

    fn index_of(&self, name: &str) -> Result<i32> {
        let index = self.names().position(|candidate| candidate == name.as_bytes());
        index.and_then(|index| i32::try_from(index).ok()).filter(|&index| index < self.count).ok_or_else(|| {
            Error::new(Code::NameNotFound, "inherit", format_args!("no socket of that name was passed in; {self}"))
                .hint(format_args!(
                    "FileDescriptorName= in the socket unit sets a name; `systemd:` takes the first socket, fd:N that \
                     of a number"
                ))
        })
    }
}

impl Display for Passed {
    /// The names, each with its descriptor.
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        /// So many are shown.
        const SHOWN: usize = 8;
        if self.names.is_none() {
            return out.write_str("LISTEN_FDNAMES is not set, so that the sockets have no names");
        }
        out.write_str("the names are ")?;
        for ((fd, name), comma) in (FIRST..).zip(self.names()).zip(once("").chain(repeat(", "))).take(SHOWN) {
            write!(out, "{comma}{} (descriptor {fd})", Escaped(name))?;
        }
        out.write_str(if self.names().count() > SHOWN { ", and more" } else { "" })
    }
}

/// Checks that what was passed was passed to this process.
fn check_pid() -> Result<()> {
    let Some(value) = std::env::var_os("LISTEN_PID") else {
        return Err(Error::invalid("inherit", format_args!("LISTEN_FDS is set, but LISTEN_PID is not"))
            .hint(format_args!("whoever passes sockets sets both; unset LISTEN_FDS where it was only left over")));
    };
    let pid = plain(value.as_bytes()).ok_or_else(|| malformed("LISTEN_PID", "the number of a process"))?;
    let own = rustix::process::getpid().as_raw_nonzero().get();
    if pid == own { Ok(()) } else { Err(meant_for_another(&Process(pid), own)) }
}

fn meant_for_another(other: &Process, own: i32) -> Error {
    let state = if other.is_running() { "" } else { ", which is not running" };
    let error = Error::new(
        Code::NameNotFound,
        "inherit",
        format_args!("LISTEN_PID is {other}{state}, this process is {own}: the sockets were passed to another process"),
    );
    let is_parent = getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == other.0);
    match (is_parent, other.is_running()) {
        (true, _) => error.hint(format_args!(
            "it is the parent of this process: a shell or wrapper in between must start the program by `exec`, so that \
             it keeps the number"
        )),
        (false, true) => error.hint(format_args!(
            "the variables were inherited from it: unset LISTEN_PID and LISTEN_FDS, or pass the sockets to this process"
        )),
        (false, false) => error.hint(format_args!(
            "a wrapper that started this process and ended must `exec` it instead; in a container the number is another"
        )),
    }
}

fn plain(text: &[u8]) -> Option<i32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// Nothing was passed to this process.
fn nothing(cause: fmt::Arguments<'_>) -> Error {
    Error::new(Code::NameNotFound, "inherit", cause).hint(format_args!(
        "start the program by a socket unit (systemd.socket(5)), or by `systemd-socket-activate -l ADDRESS PROGRAM`"
    ))
}

fn malformed(variable: &'static str, expected: &'static str) -> Error {
    let value = std::env::var_os(variable).unwrap_or_default();
    let shown = Text::format(format_args!("{}", Escaped(value.as_bytes())));
    Error::invalid("inherit", format_args!("{variable} is malformed: \"{shown}\""))
        .hint(format_args!("it is {expected}, as sd_listen_fds(3) says"))
}
