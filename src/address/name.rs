//! Host and service names, checked before a resolver sees them.

use super::endpoint::port;
use super::piece::Piece;
use super::{Endpoint, Service};
use crate::error::{Error, Result};

/// How long a host name, one label of it (RFC 1035) and a service name (RFC 6335) may be.
const LONGEST_HOST: usize = 253;
const LONGEST_LABEL: usize = 63;
const LONGEST_SERVICE: usize = 15;

/// Reads a host name and a port or service name.
pub fn read<'a>(host: Piece<'a>, service: Piece<'a>) -> Result<Endpoint<'a>> {
    let name = check_host(host)?;
    Ok(Endpoint::Name { host: name, service: read_service(service)? })
}

fn check_host(host: Piece<'_>) -> Result<&str> {
    let name = host.graphic()?;
    let relative = name.strip_suffix('.').unwrap_or(name);
    if relative.len() > LONGEST_HOST {
        return Err(host.too_long("host name", LONGEST_HOST));
    }
    // A single trailing dot leaves an empty piece at the end, which is no label.
    let end = host.start() + relative.len();
    host.split_all(b'.').take_while(|label| label.start() <= end).try_for_each(check_label)?;
    Ok(name)
}

fn check_label(label: Piece<'_>) -> Result<()> {
    let bytes = label.bytes();
    let stranger = bytes.iter().position(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_'));
    match (stranger, bytes) {
        (Some(index), _) => Err(no_host(label, index)),
        (None, [] | [b'-', ..]) => Err(no_host(label, 0)),
        (None, _) if bytes.len() > LONGEST_LABEL => Err(label.too_long("label", LONGEST_LABEL)),
        (None, _) => Ok(()),
    }
}

fn no_host(label: Piece<'_>, index: usize) -> Error {
    let expected = if label.bytes().get(index) == Some(&b'%') {
        "`:` and a port; only IPv6 addresses have an interface, as in [fe80::1%eth0]:9000"
    } else {
        "a host name of letters, digits, `-`, `_` and single dots"
    };
    label.fault(index, "this is no host name", expected)
}

fn read_service(text: Piece<'_>) -> Result<Service<'_>> {
    if text.first().is_none_or(|byte| byte.is_ascii_digit()) {
        return port(text).map(Service::Port);
    }
    let bytes = text.bytes();
    let cause = "this is neither a port nor a service name";
    let expected = "a port from 0 to 65535, or a letter and then letters, digits and `-`";
    match bytes.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-') {
        Some(index) => Err(text.fault(index, cause, expected)),
        None if bytes.starts_with(b"-") => Err(text.fault(0, cause, expected)),
        None if bytes.len() > LONGEST_SERVICE => Err(text.too_long("service name", LONGEST_SERVICE)),
        None => Ok(Service::Name(text.graphic()?)),
    }
}
