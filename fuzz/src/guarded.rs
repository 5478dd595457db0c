//! Memory whose end is the end of all that may be touched: one byte more is a fault, with any build and any allocator.

use std::ptr;

/// So many pages are there.
const PAGES: usize = 4;

/// Pages with one behind them that cannot be touched.
pub struct Guarded {
    start: *mut u8,
    room: usize,
}

impl Guarded {
    pub fn new() -> Self {
        // SAFETY: asks for a number, then for new pages, then changes the last of those.
        unsafe {
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).expect("a page has a size");
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let start = libc::mmap(ptr::null_mut(), page * (PAGES + 1), protection, flags, -1, 0);
            assert!(start != libc::MAP_FAILED, "no memory");
            let room = page * PAGES;
            assert_eq!(libc::mprotect(start.byte_add(room), page, libc::PROT_NONE), 0);
            Self { start: start.cast(), room }
        }
    }

    /// Places the bytes so that they end where the memory does, at whatever alignment that makes.
    pub fn place(&mut self, bytes: &[u8]) -> *mut u8 {
        assert!(bytes.len() <= self.room, "more than {} bytes", self.room);
        // SAFETY: as many bytes are between the place and the end.
        unsafe {
            let place = self.start.add(self.room - bytes.len());
            ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
            place
        }
    }

    /// The last `size` bytes.
    pub fn bytes(&self, size: usize) -> Vec<u8> {
        assert!(size <= self.room);
        // SAFETY: as many bytes are before the end, and nothing refers to them.
        unsafe { std::slice::from_raw_parts(self.start.add(self.room - size), size) }.to_vec()
    }
}

impl Default for Guarded {
    fn default() -> Self {
        Self::new()
    }
}
