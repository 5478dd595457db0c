//! This thread's last error, as C sees it.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char};
use std::fmt::{self, Write};

use crate::error::{Code, Error};
use crate::sys;

/// A failure: its code, errno, operation, address, message and hint. Opaque; read it with the oyez_error_ functions.
pub struct oyez_error {
    pub(super) code: Code,
    pub(super) errno: i32,
    pub(super) operation: Line<32>,
    pub(super) address: Line<256>,
    pub(super) message: Line<768>,
    pub(super) hint: Line<1024>,
}

impl oyez_error {
    const NONE: oyez_error = oyez_error {
        code: Code::Ok,
        errno: 0,
        operation: Line::EMPTY,
        address: Line::EMPTY,
        message: Line::EMPTY,
        hint: Line::EMPTY,
    };
}

/// A NUL-terminated text of a fixed size, so that recording an error allocates nothing; what is too long is cut.
pub(super) struct Line<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Line<N> {
    const EMPTY: Self = Self { bytes: [0; N], length: 0 };

    pub(super) fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }

    pub(super) fn as_str(&self) -> &str {
        let text = CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default();
        text.to_str().unwrap_or_default()
    }

    fn set(&mut self, text: impl fmt::Display) {
        *self = Self::EMPTY;
        let _ = write!(self, "{text}");
    }
}

impl<const N: usize> Write for Line<N> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = N.saturating_sub(self.length).saturating_sub(1);
        let fitting = part.get(..part.floor_char_boundary(room)).unwrap_or(part);
        for (place, byte) in self.bytes.iter_mut().skip(self.length).zip(fitting.bytes()) {
            *place = byte;
        }
        self.length += fitting.len();
        if fitting.len() < part.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

thread_local! {
    // No destructor and no allocation: the record is part of the thread's own block, so it can be written when memory
    // is short and read until the thread is gone.
    static LAST: UnsafeCell<oyez_error> = const { UnsafeCell::new(oyez_error::NONE) };
}

/// Where this thread's record is. It stays there as long as the thread lives.
pub(super) fn get() -> *const oyez_error {
    LAST.with(|last| last.get().cast_const())
}

/// Records a failure and sets errno.
pub(super) fn set(error: &Error) {
    LAST.with(|last| {
        // SAFETY: only this thread reaches its record, and no other reference to it lives here: C holds pointers,
        // which the documentation of oyez_last_error() ends with the next failing call.
        let last = unsafe { &mut *last.get() };
        last.code = error.code();
        last.errno = error.errno().map_or(0, |errno| errno.raw_os_error());
        last.operation.set(error.operation());
        last.address.set(error.address());
        last.message.set(error);
        last.hint.set(error.hint_text());
    });
    sys::set_errno(error.errno_or_stand_in());
}
