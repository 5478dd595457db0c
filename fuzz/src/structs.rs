//! Options structs made of any bytes, behind whose pointers there is what their kind asks for.

use std::ffi::{CString, c_char, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::header::{Kind, Struct};
use crate::input::c_string;

/// What before_bind answers.
pub static HOOK: AtomicI32 = AtomicI32::new(0);

/// A struct's bytes, and the strings that it points to.
pub struct Filled {
    pub bytes: Vec<u8>,
    _strings: Vec<CString>,
}

/// Strings that may be meant, or not; another one is what the input ends with.
const STRINGS: [&[u8]; 12] = [
    b"",
    b"lo",
    b"eth0",
    b"root",
    b"0",
    b"4294967295",
    b"nobody",
    b"no\nbody",
    b"\xff\xfe",
    b"127.0.0.0/8",
    b"::/0,10.0.0.1",
    &[b'x'; 300],
];

/// A struct of `kind` that says it has `claimed` bytes, and has `room` of them: the given ones behind its size.
pub fn fill(kind: &Struct, claimed: usize, room: usize, given: &[u8]) -> Filled {
    let mut bytes = vec![0; room];
    for (to, from) in bytes.iter_mut().zip(claimed.to_ne_bytes().iter().chain(given)) {
        *to = *from;
    }
    let mut strings = vec![c_string(given)];
    strings.extend(STRINGS.map(c_string));
    for field in &kind.fields {
        let Some(place) = bytes.get_mut(field.offset..field.offset + field.width) else { continue };
        let pointer = match (field.kind, place.first().copied().unwrap_or(0)) {
            (Kind::Number | Kind::User, _) => continue,
            (_, 0) => 0,
            (Kind::Text, choice) => strings[usize::from(choice) % strings.len()].as_ptr() as usize,
            (Kind::Function, _) => function(field.name),
        };
        place.copy_from_slice(&pointer.to_ne_bytes());
    }
    Filled { bytes, _strings: strings }
}

/// A function that may be called by that field.
fn function(field: &str) -> usize {
    match field {
        "before_bind" => before_bind as *const () as usize,
        "log" => log as *const () as usize,
        "on_open" | "on_drain" => on_connection as *const () as usize,
        "on_data" => on_data as *const () as usize,
        "on_close" => on_close as *const () as usize,
        _ => panic!("say in fuzz/src/structs.rs which function {field} points to"),
    }
}

unsafe extern "C-unwind" fn before_bind(_fd: i32, _user: *mut c_void) -> i32 {
    HOOK.load(Ordering::Relaxed)
}

unsafe extern "C-unwind" fn log(_level: i32, _event: *const c_char, _text: *const c_char, _user: *mut c_void) {}

unsafe extern "C-unwind" fn on_connection(_connection: u64, _user: *mut c_void) {}

unsafe extern "C-unwind" fn on_data(_connection: u64, _bytes: *const u8, size: usize, _user: *mut c_void) -> usize {
    size
}

unsafe extern "C-unwind" fn on_close(_connection: u64, _why: *const c_void, _user: *mut c_void) {}
