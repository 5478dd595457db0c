//! An IP endpoint: a port alone, a literal address or a host name with a port.

use super::piece::Piece;
use super::{Endpoint, literal, name};
use crate::error::{Error, Result};

/// What stands in front of a colon and is no host. `tcp` and its like are no scheme here either, but whoever writes
/// them does not mean a host of that name.
const SCHEMES: [&[u8]; 9] = [b"unix", b"udp", b"fd", b"systemd", b"tcp", b"tcp4", b"tcp6", b"udp4", b"udp6"];

/// Reads an endpoint.
pub fn read(text: Piece<'_>) -> Result<Endpoint<'_>> {
    text.graphic()?;
    if text.first() == Some(b'[') {
        return literal::bracketed(text);
    }
    let Some((host, service)) = text.split(b':') else {
        return bare(text);
    };
    if is_unbracketed(text) {
        return Err(text.fault(0, "this is an IPv6 address without brackets", "`[`, as in [::1]:9000"));
    }
    refuse_scheme(host, service)?;
    if let Some(colon) = service.find(b':') {
        let expected = "the end, as one colon is between host and port";
        return Err(service.fault(colon, "there is a colon too many", expected));
    }
    match host.bytes() {
        b"" | b"*" => Ok(Endpoint::Any { port: port(service)? }),
        _ if literal::ends_in_a_number(host) => literal::ipv4(host, service),
        _ => name::read(host, service),
    }
}

/// Reads a port in digits.
pub fn port(text: Piece<'_>) -> Result<u16> {
    let number = text.number(u32::from(u16::MAX)).map_err(|index| no_port(text, index))?;
    u16::try_from(number).map_err(|_| no_port(text, 0))
}

/// The error of a text that has no port where it ends.
pub fn missing_port(text: Piece<'_>) -> Error {
    text.fault_at_end("the port is missing", "`:` and a port, such as :9000")
}

fn no_port(text: Piece<'_>, index: usize) -> Error {
    let expected = "a port from 0 to 65535 in plain digits";
    if text.bytes().is_empty() {
        return text.fault(0, "the port is missing", expected);
    }
    text.fault(index, "the port is not a plain number from 0 to 65535", expected)
}

/// A text without a colon is a port; where it is something else, the error says what it looks like.
fn bare(text: Piece<'_>) -> Result<Endpoint<'_>> {
    match text.first() {
        None => {
            let expected = "an address, such as 9000, 127.0.0.1:9000, [::1]:9000 or unix:/run/app.sock";
            Err(text.fault(0, "there is no address", expected))
        }
        Some(b'/' | b'.' | b'@') => {
            let expected = "`unix:` in front, as in unix:/run/app.sock or unix:@name";
            Err(text.fault(0, "`unix:` is missing", expected))
        }
        Some(first) if first == b'*' || first.is_ascii_alphabetic() || text.find(b'.').is_some() => {
            Err(missing_port(text))
        }
        Some(_) => Ok(Endpoint::Any { port: port(text)? }),
    }
}

/// Whether the text is an IPv6 address, perhaps with a zone and a port, but without brackets.
fn is_unbracketed(text: Piece<'_>) -> bool {
    let address = || text.bytes().iter().take_while(|byte| !matches!(byte, b'.' | b'%'));
    address().all(|&byte| byte == b':' || byte.is_ascii_hexdigit())
        && address().filter(|&&byte| byte == b':').count() > 1
}

fn refuse_scheme(host: Piece<'_>, rest: Piece<'_>) -> Result<()> {
    let is_scheme = SCHEMES.iter().any(|scheme| scheme.eq_ignore_ascii_case(host.bytes()));
    if !is_scheme && !looks_like_scheme(host, rest) {
        return Ok(());
    }
    let scheme = host.graphic()?;
    let expected = "unix:, udp:, fd: or systemd: in lower case, not combined; TCP has no scheme";
    Err(host.fault(0, format_args!("`{scheme}:` is no scheme that can stand here"), expected))
}

/// Whether the text reads like `scheme:/...` or `scheme:host:port`, rather than a host, a port and a stray colon.
fn looks_like_scheme(host: Piece<'_>, rest: Piece<'_>) -> bool {
    let is_word = host.first().is_some_and(|byte| byte.is_ascii_alphabetic())
        && host.bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-'));
    let has_host = rest.split(b':').is_some_and(|(second, _)| !second.bytes().iter().all(u8::is_ascii_digit));
    is_word && (has_host || rest.first() == Some(b'/'))
}
