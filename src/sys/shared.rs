//! Memory that a process shares with the children it forks.

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// What may lie there: atomics alone, which mean the same in every process and need no dropping.
pub trait Plain: Default + Sync + 'static {}

/// A value in an anonymous shared mapping, which starts as its default.
pub struct Shared<T: Plain> {
    place: NonNull<T>,
    owned: PhantomData<T>,
}

impl<T: Plain> Shared<T> {
    /// Maps a page or more. An alignment beyond a page's does not occur among atomics.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: a fresh anonymous mapping, which touches nothing that exists.
        let mapped = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                size_of::<T>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        };
        let place = NonNull::new(mapped?.cast::<T>()).ok_or(Errno::NOMEM)?;
        // SAFETY: mapped a moment ago, large enough, and aligned as a page is.
        unsafe { place.write(T::default()) };
        Ok(Self { place, owned: PhantomData })
    }
}

impl<T: Plain> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: written by `new`, mapped until dropped, and `T` is changed through atomics alone.
        unsafe { self.place.as_ref() }
    }
}

impl<T: Plain> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, to which no reference outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.place.as_ptr().cast(), size_of::<T>()) };
    }
}

// SAFETY: a shared reference is all that it gives out, and `Plain` types are `Sync`.
unsafe impl<T: Plain> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Shared<T> {}
