//! Random texts: none makes the parser panic, and what it takes reads back.

use std::net::Ipv4Addr;

use super::*;

/// A generator by Marsaglia (xorshift), so that every run tries the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

const FRAGMENTS: [&str; 40] = [
    "udp:",
    "unix:",
    "fd:",
    "systemd:",
    "[",
    "]",
    ":",
    "::",
    "%",
    "?",
    "&",
    "=",
    ",",
    "-",
    "*",
    ".",
    "0",
    "1",
    "80",
    "9000",
    "65535",
    "127.0.0.1",
    "10.0.0.",
    "256",
    "fe80::1",
    "[::1]:80",
    "[2001:db8::2]:",
    "%1",
    "%eth0",
    "localhost",
    "http",
    "backlog=5",
    "a=",
    " ",
    "\0",
    "\u{e9}",
    "\u{65e5}",
    "@x",
    "0x7f",
    "/run/x",
];

#[test]
fn noise_never_panics_and_what_is_accepted_reads_back() {
    let (mut random, mut accepted) = (Random(0x9e37_79b9_7f4a_7c15), 0);
    for _ in 0..200_000 {
        let mut text: Vec<u8> = Vec::new();
        for _ in 0..random.below(7) {
            text.extend_from_slice(FRAGMENTS[random.below(FRAGMENTS.len())].as_bytes());
        }
        if random.below(3) == 0 && !text.is_empty() {
            let index = random.below(text.len());
            text[index] = u8::try_from(random.below(256)).unwrap();
        }
        let whole = list(&text).map(Iterator::count);
        match parse(&text) {
            Err(error) => check(&text, &error),
            Ok(spec) => {
                accepted += 1;
                assert!(whole.is_ok(), "{}", text.escape_ascii());
                read_back(spec.address);
            }
        }
        if let Err(error) = whole {
            check(&text, &error);
        }
    }
    assert!(accepted > 5000, "only {accepted} texts were accepted");
}

/// A literal address, shown, is the same address again.
fn read_back(shown: Address<'_>) {
    let (Address::Tcp(Endpoint::Literal(literal)) | Address::Udp(Endpoint::Literal(literal))) = shown else {
        return;
    };
    let text = display_ip(&literal);
    let again = address(text.as_str());
    let scoped = matches!(again, Address::Tcp(Endpoint::Scoped { address, port, .. })
        if SocketAddr::from((address, port)).ip() == literal.ip() && port == literal.port());
    assert!(scoped || again == Address::Tcp(Endpoint::Literal(literal)), "{text}");
}

#[test]
fn random_literals_read_back() {
    let mut random = Random(88172645463325252);
    for _ in 0..20_000 {
        let port = u16::try_from(random.below(65536)).unwrap();
        let v4 = Ipv4Addr::from(u32::try_from(random.below(1 << 32)).unwrap());
        read_back(Address::Tcp(Endpoint::Literal(SocketAddr::from((v4, port)))));
        let groups = std::array::from_fn(|_| u16::try_from(random.below(3) * random.below(65536) / 2).unwrap());
        let v6 = Ipv6Addr::from(groups);
        if v6.to_ipv4_mapped().is_none() && !v6.is_unicast_link_local() {
            read_back(Address::Tcp(Endpoint::Literal(SocketAddr::from((v6, port)))));
        }
    }
}
