//! Reading and writing on a connection, within its limits.

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::Server;
use crate::deadline::Deadline;
use crate::error::{Code, Error, Result};
use crate::stream;

/// What ends a wait.
pub struct Limits {
    /// The time is over.
    pub deadline: Deadline,
    /// The server, where the wait is on its own thread: it would not notice a stop otherwise.
    pub server: Option<Arc<Server>>,
}

/// Reads what there is; 0 is the end of the stream.
pub fn read(socket: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>], limits: &Limits) -> Result<usize> {
    receive(socket, buffer, RecvFlags::empty(), limits)
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>], flags: RecvFlags, limits: &Limits) -> Result<usize> {
    let Some(server) = &limits.server else { return stream::receive(socket, buffer, flags, limits.deadline) };
    let mut breaths = 0;
    loop {
        // A deadline that is over makes this a single try.
        match stream::receive(socket, buffer, flags, now()) {
            Err(error) if error.errno().is_some_and(|errno| waits_for_memory(errno, &mut breaths)) => {}
            Err(error) if error.errno() == Some(Errno::AGAIN) => {
                server
                    .wait_in_handler(socket, PollFlags::IN, limits.deadline)
                    .map_err(|errno| failed("read", errno))?;
            }
            outcome => return outcome,
        }
    }
}

/// Writes all of it.
pub fn write(socket: BorrowedFd<'_>, bytes: &[u8], limits: &Limits) -> Result<()> {
    let Some(server) = &limits.server else { return stream::write(socket, bytes, limits.deadline) };
    let (mut rest, mut breaths) = (bytes, 0);
    while !rest.is_empty() {
        match rustix::net::send(socket, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) if waits_for_memory(errno, &mut breaths) => {}
            Err(Errno::AGAIN) => server
                .wait_in_handler(socket, PollFlags::OUT, limits.deadline)
                .map_err(|errno| failed("write", errno))?,
            Err(errno) => return Err(failed("write", errno)),
        }
    }
    Ok(())
}

/// Where the kernel's memory is short: rests for a moment, a bounded number of times.
fn waits_for_memory(errno: Errno, breaths: &mut u32) -> bool {
    let waits = matches!(errno, Errno::NOBUFS | Errno::NOMEM) && *breaths < stream::BREATHS;
    if waits {
        *breaths += 1;
        stream::breathe();
    }
    waits
}

fn now() -> Deadline {
    Deadline::after(std::time::Duration::ZERO)
}

fn failed(operation: &'static str, errno: Errno) -> Error {
    Error::system(operation, errno)
}

/// How much is looked at in one step of [`read_line`].
const WINDOW: usize = 4096;

/// Reads a line without its ending and puts a NUL behind it; `taken` hears how much was taken from the socket, and of
/// the stream's end by a 0.
///
/// The bytes are looked at before they are taken, so that nothing behind the line leaves the socket: the program may go
/// on with read(2), or take the descriptor over.
pub fn read_line(
    socket: BorrowedFd<'_>,
    line: &mut [MaybeUninit<u8>],
    limits: &Limits,
    mut taken: impl FnMut(usize),
) -> Result<usize> {
    if line.len() < 2 {
        let cause = format_args!("a buffer of {} bytes holds no line and its NUL", line.len());
        return Err(Error::invalid("oyez_conn_read_line", cause));
    }
    let mut line = Line { room: line, length: 0, carriage_return: false };
    let outcome = loop {
        let mut window = [MaybeUninit::uninit(); WINDOW];
        let step = receive(socket, &mut window, RecvFlags::PEEK, limits);
        let seen = match step {
            Ok(seen) => seen,
            Err(error) => break Err(error),
        };
        if seen == 0 {
            taken(0);
            break line.end_of_stream();
        }
        let (looked_at, progress) = line.take(initialised(&window, seen));
        if let Err(error) = consume(socket, &mut window, looked_at, limits) {
            break Err(error);
        }
        taken(looked_at);
        match progress {
            Progress::More => {}
            Progress::Complete => break Ok(line.length),
            Progress::TooLong => {
                let cause = format_args!("no end of line within {} bytes", line.room.len() - 1);
                break Err(Error::new(Code::LimitReached, "read_line", cause).with_errno(Errno::MSGSIZE));
            }
        }
    };
    line.terminate();
    outcome
}

/// The bytes that a receive has filled.
fn initialised(window: &[MaybeUninit<u8>; WINDOW], filled: usize) -> impl Iterator<Item = u8> {
    crate::sys::socket::filled(window, filled).iter().copied()
}

/// Takes from the socket what was looked at.
fn consume(
    socket: BorrowedFd<'_>,
    window: &mut [MaybeUninit<u8>; WINDOW],
    length: usize,
    limits: &Limits,
) -> Result<()> {
    let mut left = length;
    while left > 0 {
        let part = window.get_mut(..left).unwrap_or_default();
        match receive(socket, part, RecvFlags::empty(), limits)? {
            0 => return Ok(()),
            consumed => left = left.saturating_sub(consumed),
        }
    }
    Ok(())
}

enum Progress {
    More,
    Complete,
    TooLong,
}

struct Line<'a> {
    room: &'a mut [MaybeUninit<u8>],
    length: usize,
    /// A CR that belongs to the line unless a LF follows.
    carriage_return: bool,
}

impl Line<'_> {
    /// Takes bytes up to the end of the line; returns how many it took.
    fn take(&mut self, bytes: impl Iterator<Item = u8>) -> (usize, Progress) {
        let mut count = 0;
        for byte in bytes {
            if byte == b'\n' {
                return (count + 1, Progress::Complete);
            }
            if self.carriage_return && !self.push(b'\r') {
                return (count, Progress::TooLong);
            }
            self.carriage_return = byte == b'\r';
            if !self.carriage_return && !self.push(byte) {
                return (count, Progress::TooLong);
            }
            count += 1;
        }
        (count, Progress::More)
    }

    fn push(&mut self, byte: u8) -> bool {
        let last = self.room.len() - 1;
        match self.room.get_mut(self.length) {
            Some(place) if self.length < last => {
                place.write(byte);
                self.length += 1;
                true
            }
            _ => false,
        }
    }

    /// The last line of a stream may lack its ending.
    fn end_of_stream(&mut self) -> Result<usize> {
        if self.carriage_return {
            self.push(b'\r');
        }
        match self.length {
            0 => {
                Err(Error::new(Code::Closed, "read_line", format_args!("the end of the stream"))
                    .with_errno(Errno::PIPE))
            }
            length => Ok(length),
        }
    }

    fn terminate(&mut self) {
        if let Some(place) = self.room.get_mut(self.length) {
            place.write(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn lines(sent: &[u8], size: usize) -> Vec<std::result::Result<Vec<u8>, Code>> {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(sent).unwrap();
        drop(client);
        let limits = Limits { deadline: Deadline::NEVER, server: None };
        let mut outcomes = Vec::new();
        loop {
            let mut line = vec![MaybeUninit::new(b'#'); size];
            let outcome = read_line(server.as_fd(), &mut line, &limits, |_| {});
            let text: Vec<u8> = crate::sys::socket::filled(&line, size).to_vec();
            let end = text.iter().position(|&byte| byte == 0).unwrap();
            match outcome {
                Ok(length) => outcomes.push(Ok(text[..length].to_vec())),
                Err(error) if error.code() == Code::LimitReached => {
                    outcomes.push(Ok(text[..end].to_vec()));
                    outcomes.push(Err(error.code()));
                }
                Err(error) => {
                    outcomes.push(Err(error.code()));
                    return outcomes;
                }
            }
        }
    }

    fn ok(text: &str) -> std::result::Result<Vec<u8>, Code> {
        Ok(text.as_bytes().to_vec())
    }

    #[test]
    fn both_endings_empty_lines_and_a_last_line_without_one() {
        let expected = vec![ok("one"), ok("two"), ok(""), ok("a\rb"), ok("last"), Err(Code::Closed)];
        assert_eq!(lines(b"one\ntwo\r\n\na\rb\nlast", 100), expected);
        assert_eq!(lines(b"", 100), vec![Err(Code::Closed)]);
        assert_eq!(lines(b"\r\n", 100), vec![ok(""), Err(Code::Closed)]);
    }

    #[test]
    fn a_line_fits_exactly_or_goes_on() {
        assert_eq!(lines(b"abc\r\nd\n", 4), vec![ok("abc"), ok("d"), Err(Code::Closed)]);
        let too_long = vec![ok("abc"), Err(Code::LimitReached), ok("def"), ok("g"), Err(Code::Closed)];
        assert_eq!(lines(b"abcdef\ng\n", 4), too_long);
    }

    #[test]
    fn a_line_longer_than_the_window() {
        let long = "x".repeat(3 * WINDOW + 17);
        let sent = format!("{long}\r\nnext\n");
        assert_eq!(lines(sent.as_bytes(), 4 * WINDOW), vec![ok(&long), ok("next"), Err(Code::Closed)]);
    }
}
