//! Options structs of any bytes and any size: what an older or a newer program passes works, what no program can pass
//! is an error, and nothing is read or written outside the struct.
#![no_main]

use std::cell::RefCell;
use std::ffi::CString;
use std::ptr;
use std::sync::atomic::Ordering;

use libfuzzer_sys::fuzz_target;
use oyez::capi::events::*;
use oyez::capi::listen::*;
use oyez::capi::options::*;
use oyez::capi::server::*;
use oyez::error::Code;
use oyez_fuzz::failure::Failure;
use oyez_fuzz::guarded::Guarded;
use oyez_fuzz::header::Struct;
use oyez_fuzz::input::Input;
use oyez_fuzz::leftovers::lowest_free;
use oyez_fuzz::structs::{Filled, HOOK, fill};

/// The most that any program's struct may have.
const LARGEST: usize = 1024;

const ADDRESSES: [&str; 7] = [
    "unix:@oyez-fuzz",
    "127.0.0.1:0",
    "[::1]:0",
    "udp:127.0.0.1:0",
    "unix:oyez-fuzz.sock",
    "127.0.0.1:0?backlog=3",
    "fd:900",
];

/// What a call has come to: a number of its own kind, or its failure.
type Outcome = Result<i32, Failure>;

thread_local! {
    static MEMORY: RefCell<Guarded> = RefCell::new(Guarded::new());
    static KINDS: [Struct; 4] =
        ["oyez_listen_options", "oyez_server_options", "oyez_events", "oyez_stats"].map(Struct::of);
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let call = Call::read(&mut input);
    let free = lowest_free();
    KINDS.with(|kinds| {
        assert_eq!(kinds[0].size, size_of::<oyez_listen_options>());
        assert_eq!(kinds[1].size, size_of::<oyez_server_options>());
        assert_eq!(kinds[2].size, size_of::<oyez_events>());
        assert_eq!(kinds[3].size, size_of::<oyez_stats>());
        let size = read_size(&mut input, &kinds[call.kind()]);
        HOOK.store(i32::from(input.byte() == 1), Ordering::Relaxed);
        match call {
            Call::Stats => check_stats(&kinds[3], size, input.0),
            _ => check(&call, &kinds[call.kind()], size, input.0),
        }
    });
    assert_eq!(lowest_free(), free, "a descriptor is left over");
});

/// The functions that take a struct, each with what else it takes.
#[derive(Clone, Copy)]
enum Call {
    Listen(&'static str),
    ServerListen(&'static str),
    ServerNew,
    NewEvents,
    EventOptions,
    Serve,
    Stats,
}

impl Call {
    fn read(input: &mut Input<'_>) -> Self {
        match input.byte() % 7 {
            0 => Call::Listen(input.one_of(&ADDRESSES)),
            1 => Call::ServerListen(input.one_of(&ADDRESSES)),
            2 => Call::ServerNew,
            3 => Call::NewEvents,
            4 => Call::EventOptions,
            5 => Call::Serve,
            _ => Call::Stats,
        }
    }

    fn kind(&self) -> usize {
        match self {
            Call::Listen(_) | Call::ServerListen(_) => 0,
            Call::ServerNew | Call::EventOptions | Call::Serve => 1,
            Call::NewEvents => 2,
            Call::Stats => 3,
        }
    }

    /// Calls it with the struct at the end of the memory, and gives back what it made.
    fn with(&self, filled: &Filled) -> Outcome {
        MEMORY.with(|memory| {
            let mut memory = memory.borrow_mut();
            let place = memory.place(&filled.bytes);
            // SAFETY: the struct is as the header asks for it, but for its size, which is what is tried.
            let outcome = unsafe { self.at(place) };
            assert_eq!(memory.bytes(filled.bytes.len()), filled.bytes, "options are read, not written");
            outcome
        })
    }

    /// # Safety
    /// `place` is the struct.
    unsafe fn at(&self, place: *const u8) -> Outcome {
        let (user, none) = (ptr::null_mut(), ptr::null());
        // SAFETY: by this function's own contract; the strings are terminated, and the functions may be called.
        unsafe {
            match *self {
                Call::Listen(address) => {
                    let address = CString::new(address).expect("no NUL");
                    let listener = oyez_listen(address.as_ptr(), place.cast());
                    let outcome = outcome(listener).map(|fd| flags(fd, libc::F_GETFD) | flags(fd, libc::F_GETFL));
                    if listener >= 0 {
                        assert_eq!(oyez_unlisten(listener), 0);
                    }
                    outcome
                }
                Call::ServerListen(address) => {
                    let address = CString::new(address).expect("no NUL");
                    let server = oyez_server_new(None, user, ptr::null());
                    let listened = outcome(oyez_server_listen(server, address.as_ptr(), place.cast())).map(|_| 0);
                    assert_eq!(oyez_server_close(server), 0);
                    listened
                }
                Call::ServerNew => closed(oyez_server_new(None, user, place.cast())),
                Call::NewEvents => closed(oyez_server_new_events(place.cast(), user, none)),
                Call::EventOptions => {
                    let events =
                        fill(&Struct::of("oyez_events"), size_of::<oyez_events>(), size_of::<oyez_events>(), &[]);
                    closed(oyez_server_new_events(events.bytes.as_ptr().cast(), user, place.cast()))
                }
                // The options are looked at before the address, which is none.
                Call::Serve => outcome(oyez_serve(c"none".as_ptr(), Some(handler), user, place.cast())),
                Call::Stats => unreachable!("it has a check of its own"),
            }
        }
    }
}

unsafe extern "C-unwind" fn handler(_connection: u64, _user: *mut std::ffi::c_void) {}

fn outcome(result: i32) -> Outcome {
    if result >= 0 { Ok(result) } else { Err(Failure::last()) }
}

fn closed(server: i32) -> Outcome {
    outcome(server).map(|server| {
        assert!(server > 0);
        let closed = oyez_server_close(server);
        assert_eq!(closed, 0);
        0
    })
}

fn flags(fd: i32, which: i32) -> i32 {
    // SAFETY: asks for flags.
    let flags = unsafe { libc::fcntl(fd, which) };
    assert!(flags >= 0, "no descriptor: {fd}");
    flags
}

/// Any size: the known one, one near it, and one that is none.
fn read_size(input: &mut Input<'_>, kind: &Struct) -> usize {
    let low = input.byte();
    match input.byte() % 4 {
        0 => kind.size,
        1 => usize::from(low),
        2 => usize::from(low) * 8 + usize::from(input.byte()),
        _ => usize::from_ne_bytes(input.number().to_ne_bytes()),
    }
}

/// How many bytes there are of a struct that claims so many: at least its size itself, and no more than may be read.
fn room(claimed: usize) -> usize {
    if claimed > LARGEST { size_of::<usize>() } else { claimed.max(size_of::<usize>()) }
}

fn check(call: &Call, kind: &Struct, claimed: usize, given: &[u8]) {
    let filled = fill(kind, claimed, room(claimed), given);
    let found = call.with(&filled);
    let is_zero_beyond = filled.bytes.iter().skip(kind.size).all(|&byte| byte == 0);
    if !kind.is_size(claimed) {
        let failure = found.expect_err("a size that no version of the struct has");
        assert_eq!(failure.code, Code::InvalidArgument, "{failure:?}");
        assert!(failure.message.contains(&format!("{}.size is {claimed}", kind.name)), "{failure:?}");
    } else if !is_zero_beyond {
        let failure = found.expect_err("a field that this library cannot know");
        assert_eq!(failure.code, Code::Unsupported, "{failure:?}");
    } else {
        // The same fields in a struct of this library's size.
        let mut same = fill(kind, kind.size, kind.size, given);
        let common = filled.bytes.len().min(kind.size);
        same.bytes[common..].fill(0);
        let parts =
            |outcome: &Outcome| outcome.clone().map_err(|failure| (failure.code, failure.errno, failure.operation));
        let (found_parts, again) = (parts(&found), parts(&call.with(&same)));
        assert_eq!(found_parts, again, "{claimed} bytes mean something else than {}", kind.size);
        check_values(call, kind, &same, &found);
    }
}

/// What is said of the fields themselves.
fn check_values(call: &Call, kind: &Struct, filled: &Filled, found: &Outcome) {
    let number = |name| {
        let place = kind.field(name).offset;
        i32::from_ne_bytes(filled.bytes[place..place + 4].try_into().expect("four bytes"))
    };
    if let (Call::Listen(_), Ok(flags)) = (call, found) {
        assert_eq!(flags & libc::FD_CLOEXEC != 0, number("close_on_exec") >= 0);
        assert_eq!(flags & libc::O_NONBLOCK != 0, number("nonblocking") > 0);
        assert!((-1..=1).contains(&number("reuse_port")) && number("backlog") >= 0, "out of its range and taken");
    }
    if let (Call::ServerNew | Call::EventOptions, Ok(_)) = (call, found) {
        assert!((0..=65_536).contains(&number("workers")) && (0..=2).contains(&number("model")));
        assert!(number("drain_ms") >= -1 && (0..=2).contains(&number("backend")), "out of its range and taken");
    }
}

/// Statistics are written as far as the program's struct goes, and not at all where its size is wrong.
fn check_stats(kind: &Struct, claimed: usize, given: &[u8]) {
    // SAFETY: no handler, no options; the struct is as the header asks for it, but for its size.
    unsafe {
        let server = oyez_server_new(None, ptr::null_mut(), ptr::null());
        MEMORY.with(|memory| {
            let mut memory = memory.borrow_mut();
            let mut bytes = vec![0xa5; 16];
            bytes.extend(fill(kind, claimed, room(claimed), given).bytes);
            let place = memory.place(&bytes);
            let found = outcome(oyez_server_stats(server, place.add(16).cast()));
            let after = memory.bytes(bytes.len());
            assert_eq!(found.is_ok(), kind.is_size(claimed), "{claimed}: {found:?}");
            assert_eq!(after[..24], bytes[..24], "the size stays, and what lies before it");
            match found {
                Ok(_) => assert!(after[24..].iter().all(|&byte| byte == 0), "a server that did nothing has counts"),
                Err(_) => assert_eq!(after, bytes, "written in spite of the failure"),
            }
        });
        assert_eq!(oyez_server_close(server), 0);
    }
}
