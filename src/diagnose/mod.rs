//! What is behind a failure, and what to do next: looked up when something has failed, and never before.
//!
//! Each function takes the error of the failing step and returns it with its cause and a hint. What cannot be seen is
//! said, not guessed. Looking is bounded in time, runs no process and asks no network.

mod addresses;
mod budget;
mod descriptor;
mod file;
mod in_use;
mod limits;
mod path;
mod policy;
mod port;
mod processes;
pub mod sockets;
mod system;
mod unix;
mod who;

pub use budget::Budget;
pub use descriptor::{Descriptor, Listening, Local, Process};
pub use limits::{for_limits, for_tasks, largest_backlog, open_descriptors};
pub use path::{directory, for_other_file, for_owner, for_path, for_stale, for_unlockable};
pub use port::{Attempt, for_bind, for_interface, for_socket};
pub use processes::User;
pub use sockets::Protocol;
pub use system::{
    PortRange, first_unprivileged_port, ipv6_switched_off, is_outgoing, may_bind_privileged, may_remove_any_file,
};
pub use unix::{for_live_name, for_live_path, for_locked, has_abstract_name, socket_at};
pub use who::Who;
