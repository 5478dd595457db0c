//! The names of Unix sockets: behind `unix:`, and in a socket address of the kernel.

use std::hash::{Hash, Hasher};

use rustix::net::{AddressFamily, SocketAddrAny};

use super::Address;
use super::piece::Piece;
use crate::error::Result;

/// What fits into sun_path: a path with the NUL behind it, an abstract name with the NUL before it. The kernel also
/// takes a path of 108 bytes without a NUL, which many programs then read beyond.
const LONGEST: usize = 107;

/// Where sun_path starts in a sockaddr_un.
const FAMILY_SIZE: usize = size_of::<libc::sa_family_t>();

/// Reads what stands behind `unix:`.
pub fn read(text: Piece<'_>) -> Result<Address<'_>> {
    match text.after(b"@") {
        Some(name) => check(name, "abstract name").map(Address::UnixAbstract),
        None => check(text, "path").map(Address::UnixPath),
    }
}

fn check<'a>(name: Piece<'a>, kind: &str) -> Result<&'a [u8]> {
    let bytes = name.bytes();
    if bytes.is_empty() {
        let expected = "a name, as in unix:/run/app.sock or unix:@name";
        return Err(name.fault(0, format_args!("the {kind} is missing"), expected));
    }
    if let Some(index) = name.find(0) {
        return Err(name.fault(index, format_args!("the {kind} has a NUL byte in it"), "another byte"));
    }
    if bytes.len() > LONGEST {
        return Err(name.too_long(kind, LONGEST));
    }
    Ok(bytes)
}

/// The name in a Unix socket address.
///
/// rustix can convert the address itself, but panics where the path has 108 bytes, and takes a socket without a name
/// for an abstract one. Any local user can bind a client to such a path, so that conversion must not see a peer.
pub struct UnixName {
    bytes: [u8; size_of::<libc::sockaddr_storage>()],
    length: usize,
}

impl UnixName {
    /// The name in `address`, where that is one of a Unix socket.
    pub fn of(address: &SocketAddrAny) -> Option<Self> {
        if address.address_family() != AddressFamily::UNIX {
            return None;
        }
        let mut name = Self { bytes: [0; size_of::<libc::sockaddr_storage>()], length: 0 };
        address.hash(&mut name);
        Some(name)
    }

    /// The path, where it has one.
    pub fn path(&self) -> Option<&[u8]> {
        let name = self.name();
        let path = name.split(|&byte| byte == 0).next()?;
        Some(path).filter(|path| !path.is_empty())
    }

    /// The name in the abstract namespace, without the NUL in front, where it has one.
    pub fn abstract_name(&self) -> Option<&[u8]> {
        self.name().strip_prefix(b"\0")
    }

    fn name(&self) -> &[u8] {
        self.bytes.get(FAMILY_SIZE..self.length).unwrap_or_default()
    }
}

/// Hashing is the one safe way to the bytes of a rustix address: it hashes just those that the kernel wrote.
impl Hasher for UnixName {
    fn write(&mut self, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(self.length).zip(bytes) {
            *to = *from;
            self.length += 1;
        }
    }

    /// The length of a slice is hashed in front of its bytes.
    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        0
    }
}
