//! Small files of the system, read into a buffer of the caller's: nothing is allocated.

use std::ffi::CStr;
use std::fmt::Display;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{read as read_some, retry_on_intr};

use crate::text::Line;

/// The front of a file, as far as the buffer reaches; `None` where it cannot be read.
pub fn read_bytes<'b>(path: &CStr, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let file = retry_on_intr(|| openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())).ok()?;
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match retry_on_intr(|| read_some(&file, &mut *rest)).ok()? {
            0 => break,
            count => length += count,
        }
    }
    buffer.get(..length)
}

/// The same as text.
pub fn read<'b>(path: &CStr, buffer: &'b mut [u8]) -> Option<&'b str> {
    read_bytes(path, buffer).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

/// A file that holds one number.
pub fn read_number(path: &CStr) -> Option<u64> {
    let mut buffer = [0; 32];
    read(path, &mut buffer)?.trim_ascii().parse().ok()
}

/// What a process calls itself: any bytes.
pub fn process_name(pid: impl Display, buffer: &mut [u8]) -> Option<&[u8]> {
    let mut path = Line::<40>::new();
    path.set(format_args!("/proc/{pid}/comm"));
    read_bytes(path.as_c_str(), buffer).map(<[u8]>::trim_ascii_end)
}
