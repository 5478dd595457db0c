//! What is behind a failure, and what to do next: looked up when something has failed, and never before.
//!
//! Each function takes the error of the failing step and returns it with its cause and a hint. What cannot be seen is
//! said, not guessed. Looking is bounded in time, runs no process and asks no network.

mod limits;
mod port;

pub use limits::for_limits;
pub use port::{for_bind, for_socket};
