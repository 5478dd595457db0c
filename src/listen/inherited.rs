//! Descriptors that somebody else opened: named by number, or passed by the service manager (sd_listen_fds(3)).

use std::ffi::OsString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};
use rustix::net::{SocketType, sockopt};

use super::{Options, Switch};
use crate::error::{Code, Error, Result};
use crate::sys;
use crate::text::{Escaped, Text};

/// The first descriptor that the service manager passes.
const FIRST: i32 = 3;

/// Takes over an inherited descriptor if it is a listening stream socket; else it is left alone.
pub fn descriptor(fd: i32, options: &Options<'_>) -> Result<OwnedFd> {
    let socket = sys::borrow(fd, "inherit")?;
    check(socket)?;
    apply(socket, options)?;
    Ok(sys::own(socket))
}

/// Checks that a descriptor is what one can accept from, and says what it is where it is not.
pub fn check(socket: BorrowedFd<'_>) -> Result<()> {
    let fd = socket.as_raw_fd();
    let failed = |errno| Error::system("inherit", errno).with_code(Code::InvalidArgument);
    let kind = sockopt::socket_type(socket).map_err(|errno| {
        let what = if errno == Errno::BADF { "is not open" } else { "is not a socket" };
        failed(errno).because(format_args!("descriptor {fd} {what}"))
    })?;
    if kind != SocketType::STREAM {
        return Err(failed(Errno::PROTOTYPE).because(format_args!("descriptor {fd} is not a stream socket")));
    }
    if !crate::accept::is_listening(socket) {
        return Err(failed(Errno::INVAL)
            .because(format_args!("descriptor {fd} is a socket that does not listen"))
            .hint(format_args!("whoever passes it must have called listen(2) on it")));
    }
    Ok(())
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
    let passed = Passed::from_environment()?;
    passed.check_all_open()?;
    let index = match name {
        None => 0,
        Some(name) => passed.index_of(name)?,
    };
    let fd = FIRST + index;
    descriptor(fd, options)
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
        let pid = number("LISTEN_PID")?;
        if pid != rustix::process::getpid().as_raw_nonzero().get() {
            return Err(nothing(format_args!("LISTEN_PID is {pid}, which is another process")));
        }
        let count = plain(count.as_bytes()).filter(|&count| count > 0 && count < i32::MAX - FIRST);
        let count = count.ok_or_else(|| malformed("LISTEN_FDS"))?;
        let passed = Self { count, names: std::env::var_os("LISTEN_FDNAMES") };
        match passed.names().count() {
            names if passed.names.is_some() && names != count as usize => Err(malformed("LISTEN_FDNAMES")
                .because(format_args!("LISTEN_FDNAMES has {names} names for {count} descriptors"))),
            _ => Ok(passed),
        }
    }

    /// What promises more than there is promises something else than was meant.
    fn check_all_open(&self) -> Result<()> {
        for fd in FIRST..FIRST + self.count {
            let socket = sys::borrow(fd, "inherit")?;
            rustix::io::fcntl_getfd(socket).map_err(|errno| {
                Error::system("inherit", errno)
                    .because(format_args!("LISTEN_FDS is {}, and descriptor {fd} is not open", self.count))
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
            let names = self.names.as_ref().map(|names| names.as_bytes()).unwrap_or_default();
            Error::new(Code::NameNotFound, "inherit", format_args!("no socket of that name was passed in"))
                .hint(format_args!("LISTEN_FDNAMES has: {}; FileDescriptorName= sets a name", Escaped(names)))
        })
    }
}

fn number(variable: &'static str) -> Result<i32> {
    let value = std::env::var_os(variable).unwrap_or_default();
    plain(value.as_bytes()).ok_or_else(|| malformed(variable))
}

fn plain(text: &[u8]) -> Option<i32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// Nothing was passed to this process.
fn nothing(cause: std::fmt::Arguments<'_>) -> Error {
    Error::new(Code::NameNotFound, "inherit", cause).hint(format_args!(
        "start the program by a socket unit (systemd.socket(5)), or by `systemd-socket-activate -l ADDRESS PROGRAM`"
    ))
}

fn malformed(variable: &'static str) -> Error {
    let value = std::env::var_os(variable).unwrap_or_default();
    let shown = Text::format(format_args!("{}", Escaped(value.as_bytes())));
    Error::invalid("inherit", format_args!("{variable} is malformed: \"{shown}\""))
        .hint(format_args!("sd_listen_fds(3) says what the service manager sets"))
}
