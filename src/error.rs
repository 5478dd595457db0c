//! What went wrong: the code, the failing operation, the address, the system's errno, and what to do next.
//!
//! An error is made where the failure happens and carries the errno from there; its text is put together here and
//! nowhere else.

use std::ffi::CStr;
use std::fmt;

use rustix::io::Errno;

use crate::text::Text;

/// The kind of a failure. A number never changes once released; new ones are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// No failure.
    Ok = 0,
    /// A parameter is out of its range, NULL where it may not be, or does not fit the descriptor.
    InvalidArgument = 1,
    /// A text that is no address.
    InvalidAddress = 2,
    /// A host, service, user or inherited socket of that name does not exist.
    NameNotFound = 3,
    /// Somebody listens there already.
    AddressInUse = 4,
    /// This host does not have the address.
    AddressNotAvailable = 5,
    /// The system does not permit it.
    PermissionDenied = 6,
    /// Descriptors, memory, threads or another bound is used up.
    LimitReached = 7,
    /// The kernel, or this build, cannot do it.
    Unsupported = 8,
    /// Nothing happened within the time allowed.
    TimedOut = 9,
    /// The server is stopping or has stopped.
    Stopped = 10,
    /// Closed by the peer, or a handle that is gone.
    Closed = 11,
    /// Turned away by a rule or a limit.
    Refused = 12,
    /// TLS failed.
    Tls = 13,
    /// The peer does not speak the protocol that was asked for.
    Protocol = 14,
    /// A handle of the parent, used in a child that fork made.
    Forked = 15,
    /// Any other error of the system.
    System = 16,
    /// A bug in oyez.
    Internal = 17,
}

impl Code {
    /// Every code, in the order of its number.
    pub const ALL: [Code; 18] = [
        Code::Ok,
        Code::InvalidArgument,
        Code::InvalidAddress,
        Code::NameNotFound,
        Code::AddressInUse,
        Code::AddressNotAvailable,
        Code::PermissionDenied,
        Code::LimitReached,
        Code::Unsupported,
        Code::TimedOut,
        Code::Stopped,
        Code::Closed,
        Code::Refused,
        Code::Tls,
        Code::Protocol,
        Code::Forked,
        Code::System,
        Code::Internal,
    ];

    /// The code's name in C.
    pub fn name(self) -> &'static CStr {
        match self {
            Code::Ok => c"OYEZ_OK",
            Code::InvalidArgument => c"OYEZ_INVALID_ARGUMENT",
            Code::InvalidAddress => c"OYEZ_INVALID_ADDRESS",
            Code::NameNotFound => c"OYEZ_NAME_NOT_FOUND",
            Code::AddressInUse => c"OYEZ_ADDRESS_IN_USE",
            Code::AddressNotAvailable => c"OYEZ_ADDRESS_NOT_AVAILABLE",
            Code::PermissionDenied => c"OYEZ_PERMISSION_DENIED",
            Code::LimitReached => c"OYEZ_LIMIT_REACHED",
            Code::Unsupported => c"OYEZ_UNSUPPORTED",
            Code::TimedOut => c"OYEZ_TIMED_OUT",
            Code::Stopped => c"OYEZ_STOPPED",
            Code::Closed => c"OYEZ_CLOSED",
            Code::Refused => c"OYEZ_REFUSED",
            Code::Tls => c"OYEZ_TLS",
            Code::Protocol => c"OYEZ_PROTOCOL",
            Code::Forked => c"OYEZ_FORKED",
            Code::System => c"OYEZ_SYSTEM",
            Code::Internal => c"OYEZ_INTERNAL",
        }
    }

    /// The code that an errno of any system call means.
    pub fn of(errno: Errno) -> Self {
        match errno {
            Errno::ADDRINUSE => Code::AddressInUse,
            Errno::ADDRNOTAVAIL | Errno::NODEV => Code::AddressNotAvailable,
            Errno::ACCESS | Errno::PERM => Code::PermissionDenied,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::NOSPC => Code::LimitReached,
            Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::NOPROTOOPT | Errno::OPNOTSUPP | Errno::NOSYS => {
                Code::Unsupported
            }
            Errno::AGAIN | Errno::TIMEDOUT => Code::TimedOut,
            Errno::PIPE | Errno::CONNRESET | Errno::CONNABORTED | Errno::NOTCONN => Code::Closed,
            Errno::BADF | Errno::NOTSOCK | Errno::INVAL | Errno::FAULT => Code::InvalidArgument,
            Errno::CANCELED => Code::Stopped,
            _ => Code::System,
        }
    }

    /// The errno that a C caller sees where the system gave none.
    fn stand_in_errno(self) -> Errno {
        match self {
            Code::TimedOut => Errno::AGAIN,
            Code::Closed => Errno::BADF,
            Code::Stopped => Errno::CANCELED,
            Code::Forked | Code::PermissionDenied => Errno::PERM,
            Code::LimitReached => Errno::NOBUFS,
            Code::NameNotFound => Errno::NOENT,
            Code::AddressInUse => Errno::ADDRINUSE,
            Code::AddressNotAvailable => Errno::ADDRNOTAVAIL,
            Code::Unsupported => Errno::OPNOTSUPP,
            Code::Tls | Code::Protocol => Errno::PROTO,
            Code::Refused => Errno::CONNREFUSED,
            Code::Ok | Code::InvalidArgument | Code::InvalidAddress | Code::System | Code::Internal => Errno::INVAL,
        }
    }
}

/// A failure, as the core reports it.
#[derive(Clone, Debug)]
pub struct Error {
    code: Code,
    errno: Option<Errno>,
    operation: &'static str,
    address: Text,
    cause: Text,
    hint: Text,
}

/// What every fallible function of the core returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failed system call.
    pub fn system(operation: &'static str, errno: Errno) -> Self {
        Self { errno: Some(errno), ..Self::new(Code::of(errno), operation, format_args!("")) }
    }

    /// A failure that oyez found itself; `cause` says what is wrong.
    pub fn new(code: Code, operation: &'static str, cause: fmt::Arguments<'_>) -> Self {
        Self { code, errno: None, operation, address: Text::new(), cause: Text::format(cause), hint: Text::new() }
    }

    /// A parameter that cannot be meant.
    pub fn invalid(operation: &'static str, cause: fmt::Arguments<'_>) -> Self {
        Self::new(Code::InvalidArgument, operation, cause)
    }

    /// The same error with the address it is about.
    pub fn at(mut self, address: impl fmt::Display) -> Self {
        if self.address.is_empty() {
            self.address = Text::format(format_args!("{address}"));
        }
        self
    }

    /// The same error with what to do next; an earlier hint stays.
    pub fn hint(mut self, hint: fmt::Arguments<'_>) -> Self {
        if self.hint.is_empty() {
            self.hint = Text::format(hint);
        }
        self
    }

    /// The same error with its cause in words, said behind the system's.
    pub fn because(mut self, cause: fmt::Arguments<'_>) -> Self {
        self.cause = Text::format(cause);
        self
    }

    /// The same error with more in words about its cause.
    pub fn and_because(self, more: fmt::Arguments<'_>) -> Self {
        let cause = self.cause.clone();
        if cause.is_empty() { self.because(more) } else { self.because(format_args!("{cause}; {more}")) }
    }

    /// The same error under another code.
    pub fn with_code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// The same error with an errno that a C caller is to see.
    pub fn with_errno(mut self, errno: Errno) -> Self {
        self.errno = Some(errno);
        self
    }

    /// The kind of the failure.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The system's errno, where a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        self.errno
    }

    /// The errno for a C caller: the system's, or one that fits the code; never 0.
    pub fn errno_or_stand_in(&self) -> Errno {
        self.errno.unwrap_or_else(|| self.code.stand_in_errno())
    }

    /// The failing step: `bind`, `accept`, ...
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The address that the failure is about; empty where there is none.
    pub fn address(&self) -> &str {
        self.address.as_str()
    }

    /// What to do next; empty where nothing is known.
    pub fn hint_text(&self) -> &str {
        self.hint.as_str()
    }
}

impl fmt::Display for Error {
    /// One line: operation, address, the system's words, the cause.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.operation)?;
        if !self.address.is_empty() {
            write!(out, " {}", self.address)?;
        }
        if let Some(errno) = self.errno {
            write!(out, ": {}", SystemWords(errno))?;
        }
        if self.cause.is_empty() { Ok(()) } else { write!(out, ": {}", self.cause) }
    }
}

impl std::error::Error for Error {}

/// The words of strerror(3), without the number that the standard library puts behind them.
pub struct SystemWords(pub Errno);

impl fmt::Display for SystemWords {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::sys::write_errno_text(self.0, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_with_every_part() {
        let error = Error::system("bind", Errno::ADDRINUSE).at("127.0.0.1:80").because(format_args!("held"));
        assert_eq!(error.to_string(), "bind 127.0.0.1:80: Address already in use: held");
        let error = Error::invalid("oyez_listen", format_args!("address is NULL"));
        assert_eq!(error.to_string(), "oyez_listen: address is NULL");
    }

    #[test]
    fn every_code_has_its_place_and_an_errno() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
            assert_ne!(Error::new(code, "x", format_args!("")).errno_or_stand_in().raw_os_error(), 0);
        }
    }
}
