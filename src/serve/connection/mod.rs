//! A connection that is being served: its slot, the hold on it, the calls on it, and its end.

mod call;
mod current;
mod in_loop;
mod owned;
mod slot;

pub use call::Connection;
pub use current::is_in_handler_of;
pub use in_loop::{Times, in_lane};
pub use owned::Owned;
pub use slot::Slot;

use crate::error::{Code, Error};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// In order: what was written arrives.
    Close = 0,
    /// By a reset.
    Abort = 1,
    /// Somebody else owns the descriptor now.
    Detach = 2,
}

/// A limit that is not there.
const NO_LIMIT: u32 = 0;

/// The error of a call on a connection that is over.
pub fn gone(function: &'static str) -> Error {
    Error::new(Code::Closed, function, format_args!("the connection is closed"))
}
