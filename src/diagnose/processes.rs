//! The processes that have a socket open, found through the descriptors in /proc (proc_pid_fd(5)).
//!
//! Everything is read here, without procfs crates: one that opens and stats each descriptor, besides reading its link,
//! took twice the time (52 against 25 ms for 360 processes with 6,000 descriptors), and the time is bounded.

use std::ffi::CStr;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, fstat, openat, readlinkat_raw, statat};
use rustix::io::Errno;
use rustix::process::{Pid, getpid, getppid};

use super::budget::Budget;
use super::file;
use crate::sys;
use crate::text::{Escaped, Line};

/// A process that has a socket open.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its user.
    pub uid: u32,
    /// The lowest of its descriptors that is the socket.
    pub fd: u32,
    name: Name,
}

/// The name of a process: 15 bytes, any but NUL.
type Name = Vec<u8>;

/// Who has a socket open, as far as could be seen.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    /// Those who were found, parents before their children.
    pub found: Vec<Holder>,
    /// Processes into which this one may not look.
    pub closed_to_us: usize,
    /// Time was up before all had been looked at.
    pub cut_short: bool,
    /// No process is listed: /proc is not there.
    pub not_shown: bool,
}

impl Holder {
    /// Whether it is this process.
    pub fn is_this_process(&self) -> bool {
        self.pid == this_process()
    }

    /// Whether it is a child of this process.
    pub fn is_child(&self) -> bool {
        self.parent == this_process() && !self.is_this_process()
    }

    /// Whether it is the parent of this process.
    pub fn is_parent(&self) -> bool {
        let shows_our_numbers = this_process() == number_of(getpid());
        shows_our_numbers && getppid().is_some_and(|parent| number_of(parent) == self.pid)
    }

    /// Its name, escaped: a process may call itself anything.
    pub fn name(&self) -> impl fmt::Display {
        Escaped(&self.name)
    }

    /// The systemd unit that runs it, by its control group (systemd.unit(5)); none where that shows no unit.
    pub fn unit(&self) -> Option<String> {
        let mut buffer = [0; 1024];
        let path = path(self.pid, "cgroup");
        let groups = file::read(path.as_c_str(), &mut buffer)?;
        let last = groups.lines().last()?.rsplit('/').next()?;
        let is_plain = last.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"@_.:-".contains(&byte));
        (last.ends_with(".service") && is_plain).then(|| last.to_owned())
    }
}

/// By the numbers of /proc, which may be those of another pid namespace than getpid(2)'s.
fn this_process() -> u32 {
    let mut link = [0u8; 16];
    let length = readlinkat_raw(CWD, c"/proc/self", &mut link[..]).unwrap_or(0);
    let digits = link.get(..length).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| number_of(getpid()))
}

fn number_of(process: Pid) -> u32 {
    process.as_raw_nonzero().get().unsigned_abs()
}

/// Who has the socket of this number open. Processes of the user who made it are looked at first.
pub fn holders_of(inode: u32, uid: Option<u32>, budget: Budget) -> Holders {
    let mut holders = Holders::default();
    if inode == 0 {
        return holders;
    }
    let wanted = Wanted::of(inode);
    let processes = in_order(uid, budget);
    holders.not_shown = processes.is_empty();
    // A listener is opened early, so the first descriptors of all are looked at before the rest of those with many.
    let many: Vec<u32> =
        processes.iter().filter_map(|&(_, pid)| holders.look(pid, &wanted, Part::First, budget)).collect();
    if holders.found.is_empty() {
        many.into_iter().for_each(|pid| {
            holders.look(pid, &wanted, Part::Rest, budget);
        });
    }
    let pids: Vec<u32> = holders.found.iter().map(|holder| holder.pid).collect();
    holders.found.sort_by_key(|holder| (pids.contains(&holder.parent), holder.pid));
    holders
}

/// A part of a process's descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    First,
    Rest,
}

impl Part {
    /// How many are the first ones.
    const FIRST: usize = 256;
}

impl Holders {
    /// Looks at a process; its number where it has more than the first descriptors, and these are not it.
    fn look(&mut self, pid: u32, wanted: &Wanted, part: Part, budget: Budget) -> Option<u32> {
        if budget.is_over() {
            self.cut_short = true;
            return None;
        }
        match descriptor_of(pid, wanted, part, budget) {
            Ok(Some(fd)) => self.found.extend(Holder::of(pid, fd)),
            Ok(None) => {}
            Err(Errno::OVERFLOW) => return Some(pid),
            Err(Errno::ACCESS | Errno::PERM) => self.closed_to_us += 1,
            Err(Errno::TIMEDOUT) => self.cut_short = true,
            // It has ended meanwhile.
            Err(_) => {}
        }
        None
    }
}

/// All processes: this one first, its user's next.
fn in_order(uid: Option<u32>, budget: Budget) -> Vec<(u8, u32)> {
    let (mut pids, own) = (Vec::new(), this_process());
    let Ok(directory) = open_directory(c"/proc") else { return pids };
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let Some(pid) = number(entry.file_name()) else { continue };
        let owner = (!budget.is_over()).then(|| owner(&directory, entry.file_name())).flatten();
        let order = if pid == own { 0 } else { 1 + u8::from(owner != uid) };
        pids.push((order, pid));
    }
    pids.sort_unstable();
    pids
}

fn owner(proc: impl AsFd, name: &CStr) -> Option<u32> {
    statat(proc, name, AtFlags::empty()).ok().map(|found| found.st_uid)
}

fn open_directory(path: &CStr) -> Result<std::os::fd::OwnedFd, Errno> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn number(name: &CStr) -> Option<u32> {
    name.to_str().ok()?.parse().ok()
}

fn path(pid: u32, file: &str) -> Line<40> {
    let mut path = Line::new();
    path.set(format_args!("/proc/{pid}/{file}"));
    path
}

/// A socket, as descriptors show it.
struct Wanted {
    inode: u64,
    link: Line<32>,
    own_process: u32,
}

impl Wanted {
    fn of(inode: u32) -> Self {
        let mut link = Line::new();
        link.set(format_args!("socket:[{inode}]"));
        Self { inode: inode.into(), link, own_process: this_process() }
    }

    /// Whether a descriptor of a process is it. Of this process's own fstat(2) tells, in a quarter of the time.
    fn is(&self, pid: u32, directory: impl AsFd, name: &CStr) -> bool {
        if pid == self.own_process {
            let fd = number(name).and_then(|fd| sys::borrow(i32::try_from(fd).ok()?, "stat").ok());
            let found = fd.and_then(|fd| fstat(fd).ok());
            return found.is_some_and(|found| {
                found.st_ino == self.inode && FileType::from_raw_mode(found.st_mode) == FileType::Socket
            });
        }
        let mut link = [0u8; 32];
        // "." and ".." are no links.
        let length = readlinkat_raw(directory, name, &mut link[..]).unwrap_or(0);
        link.get(..length) == Some(self.link.as_str().as_bytes())
    }
}

/// The lowest descriptor of a process that is the socket; EOVERFLOW where there are more than the part that was looked at.
fn descriptor_of(pid: u32, wanted: &Wanted, part: Part, budget: Budget) -> Result<Option<u32>, Errno> {
    /// The clock is read once for so many descriptors.
    const AT_ONCE: usize = 128;
    let directory = open_directory(path(pid, "fd").as_c_str())?;
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(&directory, &mut buffer);
    let mut seen = 0usize;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        seen += 1;
        match part {
            Part::First if seen > Part::FIRST => return Err(Errno::OVERFLOW),
            Part::Rest if seen <= Part::FIRST => continue,
            _ => {}
        }
        if wanted.is(pid, &directory, entry.file_name()) {
            return Ok(number(entry.file_name()));
        }
        if seen.is_multiple_of(AT_ONCE) && budget.is_over() {
            return Err(Errno::TIMEDOUT);
        }
    }
    Ok(None)
}

impl Holder {
    fn of(pid: u32, fd: u32) -> Option<Self> {
        let mut buffer = [0; 512];
        let mut name = Name::new();
        name.extend_from_slice(file::process_name(pid, &mut buffer)?);
        let uid = owner(CWD, path(pid, "").as_c_str())?;
        // In stat the name may hold anything, also parentheses: the last one ends it.
        let stat = file::read_bytes(path(pid, "stat").as_c_str(), &mut buffer)?;
        let behind_name = stat.rsplit(|&byte| byte == b')').next()?;
        let parent = std::str::from_utf8(behind_name).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(Self { pid, parent, uid, fd, name })
    }
}

/// A user as people know it: by name, and by number where it has none.
///
/// Only /etc/passwd is read: getpwuid_r(3) may ask a network, and take as long as that takes.
pub struct User(pub u32);

impl fmt::Display for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Where user names stand, which is read as far as this.
        const MOST: usize = 64 * 1024;
        let mut buffer = Vec::new();
        if buffer.try_reserve_exact(MOST).is_ok() {
            buffer.resize(MOST, 0);
        }
        let table = file::read_bytes(c"/etc/passwd", &mut buffer).unwrap_or_default();
        let name = table.split(|&byte| byte == b'\n').find_map(|line| {
            let mut fields = line.split(|&byte| byte == b':');
            let name = fields.next()?;
            let uid: u32 = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
            (uid == self.0).then_some(name)
        });
        match name {
            Some(name) => write!(out, "{}", Escaped(name)),
            None => write!(out, "{}", self.0),
        }
    }
}
