//! What waits to be sent.

use rustix::io::Errno;

/// Bytes in the order in which they are to be sent.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// How many at the front have been sent.
    sent: usize,
}

impl Output {
    /// What is to be sent next.
    pub fn front(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Appends.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        // What has been sent is in the way of more: moved out once it is the larger part.
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.try_reserve(bytes.len()).map_err(|_| Errno::NOMEM)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// All of it, and how much at its front has been sent. Nothing waits afterwards.
    pub fn take(&mut self) -> (Vec<u8>, usize) {
        let Self { bytes, sent } = std::mem::take(self);
        (bytes, sent)
    }

    /// Puts bytes back in front of what waits, of which so many have been sent.
    pub fn put_back(&mut self, mut bytes: Vec<u8>, sent: usize) -> Result<(), Errno> {
        bytes.try_reserve(self.front().len()).map_err(|_| Errno::NOMEM)?;
        bytes.extend_from_slice(self.front());
        *self = Self { bytes, sent };
        Ok(())
    }

    /// Where nothing waits and it has no room, takes this vector for its bytes.
    pub fn use_room(&mut self, spare: impl FnOnce() -> Option<Vec<u8>>) {
        if self.bytes.capacity() == 0
            && let Some(bytes) = spare()
        {
            self.bytes = bytes;
        }
    }

    /// So much of the front has been sent.
    pub fn advance(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.bytes.len());
        if self.is_empty() {
            // An idle connection holds no memory.
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_their_order() {
        let mut output = Output::default();
        let (mut pushed, mut left) = (Vec::new(), Vec::new());
        for round in 0..1000u32 {
            let part: Vec<u8> = (0..round % 37).map(|index| (round + index) as u8).collect();
            output.push(&part).unwrap();
            pushed.extend_from_slice(&part);
            let count = (round as usize * 7) % (output.front().len() + 1);
            left.extend_from_slice(&output.front()[..count]);
            output.advance(count);
        }
        left.extend_from_slice(output.front());
        output.advance(usize::MAX);
        assert!(output.is_empty() && left == pushed);
        assert_eq!(output.bytes.capacity(), 0);
    }
}
