//! Unix stream listeners: the socket file's mode and owner, a stale file replaced, a live one never stolen.
//!
//! Everything between bind(2) and listen(2) happens under a lock on the directory. In between, a socket that is about
//! to listen looks like one that nobody listens on, and another starter would take its name away.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Options, backlog, before_bind, make_socket, owner};
use crate::deadline::Deadline;
use crate::diagnose;
use crate::error::{Error, Result};
use crate::sys::fork;
use crate::sys::socket::set_option;

/// Listens in the abstract namespace.
pub fn listen_at_name(name: &[u8], options: &Options<'_>) -> Result<OwnedFd> {
    let address = SocketAddrUnix::new_abstract_name(name).map_err(|errno| Error::system("bind", errno))?;
    let socket = make(options)?;
    bind(socket.as_fd(), &address).map_err(|errno| diagnose::for_live_name(Error::system("bind", errno), name))?;
    start(socket.as_fd(), options)?;
    Ok(socket)
}

/// Listens at a path.
pub fn listen_at_path(path: &[u8], options: &Options<'_>) -> Result<(OwnedFd, SocketFile)> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let address = SocketAddrUnix::new(path).map_err(|errno| Error::system("bind", errno))?;
    let socket = make(options)?;
    let lock = DirectoryLock::take(path)?;
    let failed = |errno| diagnose::for_path(Error::system("bind", errno), path);
    match bind(socket.as_fd(), &address) {
        Err(Errno::ADDRINUSE) => {
            remove_stale(path, &address, lock.as_ref())?;
            bind(socket.as_fd(), &address).map_err(failed)?;
        }
        outcome => outcome.map_err(failed)?,
    }
    let file = SocketFile::of(path)?;
    let prepared = prepare(path, options).and_then(|()| start(socket.as_fd(), options));
    if let Err(error) = prepared {
        file.remove_locked();
        return Err(error);
    }
    Ok((socket, file))
}

fn make(options: &Options<'_>) -> Result<OwnedFd> {
    let socket = make_socket(AddressFamily::UNIX, SocketType::STREAM, None, options)
        .map_err(|errno| diagnose::for_socket(Error::system("socket", errno), false))?;
    for (value, name) in [(options.receive_buffer, libc::SO_RCVBUF), (options.send_buffer, libc::SO_SNDBUF)] {
        if let Some(bytes) = value {
            let _ = set_option(&socket, libc::SOL_SOCKET, name, bytes);
        }
    }
    if let Some(mode) = mode(options) {
        // The file gets the socket's own mode (less the umask) in the instant in which its name appears.
        rustix::fs::fchmod(&socket, mode).map_err(|errno| Error::system("chmod", errno))?;
    }
    before_bind(socket.as_fd(), options)?;
    Ok(socket)
}

fn mode(options: &Options<'_>) -> Option<Mode> {
    options.unix_mode.map(|mode| Mode::from_raw_mode(mode.unsigned_abs()))
}

fn bind(socket: BorrowedFd<'_>, address: &SocketAddrUnix) -> std::result::Result<(), Errno> {
    retry_on_intr(|| rustix::net::bind(socket, address))
}

fn start(socket: BorrowedFd<'_>, options: &Options<'_>) -> Result<()> {
    retry_on_intr(|| rustix::net::listen(socket, backlog(options))).map_err(|errno| Error::system("listen", errno))
}

/// Owner and mode, before anybody can connect: until listen(2) the kernel refuses everybody.
fn prepare(path: &Path, options: &Options<'_>) -> Result<()> {
    let (user, group) = owners(options)?;
    if user.is_some() || group.is_some() {
        rustix::fs::chownat(CWD, path, user, group, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| {
            diagnose::for_owner(Error::system("chown", errno), options.unix_user, options.unix_group)
        })?;
    }
    let Some(mode) = mode(options) else { return Ok(()) };
    let made = stat(path).map_err(|errno| Error::system("stat", errno))?;
    if Mode::from_raw_mode(made.st_mode) != mode {
        // The umask took bits away, or chown(2) did.
        rustix::fs::chmod(path, mode).map_err(|errno| Error::system("chmod", errno))?;
    }
    Ok(())
}

fn owners(options: &Options<'_>) -> Result<(Option<Uid>, Option<Gid>)> {
    Ok((options.unix_user.map(owner::user).transpose()?, options.unix_group.map(owner::group).transpose()?))
}

fn stat(path: &Path) -> std::result::Result<Stat, Errno> {
    rustix::fs::lstat(path)
}

/// Whether a path could be had, as far as that can be told without making a file there.
pub fn try_path(path: &[u8], options: &Options<'_>) -> Result<()> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let address = SocketAddrUnix::new(path).map_err(|errno| Error::system("bind", errno))?;
    let access = |access| rustix::fs::accessat(CWD, diagnose::directory(path), access, AtFlags::EACCESS);
    let may_write = access(Access::WRITE_OK | Access::EXEC_OK);
    match (stale(path, &address)?, may_write) {
        (None, Ok(())) if path.as_os_str().as_bytes().ends_with(b"/") => {
            return Err(diagnose::for_path(Error::system("bind", Errno::NOENT), path));
        }
        (None, may_write) => may_write.map_err(|errno| diagnose::for_path(Error::system("bind", errno), path))?,
        (Some(_), Ok(())) if access(Access::READ_OK).is_err() => {
            return Err(diagnose::for_unlockable(Error::system("bind", Errno::ADDRINUSE), path));
        }
        (Some(found), may_write) => may_write
            .and_then(|()| may_remove(path, &found))
            .map_err(|errno| diagnose::for_stale(Error::system("unlink", errno), path, &found))?,
    }
    owners(options).map(drop)
}

/// Whether the sticky bit of its directory keeps a file from being removed. See inode(7).
fn may_remove(path: &Path, file: &Stat) -> std::result::Result<(), Errno> {
    let directory = rustix::fs::stat(diagnose::directory(path))?;
    let user = rustix::process::geteuid().as_raw();
    let is_sticky = Mode::from_raw_mode(directory.st_mode).contains(Mode::SVTX);
    let owns = file.st_uid == user || directory.st_uid == user;
    if is_sticky && !owns && !diagnose::may_remove_any_file() { Err(Errno::PERM) } else { Ok(()) }
}

/// Whether an abstract name could be had. It is taken for an instant where the kernel does not list who has it.
pub fn try_name(name: &[u8]) -> Result<()> {
    match diagnose::has_abstract_name(name) {
        Some(false) => return Ok(()),
        Some(true) => return Err(diagnose::for_live_name(Error::system("bind", Errno::ADDRINUSE), name)),
        None => {}
    }
    let address = SocketAddrUnix::new_abstract_name(name).map_err(|errno| Error::system("bind", errno))?;
    let socket = make(&Options::default())?;
    bind(socket.as_fd(), &address).map_err(|errno| diagnose::for_live_name(Error::system("bind", errno), name))
}

/// The socket file on which nobody listens, where there is one; none where there is nothing. Anything else is an error.
fn stale(path: &Path, address: &SocketAddrUnix) -> Result<Option<Stat>> {
    let in_use = || Error::system("bind", Errno::ADDRINUSE);
    let found = match stat(path) {
        Err(Errno::NOENT) => return Ok(None),
        found => found.map_err(|errno| diagnose::for_path(Error::system("stat", errno), path))?,
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(diagnose::for_other_file(in_use(), path, &found));
    }
    let probe = probe(address)?;
    if !matches!(probe, Err(Errno::CONNREFUSED | Errno::NOENT)) {
        return Err(diagnose::for_live_path(in_use(), path, &found, probe));
    }
    Ok(Some(found))
}

/// Removes what stands in the way if it is a socket on which nobody listens.
fn remove_stale(path: &Path, address: &SocketAddrUnix, lock: Option<&DirectoryLock>) -> Result<()> {
    let Some(found) = stale(path, address)? else { return Ok(()) };
    if lock.is_none() {
        return Err(diagnose::for_unlockable(Error::system("bind", Errno::ADDRINUSE), path));
    }
    rustix::fs::unlink(path).map_err(|errno| diagnose::for_stale(Error::system("unlink", errno), path, &found))
}

/// Asks whether anybody has the socket file. Only a refusal says that nobody is there.
///
/// A datagram socket tries to connect: at a live stream socket it fails with EPROTOTYPE, so that the server does not see
/// a client that says nothing, and one that is bound and about to listen is found as well.
fn probe(address: &SocketAddrUnix) -> Result<std::result::Result<(), Errno>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
        .map_err(|errno| diagnose::for_socket(Error::system("socket", errno), false))?;
    Ok(retry_on_intr(|| rustix::net::connect(&probe, address)))
}

/// An exclusive lock on a directory, among all who start with oyez. It leaves no file behind.
struct DirectoryLock(#[allow(dead_code)] OwnedFd);

impl DirectoryLock {
    /// How long another starter may take.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// Locks the directory of `path`; `None` where it cannot be opened for reading, which bind(2) need not mind.
    fn take(path: &Path) -> Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match retry_on_intr(|| rustix::fs::open(diagnose::directory(path), flags, Mode::empty())) {
            Ok(directory) => directory,
            Err(errno @ (Errno::MFILE | Errno::NFILE)) => {
                return Err(diagnose::for_limits(Error::system("open", errno)));
            }
            Err(_) => return Ok(None),
        };
        let deadline = Deadline::after(Self::PATIENCE);
        loop {
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self(directory))),
                // Whoever holds it is between bind and listen. flock(2) has no time limit of its own, and anybody who
                // may read the directory could hold it for ever.
                Err(Errno::AGAIN | Errno::INTR) if !deadline.is_over() => pause(),
                Err(Errno::AGAIN | Errno::INTR) => {
                    return Err(diagnose::for_locked(Error::system("flock", Errno::AGAIN), path));
                }
                Err(_) => return Ok(None),
            }
        }
    }
}

fn pause() {
    let _ = rustix::thread::nanosleep(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 2_000_000 });
}

/// A socket file that we made, recognised by its device and inode. While the socket is open the kernel cannot give the
/// inode's number to another file.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> Result<Self> {
        let found = stat(path).map_err(|errno| Error::system("stat", errno))?;
        // The working directory may change before the file is removed.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, device: found.st_dev, inode: found.st_ino })
    }

    /// Removes the file if it is still this one. To be called before the socket is closed.
    pub fn remove(&self) {
        // Without the lock a successor could put its file there between the look and the removal.
        let _lock = DirectoryLock::take(&self.path);
        self.remove_locked();
    }

    fn remove_locked(&self) {
        if self.is_there() {
            let _ = rustix::fs::unlink(&self.path);
        }
    }

    fn is_there(&self) -> bool {
        stat(&self.path).is_ok_and(|found| found.st_dev == self.device && found.st_ino == self.inode)
    }
}

/// The files of the listeners that were given away as plain descriptors, by their sockets' inodes.
static REMEMBERED: Mutex<Vec<(u64, SocketFile)>> = Mutex::new(Vec::new());

/// Keeps what [`recall`] will need.
pub fn remember(socket: BorrowedFd<'_>, file: SocketFile) {
    let (Some(mut files), Some(inode)) = (remembered(), inode(socket)) else { return };
    // A listener may have been closed by close(2): its number is free for another socket, or its file is gone.
    files.retain(|(other, _)| *other != inode);
    if files.len() >= 64 {
        files.retain(|(_, file)| file.is_there());
    }
    if files.try_reserve(1).is_ok() {
        files.push((inode, file));
    }
}

/// The file of a listener that was given away.
pub fn recall(socket: BorrowedFd<'_>) -> Option<SocketFile> {
    let inode = inode(socket)?;
    let mut files = remembered()?;
    let index = files.iter().position(|(other, _)| *other == inode)?;
    Some(files.swap_remove(index).1)
}

fn inode(socket: BorrowedFd<'_>) -> Option<u64> {
    rustix::fs::fstat(socket).ok().map(|found| found.st_ino)
}

/// The list. A forked child has its parent's, but another thread of the parent may have held the lock when it was
/// made: the child then does without.
fn remembered() -> Option<MutexGuard<'static, Vec<(u64, SocketFile)>>> {
    static OWNER: AtomicU64 = AtomicU64::new(0);
    const TRIES: usize = 1000;
    let epoch = fork::epoch();
    let owner = OWNER.compare_exchange(0, epoch, Ordering::Relaxed, Ordering::Relaxed).unwrap_or_else(|owner| owner);
    if owner == 0 || owner == epoch {
        return Some(REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner));
    }
    for _ in 0..TRIES {
        if let Ok(files) = REMEMBERED.try_lock() {
            return Some(files);
        }
        std::thread::yield_now();
    }
    None
}
