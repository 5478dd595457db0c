//! What is wrong with the path of a Unix socket: which component of it, and why.
//!
//! Whether a step is permitted is asked of the kernel, not computed from modes: capabilities and access control lists
//! count as well.

use std::ffi::OsStr;
use std::fmt::{self, Display, Formatter};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, RawMode, Stat, StatxAttributes, StatxFlags, accessat, readlink, stat, statx,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgid, getgroups, getuid};

use super::processes::User;
use super::{for_limits, policy};
use crate::error::{Code, Error};
use crate::text::{Escaped, Text};

/// A socket could not be bound to a path.
pub fn for_path(error: Error, path: &Path) -> Error {
    match error.errno() {
        Some(Errno::NOENT | Errno::NOTDIR) => missing(error.with_code(Code::AddressNotAvailable), path),
        Some(Errno::LOOP) => missing(error, path),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => denied(error.with_code(Code::PermissionDenied), path),
        Some(Errno::NOSPC | Errno::DQUOT) => error.hint(format_args!(
            "the file system has no room for one more file: see `df -i` and `df` of {}, and quotas",
            Quoted(directory(path))
        )),
        _ => for_limits(error),
    }
}

/// Something that is no socket stands at the path.
pub fn for_other_file(error: Error, path: &Path, found: &Stat) -> Error {
    error
        .because(format_args!("{} is there, which is not a socket", Kind { path, mode: found.st_mode }))
        .hint(format_args!("choose another path, or move that file away; oyez removes none but its own kind"))
}

/// A socket file on which nobody listens could not be removed.
pub fn for_stale(error: Error, path: &Path, found: &Stat) -> Error {
    let error = if error.errno() == Some(Errno::ROFS) { error.with_code(Code::PermissionDenied) } else { error };
    let (owner, hint) = (User(found.st_uid), Text::format(format_args!("`sudo rm {}` removes it", Quoted(path))));
    let error = match (stickiness(path, found), Obstacle::before(path)) {
        (_, Some(obstacle)) => error.because(format_args!("a stale socket file of user {owner}; {obstacle}")),
        (Some(sticky), None) => error.because(format_args!(
            "a stale socket file of user {owner}, which {Me} may not remove: in a sticky directory ({}) only its owner \
             may",
            Attributes(&sticky)
        )),
        (None, None) => error.because(format_args!("a stale socket file of user {owner} that cannot be removed")),
    };
    error.hint(format_args!("{hint}"))
}

/// A socket file on which nobody listens, in a directory that cannot be locked, so that it must stay.
pub fn for_unlockable(error: Error, path: &Path) -> Error {
    let directory = directory(path);
    let error = match stat(directory) {
        Ok(found) if access(directory, Access::READ_OK).is_err() => error.because(format_args!(
            "a stale socket file; to lock {} before it is replaced takes read permission, which {Me} has not: {}",
            Shown(directory),
            Attributes(&found)
        )),
        _ => error.because(format_args!("a stale socket file, in a directory that cannot be locked")),
    };
    error.hint(format_args!("`rm {}` removes it; or make the directory readable for this user", Quoted(path)))
}

/// The file could not be given to the user and group that were asked for.
pub fn for_owner(error: Error, user: Option<&[u8]>, group: Option<&[u8]>) -> Error {
    let mut to = Text::new();
    for (kind, name) in [("user", user), ("group", group)] {
        if let Some(name) = name {
            let and = if to.is_empty() { "" } else { " and " };
            to = Text::format(format_args!("{to}{and}{kind} {}", Escaped(name)));
        }
    }
    match error.errno() {
        Some(Errno::INVAL) => error
            .because(format_args!("this user namespace has no {to}"))
            .hint(format_args!("/proc/self/uid_map and gid_map show which numbers it has; or leave the option out")),
        Some(Errno::PERM) => error.because(format_args!("{Me} may not give the file to {to}")).hint(format_args!(
            "giving a file to another user takes CAP_CHOWN; a group, that one belongs to it (`id` shows which); or let \
             the service manager make the socket: SocketUser= and SocketGroup="
        )),
        _ => error.because(format_args!("the file was to be given to {to}")),
    }
}

fn missing(error: Error, path: &Path) -> Error {
    match Obstacle::before(path) {
        Some(obstacle) => {
            let hint = obstacle.advice(path);
            error.because(format_args!("{obstacle}")).hint(format_args!("{hint}"))
        }
        None if path.as_os_str().as_bytes().ends_with(b"/") => error
            .because(format_args!("a path that ends in a slash names a directory"))
            .hint(format_args!("add the name of the socket file")),
        None => error.hint(format_args!("`namei -l {}` shows each component", Quoted(path))),
    }
}

fn denied(error: Error, path: &Path) -> Error {
    match Obstacle::before(path) {
        Some(obstacle) => {
            let hint = obstacle.advice(path);
            error.because(format_args!("{obstacle}")).hint(format_args!("{hint}"))
        }
        None if access(directory(path), Access::WRITE_OK | Access::EXEC_OK).is_ok() => policy::explain_socket(error)
            .because(format_args!(
                "it is not the file modes: {Me} may make files in {}; a security policy refused it",
                Shown(directory(path))
            )),
        None => error.hint(format_args!("`namei -l {}` shows each component", Quoted(path))),
    }
}

/// The directory in which the last component stands.
pub fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Asks the kernel whether the effective user may.
fn access(path: &Path, access: Access) -> Result<(), Errno> {
    let are_same = getuid() == geteuid() && getgid() == getegid();
    match accessat(CWD, path, access, AtFlags::EACCESS) {
        // A sandbox may refuse faccessat2(2), which is younger; the older call asks for the real user.
        Err(Errno::PERM | Errno::NOSYS) if are_same => accessat(CWD, path, access, AtFlags::empty()),
        answer => answer,
    }
}

fn is_immutable(path: &Path) -> bool {
    statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::IMMUTABLE))
}

/// The directory, where it is a sticky one that keeps this user from removing the file.
fn stickiness(path: &Path, file: &Stat) -> Option<Stat> {
    const STICKY: RawMode = 0o1000;
    let directory = stat(directory(path)).ok()?;
    let me = geteuid().as_raw();
    let keeps = directory.st_mode & STICKY != 0 && me != file.st_uid && me != directory.st_uid;
    keeps.then_some(directory)
}

/// What stands between a user and a new file.
#[derive(Debug)]
struct Obstacle {
    /// The component, and why one cannot go on there.
    place: PathBuf,
    why: Why,
    /// The symbolic link in the path behind which it is.
    link: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
enum Why {
    Missing,
    NotDirectory(RawMode),
    Loop,
    /// The working directory was removed.
    Removed,
    NoSearch(Stat),
    NoWrite(Stat),
    ReadOnly,
    Immutable,
}

impl Obstacle {
    /// How many symbolic links are followed; the kernel gives up after 40.
    const LINKS: usize = 40;

    /// The first obstacle on the way to the last component, and there.
    fn before(path: &Path) -> Option<Self> {
        if path.is_relative() && rustix::process::getcwd(Vec::new()) == Err(Errno::NOENT) {
            return Some(Self::new(Path::new("."), Why::Removed));
        }
        Self::on_the_way(path, Self::LINKS).or_else(|| Self::at_the_end(directory(path)))
    }

    fn new(place: &Path, why: Why) -> Self {
        Self { place: place.to_owned(), why, link: None }
    }

    /// Looks at every component but the last, from the root or the working directory on.
    fn on_the_way(path: &Path, links: usize) -> Option<Self> {
        let mut places: Vec<&Path> = path.ancestors().skip(1).collect();
        places.reverse();
        places
            .into_iter()
            .find_map(|place| Self::at(if place.as_os_str().is_empty() { Path::new(".") } else { place }, links))
    }

    fn at(place: &Path, links: usize) -> Option<Self> {
        match stat(place) {
            Ok(found) if !is_directory(&found) => Some(Self::new(place, Why::NotDirectory(found.st_mode))),
            Ok(found) => {
                let is_closed = access(place, Access::EXEC_OK) == Err(Errno::ACCESS);
                is_closed.then(|| Self::new(place, Why::NoSearch(found)))
            }
            Err(Errno::LOOP) => Some(Self::new(place, Why::Loop)),
            Err(errno) => Self::behind_link(place, links)
                .or_else(|| (errno == Errno::NOENT).then(|| Self::new(place, Why::Missing))),
        }
    }

    /// What is wrong with the place to which a symbolic link leads.
    fn behind_link(link: &Path, links: usize) -> Option<Self> {
        let target = readlink(link, Vec::new()).ok()?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        let place = directory(link).join(target);
        let obstacle = Self::on_the_way(&place.join("file"), links.checked_sub(1)?)?;
        Some(Self { link: Some((link.to_owned(), target.to_owned())), ..obstacle })
    }

    /// Looks whether a file can be made in a directory that can be reached.
    fn at_the_end(place: &Path) -> Option<Self> {
        let why = match access(place, Access::WRITE_OK) {
            Err(Errno::ACCESS) => Why::NoWrite(stat(place).ok()?),
            Err(Errno::ROFS) => Why::ReadOnly,
            Err(Errno::PERM) if is_immutable(place) => Why::Immutable,
            _ => return None,
        };
        Some(Self::new(place, why))
    }
}

fn is_directory(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

impl Display for Obstacle {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if let Some((link, target)) = &self.link {
            write!(out, "the symbolic link {} leads to {}; ", Shown(link), Escaped(target.as_os_str().as_bytes()))?;
        }
        let place = Shown(&self.place);
        match &self.why {
            Why::Missing => write!(out, "{place} does not exist"),
            &Why::NotDirectory(mode) => write!(out, "{place} is {}, not a directory", Kind { path: &self.place, mode }),
            Why::Loop => write!(out, "the symbolic link {place} leads round in a circle"),
            Why::Removed => write!(out, "the working directory of this process has been removed"),
            Why::NoSearch(found) => write!(out, "{Me} has no search permission (x) in {place}: {}", Refusal(found, 1)),
            Why::NoWrite(found) => write!(out, "{Me} has no write permission in {place}: {}", Refusal(found, 2)),
            Why::ReadOnly => write!(out, "{place} is on a file system that is read-only"),
            Why::Immutable => write!(out, "{place} is marked immutable"),
        }
    }
}

impl Obstacle {
    /// What to do about it, for a socket at `path`.
    fn advice(&self, path: &Path) -> Text {
        let place = Quoted(&self.place);
        match &self.why {
            Why::Missing => self.advice_to_make(directory(path)),
            Why::NotDirectory(_) => Text::format(format_args!("choose another path; `ls -l {place}` shows what it is")),
            Why::Loop => Text::format(format_args!("`namei -l {}` shows where the links lead", Quoted(path))),
            Why::Removed => Text::from(
                "start the program in a directory that exists (WorkingDirectory= of systemd), or use an absolute path",
            ),
            Why::NoSearch(found) if found.st_uid == geteuid().as_raw() => {
                Text::format(format_args!("`chmod u+x {place}` opens it"))
            }
            Why::NoSearch(found) | Why::NoWrite(found) if geteuid().is_root() => Text::format(format_args!(
                "start the program as user {}, or with CAP_DAC_OVERRIDE; or choose another path",
                User(found.st_uid)
            )),
            Why::NoSearch(_) => Text::format(format_args!(
                "`sudo setfacl -m u:{}:x {place}` opens it for this user; or choose another path",
                User(geteuid().as_raw())
            )),
            Why::NoWrite(_) => advice_to_own(path),
            Why::ReadOnly => Text::format(format_args!(
                "choose a path below /run or /tmp; `findmnt -T {place}` shows how it is mounted"
            )),
            Why::Immutable => {
                Text::format(format_args!("`lsattr -d {place}` shows it, `sudo chattr -i {place}` ends it"))
            }
        }
    }

    /// How to make a directory: as this user, where it may.
    fn advice_to_make(&self, wanted: &Path) -> Text {
        let target = self.link.as_ref().map(|(link, target)| directory(link).join(target));
        let shown = Quoted(target.as_deref().unwrap_or(wanted));
        let by_systemd = RuntimeDirectory(wanted);
        if access(directory(&self.place), Access::WRITE_OK).is_ok() {
            return Text::format(format_args!("`mkdir -p {shown}` makes it{by_systemd}"));
        }
        Text::format(format_args!("`sudo install -d -o {} {shown}` makes it{by_systemd}", User(geteuid().as_raw())))
    }
}

/// A directory of the program's own is better than a right in one that others share.
fn advice_to_own(path: &Path) -> Text {
    let own = path.with_extension("");
    Text::format(format_args!(
        "give the socket a directory of its own: `sudo install -d -o {} {}`{}",
        User(geteuid().as_raw()),
        Quoted(&own),
        RuntimeDirectory(&own)
    ))
}

/// How systemd makes a directory, where it is one that systemd makes: below /run, which is empty after each start.
struct RuntimeDirectory<'a>(&'a Path);

impl Display for RuntimeDirectory<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.0.strip_prefix("/run").or_else(|_| self.0.strip_prefix("/var/run")) {
            Ok(name) if !name.as_os_str().is_empty() => {
                write!(
                    out,
                    "; RuntimeDirectory={} of systemd does, at each start",
                    Escaped(name.as_os_str().as_bytes())
                )
            }
            _ => Ok(()),
        }
    }
}

/// What stands at a path, in words.
struct Kind<'a> {
    path: &'a Path,
    mode: RawMode,
}

impl Display for Kind<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(match FileType::from_raw_mode(self.mode) {
            FileType::RegularFile => "a regular file",
            FileType::Directory => "a directory",
            FileType::Fifo => "a named pipe",
            FileType::Socket => "a socket",
            FileType::CharacterDevice | FileType::BlockDevice => "a device",
            FileType::Symlink => return symbolic_link(self.path, out),
            FileType::Unknown => "a file of an unknown kind",
        })
    }
}

fn symbolic_link(path: &Path, out: &mut Formatter<'_>) -> fmt::Result {
    match readlink(path, Vec::new()) {
        Ok(target) => write!(out, "a symbolic link to {}", Escaped(target.as_bytes())),
        Err(_) => out.write_str("a symbolic link"),
    }
}

/// The user as whom this process acts.
struct Me;

impl Display for Me {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "user {}", User(geteuid().as_raw()))
    }
}

/// The mode and the owner of a file.
pub struct Attributes<'a>(pub &'a Stat);

impl Display for Attributes<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Self(found) = self;
        write!(out, "mode {:04o}, owner {}", found.st_mode & 0o7777, User(found.st_uid))
    }
}

/// Why a directory refuses: its mode, or what is not its mode. The number is the bit of the mode that is asked for.
struct Refusal<'a>(&'a Stat, RawMode);

impl Display for Refusal<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let &Self(found, bit) = self;
        write!(out, "{}", Attributes(found))?;
        if mode_allows(found, bit) {
            return out.write_str(
                "; the mode would allow it: an access control list (`getfacl`) or a security policy does not",
            );
        }
        // Modes do not bind root, but for want of that capability.
        out.write_str(if geteuid().is_root() { "; this process is without CAP_DAC_OVERRIDE" } else { "" })
    }
}

fn mode_allows(found: &Stat, bit: RawMode) -> bool {
    let in_group = |group| group == getegid().as_raw() || is_among_groups(group);
    let shift = match () {
        () if found.st_uid == geteuid().as_raw() => 6,
        () if in_group(found.st_gid) => 3,
        () => 0,
    };
    found.st_mode >> shift & bit != 0
}

fn is_among_groups(group: u32) -> bool {
    getgroups().is_ok_and(|groups| groups.iter().any(|other| other.as_raw() == group))
}

/// A path in a message: absolute, because the reader is in another directory.
struct Shown<'a>(&'a Path);

impl Display for Shown<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let absolute = std::path::absolute(self.0);
        let path = absolute.as_deref().unwrap_or(self.0);
        write!(out, "{}", Escaped(path.as_os_str().as_bytes()))
    }
}

/// A path in a command, as a shell takes it.
pub struct Quoted<'a>(pub &'a Path);

impl Display for Quoted<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let absolute = std::path::absolute(self.0);
        let bytes = absolute.as_deref().unwrap_or(self.0).as_os_str().as_bytes();
        if bytes.iter().all(|&byte| is_plain(byte)) {
            return write!(out, "{}", Escaped(bytes));
        }
        out.write_str("$'")?;
        for &byte in bytes {
            match byte {
                b'\'' | b'\\' => write!(out, "\\{}", byte as char)?,
                b' '..=b'~' => write!(out, "{}", byte as char)?,
                _ => write!(out, "\\x{byte:02x}")?,
            }
        }
        out.write_str("'")
    }
}

/// Whether a byte needs no quotes in a shell.
pub fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_command_is_quoted_where_it_must_be() {
        let quoted = |bytes: &[u8]| Quoted(Path::new(OsStr::from_bytes(bytes))).to_string();
        assert_eq!(quoted(b"/run/app-1.sock"), "/run/app-1.sock");
        assert_eq!(quoted(b"/run/a b"), "$'/run/a b'");
        assert_eq!(quoted(b"/run/it's;\n\xff"), "$'/run/it\\'s;\\x0a\\xff'");
    }

    #[test]
    fn systemd_makes_directories_below_run() {
        let shown = |path| RuntimeDirectory(Path::new(path)).to_string();
        assert!(shown("/run/a/b").contains("RuntimeDirectory=a/b "));
        assert!(shown("/var/run/a").contains("RuntimeDirectory=a "));
        assert_eq!(shown("/run"), "");
        assert_eq!(shown("/srv/a"), "");
    }
}
