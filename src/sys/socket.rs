//! Socket options and calls that rustix does not have.

use std::ffi::c_int;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};

/// Sets an option whose value is an int. See setsockopt(2).
pub fn set_option(socket: impl AsFd, level: c_int, name: c_int, value: c_int) -> Result<(), Errno> {
    let length = size_of::<c_int>() as libc::socklen_t;
    retry_on_intr(|| {
        // SAFETY: the value is an int of that length, read during the call.
        let failed =
            unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length) };
        check(failed)
    })
}

/// Sets a time option such as SO_RCVTIMEO.
pub fn set_time_option(socket: BorrowedFd<'_>, name: c_int, milliseconds: u64) -> Result<(), Errno> {
    let seconds = libc::time_t::try_from(milliseconds / 1000).unwrap_or(libc::time_t::MAX);
    let value = libc::timeval { tv_sec: seconds, tv_usec: (milliseconds % 1000 * 1000) as libc::suseconds_t };
    let length = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: the value is a timeval of that length, read during the call.
    let failed =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw const value).cast(), length) };
    check(failed)
}

/// Binds a socket to an interface. See SO_BINDTODEVICE in socket(7).
pub fn bind_to_device(socket: BorrowedFd<'_>, interface: &[u8]) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(interface.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the name has that length and is read during the call.
    let failed = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_ptr().cast(), length)
    };
    check(failed)
}

/// Reads an option into a value of plain data, of which an older kernel may fill the front alone.
fn get_option<T: Copy + Default>(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> Result<T, Errno> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the place has that length; the private callers ask for integers and arrays of them.
    let failed = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    check(failed).map(|()| value)
}

/// Whether a socket is one to accept from. accept(2) lists EOPNOTSUPP among what to retry, and says it of datagram
/// sockets too.
pub fn is_listening(socket: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

/// The accept queue of a listening TCP socket: how many wait, and how many may. See TCP_INFO in tcp(7).
pub fn accept_queue(listener: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
    // struct tcp_info of linux/tcp.h: eight bytes, then words; of a listener, tcpi_unacked and tcpi_sacked (words 4 and
    // 5 behind them) are the queue's length and bound.
    let words: [u32; 8] = get_option(listener, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    let [_, _, _, _, _, _, queue, backlog] = words;
    Ok((queue, backlog))
}

/// How many packets the kernel dropped at a socket. See SO_MEMINFO in linux/sock_diag.h.
pub fn drops(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    let words: [u32; 9] = get_option(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    let [.., drops] = words;
    Ok(drops)
}

/// How many bytes the peer's kernel has not acknowledged. See SIOCOUTQ in tcp(7).
pub fn unsent(socket: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut bytes: c_int = 0;
    // SAFETY: TIOCOUTQ, the same number as SIOCOUTQ, writes an int.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    check(failed).map(|()| usize::try_from(bytes).unwrap_or(0))
}

/// Lets a listening TCP socket drop those who begin to connect, and nobody else: their first packet is repeated after a
/// second. See SO_ATTACH_FILTER in socket(7); without privileges it failed with EPERM (measured on Linux 6.18).
pub fn refuse_beginners(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    const SYN: u32 = 0x02;
    const SYN_OR_ACK: u32 = 0x12;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        // The flags of the TCP header, at which a TCP socket's filter begins to look.
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN_OR_ACK),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    set_program(listener, libc::SO_ATTACH_FILTER, &mut program)
}

/// Gives a socket a program of classic BPF. See socket(7).
fn set_program(socket: BorrowedFd<'_>, name: c_int, program: &mut [libc::sock_filter]) -> Result<(), Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: a program of that length, copied during the call.
    let failed =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw const program).cast(), length) };
    check(failed)
}

/// Which of the listeners that share a port gets a client.
#[derive(Clone, Copy, Debug)]
pub struct Steering<const N: usize> {
    /// The clients meant come by IPv6, else by IPv4 without options.
    pub ipv6: bool,
    /// Their ports.
    pub ports: [u16; N],
    /// The place of the listener that gets them.
    pub matching: u32,
    /// The place of the one that gets everybody else.
    pub others: u32,
}

/// Steers the clients of a group of listeners; one of them stands for all. See SO_ATTACH_REUSEPORT_CBPF in socket(7).
pub fn steer<const N: usize>(listener: impl AsFd, steering: &Steering<N>) -> Result<(), Errno> {
    // Where the program sees the network header, whatever it is called on.
    const NETWORK: u32 = libc::SKF_NET_OFF.cast_unsigned();
    let (version, ports_at) = if steering.ipv6 { (6, 40) } else { (4, 20) };
    let step =
        |code: u32, jt: usize, jf: usize, k| libc::sock_filter { code: code as u16, jt: jt as u8, jf: jf as u8, k };
    let mut program = Vec::new();
    program.try_reserve_exact(N + 6).map_err(|_| Errno::NOMEM)?;
    program.push(step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, NETWORK));
    program.push(step(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 0, 0, 4));
    program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, N + 1, version));
    program.push(step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, NETWORK.wrapping_add(ports_at)));
    for (index, port) in steering.ports.iter().enumerate() {
        program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, N - index, 0, u32::from(*port)));
    }
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, steering.others));
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, steering.matching));
    set_program(listener.as_fd(), libc::SO_ATTACH_REUSEPORT_CBPF, &mut program)
}

/// Takes such a program away. Known since Linux 5.3.
pub fn steer_nowhere(listener: BorrowedFd<'_>) {
    // Of asm-generic/socket.h; libc does not have it.
    const SO_DETACH_REUSEPORT_BPF: c_int = 68;
    let _ = set_option(listener, libc::SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0);
}

/// Whether a socket takes only what comes by one interface. See SO_BINDTODEVICE in socket(7).
pub fn is_bound_to_device(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let index: c_int = get_option(socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX)?;
    Ok(index != 0)
}

/// Takes that back.
pub fn welcome_beginners(listener: BorrowedFd<'_>) {
    let _ = set_option(listener, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0);
}

/// Accepts by accept(2) and fcntl(2), where a sandbox refuses accept4(2).
pub fn accept_without_accept4(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: no address is asked for.
    let fd = unsafe { libc::accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
    if fd < 0 {
        return Err(Errno::from_raw_os_error(super::errno()));
    }
    // SAFETY: a new descriptor that nobody else owns.
    let connection = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&connection, rustix::io::FdFlags::CLOEXEC)?;
    Ok(connection)
}

/// Breaks a connection off without closing its descriptor, whatever other threads are doing with it.
///
/// connect(2) to AF_UNSPEC resets a TCP connection and wakes who waits for it (measured on Linux 6.18; a kernel that
/// refuses it while somebody waits, as some 6.x do, gets a shutdown first). A Unix socket is only shut down.
pub fn reset(socket: BorrowedFd<'_>) {
    if dissolve(socket).is_err() {
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        let _ = dissolve(socket);
    }
}

fn dissolve(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: sockaddr is plain data, for which zero is valid; AF_UNSPEC is 0.
    let nowhere: libc::sockaddr = unsafe { MaybeUninit::zeroed().assume_init() };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: an address of that length, read during the call.
    let failed = unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, length) };
    check(failed)
}

fn check(failed: c_int) -> Result<(), Errno> {
    if failed == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(super::errno())) }
}

/// The front of a buffer that a receive of `length` bytes has filled.
pub fn filled(buffer: &[MaybeUninit<u8>], length: usize) -> &[u8] {
    let front = buffer.get(..length).unwrap_or_default();
    // SAFETY: the kernel wrote so many bytes, as it told the caller.
    unsafe { std::slice::from_raw_parts(front.as_ptr().cast(), front.len()) }
}
