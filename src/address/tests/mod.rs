//! Every form that an address has; beside it, every way in which one can be wrong, and noise.

mod faults;
mod noise;

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use super::*;
use crate::error::Code;

fn address(text: &str) -> Address<'_> {
    parse(text.as_bytes()).map(|spec| spec.address).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// In which column the caret stands.
fn caret(error: &Error) -> usize {
    let below = error.hint_text().lines().nth(1).unwrap_or_else(|| panic!("{error} has no caret"));
    let (blank, expected) = below.split_once("^ ").unwrap_or_else(|| panic!("{error} has no caret"));
    assert!(blank.bytes().all(|byte| byte == b' ') && !expected.is_empty(), "{below}");
    blank.len()
}

/// Checks what every fault has.
fn check(text: &[u8], error: &Error) {
    let shown = text.escape_ascii();
    assert_eq!((error.code(), error.operation()), (Code::InvalidAddress, "address"), "{shown}");
    assert_eq!(error.hint_text().lines().count(), 2, "{shown}: {}", error.hint_text());
    assert!(caret(error) <= error.hint_text().lines().next().unwrap().chars().count(), "{shown}");
    assert!(!error.to_string().contains('\n') && error.to_string().len() < 1500, "{shown}");
    assert!(error.hint_text().len() < 3000, "{shown}");
}

fn ip(text: &str) -> Endpoint<'_> {
    Endpoint::Literal(text.parse().unwrap())
}

fn named<'a>(host: &'a str, service: Service<'a>) -> Endpoint<'a> {
    Endpoint::Name { host, service }
}

fn endpoints() -> Vec<(String, Endpoint<'static>)> {
    let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
    let scope = |id| Endpoint::Literal(SocketAddr::V6(SocketAddrV6::new(link_local, 90, 0, id)));
    let on = |zone| Endpoint::Scoped { address: link_local, zone, port: 90 };
    let label = "a".repeat(63);
    let mut endpoints: Vec<(String, Endpoint)> = [
        ("9000", Endpoint::Any { port: 9000 }),
        (":9000", Endpoint::Any { port: 9000 }),
        ("*:9000", Endpoint::Any { port: 9000 }),
        ("0", Endpoint::Any { port: 0 }),
        ("*:65535", Endpoint::Any { port: 65535 }),
        ("0.0.0.0:9000", ip("0.0.0.0:9000")),
        ("127.0.0.1:0", ip("127.0.0.1:0")),
        ("255.255.255.255:1", ip("255.255.255.255:1")),
        ("[::]:9000", ip("[::]:9000")),
        ("[::1]:9000", ip("[::1]:9000")),
        ("[2001:DB8::1]:80", ip("[2001:db8::1]:80")),
        ("[64:ff9b::1.2.3.4]:80", ip("[64:ff9b::1.2.3.4]:80")),
        ("[ff02::fb]:5353", ip("[ff02::fb]:5353")),
        ("[fe80::1%eth0]:90", on("eth0")),
        ("[fe80::1%br-lan.12_x@y]:90", on("br-lan.12_x@y")),
        ("[fe80::1%fifteenletters]:90", on("fifteenletters")),
        ("[fe80::1%3]:90", scope(3)),
        ("[fe80::1%4294967295]:90", scope(u32::MAX)),
        ("localhost:9000", named("localhost", Service::Port(9000))),
        ("localhost:http", named("localhost", Service::Name("http"))),
        ("LOCALHOST:x11-1", named("LOCALHOST", Service::Name("x11-1"))),
        ("example.com.:80", named("example.com.", Service::Port(80))),
        ("my_host-1.3com.x1:80", named("my_host-1.3com.x1", Service::Port(80))),
        ("0xg:80", named("0xg", Service::Port(80))),
        ("1.2.3.4.example:80", named("1.2.3.4.example", Service::Port(80))),
        ("dead:80", named("dead", Service::Port(80))),
    ]
    .map(|(text, endpoint)| (text.to_string(), endpoint))
    .into();
    for host in [format!("{label}.{label}.{label}.{}", "a".repeat(61)), format!("{label}."), "a".into()] {
        endpoints.push((format!("{host}:80"), named(String::leak(host), Service::Port(80))));
    }
    endpoints
}

#[test]
fn every_endpoint_is_read_for_tcp_and_for_udp() {
    for (text, endpoint) in endpoints() {
        assert_eq!(address(&text), Address::Tcp(endpoint), "{text}");
        assert_eq!(address(&format!("udp:{text}")), Address::Udp(endpoint), "{text}");
    }
}

#[test]
fn every_other_form_is_read() {
    let (path, name) = (format!("/{}", "p".repeat(106)), "n".repeat(107));
    let descriptor = "d".repeat(255);
    for (text, expected) in [
        ("unix:/run/app.sock", Address::UnixPath(b"/run/app.sock")),
        ("unix:80", Address::UnixPath(b"80")),
        ("unix:a b\n\u{e9}:&=", Address::UnixPath("a b\n\u{e9}:&=".as_bytes())),
        ("unix:./@x", Address::UnixPath(b"./@x")),
        (&format!("unix:{path}"), Address::UnixPath(path.as_bytes())),
        ("unix:@name", Address::UnixAbstract(b"name")),
        ("unix:@@", Address::UnixAbstract(b"@")),
        (&format!("unix:@{name}"), Address::UnixAbstract(name.as_bytes())),
        ("fd:0", Address::Descriptor(0)),
        ("fd:3", Address::Descriptor(3)),
        ("fd:2147483647", Address::Descriptor(i32::MAX)),
        ("systemd:", Address::Systemd(None)),
        ("systemd:web", Address::Systemd(Some("web"))),
        ("systemd:my app.socket", Address::Systemd(Some("my app.socket"))),
        (&format!("systemd:{descriptor}"), Address::Systemd(Some(&descriptor))),
    ] {
        assert_eq!(address(text), expected, "{text}");
    }
    assert_eq!(parse(b"unix:\xff\x01").unwrap().address, Address::UnixPath(b"\xff\x01"));
}

#[test]
fn settings_are_taken_apart_in_their_order() {
    let spec = parse(b"unix:/run/a.sock?unix_mode=0660&unix_group=www data&x=a=b").unwrap();
    let pairs: Vec<_> = spec.settings.iter().map(|setting| (setting.name, setting.value)).collect();
    assert_eq!(pairs, [("unix_mode", "0660"), ("unix_group", "www data"), ("x", "a=b")]);
    assert_eq!(spec.to_string(), "unix:/run/a.sock");
    assert_eq!(parse(b"9000").unwrap().settings.iter().count(), 0);
}

#[test]
fn whoever_applies_a_setting_can_point_at_it() {
    let all: Vec<_> = list(b"9000,-:80?backlog=x&no=1").unwrap().collect();
    let spec = all[1].spec;
    let settings: Vec<_> = spec.settings.iter().collect();
    let error = spec.fault_at_value(&settings[0], format_args!("a number"));
    assert_eq!(error.to_string(), "address :80: `x` is no value of backlog");
    assert_eq!(error.hint_text(), "9000,-:80?backlog=x&no=1\n                  ^ a number");
    let error = spec.fault_at_name(&settings[1], format_args!("an option"));
    assert_eq!(error.to_string(), "address :80: `no` is no option of this address");
    assert_eq!(caret(&error), 20);
}

#[test]
fn a_list_is_separated_by_commas_and_a_dash_makes_optional() {
    let text = b"127.0.0.1:9000,-[::1]:9000?backlog=5,unix:-x";
    let all: Vec<_> = list(text).unwrap().map(|item| (item.spec.to_string(), item.optional)).collect();
    let expected = [("127.0.0.1:9000", false), ("[::1]:9000", true), ("unix:-x", false)];
    assert_eq!(all, expected.map(|(text, optional)| (text.to_string(), optional)));
    assert_eq!(list(b"9000").unwrap().count(), 1);
}
