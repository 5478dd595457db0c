//! The functions that servers call: they call oyez again, as the script of the run says.

use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::Ordering::SeqCst;

use oyez::capi::last_error::oyez_error;

use super::table;
use super::world::World;
use crate::failure::one_line;
use crate::input::Input;

/// # Safety
/// `user` is the world, which lives until its servers are closed.
unsafe fn world<'a>(user: *mut c_void) -> &'a World {
    // SAFETY: as above.
    unsafe { &*user.cast::<World>() }
}

/// Calls what the script says from `place` on.
fn play(world: &World, place: u64) {
    let start = usize::try_from(place).unwrap_or(0) * 5 % world.script.len().max(1);
    let mut input = Input(&world.script[start..]);
    for _ in 0..3 {
        if !input.is_empty() && !world.is_ending() {
            table::call_from_handler(world, &mut input);
        }
    }
}

/// A handler for each connection.
pub unsafe extern "C-unwind" fn handler(connection: u64, user: *mut c_void) {
    // SAFETY: the harness gives the world with each function.
    let world = unsafe { world(user) };
    world.add_connection(connection);
    play(world, connection);
}

pub unsafe extern "C-unwind" fn on_open(connection: u64, user: *mut c_void) {
    // SAFETY: as above.
    let world = unsafe { world(user) };
    world.opened.fetch_add(1, SeqCst);
    world.add_connection(connection);
    play(world, connection);
}

pub unsafe extern "C-unwind" fn on_data(connection: u64, bytes: *const u8, size: usize, user: *mut c_void) -> usize {
    // SAFETY: as above; the bytes are there for the call.
    let (world, bytes) = unsafe { (world(user), std::slice::from_raw_parts(bytes, size)) };
    assert!(!bytes.is_empty(), "on_data is called for input");
    play(world, connection + u64::from(bytes[0]));
    match bytes[0] % 4 {
        0 => size / 2,
        // More than there was, which must do no harm.
        1 if bytes[0] == 5 => usize::MAX,
        _ => size,
    }
}

pub unsafe extern "C-unwind" fn on_drain(connection: u64, user: *mut c_void) {
    // SAFETY: as above.
    play(unsafe { world(user) }, connection + 1);
}

pub unsafe extern "C-unwind" fn on_close(connection: u64, why: *const oyez_error, user: *mut c_void) {
    // SAFETY: as above.
    let world = unsafe { world(user) };
    world.closed.fetch_add(1, SeqCst);
    assert!(!why.is_null());
    play(world, connection + 2);
}

pub unsafe extern "C-unwind" fn log(_level: i32, event: *const c_char, text: *const c_char, user: *mut c_void) {
    // SAFETY: both are terminated and there for the call.
    let (event, text) = unsafe { (CStr::from_ptr(event), CStr::from_ptr(text)) };
    one_line(text.to_str().expect("UTF-8"));
    let name = event.to_str().expect("UTF-8");
    assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
    assert!(name != "handler_crashed", "{text:?}");
    // SAFETY: as above.
    assert!(unsafe { world(user) }.process == std::process::id(), "a child reports");
}
