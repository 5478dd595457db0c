//! Who has a socket, in words, and what to do about it.

use std::fmt::{self, Display, Formatter};

use rustix::process::geteuid;

use super::budget::Budget;
use super::processes::{self, Holder, Holders, User};
use crate::text::Text;

/// The owner of a socket, as far as it could be found.
#[derive(Clone, Debug)]
pub struct Who {
    /// The user who made the socket, where the kernel tells.
    pub uid: Option<u32>,
    /// The processes that have it open.
    pub holders: Holders,
}

impl Who {
    /// Looks for the processes that have the socket of this number open.
    pub fn of(inode: u32, uid: Option<u32>, budget: Budget) -> Self {
        Self { uid, holders: processes::holders_of(inode, uid, budget) }
    }

    /// What to do: `look` is the command with which root finds out what could not be seen here.
    pub fn advice(&self, look: fmt::Arguments<'_>) -> Text {
        match self.holders.found.split_first() {
            Some((holder, others)) => Text::format(format_args!("{}{}", Advice(holder), Others(others))),
            None if self.is_elsewhere() => Text::format(format_args!("as root, on the host, `{look}` shows who")),
            None => Text::format(format_args!("as root, `{look}` shows who")),
        }
    }
}

impl Display for Who {
    /// Such as "nginx (pid 812, user www-data)".
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.holders.found.as_slice() {
            [] => self.nobody_seen(out),
            [holder] => write!(out, "{holder})"),
            [holder, _] => write!(out, "{holder}, and one more process)"),
            [holder, others @ ..] => write!(out, "{holder}, and {} more processes)", others.len()),
        }
    }
}

impl Who {
    /// Whether all processes that could have it were looked at, and none has it. Where /proc is mounted with hidepid,
    /// those of other users do not even show.
    fn is_elsewhere(&self) -> bool {
        let user = geteuid();
        let sees_all = user.is_root() || self.uid == Some(user.as_raw());
        let saw_all = !self.holders.cut_short && !self.holders.not_shown && self.holders.closed_to_us == 0;
        sees_all && saw_all && self.holders.found.is_empty()
    }

    fn nobody_seen(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.uid {
            Some(uid) => write!(out, "a process of user {}", User(uid))?,
            None => out.write_str("a process")?,
        }
        out.write_str(if self.holders.cut_short {
            " (there are too many processes and descriptors to find out which in time)"
        } else if self.holders.not_shown {
            " (which one, /proc does not show)"
        } else if self.is_elsewhere() {
            " (not visible from here: in another pid namespace, such as a container, or just gone)"
        } else {
            " (which one, this user may not see)"
        })
    }
}

impl Display for Holder {
    /// With an open parenthesis, in which more may follow.
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if self.is_this_process() {
            return write!(out, "this process itself (pid {}, descriptor {}", self.pid, self.fd);
        }
        write!(out, "{} (pid {}, user {}", self.name(), self.pid, User(self.uid))?;
        if self.is_child() {
            return write!(out, ", a child of this process that has it as descriptor {}", self.fd);
        }
        if self.is_parent() {
            return out.write_str(", the parent of this process");
        }
        Ok(())
    }
}

/// Those who hold it besides the first.
struct Others<'a>(&'a [Holder]);

impl Display for Others<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        /// How many of them are named.
        const SHOWN: usize = 5;
        let (mut lead, tail) = match self.0.len() {
            0 => return Ok(()),
            1 => (" (process ", " has it too)"),
            _ => (" (processes ", " have it too)"),
        };
        for holder in self.0.iter().take(SHOWN) {
            write!(out, "{lead}{}", holder.pid)?;
            lead = ", ";
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => out.write_str(tail),
            more => write!(out, " and {more} more{tail}"),
        }
    }
}

/// What to do about a holder.
struct Advice<'a>(&'a Holder);

impl Display for Advice<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Self(holder) = self;
        if holder.is_this_process() {
            return write!(out, "close descriptor {} first, or use the listener that is there", holder.fd);
        }
        if holder.is_child() {
            let (pid, fd) = (holder.pid, holder.fd);
            return write!(out, "`kill {pid}` ends the child; a child that closes descriptor {fd} does not hold it");
        }
        if holder.is_parent() {
            return out.write_str(
                "it is the parent of this process: let it pass the listener on (address `fd:N`), or close it",
            );
        }
        match holder.unit() {
            Some(unit) => write!(out, "`systemctl stop {unit}` ends it"),
            None => write!(out, "`kill {}` ends it", holder.pid),
        }
    }
}
