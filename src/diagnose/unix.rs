//! Who has the path or the name of a Unix socket, and who keeps its directory locked.
//!
//! Nobody is asked by connecting: a server would see a client that says nothing.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, Stat, StatxFlags, makedev, statx};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::budget::Budget;
use super::descriptor::Process;
use super::path::{Attributes, Quoted, directory, is_plain};
use super::processes::User;
use super::sockets::{self, UnixSocket};
use super::who::Who;
use super::{file, policy};
use crate::error::{Code, Error, SystemWords};
use crate::text::{Escaped, Text};

/// Somebody has the socket at a path, or seems to: `probe` is what connect(2) said.
pub fn for_live_path(error: Error, path: &Path, file: &Stat, probe: Result<(), Errno>) -> Error {
    let budget = Budget::new();
    match socket_of(path, file, budget) {
        Ok(Some(socket)) => {
            let who = Who::of(socket.inode, socket.uid, budget);
            let does = if probe.is_ok() { "has a datagram socket there" } else { "listens there" };
            let error = match who.holders.found.is_empty() {
                true => error.because(format_args!("{who} {does}; the file is of user {}", User(file.st_uid))),
                false => error.because(format_args!("{who} {does}")),
            };
            error.hint(format_args!("{}; or choose another path", who.advice(format_args!("{}", Ss(path)))))
        }
        Ok(None) if probe == Err(Errno::ACCESS) => perhaps_stale(error, path, file),
        Ok(None) => error
            .because(format_args!(
                "{}, and the socket is not listed in this network namespace: it is in another one, such as a \
                 container's, or is connected; the file is of user {}",
                Probe(probe),
                User(file.st_uid)
            ))
            .hint(format_args!("choose another path; `lsns -t net` lists the namespaces, as root")),
        Err(errno) => error
            .because(format_args!("{}; {}", Probe(probe), Unseen(errno)))
            .hint(format_args!("as root, `{}` shows who; or choose another path", Ss(path))),
    }
}

/// What connect(2) of a datagram socket told of a path.
struct Probe(Result<(), Errno>);

impl std::fmt::Display for Probe {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Ok(()) => out.write_str("a process has a datagram socket there"),
            Err(Errno::PROTOTYPE) => out.write_str("a process listens there"),
            Err(errno) => write!(out, "whether anybody listens there could not be asked ({})", SystemWords(errno)),
        }
    }
}

/// Neither the file nor the kernel's list says that anybody is there.
fn perhaps_stale(error: Error, path: &Path, file: &Stat) -> Error {
    error
        .because(format_args!(
            "a socket file to which user {} may not connect: {}; nobody in this network namespace listens on it",
            User(geteuid().as_raw()),
            Attributes(file)
        ))
        .hint(format_args!("`sudo rm {}` removes it, if it is stale; or choose another path", Quoted(path)))
}

/// Somebody has the abstract name.
pub fn for_live_name(error: Error, name: &[u8]) -> Error {
    match error.errno() {
        Some(Errno::ADDRINUSE) => {}
        Some(Errno::ACCESS | Errno::PERM) => {
            return policy::explain_socket(error)
                .because(format_args!("an abstract name has no mode or owner; a security policy refused it"));
        }
        _ => return super::for_limits(error),
    }
    let budget = Budget::new();
    let look = if name.iter().all(|&byte| is_plain(byte)) {
        Text::format(format_args!("ss -axp src @{}", Escaped(name)))
    } else {
        Text::from("ss -axp")
    };
    match sockets::with_abstract_name(name, budget) {
        Ok(Some(socket)) => {
            let who = Who::of(socket.inode, socket.uid, budget);
            error
                .because(format_args!("{who} has that name"))
                .hint(format_args!("{}; or choose another name", who.advice(format_args!("{look}"))))
        }
        Ok(None) => error
            .because(format_args!("a connected socket has that name, or one that was closed just now"))
            .hint(format_args!("`{look}` lists who has it, as root; or choose another name")),
        Err(errno) => error
            .because(format_args!("a process has that name; {}", Unseen(errno)))
            .hint(format_args!("as root, `{look}` shows who; or choose another name")),
    }
}

/// The command that lists who listens at a path. The filter of ss takes no quotes.
struct Ss<'a>(&'a Path);

impl std::fmt::Display for Ss<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::os::unix::ffi::OsStrExt;
        let bytes = self.0.as_os_str().as_bytes();
        out.write_str("ss -axp")?;
        if bytes.iter().all(|&byte| is_plain(byte)) { write!(out, " src {}", Escaped(bytes)) } else { Ok(()) }
    }
}

/// Why the kernel's list was not seen.
struct Unseen(Errno);

impl std::fmt::Display for Unseen {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == Errno::TIMEDOUT {
            return out.write_str("there was no time to find which: too many sockets");
        }
        write!(out, "the kernel's list of sockets could not be read: {}", SystemWords(self.0))
    }
}

/// Whether a stream socket of this network namespace has an abstract name; `None` where that cannot be seen.
pub fn has_abstract_name(name: &[u8]) -> Option<bool> {
    sockets::with_abstract_name(name, Budget::new()).ok().map(|found| found.is_some())
}

/// The socket at a path, where there is one and it can be seen.
pub fn socket_at(path: &Path, budget: Budget) -> Option<UnixSocket> {
    let found = rustix::fs::lstat(path).ok()?;
    socket_of(path, &found, budget).ok().flatten()
}

/// The socket whose file this is.
///
/// The kernel tells the device of the file system that is mounted, and stat(2) another one on some: on btrfs, and on
/// an overlay whose layers are on several file systems.
fn socket_of(path: &Path, found: &Stat, budget: Budget) -> Result<Option<UnixSocket>, Errno> {
    match sockets::with_file(found.st_dev, found.st_ino, budget)? {
        None => match mounted_device(path) {
            Some(device) if device != found.st_dev => sockets::with_file(device, found.st_ino, budget),
            _ => Ok(None),
        },
        socket => Ok(socket),
    }
}

/// How much of the lists of mounts and of locks is read.
const MOST: usize = 256 * 1024;

/// The device of the file system that is mounted where `path` is (proc_pid_mountinfo(5)).
fn mounted_device(path: &Path) -> Option<u64> {
    let mount = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID).ok()?;
    if mount.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return None;
    }
    let mut buffer = buffer()?;
    let table = file::read_bytes(c"/proc/self/mountinfo", &mut buffer)?;
    table.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let is_it = number(fields.next()?, 10)? == mount.stx_mnt_id;
        is_it.then(|| device(fields.nth(1)?, 10)).flatten()
    })
}

fn buffer() -> Option<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(MOST).ok()?;
    buffer.resize(MOST, 0);
    Some(buffer)
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

/// A device as "major:minor".
fn device(text: &[u8], radix: u32) -> Option<u64> {
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    let part = |text| u32::from_str_radix(text, radix).ok();
    Some(makedev(part(major)?, part(minor)?))
}

/// The directory of `path` has been kept locked by another process.
pub fn for_locked(error: Error, path: &Path) -> Error {
    let directory = directory(path);
    let error = error.with_code(Code::AddressInUse);
    let locked = Quoted(directory);
    match rustix::fs::stat(directory).ok().and_then(|found| lock_holder(directory, &found)) {
        Some(pid) => error
            .because(format_args!("process {} has kept the directory {locked} locked", Process(pid)))
            .hint(format_args!("`kill {pid}` ends it; nobody needs that lock for longer than it takes to start")),
        None => error
            .because(format_args!("another process has kept the directory {locked} locked"))
            .hint(format_args!("`lslocks` or /proc/locks shows who holds the lock, as root")),
    }
}

/// Who holds a lock by flock(2) on a file (proc_locks(5)).
fn lock_holder(path: &Path, found: &Stat) -> Option<i32> {
    let devices = [Some(found.st_dev), mounted_device(path)];
    let mut buffer = buffer()?;
    let table = file::read_bytes(c"/proc/locks", &mut buffer)?;
    table.split(|&byte| byte == b'\n').find_map(|line| {
        // "1: FLOCK ADVISORY WRITE 812 fe:00:1234 0 EOF"; one who waits has an arrow behind the number.
        let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty()).skip(1);
        if fields.next()? != b"FLOCK" {
            return None;
        }
        let pid = number(fields.nth(2)?, 10)?;
        let place = fields.next()?;
        let colon = place.iter().rposition(|&byte| byte == b':')?;
        let (device_text, inode) = (place.get(..colon)?, place.get(colon + 1..)?);
        let is_it = number(inode, 10)? == found.st_ino && devices.contains(&device(device_text, 16));
        i32::try_from(pid).ok().filter(|_| is_it)
    })
}
