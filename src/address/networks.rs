//! Lists of networks: who may connect, in the notation of RFC 4632.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::piece::Piece;
use crate::error::{Error, Result};

/// How long a list may be, in bytes: some ten thousand networks.
const LONGEST: usize = 256 * 1024;

/// Whom one element of a list means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Every peer of a Unix socket.
    Unix,
    /// The addresses of a network; IPv4 written as IPv6 has become IPv4.
    Internet(IpNet),
}

/// Takes a list apart: addresses, networks and `unix`, separated by commas, with blanks around them or not.
pub fn networks(text: &[u8]) -> Result<Vec<Network>> {
    let text = Piece::within(text, LONGEST)?;
    let mut networks = Vec::new();
    for item in text.split_all(b',') {
        let network = Network::read(item.trimmed().as_subject())?;
        let full = || Error::system("networks", rustix::io::Errno::NOMEM);
        networks.try_reserve(1).map_err(|_| full())?;
        networks.push(network);
    }
    Ok(networks)
}

impl Network {
    fn read(item: Piece<'_>) -> Result<Self> {
        match item.bytes() {
            b"" => Err(item.fault(0, "there is no network", "an address, a network such as 10.0.0.0/8, or unix")),
            b"unix" => Ok(Self::Unix),
            _ => internet(item).map(Self::Internet),
        }
    }
}

fn internet(item: Piece<'_>) -> Result<IpNet> {
    let (address, length) = item.split(b'/').map_or((item, None), |(address, length)| (address, Some(length)));
    let ip = ip(address)?;
    let all = if ip.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => all,
        Some(digits) => digits.number(u32::from(all)).map_err(|index| {
            let expected = format_args!("the length of a prefix, from 0 to {all} in plain digits");
            digits.fault(index, "this is no prefix of the address", expected)
        })? as u8,
    };
    let whole = IpNet::new(ip, length).map_err(|_| address.fault(0, "this is no network", "a network"))?;
    let network = whole.trunc();
    if network != whole {
        let expected = format_args!("{network}, which is the network, or {ip}, which is one address");
        return Err(address.fault(0, "the address has bits behind its prefix", expected));
    }
    Ok(as_ipv4(network))
}

fn ip(text: Piece<'_>) -> Result<IpAddr> {
    if text.find(b':').is_none() {
        let address: Option<Ipv4Addr> = text.graphic()?.parse().ok();
        return address.map(IpAddr::V4).ok_or_else(|| {
            let stranger = text.bytes().iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.');
            let expected = "an address such as 192.0.2.1 or 2001:db8::1, a network such as 10.0.0.0/8, or unix";
            text.fault(stranger.unwrap_or(0), "this is no address", expected)
        });
    }
    let address: Option<Ipv6Addr> = text.graphic()?.parse().ok();
    address.map(IpAddr::V6).ok_or_else(|| {
        let stranger = text.bytes().iter().position(|byte| !byte.is_ascii_hexdigit() && !matches!(byte, b':' | b'.'));
        text.fault(stranger.unwrap_or(0), "this is no IPv6 address", "an IPv6 address without brackets, such as ::1")
    })
}

/// A client of a dual-stack listener counts as IPv4, so what is written as IPv4 within IPv6 has to.
fn as_ipv4(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let IpNet::V6(v6) = network else { return network };
    let inner = v6.addr().to_ipv4_mapped().filter(|_| v6.prefix_len() >= MAPPED);
    inner.and_then(|inner| Ipv4Net::new(inner, v6.prefix_len() - MAPPED).ok()).map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let name = |network: Network| match network {
            Network::Unix => "unix".to_string(),
            Network::Internet(network) => network.to_string(),
        };
        networks(text.as_bytes()).unwrap().into_iter().map(name).collect()
    }

    #[test]
    fn every_form() {
        assert_eq!(read("10.0.0.0/8"), ["10.0.0.0/8"]);
        assert_eq!(read("192.0.2.1 ,\n unix,\t2001:db8::/32"), ["192.0.2.1/32", "unix", "2001:db8::/32"]);
        assert_eq!(read("0.0.0.0/0,::/0,::1"), ["0.0.0.0/0", "::/0", "::1/128"]);
        assert_eq!(read("::ffff:10.0.0.0/104,::ffff:1.2.3.4"), ["10.0.0.0/8", "1.2.3.4/32"]);
        assert_eq!(read("::ffff:0:0/96,::/95"), ["0.0.0.0/0", "::/95"]);
    }

    #[test]
    fn every_fault_is_shown_in_its_place() {
        for (text, caret) in [
            ("", 0),
            ("10.0.0.0/8,", 11),
            ("10.0.0.0/8,,::1", 11),
            ("10.0.0.1/8", 0),
            ("::1/64", 0),
            ("10.0.0.0/33", 9),
            ("10.0.0.0/08", 9),
            ("10.0.0.0/", 9),
            ("10.0.0.0/8/8", 10),
            ("10.0.0.0/+8", 9),
            ("::/129", 3),
            ("010.0.0.0/8", 0),
            ("10.0.0/8", 0),
            ("10.0.0.0.0", 0),
            ("10.0.0.0 /8", 8),
            ("fe80::1%lo", 7),
            ("[::1]", 0),
            ("localhost", 0),
            ("unix:", 0),
            ("::1, x", 5),
            ("10.0.0.0/8\u{e9}", 10),
        ] {
            let error = networks(text.as_bytes()).expect_err(text);
            let below = error.hint_text().rsplit_once('\n').expect(text).1;
            assert_eq!(below.find('^'), Some(caret), "{text:?}: {error}\n{}", error.hint_text());
        }
        assert!(networks(&vec![b','; LONGEST + 1]).is_err());
    }
}
