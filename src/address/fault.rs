//! How a fault in an address text is shown: the text, and below it a caret with what was expected there.

use std::fmt::{self, Write};
use std::iter::once;

use crate::error::{Code, Error};
use crate::text::Escaped;

/// How many columns of the text are shown, and how many of them behind the fault.
const SHOWN: usize = 160;
const BEHIND: usize = 40;

/// The error of a fault at `position` of `whole`, in the address `subject`.
pub fn fault(
    whole: &[u8],
    subject: &[u8],
    position: usize,
    cause: &dyn fmt::Display,
    expected: &dyn fmt::Display,
) -> Error {
    let (start, end) = window(whole, position);
    let position = position.max(start).min(end);
    let part = |from, to| whole.get(from..to).unwrap_or_default();
    let lead = Line { bytes: part(start, position), cut_before: start > 0, cut_behind: false };
    let rest = Line { bytes: part(position, end), cut_before: false, cut_behind: end < whole.len() };
    let caret = columns(&lead);
    Error::new(Code::InvalidAddress, "address", format_args!("{cause}"))
        .at(Escaped(subject))
        .hint(format_args!("{lead}{rest}\n{:caret$}^ {expected}", ""))
}

/// The part of the text that is shown: its head, or what surrounds a fault further behind.
///
/// What is escaped is wider than its bytes. Then less is shown, so that the caret fits into what C is given of a hint.
fn window(text: &[u8], position: usize) -> (usize, usize) {
    let end = position.saturating_add(BEHIND).max(SHOWN).min(text.len());
    let start = end.saturating_sub(SHOWN);
    let start = if start > 0 { character_start(text, start) } else { 0 };
    let position = position.min(end);
    let width = |from, to| {
        columns(&Line { bytes: text.get(from..to).unwrap_or_default(), cut_before: false, cut_behind: false })
    };
    let mut ends = once(character_start(text, end)).chain((position..end).rev().map(|end| character_start(text, end)));
    let end = ends.find(|&end| width(start, end) <= SHOWN || width(position, end) <= BEHIND).unwrap_or(position);
    let mut starts = once(start).chain((start + 1..position).map(|start| character_start(text, start)));
    (starts.find(|&start| width(start, end) <= SHOWN).unwrap_or(position.max(start)), end)
}

/// The first place from `index` on that is not inside a UTF-8 character.
fn character_start(text: &[u8], index: usize) -> usize {
    let inside = text.iter().skip(index).take(3).take_while(|&&byte| byte & 0xc0 == 0x80).count();
    index + inside
}

/// A part of a line, in characters that are one column wide each.
///
/// More is escaped here than in the rest of a message: a wide, combining or right-to-left character would move the
/// caret away from the fault.
struct Line<'a> {
    bytes: &'a [u8],
    cut_before: bool,
    cut_behind: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dots = |cut| if cut { "..." } else { "" };
        out.write_str(dots(self.cut_before))?;
        for chunk in self.bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                if is_one_column(character) {
                    out.write_char(character)?;
                } else {
                    write!(out, "{}", character.escape_default())?;
                }
            }
            for byte in chunk.invalid() {
                write!(out, "\\x{byte:02x}")?;
            }
        }
        out.write_str(dots(self.cut_behind))
    }
}

/// Printable ASCII, and the letters of Latin, Greek and Cyrillic.
fn is_one_column(character: char) -> bool {
    match character {
        ' '..='~' => true,
        '\u{a1}'..='\u{2ff}' | '\u{370}'..='\u{52f}' => character.is_alphanumeric(),
        _ => false,
    }
}

/// How wide the line is; counted while it is written, so that it takes no memory.
fn columns(line: &Line<'_>) -> usize {
    struct Counter(usize);
    impl Write for Counter {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0 += part.chars().count();
            Ok(())
        }
    }
    let mut counter = Counter(0);
    let _ = write!(counter, "{line}");
    counter.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text as it is shown, and the column of the caret.
    fn shown(text: &str, position: usize) -> (String, usize) {
        let error = fault(text.as_bytes(), b"", position, &"cause", &"expected");
        let (line, below) = error.hint_text().split_once('\n').unwrap();
        assert_eq!(below.trim_start(), "^ expected");
        (line.to_string(), below.len() - "^ expected".len())
    }

    #[test]
    fn the_caret_stands_below_the_fault_whatever_is_before_it() {
        assert_eq!(shown("abc", 1), ("abc".to_string(), 1));
        assert_eq!(shown("abc", 3), ("abc".to_string(), 3));
        assert_eq!(shown("\u{e9}x", 2), ("\u{e9}x".to_string(), 1));
        assert_eq!(shown("\nx", 1), ("\\nx".to_string(), 2));
        assert_eq!(shown("\u{65e5}x", 3), ("\\u{65e5}x".to_string(), 8));
        assert_eq!(shown("a\u{301}x", 3), ("a\\u{301}x".to_string(), 8));
        let error = fault(b"\x80\x80x", b"", 2, &"cause", &"expected");
        assert_eq!(error.hint_text(), "\\x80\\x80x\n        ^ expected");
    }

    #[test]
    fn a_long_text_is_cut_around_the_fault() {
        let text = format!("{}!{}", "a".repeat(1000), "b".repeat(1000));
        for position in [1000, 0, 100, 160, 161, 1999, 2001, usize::MAX] {
            let (line, column) = shown(&text, position);
            assert!(line.len() <= SHOWN + 6, "{line}");
            assert!(column <= line.len(), "{line}");
        }
        let (line, column) = shown(&text, 1000);
        assert_eq!(line.find('!'), Some(column));
        assert!(line.starts_with("...a") && line.ends_with("b..."));
        assert_eq!(shown(&text, 2001).1, 3 + SHOWN);
    }

    #[test]
    fn an_escaped_text_is_no_wider() {
        for text in ["\u{1}".repeat(500), "\u{e0041}".repeat(125)] {
            for position in [0, 40, 112, 160, 300, 500] {
                let (line, column) = shown(&text, position);
                assert!(column <= line.len() && line.len() <= SHOWN + 6, "{position}: {line}");
                assert!(line.len() >= BEHIND, "{position}: {line}");
            }
        }
    }

    #[test]
    fn a_cut_does_not_go_through_a_character() {
        for shift in 0..3 {
            let text = format!("{}{}", "x".repeat(shift), "\u{65e5}".repeat(500));
            let (line, _) = shown(&text, shift + 900);
            assert!(!line.contains("\\x"), "{line}");
        }
    }
}
