//! What every failure must be: words that can be printed, a code that is known, an errno.

use std::ffi::{CStr, c_char};

use oyez::capi::error::*;
use oyez::error::{Code, Error};

/// This thread's last error, as a C program reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub errno: i32,
    pub operation: String,
    pub address: String,
    pub message: String,
    pub hint: String,
}

impl Failure {
    /// That of the call which has just failed.
    pub fn last() -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error();
        let failure = Self::read();
        assert!(errno.is_some_and(|errno| errno > 0), "errno is not set: {failure:?}");
        assert!(!matches!(failure.code, Code::Ok | Code::Internal), "{failure:?}");
        one_line(&failure.message);
        one_line(&failure.address);
        one_line(&failure.operation);
        failure.hint.lines().for_each(one_line);
        assert!(!failure.message.is_empty() && !failure.operation.is_empty(), "{failure:?}");
        failure
    }

    fn read() -> Self {
        let error = oyez_last_error();
        // SAFETY: this thread's record lives as long as the thread.
        unsafe {
            Self {
                code: code(oyez_error_code(error)),
                errno: oyez_error_errno(error),
                operation: text(oyez_error_operation(error)),
                address: text(oyez_error_address(error)),
                message: text(oyez_error_message(error)),
                hint: text(oyez_error_hint(error)),
            }
        }
    }
}

fn code(number: i32) -> Code {
    let known = usize::try_from(number).ok().and_then(|number| Code::ALL.get(number).copied());
    known.unwrap_or_else(|| panic!("{number} is no code"))
}

/// # Safety
/// A terminated string.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: as above.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().unwrap_or_else(|_| panic!("no UTF-8: {text:?}")).to_owned()
}

/// What is printed must not end its line, move the cursor or ring the bell.
pub fn one_line(text: &str) {
    assert!(!text.contains(char::is_control), "a control character is in {text:?}");
}

/// The error of an address text: where the hint is a text with a caret, that stands below it.
pub fn check_address_error(error: &Error) {
    let message = error.to_string();
    one_line(&message);
    assert_eq!(error.code(), Code::InvalidAddress, "{message}");
    check_caret(error.hint_text());
}

/// The text on one line, below it a caret that is not beyond its end, and what was expected.
pub fn check_caret(hint: &str) {
    let lines: Vec<&str> = hint.split('\n').collect();
    let [line, below] = lines[..] else { panic!("not two lines: {hint:?}") };
    one_line(line);
    one_line(below);
    let column = below.find(|character| character != ' ').unwrap_or(0);
    assert!(below[column..].starts_with("^ "), "no caret: {hint:?}");
    assert!(column <= line.chars().count(), "the caret is beyond the text: {hint:?}");
    assert!(line.len() < 2000 && below.len() < line.len() * 8 + 1000, "too long: {hint:?}");
}
