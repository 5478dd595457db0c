//! Any bytes as the text of an address: whatever is taken means what it says, and the rest is refused with a caret that
//! stands below the text. No socket is opened.
#![no_main]

use std::ffi::CString;
use std::net::SocketAddr;
use std::ptr;

use libfuzzer_sys::fuzz_target;
use oyez::address::{Address, Endpoint, Service, Spec, display_ip, list, parse};
use oyez::capi::listen::oyez_listen;
use oyez::error::Error;
use oyez::listen::Options;
use oyez_fuzz::failure::{Failure, check_address_error, check_caret};

fuzz_target!(|text: &[u8]| {
    let one = parse(text).and_then(|spec| Options::default().with_settings(&spec).map(|_| spec));
    match &one {
        Ok(spec) => check_meaning(text, spec),
        Err(error) => {
            check_address_error(error);
            check_boundary(text, error);
        }
    }
    check_list(text);
});

/// A C program gets the same, whole: its texts have bounds.
fn check_boundary(text: &[u8], error: &Error) {
    let Ok(text) = CString::new(text) else { return };
    // SAFETY: terminated. Nothing is opened: it has just been refused.
    let listener = unsafe { oyez_listen(text.as_ptr(), ptr::null()) };
    assert_eq!(listener, -1, "{text:?}");
    let failure = Failure::last();
    assert_eq!(failure.message, error.to_string());
    assert_eq!(failure.hint, error.hint_text());
    check_caret(&failure.hint);
}

/// A list is taken where each of its addresses is.
fn check_list(text: &[u8]) {
    let items = || text.split(|&byte| byte == b',').map(|item| item.strip_prefix(b"-").unwrap_or(item));
    let whole = list(text).map(Iterator::collect::<Vec<_>>);
    match whole {
        Err(error) => {
            check_address_error(&error);
            let refused = items().any(|item| item.starts_with(b"-") || parse(item).is_err());
            assert!(refused || text.len() > 4096, "each is taken, and the list is not: {}", text.escape_ascii());
        }
        Ok(listed) => {
            assert_eq!(listed.len(), items().count());
            for (item, listed) in items().zip(listed) {
                let alone = parse(item).unwrap_or_else(|error| panic!("refused alone: {error}"));
                assert_eq!(alone.address, listed.spec.address);
            }
        }
    }
}

fn check_meaning(text: &[u8], spec: &Spec<'_>) {
    let text = text.split(|&byte| byte == b'?').next().unwrap_or_default();
    let shown = spec.to_string();
    oyez_fuzz::failure::one_line(&shown);
    if shown.as_bytes() == text {
        assert_eq!(reread(&shown), spec.address, "what is shown reads back");
    }
    let again = render(&spec.address);
    let address = parse(&again).unwrap_or_else(|error| panic!("{}: {error}", again.escape_ascii())).address;
    assert_eq!(address, spec.address, "{} and {}", text.escape_ascii(), again.escape_ascii());
    match spec.address {
        Address::Tcp(endpoint) => check_endpoint(text, &endpoint),
        Address::Udp(endpoint) => check_endpoint(text.strip_prefix(b"udp:").expect("a scheme"), &endpoint),
        Address::UnixPath(name) | Address::UnixAbstract(name) => {
            assert!(text.starts_with(b"unix:") && text.ends_with(name));
            assert!((1..=107).contains(&name.len()) && !name.contains(&0), "{}", text.escape_ascii());
        }
        Address::Descriptor(fd) => assert_eq!(text, format!("fd:{fd}").as_bytes()),
        Address::Systemd(name) => assert_eq!(text, format!("systemd:{}", name.unwrap_or_default()).as_bytes()),
    }
}

fn reread(text: &str) -> Address<'_> {
    parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text} does not read back: {error}")).address
}

/// The port is what stands behind the last colon, and the host what stands before it.
fn check_endpoint(text: &[u8], endpoint: &Endpoint<'_>) {
    let text = std::str::from_utf8(text).expect("ASCII");
    let (host, service) = text.rsplit_once(':').unwrap_or(("", text));
    match *endpoint {
        Endpoint::Any { port } => {
            assert!(matches!(host, "" | "*"), "{text}");
            check_port(service, port);
        }
        Endpoint::Literal(address @ SocketAddr::V4(_)) => assert_eq!(text, address.to_string()),
        Endpoint::Literal(address @ SocketAddr::V6(_)) => {
            check_port(service, address.port());
            let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).expect("brackets");
            assert_eq!(inside.split('%').next().and_then(|ip| ip.parse().ok()), Some(address.ip()));
            check_shown(&address);
        }
        Endpoint::Scoped { address, zone, port } => {
            check_port(service, port);
            assert!(address.is_unicast_link_local() && (1..=15).contains(&zone.len()), "{text}");
        }
        Endpoint::Name { host: name, service: found } => {
            assert_eq!(host, name);
            check_name(name);
            match found {
                Service::Port(port) => check_port(service, port),
                Service::Name(name) => {
                    assert_eq!(service, name);
                    assert!(name.len() <= 15 && name.starts_with(|first: char| first.is_ascii_alphabetic()), "{text}");
                }
            }
        }
    }
}

fn check_port(text: &str, port: u16) {
    assert_eq!(text, port.to_string(), "plain digits without leading zeros are the only way to write a port");
}

/// What a resolver is asked for cannot be what it would read as a number.
fn check_name(name: &str) {
    let name = name.strip_suffix('.').unwrap_or(name);
    assert!((1..=253).contains(&name.len()), "{name}");
    assert!(name.split('.').all(|label| (1..=63).contains(&label.len()) && !label.starts_with('-')), "{name}");
    assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{name}");
    let last = name.rsplit('.').next().unwrap_or_default();
    assert!(!last.bytes().all(|byte| byte.is_ascii_digit()), "{name}");
    assert!(u32::from_str_radix(last.trim_start_matches("0x"), 16).is_err() || !last.starts_with("0x"), "{name}");
}

/// An address that a server tells of can be passed in again.
fn check_shown(address: &SocketAddr) {
    let text = display_ip(address);
    let again = reread(text.as_str());
    let is_scoped = matches!(again, Address::Tcp(Endpoint::Scoped { address: ip, port, .. })
        if SocketAddr::from((ip, port)).ip() == address.ip() && port == address.port());
    assert!(is_scoped || again == Address::Tcp(Endpoint::Literal(*address)), "{text}");
}

/// The address in the plainest words.
fn render(address: &Address<'_>) -> Vec<u8> {
    match *address {
        Address::Tcp(endpoint) => render_endpoint(&endpoint).into(),
        Address::Udp(endpoint) => format!("udp:{}", render_endpoint(&endpoint)).into(),
        Address::UnixPath(path) => [b"unix:", path].concat(),
        Address::UnixAbstract(name) => [b"unix:@", name].concat(),
        Address::Descriptor(fd) => format!("fd:{fd}").into(),
        Address::Systemd(name) => format!("systemd:{}", name.unwrap_or_default()).into(),
    }
}

fn render_endpoint(endpoint: &Endpoint<'_>) -> String {
    match *endpoint {
        Endpoint::Any { port } => port.to_string(),
        Endpoint::Literal(address) => address.to_string(),
        Endpoint::Scoped { address, zone, port } => format!("[{address}%{zone}]:{port}"),
        Endpoint::Name { host, service: Service::Port(port) } => format!("{host}:{port}"),
        Endpoint::Name { host, service: Service::Name(name) } => format!("{host}:{name}"),
    }
}
