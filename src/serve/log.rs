//! What a server reports to its program. Nothing is printed.

use std::ffi::CStr;
use std::fmt::{self, Write};
use std::sync::Arc;

/// How much a report matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something for a developer.
    Debug,
    /// Something that happened as it should.
    Info,
    /// Something that an operator should look at.
    Warning,
    /// Something that failed.
    Error,
}

type Function = dyn Fn(Level, &'static CStr, &CStr) + Send + Sync;

/// The function that receives reports. It is called with no lock held.
#[derive(Clone)]
pub struct Log(Arc<Function>);

impl Log {
    /// This function: it gets the level, a fixed event name, and one line.
    pub fn new(function: impl Fn(Level, &'static CStr, &CStr) + Send + Sync + 'static) -> Self {
        Self(Arc::new(function))
    }

    /// Reports something. The line is put together without allocating, and cut where it is too long.
    pub fn write(&self, level: Level, event: &'static CStr, line: fmt::Arguments<'_>) {
        let mut text = Line { bytes: [0; LONGEST], length: 0 };
        let _ = text.write_fmt(line);
        let line = CStr::from_bytes_until_nul(&text.bytes).unwrap_or_default();
        (self.0)(level, event, line);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Log")
    }
}

const LONGEST: usize = 512;

/// A line that ends in NUL at the latest at its last byte.
struct Line {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = (LONGEST - 1).saturating_sub(self.length);
        let fitting = part.get(..part.floor_char_boundary(room)).unwrap_or(part);
        for (place, byte) in self.bytes.iter_mut().skip(self.length).zip(fitting.bytes()) {
            *place = byte;
        }
        self.length += fitting.len();
        if fitting.len() < part.len() { Err(fmt::Error) } else { Ok(()) }
    }
}
