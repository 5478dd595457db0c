//! Errors: `src/error.rs` for C.

use std::ffi::c_char;
use std::fmt::Write;

use super::last_error::{self, oyez_error};
use super::{copy_text, guard, optional_bytes, output};
use crate::error::Code;
use crate::sys;
use crate::text::{Escaped, Text};

/// No failure.
pub const OYEZ_OK: i32 = 0;
/// A parameter is out of its range, NULL where it may not be, or does not fit the descriptor.
pub const OYEZ_INVALID_ARGUMENT: i32 = 1;
/// A text that is no address; the hint shows where.
pub const OYEZ_INVALID_ADDRESS: i32 = 2;
/// A host, service, user, group or inherited socket of that name does not exist.
pub const OYEZ_NAME_NOT_FOUND: i32 = 3;
/// Somebody listens there already.
pub const OYEZ_ADDRESS_IN_USE: i32 = 4;
/// This host does not have the address or the interface.
pub const OYEZ_ADDRESS_NOT_AVAILABLE: i32 = 5;
/// The system does not permit it.
pub const OYEZ_PERMISSION_DENIED: i32 = 6;
/// Descriptors, memory, threads or another bound is used up.
pub const OYEZ_LIMIT_REACHED: i32 = 7;
/// The kernel, or this build of oyez, cannot do it.
pub const OYEZ_UNSUPPORTED: i32 = 8;
/// Nothing happened within the time allowed.
pub const OYEZ_TIMED_OUT: i32 = 9;
/// The server is stopping or has stopped.
pub const OYEZ_STOPPED: i32 = 10;
/// Closed by the peer, or a handle that is gone.
pub const OYEZ_CLOSED: i32 = 11;
/// Turned away by the allow and deny rules or by a limit.
pub const OYEZ_REFUSED: i32 = 12;
/// TLS failed.
pub const OYEZ_TLS: i32 = 13;
/// The peer does not speak the protocol that was asked for.
pub const OYEZ_PROTOCOL: i32 = 14;
/// A handle of the parent, used in a child that fork(2) made.
pub const OYEZ_FORKED: i32 = 15;
/// Any other error of the system; see the errno.
pub const OYEZ_SYSTEM: i32 = 16;
/// A bug in oyez.
pub const OYEZ_INTERNAL: i32 = 17;

/// The version of the library that is running, such as "0.1.0". The header's own is OYEZ_VERSION.
///
/// Returns a string that lives as long as the process; never NULL.
/// Threads: any. Signals: async-signal-safe. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// This thread's last error.
///
/// Returns
///   a record of this thread; never NULL. Its code is OYEZ_OK where no call of this thread has failed yet. A call
///   that succeeds leaves it as it is. The record and the strings read from it live until this thread's next
///   failing call, or its end.
/// Threads: each has its own. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_last_error() -> *const oyez_error {
    last_error::get()
}

/// The record that `error` means.
///
/// # Safety
/// `error` is NULL or came from oyez and is still alive.
unsafe fn record<'a>(error: *const oyez_error) -> &'a oyez_error {
    let error = if error.is_null() { last_error::get() } else { error };
    // SAFETY: not NULL; alive by this function's contract or because it is this thread's own.
    unsafe { &*error }
}

/// The kind of a failure: OYEZ_OK, OYEZ_ADDRESS_IN_USE, ...
///
/// Parameters
///   error  an error of oyez; borrowed; NULL = this thread's last
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_error_code(error: *const oyez_error) -> i32 {
    // SAFETY: the documentation asks for NULL or a living error.
    let record = unsafe { record(error) };
    record.code as i32
}

/// The system's errno that the failure came from; 0 where oyez found the fault itself.
///
/// Parameters
///   error  an error of oyez; borrowed; NULL = this thread's last
/// Since 0.1. See errno(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_error_errno(error: *const oyez_error) -> i32 {
    // SAFETY: the documentation asks for NULL or a living error.
    let record = unsafe { record(error) };
    record.errno
}

/// The step that failed: "resolve", "socket", "setsockopt", "bind", "listen", "accept", ...
///
/// Where a parameter was at fault it is the name of the function.
///
/// Parameters
///   error  an error of oyez; borrowed; NULL = this thread's last
/// Returns a string, "" where there is no error; never NULL. It lives as long as the error.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_error_operation(error: *const oyez_error) -> *const c_char {
    // SAFETY: the documentation asks for NULL or a living error.
    let record = unsafe { record(error) };
    record.operation.as_c_str().as_ptr()
}

/// The address that the failure is about, such as "0.0.0.0:9000"; "" where there is none.
///
/// Parameters
///   error  an error of oyez; borrowed; NULL = this thread's last
/// Returns a string; never NULL. It lives as long as the error.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_error_address(error: *const oyez_error) -> *const c_char {
    // SAFETY: the documentation asks for NULL or a living error.
    let record = unsafe { record(error) };
    record.address.as_c_str().as_ptr()
}

/// The failure in one line for a log: operation, address, the system's words, the cause where it is known.
///
/// Parameters
///   error  an error of oyez; borrowed; NULL = this thread's last
/// Returns a string of UTF-8 without control characters, "" where there is no error; never NULL. It lives as long as
/// the error.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_error_message(error: *const oyez_error) -> *const c_char {
    // SAFETY: the documentation asks for NULL or a living error.
    let record = unsafe { record(error) };
    record.message.as_c_str().as_ptr()
}

/// What to do next; "" where nothing is known. It may have more than one line: a malformed address is shown with a
/// caret under the fault.
///
/// Parameters
///   error  an error of oyez; borrowed; NULL = this thread's last
/// Returns a string of UTF-8; never NULL. It lives as long as the error.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_error_hint(error: *const oyez_error) -> *const c_char {
    // SAFETY: the documentation asks for NULL or a living error.
    let record = unsafe { record(error) };
    record.hint.as_c_str().as_ptr()
}

/// The name of a code, such as "OYEZ_ADDRESS_IN_USE".
///
/// Parameters
///   code  what oyez_error_code() returned
/// Returns a string that lives as long as the process; "OYEZ_UNKNOWN" for a number that is no code; never NULL.
/// Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_code_name(code: i32) -> *const c_char {
    let known = usize::try_from(code).ok().and_then(|number| Code::ALL.get(number));
    known.map_or(c"OYEZ_UNKNOWN", |code| code.name()).as_ptr()
}

/// Writes this thread's last error to standard error: "prefix: message", then "  hint: ..." where there is one.
///
/// What cannot be written is dropped; SIGPIPE is not raised.
///
/// Parameters
///   prefix  the program's name, say; NULL or "" = no prefix
/// Since 0.1. See perror(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_perror(prefix: *const c_char) {
    // SAFETY: the documentation asks for NULL or a terminated string.
    let prefix = unsafe { optional_bytes(prefix) }.unwrap_or_default();
    let mut text = Text::new();
    if !prefix.is_empty() {
        let _ = write!(text, "{}: ", Escaped(prefix));
    }
    let _ = writeln!(text, "{}", last_text());
    sys::write_standard_error(text.as_str().as_bytes());
}

/// This thread's last error in words: its message, and below it the hint where there is one.
///
/// This is how a language without C strings reads an error.
///
/// Parameters
///   text  where to write; NULL where size is 0
///   size  how many bytes there are
/// Returns
///   >= 0  the length of the whole text, whatever fitted; what fitted is written and terminated
///   -1    errno and oyez_last_error() are set
/// Errors
///   OYEZ_INVALID_ARGUMENT  text is NULL and size is not 0
/// Since 0.1. See snprintf(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_error_text(text: *mut c_char, size: usize) -> i32 {
    // The text is made before anything can fail and replace it.
    let last = last_text();
    guard(|| {
        // SAFETY: the documentation asks for NULL or `size` writable bytes.
        let buffer = unsafe { output(text.cast(), size, "oyez_error_text") }?;
        Ok(copy_text(&last, buffer))
    })
}

/// Message and hint; the hint's lines are set in, so that a caret stays below its fault.
fn last_text() -> Text {
    // SAFETY: NULL means this thread's own record.
    let last = unsafe { record(std::ptr::null()) };
    let mut text = Text::from(last.message.as_str());
    let mut lead = "\n  hint: ";
    for line in last.hint.as_str().lines() {
        let _ = write!(text, "{lead}{line}");
        lead = "\n        ";
    }
    text
}
