//! The C boundary: checks pointers, calls the core, translates the result. No logic lives here.
//!
//! Each export's body is one call of [`guard`]. The files mirror the core's and, in this order, make up
//! `include/oyez.h`; see `tests/header.rs`.
#![allow(unsafe_code)]
#![allow(non_camel_case_types)]
// What the pointers have to be is said in the text of each function, for C.
#![allow(clippy::missing_safety_doc)]
// The texts are those of a C header, not Markdown.
#![allow(clippy::doc_lazy_continuation, clippy::doc_overindented_list_items, rustdoc::all)]

pub mod accept;
pub mod check;
pub mod connection;
pub mod error;
pub mod events;
pub mod last_error;
pub mod listen;
pub mod options;
pub mod server;

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Code, Error, Result};
use crate::text::Text;

/// The value by which a C function of this type says that it failed.
trait Failed {
    const FAILED: Self;
}

impl Failed for i32 {
    const FAILED: Self = -1;
}

impl Failed for isize {
    const FAILED: Self = -1;
}

impl<T> Failed for *mut T {
    const FAILED: Self = std::ptr::null_mut();
}

/// Runs the body of an export: a failure becomes this thread's last error and errno, and no panic gets out.
fn guard<T: Failed>(body: impl FnOnce() -> Result<T>) -> T {
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return value,
        Ok(Err(error)) => error,
        Err(payload) => {
            // Dropping a payload may panic again.
            std::mem::forget(payload);
            Error::new(Code::Internal, "oyez", format_args!("a bug in oyez: a panic was stopped at the boundary"))
        }
    };
    last_error::set(&error);
    T::FAILED
}

/// The bytes of a C string that the caller guarantees, if it is not NULL, to be terminated.
///
/// # Safety
/// `text` is NULL or points to a NUL-terminated string that outlives `'a`.
unsafe fn optional_bytes<'a>(text: *const c_char) -> Option<&'a [u8]> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, so terminated and alive by this function's own contract.
    Some(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// The bytes of a C string that may not be NULL.
///
/// # Safety
/// As [`optional_bytes`].
unsafe fn bytes<'a>(text: *const c_char, function: &'static str, name: &str) -> Result<&'a [u8]> {
    // SAFETY: the same contract.
    unsafe { optional_bytes(text) }.ok_or_else(|| null(function, name))
}

fn null(function: &'static str, name: &str) -> Error {
    Error::invalid(function, format_args!("{name} is NULL"))
}

/// A caller's buffer to read from. NULL is legal where its length is zero.
///
/// # Safety
/// `bytes` is NULL or points to `size` readable bytes that outlive `'a`.
unsafe fn input<'a>(bytes: *const u8, size: usize, function: &'static str) -> Result<&'a [u8]> {
    if size == 0 {
        return Ok(&[]);
    }
    check_buffer(bytes.is_null(), size, function)?;
    // SAFETY: not NULL, `size` bytes long by this function's contract, and no longer than a slice may be.
    Ok(unsafe { std::slice::from_raw_parts(bytes, size) })
}

/// A caller's buffer to write to. NULL is legal where its length is zero.
///
/// # Safety
/// `buffer` is NULL or points to `size` writable bytes that outlive `'a` and that nothing else refers to.
unsafe fn output<'a>(buffer: *mut u8, size: usize, function: &'static str) -> Result<&'a mut [MaybeUninit<u8>]> {
    if size == 0 {
        return Ok(&mut []);
    }
    check_buffer(buffer.is_null(), size, function)?;
    // SAFETY: not NULL, `size` bytes long by this function's contract, and no longer than a slice may be.
    Ok(unsafe { std::slice::from_raw_parts_mut(buffer.cast(), size) })
}

fn check_buffer(is_null: bool, size: usize, function: &'static str) -> Result<()> {
    if is_null {
        return Err(Error::invalid(function, format_args!("the buffer is NULL and its size is {size}")));
    }
    if isize::try_from(size).is_err() {
        return Err(Error::invalid(function, format_args!("a size of {size} is more than any buffer has")));
    }
    Ok(())
}

/// Writes `text` by snprintf's rules: what fits is written and terminated, the whole length is returned.
fn copy_text(text: &Text, buffer: &mut [MaybeUninit<u8>]) -> i32 {
    let bytes = text.as_str().as_bytes();
    if let Some(room) = buffer.len().checked_sub(1) {
        let fitting = bytes.iter().take(room).copied();
        for (place, byte) in buffer.iter_mut().zip(fitting.chain(std::iter::once(0))) {
            place.write(byte);
        }
    }
    i32::try_from(bytes.len()).unwrap_or(i32::MAX)
}
