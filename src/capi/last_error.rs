//! This thread's last error, as C sees it.

use std::cell::UnsafeCell;

use crate::error::{Code, Error};
use crate::sys;
use crate::text::Line;

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
    pub(super) const NONE: oyez_error = oyez_error {
        code: Code::Ok,
        errno: 0,
        operation: Line::new(),
        address: Line::new(),
        message: Line::new(),
        hint: Line::new(),
    };
}

impl oyez_error {
    /// Takes the parts of an error.
    pub(super) fn fill(&mut self, error: &Error) {
        self.code = error.code();
        self.errno = error.errno().map_or(0, |errno| errno.raw_os_error());
        self.operation.set(error.operation());
        self.address.set(error.address());
        self.message.set(error);
        self.hint.set(error.hint_text());
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
        last.fill(error);
    });
    sys::set_errno(error.errno_or_stand_in());
}
