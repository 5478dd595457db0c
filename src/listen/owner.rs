//! Users and groups by name or number.

use nix::errno::Errno::{EBADF as BADF, ENOENT as NOENT, EPERM as PERM, ESRCH as SRCH};
use nix::unistd::{Group, User};

use crate::diagnose;
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
    let Ok(text) = std::str::from_utf8(name) else { return Err(not_found(what, name)) };
    match find(text) {
        Ok(Some(number)) => Ok(number),
        // getpwnam(3) lists these as ways to say that there is none.
        Ok(None) | Err(NOENT | SRCH | BADF | PERM) => Err(not_found(what, name)),
        Err(errno) => {
            let errno = rustix::io::Errno::from_raw_os_error(errno as i32);
            Err(diagnose::for_limits(Error::system(what, errno))
                .because(format_args!("{what} {} could not be looked up", Escaped(name))))
        }
    }
}

fn not_found(what: &'static str, name: &[u8]) -> Error {
    let database = if what == "user" { "passwd" } else { "group" };
    Error::new(Code::NameNotFound, what, format_args!("there is no {what} {}", Escaped(name)))
        .hint(format_args!("`getent {database}` lists those there are; a number is taken as it is"))
}
