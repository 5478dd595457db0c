//! What a server reports to its program. Nothing is printed.

use std::ffi::CStr;
use std::fmt;
use std::sync::Arc;

use crate::text::Line;

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

/// The longest line, its NUL included.
const LONGEST: usize = 512;

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
        let mut text = Line::<LONGEST>::new();
        text.set(line);
        (self.0)(level, event, text.as_c_str());
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Log")
    }
}
