//! A piece of an address text that knows where it stands, so that a fault in it can be shown in its place.

use std::fmt;

use super::fault::fault;
use crate::error::{Error, Result};
use crate::text::Text;

/// How long a text may be. The longest list that is meant is far shorter, and what is longer is not even read.
const LONGEST: usize = 4096;

/// A part of the text that a caller gave.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// All that the caller gave, for the caret.
    whole: &'a [u8],
    /// The one address in it that an error is about.
    subject: &'a [u8],
    bytes: &'a [u8],
    /// Where `bytes` start in `whole`.
    start: usize,
}

impl<'a> Piece<'a> {
    /// The whole text; one that is too long is refused unread.
    pub fn whole(text: &'a [u8]) -> Result<Self> {
        Self::within(text, LONGEST)
    }

    /// The whole text, which may have so many bytes.
    pub fn within(text: &'a [u8], longest: usize) -> Result<Self> {
        let piece = Self { whole: text, subject: text, bytes: text, start: 0 };
        if text.len() > longest {
            return Err(piece.too_long("text", longest));
        }
        Ok(piece)
    }

    /// The piece without the blanks around it.
    pub fn trimmed(self) -> Self {
        let blanks = self.bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let rest = self.from(blanks);
        rest.until(rest.bytes.trim_ascii_end().len())
    }

    /// The same piece, and errors are about it.
    pub fn as_subject(self) -> Self {
        Self { subject: self.bytes, ..self }
    }

    /// The same piece, and errors are about `subject`.
    pub fn about(self, subject: Piece<'a>) -> Self {
        Self { subject: subject.bytes, ..self }
    }

    /// The bytes themselves.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Where the piece starts in the whole text.
    pub fn start(self) -> usize {
        self.start
    }

    /// The piece as text; what is not UTF-8, or does not stay on its line, is a fault.
    pub fn text(self) -> Result<&'a str> {
        let (text, valid) = match std::str::from_utf8(self.bytes) {
            Ok(text) => (text, text.len()),
            Err(error) => ("", error.valid_up_to()),
        };
        let control = self.until(valid).bytes.iter().position(u8::is_ascii_control);
        match control {
            None if valid == self.bytes.len() => Ok(text),
            _ => Err(self.not_printable(control.unwrap_or(valid))),
        }
    }

    /// The piece as text; what is not printable ASCII, or is a space, is a fault.
    pub fn graphic(self) -> Result<&'a str> {
        match self.bytes.iter().position(|byte| !byte.is_ascii_graphic()) {
            None => self.text(),
            Some(index) if self.bytes.get(index) == Some(&b' ') => {
                Err(self.fault(index, "there is a space", "an address without spaces"))
            }
            Some(index) => Err(self.not_printable(index)),
        }
    }

    /// The first byte.
    pub fn first(self) -> Option<u8> {
        self.bytes.first().copied()
    }

    /// Where `byte` first is.
    pub fn find(self, byte: u8) -> Option<usize> {
        self.bytes.iter().position(|&other| other == byte)
    }

    /// What follows `prefix`, where the piece starts so.
    pub fn after(self, prefix: &[u8]) -> Option<Self> {
        self.bytes.starts_with(prefix).then(|| self.from(prefix.len()))
    }

    /// What stands before and behind the first `separator`.
    pub fn split(self, separator: u8) -> Option<(Self, Self)> {
        self.find(separator).map(|index| (self.until(index), self.from(index + 1)))
    }

    /// All that `separator` separates; at least one piece.
    pub fn split_all(self, separator: u8) -> impl Iterator<Item = Piece<'a>> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let piece = rest?;
            let (first, others) = piece.split(separator).unzip();
            rest = others;
            Some(first.unwrap_or(piece))
        })
    }

    /// A number in plain digits, or where it stops being one from 0 to `limit`.
    pub fn number(self, limit: u32) -> std::result::Result<u32, usize> {
        if let Some(index) = self.bytes.iter().position(|byte| !byte.is_ascii_digit()) {
            return Err(index);
        }
        match self.bytes {
            [] | [b'0', _, ..] => Err(0),
            digits => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .filter(|&number| number <= limit)
                .ok_or(0),
        }
    }

    /// The error of a fault at `index` of this piece; its length stands for its end.
    pub fn fault(self, index: usize, cause: impl fmt::Display, expected: impl fmt::Display) -> Error {
        self.fault_in_whole(self.start + index, cause, expected)
    }

    /// The error of something that is missing behind this piece.
    pub fn fault_at_end(self, cause: impl fmt::Display, expected: impl fmt::Display) -> Error {
        self.fault(self.bytes.len(), cause, expected)
    }

    /// The error of a piece that has more than `limit` bytes.
    pub fn too_long(self, what: &str, limit: usize) -> Error {
        let cause = Text::format(format_args!("the {what} has {} bytes, and {limit} are the most", self.bytes.len()));
        self.fault(limit, cause, format_args!("the end of the {what}"))
    }

    /// The error of a fault at `position` of the whole text.
    pub fn fault_in_whole(self, position: usize, cause: impl fmt::Display, expected: impl fmt::Display) -> Error {
        fault(self.whole, self.subject, position, &cause, &expected)
    }

    fn not_printable(self, index: usize) -> Error {
        self.fault(index, "there is a byte that no address has", "a printable character")
    }

    fn until(self, index: usize) -> Self {
        Self { bytes: self.bytes.get(..index).unwrap_or(self.bytes), ..self }
    }

    fn from(self, index: usize) -> Self {
        Self { bytes: self.bytes.get(index..).unwrap_or_default(), start: self.start + index, ..self }
    }
}
