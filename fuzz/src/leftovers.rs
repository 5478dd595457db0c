//! What a run must not leave behind: descriptors, threads, children.

use std::fs;
use std::time::{Duration, Instant};

/// How many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftovers {
    descriptors: Vec<String>,
    threads: usize,
}

impl Leftovers {
    pub fn now() -> Self {
        Self { descriptors: descriptors(), threads: names("/proc/self/task").len() }
    }

    /// Waits a little, since the kernel is not done with a thread or a child when those who wait for it are told.
    pub fn assert_none(&self) {
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            let now = Self::now();
            // SAFETY: asks for a child that has ended; there is none where nothing was left.
            let children = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
            if now == *self && children == -1 {
                return;
            }
            assert!(Instant::now() < end, "left over: {now:?} (children: {children}), and before there were {self:?}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Each with what it is. Inodes of pipes and sockets are left out, which are another one's the next time, and paths, which
/// libFuzzer would take into its inputs, as it does with what is compared.
fn descriptors() -> Vec<String> {
    let kind = |name: String| {
        let target = fs::read_link(format!("/proc/self/fd/{name}")).ok()?;
        Some(format!("{name} {}", target.to_string_lossy().split([':', '/']).next().unwrap_or_default()))
    };
    let mut all: Vec<String> = names("/proc/self/fd").into_iter().filter_map(kind).collect();
    // The folder itself is open while it is read, and closed when it is asked what that was.
    all.sort();
    all
}

/// The lowest descriptor that is free: the same before and after where none was left open.
pub fn lowest_free() -> i32 {
    // SAFETY: makes a descriptor and closes it.
    unsafe {
        let fd = libc::dup(2);
        assert!(fd >= 0, "no descriptor is free");
        libc::close(fd);
        fd
    }
}
