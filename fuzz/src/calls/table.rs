//! Each exported function with how it is called. `tests/fuzz.rs` compares the list with the header.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::atomic::Ordering::SeqCst;

use oyez::capi::accept::*;
use oyez::capi::check::*;
use oyez::capi::connection::*;
use oyez::capi::error::*;
use oyez::capi::events::*;
use oyez::capi::listen::*;
use oyez::capi::options::*;
use oyez::capi::server::*;

use super::serving;
use super::world::{World, close};
use crate::failure::Failure;
use crate::input::{Input, c_string};

/// One call. What it makes goes into the world.
type Call = fn(&World, &mut Input<'_>);

/// Whether a call may wait for a server's handlers, so that a handler leaves it alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Anywhere,
    /// Not from functions that a server calls.
    Threads,
}
use Caller::{Anywhere, Threads};

pub const TABLE: &[(&str, Caller, Call)] = &[
    ("oyez_server_new", Anywhere, server_new),
    ("oyez_server_new_events", Anywhere, server_new_events),
    ("oyez_server_listen", Anywhere, server_listen),
    ("oyez_server_start", Anywhere, |world, input| done(oyez_server_start(world.server(input)))),
    ("(connect)", Anywhere, |world, input| {
        let client = world.connect(input);
        if client >= 0 {
            world.put(input, client);
        }
    }),
    ("oyez_write", Anywhere, write),
    ("oyez_read", Anywhere, read),
    ("(close)", Anywhere, |world, input| close(world.take(input))),
    ("(shutdown)", Anywhere, |world, input| {
        let fd = world.take(input);
        // SAFETY: ends one direction of a socket that nobody else has.
        unsafe { libc::shutdown(fd, libc::SHUT_WR) };
        give_back(world, input, fd);
    }),
    ("oyez_server_run", Threads, |world, input| done(oyez_server_run(world.server(input)))),
    ("oyez_server_wait", Anywhere, |world, input| done(oyez_server_wait(world.server(input), short(input)))),
    ("oyez_server_wait", Threads, |world, input| done(oyez_server_wait(world.server(input), wait(input)))),
    ("oyez_server_pause", Anywhere, |world, input| done(oyez_server_pause(world.server(input)))),
    ("oyez_server_resume", Anywhere, |world, input| done(oyez_server_resume(world.server(input)))),
    ("oyez_server_stop", Anywhere, |world, input| done(oyez_server_stop(world.server(input), wait(input)))),
    ("oyez_server_close", Threads, |world, input| done(oyez_server_close(world.server(input)))),
    ("oyez_server_stats", Anywhere, server_stats),
    ("oyez_server_stats_text", Anywhere, |world, input| {
        let server = world.server(input);
        text(input, |to, size| unsafe { oyez_server_stats_text(server, to, size) });
    }),
    ("oyez_server_set_limits", Anywhere, server_set_limits),
    ("oyez_server_accept", Anywhere, server_accept),
    ("oyez_server_poll_fd", Anywhere, |world, input| done(oyez_server_poll_fd(world.server(input)))),
    ("oyez_server_poll", Anywhere, |world, input| done(oyez_server_poll(world.server(input), wait(input)))),
    ("oyez_server_adopt", Anywhere, server_adopt),
    ("oyez_serve", Threads, serve),
    ("oyez_conn_fd", Anywhere, |world, input| done(oyez_conn_fd(world.connection(input)))),
    // SAFETY: of this and the other texts: the buffer is as long as is said.
    ("oyez_conn_peer", Anywhere, |world, input| {
        let connection = world.connection(input);
        text(input, |to, size| unsafe { oyez_conn_peer(connection, to, size) });
    }),
    ("oyez_conn_local", Anywhere, |world, input| {
        let connection = world.connection(input);
        text(input, |to, size| unsafe { oyez_conn_local(connection, to, size) });
    }),
    ("oyez_conn_read", Anywhere, conn_read),
    ("oyez_conn_read_line", Anywhere, conn_read_line),
    ("oyez_conn_write", Anywhere, conn_write),
    ("oyez_conn_close", Anywhere, |world, input| done(oyez_conn_close(world.connection(input)))),
    ("oyez_conn_abort", Anywhere, |world, input| done(oyez_conn_abort(world.connection(input)))),
    ("oyez_conn_detach", Anywhere, |world, input| {
        let fd = oyez_conn_detach(world.connection(input));
        done(fd);
        give_back(world, input, fd);
    }),
    ("oyez_conn_set_user", Anywhere, |world, input| {
        done(oyez_conn_set_user(world.connection(input), input.number() as *mut c_void));
    }),
    ("oyez_conn_user", Anywhere, |world, input| {
        oyez_conn_user(world.connection(input));
    }),
    ("oyez_conn_set_timeout", Anywhere, |world, input| {
        let idle_ms = input.one_of(&[0, 1, 5, 20, -1, i32::MAX, i32::MIN]);
        done(oyez_conn_set_timeout(world.connection(input), idle_ms));
    }),
    ("oyez_conn_pause", Anywhere, |world, input| done(oyez_conn_pause(world.connection(input)))),
    ("oyez_conn_resume", Anywhere, |world, input| done(oyez_conn_resume(world.connection(input)))),
    ("oyez_listen", Anywhere, listen),
    ("oyez_accept", Anywhere, accept),
    ("oyez_unlisten", Anywhere, |world, input| done(oyez_unlisten(world.take(input)))),
    ("oyez_local_port", Anywhere, |world, input| with(world, input, oyez_local_port)),
    ("oyez_local_address", Anywhere, |world, input| {
        let fd = world.take(input);
        text(input, |to, size| unsafe { oyez_local_address(fd, to, size) });
        give_back(world, input, fd);
    }),
    ("oyez_peer_address", Anywhere, |world, input| {
        let fd = world.take(input);
        text(input, |to, size| unsafe { oyez_peer_address(fd, to, size) });
        give_back(world, input, fd);
    }),
    ("oyez_check", Anywhere, check),
    ("oyez_version", Anywhere, |_, _| assert!(!oyez_version().is_null())),
    ("oyez_last_error", Anywhere, |_, _| assert!(!oyez_last_error().is_null())),
    // SAFETY: of this and the following: NULL stands for this thread's last error.
    ("oyez_error_code", Anywhere, |_, _| assert!(unsafe { oyez_error_code(ptr::null()) } >= 0)),
    ("oyez_error_errno", Anywhere, |_, _| assert!(unsafe { oyez_error_errno(ptr::null()) } >= 0)),
    ("oyez_error_operation", Anywhere, |_, _| words(unsafe { oyez_error_operation(ptr::null()) })),
    ("oyez_error_address", Anywhere, |_, _| words(unsafe { oyez_error_address(oyez_last_error()) })),
    ("oyez_error_message", Anywhere, |_, _| words(unsafe { oyez_error_message(ptr::null()) })),
    ("oyez_error_hint", Anywhere, |_, _| words(unsafe { oyez_error_hint(ptr::null()) })),
    ("oyez_error_text", Anywhere, |_, input| text(input, |to, size| unsafe { oyez_error_text(to, size) })),
    ("oyez_code_name", Anywhere, |_, input| words(oyez_code_name(input.number() as i32))),
    // Where standard error goes is the caller's: run.sh sends away what the prefix marks.
    ("oyez_perror", Anywhere, |_, _| unsafe { oyez_perror(c"perror".as_ptr()) }),
];

pub fn call_one(world: &World, input: &mut Input<'_>) {
    let number = input.below(TABLE.len());
    world.begin(number);
    (TABLE[number].2)(world, input);
    world.end(number);
}

/// The same from a function that a server calls, which may close that server itself, and leave out what waits for all.
pub fn call_from_handler(world: &World, input: &mut Input<'_>) {
    let number = input.below(TABLE.len());
    match TABLE[number] {
        ("oyez_server_close", ..) => done(oyez_server_close(world.first_server())),
        (_, Anywhere, call) => call(world, input),
        _ => {}
    }
}

/// Checks what a call has answered.
fn done(result: i32) {
    if result < 0 {
        assert_eq!(result, -1);
        let _ = Failure::last();
    }
}

fn words(text: *const c_char) {
    // SAFETY: what these functions give is terminated.
    let text = unsafe { CStr::from_ptr(text) };
    assert!(text.to_str().is_ok(), "{text:?}");
}

/// Times to wait, of which none keeps a run for long: -1 ends with the servers.
fn wait(input: &mut Input<'_>) -> i32 {
    input.one_of(&[0, 1, 3, 10, 0, 1, -1, -2, i32::MIN])
}

/// The same where nothing would end it.
fn short(input: &mut Input<'_>) -> i32 {
    input.one_of(&[0, 1, 2, 5, -2, i32::MIN])
}

/// By snprintf's rules, into a buffer that ends where its memory does.
fn text(input: &mut Input<'_>, call: impl FnOnce(*mut c_char, usize) -> i32) {
    let size = input.below(90);
    let mut buffer = vec![0x7e_u8; size].into_boxed_slice();
    let length = call(buffer.as_mut_ptr().cast(), size);
    done(length);
    if let (Ok(length), 1..) = (usize::try_from(length), size) {
        let end = buffer.iter().position(|&byte| byte == 0);
        assert_eq!(end, Some(length.min(size - 1)), "{:?}", String::from_utf8_lossy(&buffer));
    }
}

/// Puts a descriptor that was taken back into a place.
fn give_back(world: &World, input: &mut Input<'_>, fd: i32) {
    if (0..super::world::NEVER_OPEN).contains(&fd) {
        world.put(input, fd);
    }
}

fn with(world: &World, input: &mut Input<'_>, call: extern "C" fn(i32) -> i32) {
    let fd = world.take(input);
    done(call(fd));
    give_back(world, input, fd);
}

fn server_options(world: &World, input: &mut Input<'_>) -> oyez_server_options {
    let given = input.take(4);
    let bits = given.first().copied().unwrap_or(0);
    let times = given.get(1).copied().unwrap_or(0);
    let at = |bit: u8, value: i32| if times & bit != 0 { value } else { 0 };
    // SAFETY: zero is the default of every field, also of those that are not named here.
    let mut options: oyez_server_options = unsafe { std::mem::zeroed() };
    options.size = size_of::<oyez_server_options>();
    options.model = i32::from(bits & 3);
    options.workers = i32::from(bits >> 2 & 3);
    options.stop_on_signals = i32::from(bits & 16 != 0);
    options.backend = i32::from(bits >> 5 & 3);
    options.idle_timeout_ms = at(1, 5);
    options.read_timeout_ms = at(2, 7);
    options.write_timeout_ms = at(4, 6);
    options.lifetime_ms = at(8, 15);
    // Not the default, by which a close would wait longer than a run may last.
    options.drain_ms = if times & 16 != 0 { 1 } else { 15 };
    options.max_input = if times & 32 != 0 { 16 } else { 0 };
    options.max_output = if times & 64 != 0 { 64 } else { 0 };
    options.log = Some(serving::log);
    options.log_user = ptr::from_ref(world).cast_mut().cast();
    options
}

fn server_set_limits(world: &World, input: &mut Input<'_>) {
    let server = world.server(input);
    let mut options = server_options(world, input);
    options.max_connections = input.one_of(&[0, 1, 2, -1]);
    options.max_connections_per_address = input.one_of(&[0, 1, 2]);
    options.accept_rate = input.one_of(&[0, 1, 1000]);
    let lists =
        [ptr::null(), c"unix".as_ptr(), c"127.0.0.0/8".as_ptr(), c"127.0.0.1, ::1".as_ptr(), c"nobody".as_ptr()];
    options.allow = input.one_of(&lists);
    options.deny = input.one_of(&lists);
    // SAFETY: the options are whole, and the lists terminated.
    done(unsafe { oyez_server_set_limits(server, &raw const options) });
}

fn add(world: &World, server: i32) {
    done(server);
    if server > 0 && !world.add_server(server) {
        done(oyez_server_close(server));
    }
}

fn server_new(world: &World, input: &mut Input<'_>) {
    let options = server_options(world, input);
    let handler: oyez_handler = if input.byte() & 3 == 3 { None } else { Some(serving::handler) };
    // SAFETY: the options are whole, and the world outlives its servers.
    add(world, unsafe { oyez_server_new(handler, ptr::from_ref(world).cast_mut().cast(), &raw const options) });
}

fn server_new_events(world: &World, input: &mut Input<'_>) {
    let options = server_options(world, input);
    let events = oyez_events {
        size: size_of::<oyez_events>(),
        on_open: Some(serving::on_open),
        on_data: (input.byte() & 7 != 7).then_some(serving::on_data),
        on_drain: Some(serving::on_drain),
        on_close: Some(serving::on_close),
    };
    let user = ptr::from_ref(world).cast_mut().cast();
    // SAFETY: as above.
    add(world, unsafe { oyez_server_new_events(&raw const events, user, &raw const options) });
}

fn server_listen(world: &World, input: &mut Input<'_>) {
    let (server, address) = (world.server(input), world.new_address(input));
    if !is_harmless(&address) {
        return;
    }
    // SAFETY: terminated.
    let listener = unsafe { oyez_server_listen(server, address.as_ptr(), ptr::null()) };
    done(listener);
    if listener >= 0 {
        world.listens_at(listener, &address);
    }
}

fn listen(world: &World, input: &mut Input<'_>) {
    let address = world.new_address(input);
    if !is_harmless(&address) {
        return;
    }
    // SAFETY: terminated.
    let listener = unsafe { oyez_listen(address.as_ptr(), ptr::null()) };
    done(listener);
    if listener >= 0 {
        world.listens_at(listener, &address);
        world.put(input, listener);
    }
}

/// Whether the addresses leave alone what lies outside this run: files, and descriptors of the fuzzer.
fn is_harmless(addresses: &CStr) -> bool {
    use oyez::address::Address::{Descriptor, UnixPath};
    let all = oyez::address::list(addresses.to_bytes());
    all.into_iter().flatten().all(|one| match one.spec.address {
        UnixPath(_) => false,
        Descriptor(fd) => fd >= super::world::NEVER_OPEN,
        _ => true,
    })
}

fn server_adopt(world: &World, input: &mut Input<'_>) {
    let (server, fd) = (world.server(input), world.take(input));
    let adopted = oyez_server_adopt(server, fd);
    done(adopted);
    if adopted < 0 {
        give_back(world, input, fd);
    }
}

fn server_accept(world: &World, input: &mut Input<'_>) {
    let (server, timeout) = (world.server(input), wait(input));
    let mut connection = 0;
    // SAFETY: a place to write to.
    let fd = unsafe { oyez_server_accept(server, &raw mut connection, timeout) };
    done(fd);
    if fd >= 0 {
        world.add_connection(connection);
    }
}

fn server_stats(world: &World, input: &mut Input<'_>) {
    // SAFETY: numbers may be zero.
    let mut stats: oyez_stats = unsafe { std::mem::zeroed() };
    stats.size = size_of::<oyez_stats>();
    // SAFETY: a whole struct.
    let result = unsafe { oyez_server_stats(world.server(input), &raw mut stats) };
    done(result);
    assert!(stats.active <= stats.accepted && stats.drained <= stats.accepted, "more than there ever were");
    assert_eq!(stats.handler_failures, 0, "a handler crashed");
}

/// Blocks until a signal stops it, which `World::end_what_waits` sends.
fn serve(world: &World, input: &mut Input<'_>) {
    let address = world.new_address(input);
    let mut options = server_options(world, input);
    options.stop_on_signals = OYEZ_ON;
    if !is_harmless(&address) {
        return;
    }
    world.serving.fetch_add(1, SeqCst);
    let user = ptr::from_ref(world).cast_mut().cast();
    // SAFETY: terminated and whole; the world outlives the call.
    done(unsafe { oyez_serve(address.as_ptr(), Some(serving::handler), user, &raw const options) });
    world.serving.fetch_sub(1, SeqCst);
}

fn accept(world: &World, input: &mut Input<'_>) {
    let (fd, timeout) = (world.take(input), short(input));
    let mut accepted = -1;
    text(input, |to, size| {
        // SAFETY: the buffer is as long as is said.
        accepted = unsafe { oyez_accept(fd, to, size, timeout) };
        if accepted < 0 {
            return accepted;
        }
        // SAFETY: it was terminated, where there was room.
        if size > 0 { unsafe { libc::strlen(to) as i32 } } else { 0 }
    });
    give_back(world, input, fd);
    give_back(world, input, accepted);
}

fn bytes(input: &mut Input<'_>) -> Vec<u8> {
    match input.byte() {
        size @ 0..=63 => input.take(usize::from(size)).to_vec(),
        64..=95 => [input.take(3), b"\r\n"].concat(),
        size => vec![b'.'; usize::from(size) * 512],
    }
}

fn sized(result: isize, size: usize) {
    assert!(result >= -1 && result <= size.cast_signed());
    if result < 0 {
        let _ = Failure::last();
    }
}

fn write(world: &World, input: &mut Input<'_>) {
    let (fd, timeout, bytes) = (world.take(input), short(input), bytes(input));
    // SAFETY: as many bytes are there.
    sized(unsafe { oyez_write(fd, bytes.as_ptr().cast(), bytes.len(), timeout) }, bytes.len());
    give_back(world, input, fd);
}

fn read(world: &World, input: &mut Input<'_>) {
    let (fd, timeout) = (world.take(input), short(input));
    let mut buffer = vec![0_u8; input.below(200)];
    // SAFETY: as above.
    sized(unsafe { oyez_read(fd, buffer.as_mut_ptr().cast(), buffer.len(), timeout) }, buffer.len());
    give_back(world, input, fd);
}

fn conn_read(world: &World, input: &mut Input<'_>) {
    let connection = world.connection(input);
    let mut buffer = vec![0_u8; input.below(200)];
    // SAFETY: as above.
    sized(unsafe { oyez_conn_read(connection, buffer.as_mut_ptr().cast(), buffer.len()) }, buffer.len());
}

fn conn_read_line(world: &World, input: &mut Input<'_>) {
    let connection = world.connection(input);
    let mut line = vec![0x7e_u8; input.below(60)];
    // SAFETY: as above.
    let length = unsafe { oyez_conn_read_line(connection, line.as_mut_ptr().cast(), line.len()) };
    sized(length, line.len());
    assert!(usize::try_from(length).is_err() || line[length.cast_unsigned()] == 0, "the line is terminated");
}

fn conn_write(world: &World, input: &mut Input<'_>) {
    let (connection, bytes) = (world.connection(input), bytes(input));
    // SAFETY: as above.
    let written = unsafe { oyez_conn_write(connection, bytes.as_ptr().cast(), bytes.len()) };
    sized(written, bytes.len());
    assert!(written < 0 || written.cast_unsigned() == bytes.len(), "all of it, or -1");
}

fn check(_world: &World, input: &mut Input<'_>) {
    let addresses = c_string(input.take(6));
    // SAFETY: terminated, and the buffer is as long as is said.
    text(input, |to, size| unsafe { oyez_check(addresses.as_ptr(), to, size) });
}
