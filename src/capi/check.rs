//! Checking addresses: `src/check/` for C.

use std::ffi::c_char;

use super::{bytes, copy_text, guard, output};
use crate::check;
use crate::text::Text;

/// Tells in words what would become of addresses, without taking them: whether each could be had, who has it and what
/// to do, the backlog in force, and what this host grants.
///
/// A TCP or UDP address is bound for an instant by socket(2) and bind(2). With TCP nobody notices: it is never told to
/// listen, so that no client finds it, and a server that starts in that instant starts. (Not where either has
/// reuse_address=off, nor with UDP: such a server finds the address in use, and a datagram of that instant is lost.) A
/// Unix path and an inherited descriptor are only looked at. What is seen can be another thing the next moment: a
/// server listens and looks whether that works. Each address is tried by itself: two that are the same can both be had.
///
/// For a person: the wording is no interface. The command "oyez check --json" has the same for programs.
///
/// Parameters
///   addresses  as oyez_serve() takes them: one, or several separated by commas; borrowed
///   text       where to write; NULL where size is 0
///   size       how many bytes there are; 4096 are enough for some addresses
/// Returns
///   >= 0  the length of the whole text, whatever fitted; what fitted is written and terminated. Lines of UTF-8: for
///         each address one that ends in ": can be had", ": cannot be had" or ": cannot be had, and is skipped: it is
///         optional", and below it, set in, what is known about it
///   -1    errno and oyez_last_error() are set
/// Errors
///   OYEZ_INVALID_ADDRESS   the text is no list of addresses; the hint shows where
///   OYEZ_INVALID_ARGUMENT  addresses is NULL; text is NULL and size is not 0
/// Threads: any. Signals: not async-signal-safe.
/// Since 0.1. See bind(2), sock_diag(7), snprintf(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_check(addresses: *const c_char, text: *mut c_char, size: usize) -> i32 {
    guard(|| {
        // SAFETY: the documentation asks for a terminated string.
        let addresses = unsafe { bytes(addresses, "oyez_check", "addresses") }?;
        // SAFETY: the documentation asks for NULL or `size` writable bytes.
        let buffer = unsafe { output(text.cast(), size, "oyez_check") }?;
        let report = check::check(addresses)?;
        Ok(copy_text(&Text::format(format_args!("{report}")), buffer))
    })
}
