//! Which process this is, without asking the kernel each time, and state that a forked child does not share.
//!
//! A page that the kernel clears in a child (madvise(2), MADV_WIPEONFORK) holds this process's epoch. A child reads 0
//! and takes an epoch of its own, so a handle of its parent is recognised by a load, before any lock is touched that
//! another thread of the parent may have held.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// The epoch's page; where the kernel cannot wipe one (before Linux 4.14), a plain word that getpid(2) guards.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
static NEXT_EPOCH: AtomicU64 = AtomicU64::new(1);
static FALLBACK: AtomicU64 = AtomicU64::new(0);

/// The number of this process among its forked ancestors: never 0, and another one in a child.
///
/// Async-signal-safe after the first call.
#[inline]
pub fn epoch() -> u64 {
    // SAFETY: null, or mapped for good by `map_page`.
    match unsafe { PAGE.load(Ordering::Acquire).as_ref() }.map_or(0, |word| word.load(Ordering::Relaxed)) {
        0 => first_epoch(),
        epoch => epoch,
    }
}

/// The epoch of a process that has not asked for it yet.
#[cold]
fn first_epoch() -> u64 {
    let Some(word) = page() else { return epoch_by_pid() };
    match word.load(Ordering::Relaxed) {
        0 => claim(word),
        epoch => epoch,
    }
}

/// A new process takes its epoch; of several threads the first one wins.
fn claim(word: &AtomicU64) -> u64 {
    let mine = NEXT_EPOCH.fetch_add(1, Ordering::Relaxed);
    match word.compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => mine,
        Err(theirs) => theirs,
    }
}

fn page() -> Option<&'static AtomicU64> {
    let known = PAGE.load(Ordering::Acquire);
    let page = if known.is_null() { map_page()? } else { known };
    // SAFETY: mapped for good by `map_page`, aligned as a page is, and only ever used as an atomic word.
    Some(unsafe { &*page })
}

fn map_page() -> Option<*mut AtomicU64> {
    let size = rustix::param::page_size();
    // SAFETY: a fresh anonymous mapping, which touches nothing that exists.
    let mapped = unsafe {
        rustix::mm::mmap_anonymous(ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    let mapped = mapped.ok()?;
    // SAFETY: the mapping of a moment ago, whole.
    let wiped = unsafe { rustix::mm::madvise(mapped, size, Advice::LinuxWipeOnFork) };
    let page = mapped.cast::<AtomicU64>();
    let stored =
        wiped.is_ok() && PAGE.compare_exchange(ptr::null_mut(), page, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if !stored {
        // SAFETY: the mapping of above, which nobody else has seen.
        let _ = unsafe { rustix::mm::munmap(mapped, size) };
    }
    let known = PAGE.load(Ordering::Acquire);
    (!known.is_null()).then_some(known)
}

fn epoch_by_pid() -> u64 {
    // The process id in the upper half tells a child from its parent.
    let pid = u64::from(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs());
    let known = FALLBACK.load(Ordering::Relaxed);
    if known >> 32 == pid {
        return known & u64::from(u32::MAX);
    }
    let mine = NEXT_EPOCH.fetch_add(1, Ordering::Relaxed);
    match FALLBACK.compare_exchange(known, pid << 32 | mine, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => mine,
        Err(theirs) => theirs & u64::from(u32::MAX),
    }
}

/// State that each process has for itself. A child starts with a new one: its parent's may be locked for ever by a
/// thread that the child does not have.
pub struct PerProcess<T> {
    current: AtomicPtr<Owned<T>>,
}

struct Owned<T> {
    epoch: u64,
    value: T,
}

impl<T: Default + Sync + 'static> PerProcess<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// This process's state, if it has one. Async-signal-safe; waits for nothing.
    pub fn existing(&'static self) -> Option<&'static T> {
        let current = self.current.load(Ordering::Acquire);
        if current.is_null() {
            return None;
        }
        // SAFETY: made by `create` and never freed.
        let owned = unsafe { &*current };
        (owned.epoch == epoch()).then_some(&owned.value)
    }

    /// This process's state, made where there is none; `None` where memory is short.
    pub fn get(&'static self) -> Option<&'static T> {
        self.existing().or_else(|| self.create())
    }

    fn create(&'static self) -> Option<&'static T> {
        let seen = self.current.load(Ordering::Acquire);
        let epoch = epoch();
        if !seen.is_null() {
            // SAFETY: made by this function and never freed.
            let owned = unsafe { &*seen };
            if owned.epoch == epoch {
                return Some(&owned.value);
            }
        }
        // A `Vec` of one, because a `Box` cannot be made where memory may be short.
        let mut room = Vec::new();
        room.try_reserve_exact(1).ok()?;
        room.push(Owned { epoch, value: T::default() });
        let made = Vec::leak(room).as_mut_ptr();
        match self.current.compare_exchange(seen, made, Ordering::AcqRel, Ordering::Acquire) {
            // The parent's stays allocated: a thread of it may have been in the middle of a change.
            Ok(_) => self.existing(),
            Err(_) => {
                // SAFETY: leaked a moment ago from a vector of length and capacity 1, and seen by nobody.
                drop(unsafe { Vec::from_raw_parts(made, 1, 1) });
                self.existing()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_stays_within_a_process() {
        let first = epoch();
        assert_ne!(first, 0);
        assert_eq!(epoch(), first);
    }

    #[test]
    fn the_way_without_a_wiped_page_works_too() {
        let first = epoch_by_pid();
        assert_ne!(first, 0);
        assert_eq!(epoch_by_pid(), first);
    }
}
