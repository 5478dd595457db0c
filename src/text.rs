//! Text that is built without aborting: what does not fit into memory is left out.

use std::ffi::CStr;
use std::fmt::{self, Write};

/// A string whose growth may fail. `String` aborts the process when memory runs out, and errors are made just then;
/// a `Text` stays as long as it was instead.
#[derive(Default, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// No text.
    pub const fn new() -> Self {
        Self(String::new())
    }

    /// The text that `arguments` format to, as far as memory allows.
    pub fn format(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Self::new();
        let _ = text.write_fmt(arguments);
        text
    }

    /// The text as a string slice.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Clone for Text {
    fn clone(&self) -> Self {
        Self::from(self.as_str())
    }
}

impl Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0.try_reserve(part.len()).map_err(|_| fmt::Error)?;
        self.0.push_str(part);
        Ok(())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::format(format_args!("{text}"))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, out)
    }
}

#[cfg(feature = "command")]
impl serde::Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A NUL-terminated text of a fixed size: making one allocates nothing, and what is too long is cut.
#[derive(Clone)]
pub struct Line<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Line<N> {
    /// No text.
    pub const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// Takes another text.
    pub fn set(&mut self, text: impl fmt::Display) {
        *self = Self::new();
        let _ = write!(self, "{text}");
    }

    /// The text for C.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }

    /// The text for Rust.
    pub fn as_str(&self) -> &str {
        self.as_c_str().to_str().unwrap_or_default()
    }
}

impl<const N: usize> Default for Line<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Write for Line<N> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = N.saturating_sub(self.length).saturating_sub(1);
        let fitting = part.get(..part.floor_char_boundary(room)).unwrap_or(part);
        for (place, byte) in self.bytes.iter_mut().skip(self.length).zip(fitting.bytes()) {
            *place = byte;
        }
        self.length += fitting.len();
        if fitting.len() < part.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// How much of a foreign text is shown in an error: so many bytes, in at most so many characters. Escaped they are more,
/// and a message for C has 767 bytes, of which the cause is the end.
const SHOWN: usize = 200;
const WIDEST: usize = 250;

/// Shows bytes that someone else chose on one line of UTF-8: control characters and invalid bytes are escaped, and a
/// long text is cut.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.get(..SHOWN).unwrap_or(self.0);
        let (mut whole, mut width) = (shown.len() == self.0.len(), 0);
        let mut has_room = |more: usize| {
            width += more;
            whole &= width <= WIDEST;
            width <= WIDEST
        };
        for chunk in shown.utf8_chunks() {
            for character in chunk.valid().chars() {
                if !character.is_control() {
                    if has_room(1) {
                        out.write_char(character)?;
                    }
                } else if has_room(character.escape_default().count()) {
                    write!(out, "{}", character.escape_default())?;
                }
            }
            for byte in chunk.invalid() {
                if has_room(4) {
                    write!(out, "\\x{byte:02x}")?;
                }
            }
        }
        if whole { Ok(()) } else { out.write_str("...") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bytes_become_one_line_of_utf8() {
        assert_eq!(Escaped(b"a\nb\xff\x1b[0m").to_string(), "a\\nb\\xff\\u{1b}[0m");
        assert_eq!(Escaped("h\u{e9}".as_bytes()).to_string(), "h\u{e9}");
    }

    #[test]
    fn a_line_is_cut_between_characters_and_terminated() {
        let mut line = Line::<6>::new();
        line.set("abcd\u{e9}f");
        assert_eq!(line.as_c_str(), c"abcd");
        line.set("ab\u{e9}f");
        assert_eq!(line.as_str(), "ab\u{e9}f");
    }

    #[test]
    fn a_long_text_is_cut() {
        let shown = Escaped(&[b'x'; 10_000]).to_string();
        assert_eq!(shown.len(), SHOWN + 3);
        assert!(shown.ends_with("..."));
        for text in [&[1; 200], &[0xff; 200]] {
            let shown = Escaped(text).to_string();
            assert!(shown.len() <= WIDEST + 3 && shown.ends_with("..."), "{shown}");
        }
    }
}
