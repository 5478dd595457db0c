//! Users and groups by name or number.

use nix::unistd::{Group, User};

use crate::error::{Code, Error, Result};
use crate::text::Escaped;

/// The number of a user.
pub fn user(name: &[u8]) -> Result<rustix::fs::Uid> {
    let found = by_number(name).map(Ok).unwrap_or_else(|| {
        look_up("user", name, |name| User::from_name(name).map(|user| user.map(|user| user.uid.as_raw())))
    })?;
    Ok(rustix::fs::Uid::from_raw(found))
}

/// The number of a group.
pub fn group(name: &[u8]) -> Result<rustix::fs::Gid> {
    let found = by_number(name).map(Ok).unwrap_or_else(|| {
        look_up("group", name, |name| Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw())))
    })?;
    Ok(rustix::fs::Gid::from_raw(found))
}

fn by_number(name: &[u8]) -> Option<u32> {
    let digits = name.iter().all(u8::is_ascii_digit);
    // The highest number means "leave it" to chown(2).
    std::str::from_utf8(name).ok().filter(|_| digits)?.parse().ok().filter(|&number| number != u32::MAX)
}

fn look_up(what: &'static str, name: &[u8], find: impl Fn(&str) -> nix::Result<Option<u32>>) -> Result<u32> {
    let not_found =
        || {
            Error::new(Code::NameNotFound, what, format_args!("there is no {what} {}", Escaped(name)))
                .hint(format_args!("`getent {} {}` asks the same database", database(what), Escaped(name)))
        };
    let name = std::str::from_utf8(name).map_err(|_| not_found())?;
    find(name).ok().flatten().ok_or_else(not_found)
}

fn database(what: &str) -> &'static str {
    if what == "user" { "passwd" } else { "group" }
}
