//! A socket address as text, in the form in which it could be passed in again.

use std::fmt::Write;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use rustix::net::netdevice::{InlinedName, index_to_name_inlined};
use rustix::net::{AddressFamily, SocketAddrAny, SocketFlags, SocketType, socket_with};

use super::unix::UnixName;
use crate::text::{Escaped, Text};

/// The text of any address that the kernel gave.
pub fn display(address: &SocketAddrAny) -> Text {
    if let Some(name) = UnixName::of(address) {
        return display_unix(&name);
    }
    match SocketAddr::try_from(address.clone()) {
        Ok(address) => display_ip(&address),
        Err(_) => Text::format(format_args!("family:{}", address.address_family().as_raw())),
    }
}

/// The text of an IP address and port; an IPv4 address inside IPv6 is shown as IPv4.
pub fn display_ip(address: &SocketAddr) -> Text {
    match address {
        SocketAddr::V4(address) => Text::format(format_args!("{address}")),
        SocketAddr::V6(address) => match address.ip().to_ipv4_mapped() {
            Some(inner) => Text::format(format_args!("{}", SocketAddrV4::new(inner, address.port()))),
            None => display_ipv6(address),
        },
    }
}

fn display_ipv6(address: &SocketAddrV6) -> Text {
    let (ip, port) = (address.ip(), address.port());
    match (address.scope_id(), interface(address.scope_id())) {
        (0, _) => Text::format(format_args!("[{ip}]:{port}")),
        (_, Some(name)) => Text::format(format_args!("[{ip}%{}]:{port}", name.as_str())),
        (index, None) => Text::format(format_args!("[{ip}%{index}]:{port}")),
    }
}

/// The name of an interface, where it has one that reads back as its name.
fn interface(index: u32) -> Option<InlinedName> {
    if index == 0 {
        return None;
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    let name = index_to_name_inlined(socket, index).ok()?;
    let is_plain = name.as_bytes().iter().all(|byte| byte.is_ascii_graphic() && !b"%]?,".contains(byte));
    let is_number = name.as_bytes().iter().all(u8::is_ascii_digit);
    Some(name).filter(|_| is_plain && !is_number)
}

fn display_unix(name: &UnixName) -> Text {
    let mut text = Text::from("unix:");
    // What no longer fits into memory is left out.
    let _ = match (name.path(), name.abstract_name()) {
        (Some(path), _) => write!(text, "{}", Escaped(path)),
        (None, Some(name)) => write!(text, "@{}", Escaped(name)),
        (None, None) => Ok(()),
    };
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::Ipv6Addr;

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, getsockname, socket};

    use super::*;

    fn ip(text: &str) -> String {
        display_ip(&text.parse().unwrap()).to_string()
    }

    fn scoped(index: u32) -> String {
        let address: Ipv6Addr = "fe80::1".parse().unwrap();
        display_ip(&SocketAddr::V6(SocketAddrV6::new(address, 9, 0, index))).to_string()
    }

    /// What the kernel says of a socket that is bound to `address`.
    fn bound(address: &SocketAddrUnix) -> String {
        let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&socket, address).unwrap();
        display(&getsockname(&socket).unwrap()).to_string()
    }

    #[test]
    fn ip_addresses_have_the_form_that_is_read() {
        for text in ["127.0.0.1:9000", "0.0.0.0:0", "[::]:1", "[::1]:9000", "[2001:db8::1]:65535"] {
            assert_eq!(ip(text), text);
            assert_eq!(display(&text.parse::<SocketAddr>().unwrap().into()).as_str(), text);
        }
        assert_eq!(ip("[::ffff:1.2.3.4]:80"), "1.2.3.4:80");
    }

    #[test]
    fn a_scope_is_shown_by_the_name_of_its_interface() {
        assert_eq!(scoped(1), "[fe80::1%lo]:9");
        assert_eq!(scoped(u32::MAX), "[fe80::1%4294967295]:9");
    }

    #[test]
    fn unix_sockets_are_shown_by_path_name_or_nothing() {
        let unbound = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        assert_eq!(display(&getsockname(&unbound).unwrap()).as_str(), "unix:");
        let name = format!("oyez-display-{}", std::process::id());
        assert_eq!(bound(&SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()), format!("unix:@{name}"));
        let odd = [name.as_bytes(), b"\0\n\xff"].concat();
        let shown = bound(&SocketAddrUnix::new_abstract_name(&odd).unwrap());
        assert_eq!(shown, format!("unix:@{name}\\u{{0}}\\n\\xff"));
    }

    #[test]
    fn a_path_is_shown_whole_with_and_without_room_for_a_nul() {
        let folder = std::env::temp_dir().join(format!("oyez-display-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for length in [40, 107, 108] {
            let path = format!("{:p<length$}", folder.join("s").display());
            assert_eq!(bound(&SocketAddrUnix::new(path.as_str()).unwrap()), format!("unix:{path}"));
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn another_family_is_a_number() {
        let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
        assert_eq!(display(&getsockname(&socket).unwrap()).as_str(), "family:16");
    }
}
