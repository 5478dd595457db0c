//! The bytes of one run, taken from the front; where they end, everything is zero.

use std::ffi::CString;

/// What is left of them.
#[derive(Clone)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `size` bytes, or as many as there are.
    pub fn take(&mut self, size: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(size.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// One of `choices` numbers from 0 on.
    pub fn below(&mut self, choices: usize) -> usize {
        usize::from(self.byte()) % choices
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let taken = self.take(8);
        bytes[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(bytes)
    }

    /// What stands before the next `separator`, which goes too.
    pub fn until(&mut self, separator: u8) -> &'a [u8] {
        let end = self.0.iter().position(|&byte| byte == separator).unwrap_or(self.0.len());
        let part = self.take(end);
        self.take(1);
        part
    }
}

/// A string of C: the bytes as far as the first NUL.
pub fn c_string(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).expect("the NUL is cut away")
}
