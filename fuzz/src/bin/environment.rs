//! What stands around an address: LISTEN_FDS and its companions, in which a service manager passes sockets, and the
//! operator's `?name=value`. What they come to is worked out here a second time, in the plainest way.
#![no_main]

use std::ffi::CStr;
use std::ptr;
use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use oyez::address::{Address, Spec, parse};
use oyez::capi::listen::oyez_listen;
use oyez::error::Code;
use oyez::listen::{Options, Switch};
use oyez_fuzz::failure::{Failure, check_address_error, check_caret};
use oyez_fuzz::input::{Input, c_string};

const FIRST: i32 = 3;
/// Three are passed: two that listen, and a datagram socket. The next one is not open.
const PASSED: i32 = 3;

const ADDRESSES: [&str; 6] = ["9000", "[::1]:9000", "udp:127.0.0.1:5", "unix:/run/x", "unix:@x", "fd:3"];

static NEXT: Once = Once::new();

fuzz_target!(init: pass_sockets(), |bytes: &[u8]| {
    NEXT.call_once(free_the_next);
    let mut input = Input(bytes);
    match input.byte() {
        b'?' => check_settings(input.one_of(&ADDRESSES), input.0),
        set => check_passed(set, input),
    }
});

/// LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES and the name in the address, a line each; bits of `set` leave one out.
fn check_passed(set: u8, mut input: Input<'_>) {
    let own = std::process::id().to_string();
    let mut variable = |name: &CStr, bit: u8| {
        let line = input.until(b'\n');
        let line = if line == b"self" { own.as_bytes() } else { line };
        let value = (set & bit == 0).then(|| c_string(line));
        // SAFETY: there is one thread, and the strings are terminated.
        match &value {
            Some(value) => unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 1) },
            None => unsafe { libc::unsetenv(name.as_ptr()) },
        };
        value
    };
    let count = variable(c"LISTEN_FDS", 1);
    let pid = variable(c"LISTEN_PID", 2);
    let names = variable(c"LISTEN_FDNAMES", 4);
    let name = c_string(input.0);
    let address = c_string(&[b"systemd:", name.as_bytes()].concat());
    // SAFETY: terminated.
    let found = unsafe { oyez_listen(address.as_ptr(), ptr::null()) };
    let failure = (found < 0).then(Failure::last);
    check_untouched();
    let expected =
        match parse(address.as_bytes()).and_then(|spec| Options::default().with_settings(&spec).map(|_| spec)) {
            Err(_) => Err(Code::InvalidAddress),
            Ok(spec) => expected(&spec, [&count, &pid, &names].map(|value| value.as_ref().map(|text| text.as_bytes()))),
        };
    let got = failure.as_ref().map_or(Ok(found), |failure| Err(failure.code));
    assert_eq!(got, expected, "{count:?} {pid:?} {names:?} {address:?}: {failure:?}");
}

/// By sd_listen_fds(3), strictly.
fn expected(spec: &Spec<'_>, [count, pid, names]: [Option<&[u8]>; 3]) -> Result<i32, Code> {
    let Address::Systemd(name) = spec.address else { panic!("another kind of address") };
    let count = count.ok_or(Code::NameNotFound)?;
    let pid = digits(pid.ok_or(Code::InvalidArgument)?).ok_or(Code::InvalidArgument)?;
    if pid != u64::from(std::process::id()) {
        return Err(Code::NameNotFound);
    }
    let most = u64::from((i32::MAX - FIRST).cast_unsigned());
    let count = digits(count).filter(|count| (1..most).contains(count)).ok_or(Code::InvalidArgument)?;
    let names = names.map(|names| names.split(|&byte| byte == b':').collect::<Vec<_>>());
    if names.as_ref().is_some_and(|names| names.len() as u64 != count) || count > PASSED.unsigned_abs().into() {
        return Err(Code::InvalidArgument);
    }
    let index = match name {
        None => 0,
        Some(name) => {
            let place = names.unwrap_or_default().iter().position(|other| *other == name.as_bytes());
            place.ok_or(Code::NameNotFound)?
        }
    };
    // The third does not listen.
    if index == 2 { Err(Code::InvalidArgument) } else { Ok(FIRST + index as i32) }
}

fn digits(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()?;
    (number <= u64::from(i32::MAX.cast_unsigned())).then_some(number)
}

/// The sockets that a service manager would have passed, under the numbers that it has for them, before libFuzzer opens
/// a file. The number behind them is kept until it has.
fn pass_sockets() {
    let make = |kind: i32, place: i32| {
        // SAFETY: makes a socket, which gets a free port, and puts it under its number; what stood there was inherited,
        // and nobody uses it.
        unsafe {
            let socket = libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0);
            assert!(socket >= 0);
            assert!(kind != libc::SOCK_STREAM || libc::listen(socket, 1) == 0);
            let copy = libc::fcntl(socket, libc::F_DUPFD, 100);
            libc::close(socket);
            assert_eq!(libc::dup2(copy, place), place);
            libc::close(copy);
        }
    };
    make(libc::SOCK_STREAM, FIRST);
    make(libc::SOCK_STREAM, FIRST + 1);
    make(libc::SOCK_DGRAM, FIRST + 2);
    make(libc::SOCK_DGRAM, FIRST + PASSED);
}

fn free_the_next() {
    // SAFETY: closes what was made to keep the number.
    unsafe { libc::close(FIRST + PASSED) };
}

/// Whatever came of it, the sockets are there and as they were; that of a success is close-on-exec.
fn check_untouched() {
    for fd in FIRST..FIRST + PASSED {
        // SAFETY: asks for flags.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        assert!(flags >= 0 && flags & libc::O_NONBLOCK == 0, "{fd} is closed or changed");
    }
    // SAFETY: as above.
    assert!(unsafe { libc::fcntl(FIRST + PASSED, libc::F_GETFD) } < 0, "a descriptor is left over");
}

/// What an operator may set: each name once, each value within the bounds that the header tells of.
fn check_settings(address: &str, settings: &[u8]) {
    let text = [address.as_bytes(), b"?", settings].concat();
    let found = parse(&text).and_then(|spec| Options::default().with_settings(&spec).map(|options| (spec, options)));
    let (spec, options) = match found {
        Ok(found) => found,
        Err(error) => {
            check_address_error(&error);
            // SAFETY: terminated. Nothing is opened where the text is refused.
            let _refused = (!text.contains(&0)).then(|| unsafe {
                assert_eq!(oyez_listen(c_string(&text).as_ptr(), ptr::null()), -1);
                check_caret(&Failure::last().hint);
            });
            return;
        }
    };
    let pairs: Vec<&[u8]> = settings.split(|&byte| byte == b'&').collect();
    assert_eq!(spec.settings.iter().count(), pairs.len());
    for (index, (setting, pair)) in spec.settings.iter().zip(&pairs).enumerate() {
        assert_eq!([setting.name, "=", setting.value].concat().as_bytes(), *pair);
        assert!(spec.settings.iter().take(index).all(|other| other.name != setting.name), "twice");
        check_setting(&spec, &options, setting.name, setting.value);
    }
}

fn check_setting(spec: &Spec<'_>, options: &Options<'_>, name: &str, value: &str) {
    let is_switch = |found: Switch| {
        let expected = match value {
            "on" => Switch::On,
            "off" => Switch::Off,
            "default" => Switch::Default,
            _ => panic!("{name}={value} is taken"),
        };
        assert_eq!(found, expected, "{name}={value}");
    };
    let is_number = |found: Option<i32>, off: bool, on: Option<i32>| match value {
        "0" | "default" => assert_eq!(found, None),
        "off" if off => assert_eq!(found, Some(-1)),
        "on" if off => assert_eq!(found, on),
        _ => assert_eq!(found.map(|number| number.to_string()).as_deref(), Some(value), "plain digits alone"),
    };
    let is_text = |found: Option<&[u8]>| assert_eq!(found, Some(value.as_bytes()));
    match name {
        "backlog" => is_number(options.backlog, false, None),
        "reuse_address" => is_switch(options.reuse_address),
        "reuse_port" => is_switch(options.reuse_port),
        "nonblocking" => is_switch(options.nonblocking),
        "close_on_exec" => is_switch(options.close_on_exec),
        "no_delay" => is_switch(options.no_delay),
        "keep_alive_seconds" => {
            is_number(options.keep_alive_seconds, true, None);
            assert!(options.keep_alive_seconds.is_none_or(|seconds| seconds <= 32767));
        }
        "defer_accept_seconds" => is_number(options.defer_accept_seconds, true, Some(1)),
        "fast_open" => is_number(options.fast_open, true, Some(1)),
        "receive_buffer" => is_number(options.receive_buffer, false, None),
        "send_buffer" => is_number(options.send_buffer, false, None),
        "free_bind" => is_switch(options.free_bind),
        "multipath" => is_switch(options.multipath),
        "unix_mode" => {
            let mode = options.unix_mode.expect("it is set");
            assert!((1..=0o7777).contains(&mode) && i32::from_str_radix(value, 8) == Ok(mode), "{value}");
            assert!(matches!(spec.address, Address::UnixPath(_)));
        }
        "interface" => is_text(options.interface),
        "unix_user" => is_text(options.unix_user),
        "unix_group" => is_text(options.unix_group),
        _ => panic!("say in fuzz/src/bin/environment.rs what {name} may be"),
    }
}
