//! What the threads of one run share: handles in numbered places, from which any of them may take one.
//!
//! A descriptor in a place is its taker's alone, since a number that is closed is soon another's. Servers and
//! connections are not taken: a call on one that is gone is what is to be tried. There are no locks, as handlers run in
//! forked children too.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use oyez::capi::connection::oyez_conn_close;
use oyez::capi::listen::oyez_unlisten;
use oyez::capi::server::*;
use oyez::error::Code;

use crate::failure::Failure;
use crate::input::Input;

/// No descriptor of this process has such a number: it has fewer.
pub const NEVER_OPEN: i32 = 4000;

const LISTENS_NOWHERE: u64 = 0;

pub struct World {
    pub script: Vec<u8>,
    pub process: u32,
    /// Every server that was made, in order.
    servers: [AtomicI32; 16],
    /// The last connections, in order, and how many there were.
    connections: [AtomicU64; 8],
    known: AtomicUsize,
    descriptors: [AtomicI32; 8],
    /// Where servers listen: a port, or beyond those the number of an abstract name.
    places: [AtomicU64; 4],
    names: AtomicU64,
    pub serving: AtomicUsize,
    under_way: [AtomicU32; 64],
    pub opened: AtomicUsize,
    pub closed: AtomicUsize,
    ending: AtomicBool,
}

impl World {
    pub fn new(script: Vec<u8>) -> Self {
        Self {
            script,
            process: std::process::id(),
            servers: Default::default(),
            connections: Default::default(),
            known: AtomicUsize::new(0),
            descriptors: std::array::from_fn(|_| AtomicI32::new(-1)),
            places: Default::default(),
            names: AtomicU64::new(1),
            serving: AtomicUsize::new(0),
            under_way: std::array::from_fn(|_| AtomicU32::new(0)),
            opened: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
        }
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(SeqCst)
    }

    /// Remembers a server; false where there are enough.
    pub fn add_server(&self, server: i32) -> bool {
        self.servers.iter().any(|place| place.compare_exchange(0, server, SeqCst, SeqCst).is_ok())
    }

    /// The first server: the only one that a handler may close, so that none waits for the other.
    pub fn first_server(&self) -> i32 {
        self.servers[0].load(SeqCst)
    }

    /// A server that was made in this run, living or gone, or a number that is none.
    pub fn server(&self, input: &mut Input<'_>) -> i32 {
        match input.byte() {
            place @ 0..=191 => self.servers[usize::from(place) % 3].load(SeqCst),
            place @ 192..=247 => self.servers[usize::from(place) % self.servers.len()].load(SeqCst),
            248 => -1,
            249 => i32::MIN,
            250 => i32::MAX,
            251 => self.first_server().wrapping_add(1 << 20),
            choice => (input.number() as i32).wrapping_mul(i32::from(choice)) | 1 << 30,
        }
    }

    pub fn add_connection(&self, connection: u64) {
        if self.connections.iter().all(|place| place.load(SeqCst) != connection) {
            let place = self.known.fetch_add(1, SeqCst) % self.connections.len();
            self.connections[place].store(connection, SeqCst);
        }
    }

    /// A connection of this run, living or gone, or a number that is none.
    pub fn connection(&self, input: &mut Input<'_>) -> u64 {
        match input.byte() {
            place @ 0..=223 => self.connections[usize::from(place) % 8].load(SeqCst),
            224..=239 => self.connections[0].load(SeqCst).wrapping_add(1 << 32),
            240 => u64::MAX,
            _ => input.number(),
        }
    }

    /// Puts a descriptor into a place, and closes the one that was there.
    pub fn put(&self, input: &mut Input<'_>, fd: i32) {
        close(self.descriptors[input.below(8)].swap(fd, SeqCst));
    }

    /// Takes a descriptor out of its place: whoever has it puts it back or closes it.
    pub fn take(&self, input: &mut Input<'_>) -> i32 {
        match input.byte() {
            place @ 0..=223 => self.descriptors[usize::from(place) % 8].swap(-1, SeqCst),
            224..=239 => NEVER_OPEN,
            240 => i32::MIN,
            _ => (input.number() as i32) | 1 << 30,
        }
    }

    /// An address to listen at, most of them where nobody else is.
    pub fn new_address(&self, input: &mut Input<'_>) -> CString {
        let unix = |number| format!("unix:@oyez-fuzz-{}-{number}", self.process);
        let text = match input.byte() {
            0..=95 => unix(self.names.fetch_add(1, SeqCst)),
            96..=127 => unix(1),
            128..=175 => "127.0.0.1:0".to_owned(),
            176..=191 => "[::1]:0?reuse_port=on".to_owned(),
            192..=199 => format!("{},-[::1]:0", unix(self.names.fetch_add(1, SeqCst))),
            200..=207 => "udp:127.0.0.1:0".to_owned(),
            208..=215 => "127.0.0.1:0?backlog=1&defer_accept_seconds=1".to_owned(),
            216..=223 => format!("fd:{NEVER_OPEN}"),
            _ => return crate::input::c_string(input.take(6)),
        };
        CString::new(text).expect("no NUL")
    }

    /// Remembers where clients can go.
    pub fn listens_at(&self, fd: i32, address: &CString) {
        let port = oyez::capi::listen::oyez_local_port(fd);
        let text = address.to_string_lossy();
        let name = text.strip_prefix("unix:").and_then(|text| text.rsplit('-').next()?.parse::<u64>().ok());
        let place = match (u64::try_from(port), name) {
            (Ok(port), _) => port,
            (Err(_), Some(name)) => 65_536 + name,
            _ => return,
        };
        self.places[(place % 4) as usize].store(place, SeqCst);
    }

    /// Connects to where a server listens, or has listened; -1 where that does not work at once.
    pub fn connect(&self, input: &mut Input<'_>) -> i32 {
        let place = self.places[input.below(4)].load(SeqCst);
        if place == LISTENS_NOWHERE {
            return -1;
        }
        let port = u16::try_from(place).ok();
        let family = if port.is_some() { libc::AF_INET } else { libc::AF_UNIX };
        // SAFETY: makes a socket, and connects it to an address of its own size.
        unsafe {
            let fd = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
            let (mut inet, mut unix): (libc::sockaddr_in, libc::sockaddr_un) = (std::mem::zeroed(), std::mem::zeroed());
            inet.sin_family = libc::AF_INET as u16;
            inet.sin_port = port.unwrap_or(0).to_be();
            inet.sin_addr.s_addr = u32::from_be_bytes([127, 0, 0, 1]).to_be();
            unix.sun_family = libc::AF_UNIX as u16;
            let name = format!("\0oyez-fuzz-{}-{}", self.process, place.saturating_sub(65_536));
            unix.sun_path.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from.cast_signed());
            let result = match port {
                Some(_) => libc::connect(fd, (&raw const inet).cast(), size_of_val(&inet) as u32),
                None => libc::connect(fd, (&raw const unix).cast(), (2 + name.len()) as u32),
            };
            if result < 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EINPROGRESS) {
                libc::close(fd);
                return -1;
            }
            // Its end is a reset, so that no port waits for long afterwards.
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            let size = size_of_val(&linger) as u32;
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size);
            fd
        }
    }

    /// What is called just now, for whoever asks why it does not end.
    pub fn begin(&self, number: usize) {
        self.under_way[number % 64].fetch_add(1, SeqCst);
    }

    pub fn end(&self, number: usize) {
        self.under_way[number % 64].fetch_sub(1, SeqCst);
    }

    pub fn under_way(&self) -> Vec<&'static str> {
        let busy = |number: &usize| self.under_way[*number].load(SeqCst) > 0;
        (0..64).filter(busy).filter_map(|number| super::table::TABLE.get(number)).map(|call| call.0).collect()
    }

    /// Stops every server, so that whoever waits for one goes on.
    pub fn end_what_waits(&self) {
        self.ending.store(true, SeqCst);
        for server in self.all_servers() {
            oyez_server_stop(server, 0);
            // Of a server without a handler nobody resets the connections, unless somebody waits for it.
            oyez_server_wait(server, 0);
        }
        if self.serving.load(SeqCst) > 0 {
            // SAFETY: this process ignores it, but where oyez_serve() waits for it.
            unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
        }
    }

    fn all_servers(&self) -> impl Iterator<Item = i32> {
        self.servers.iter().map(|server| server.load(SeqCst)).take_while(|&server| server != 0)
    }

    /// Every server can be closed, or is closed; then nothing is known of it, nor of its connections.
    pub fn close_everything(&self) {
        self.ending.store(true, SeqCst);
        for fd in &self.descriptors {
            close(fd.swap(-1, SeqCst));
        }
        for server in self.all_servers() {
            oyez_server_stop(server, 0);
            if oyez_server_close(server) != 0 {
                assert_eq!(Failure::last().code, Code::Closed, "server {server}");
            }
            assert_eq!(oyez_server_pause(server), -1);
            assert_eq!(Failure::last().code, Code::Closed, "server {server} is closed");
        }
        // A handler may have connected somewhere while its server ended.
        for fd in &self.descriptors {
            close(fd.swap(-1, SeqCst));
        }
        for connection in &self.connections {
            let connection = connection.load(SeqCst);
            assert_eq!(oyez_conn_close(connection), -1);
            assert_eq!(Failure::last().code, Code::Closed, "connection {connection} of a closed server");
        }
    }

    pub fn check_counts(&self) {
        assert_eq!(self.opened.load(SeqCst), self.closed.load(SeqCst), "on_close comes once for each on_open");
    }
}

/// Closes what may be a listener with a file.
pub fn close(fd: i32) {
    if (0..NEVER_OPEN).contains(&fd) && oyez_unlisten(fd) != 0 {
        panic!("{fd} is not open: {:?}", Failure::last());
    }
}
