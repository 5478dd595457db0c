//! Listening: `src/listen/` for C.

use std::ffi::c_char;

use super::options::{self, oyez_listen_options};
use super::{bytes, copy_text, guard, output};
use crate::error::Result;
use crate::text::Text;
use crate::{listen, sys};

/// Makes a listening socket in one call and returns its file descriptor.
///
/// It is a plain descriptor: accept(2), poll(2), any event loop and close(2) work with it, and so does oyez_accept().
/// The call runs getaddrinfo(3) for host names, socket(2), setsockopt(2), bind(2) and listen(2); it fails at the first
/// of them that fails, leaving no descriptor and no file behind.
///
/// Parameters
///   address  where to listen, one address; borrowed:
///            "9000", ":9000", "*:9000"         every address of the host, IPv6 and IPv4 on one socket; IPv4 alone
///                                              where the host has no IPv6
///            "127.0.0.1:9000", "0.0.0.0:9000"  IPv4 only
///            "[::1]:9000", "[fe80::1%eth0]:9000"  IPv6 only
///            "localhost:9000", "localhost:http"   a name; the first of its addresses that can be bound
///            "127.0.0.1:0"                     a free port; oyez_local_port() tells which
///            "unix:/run/app.sock"              a Unix stream socket; a file that nobody listens on is replaced
///            "unix:@name"                      the same in the abstract namespace
///            "udp:0.0.0.0:5353"                a bound datagram socket; the forms above without "unix:" work
///            "fd:3"                            an inherited descriptor, which must be listening
///            "systemd:", "systemd:NAME"        the first, or the named, socket passed by the service manager
///            Any of them may end in options: "?backlog=64&reuse_port=on", by the names of oyez_listen_options.
///   options  borrowed; NULL = defaults
/// Returns
///   >= 0  the descriptor: blocking and close-on-exec unless the options say otherwise; the caller closes it, with
///         close(2) or oyez_unlisten()
///   -1    errno and oyez_last_error() are set
/// Errors
///   OYEZ_INVALID_ADDRESS          the text is no address; the hint shows where
///   OYEZ_NAME_NOT_FOUND           no such host, service, user, group, or socket passed in
///   OYEZ_ADDRESS_IN_USE           (EADDRINUSE) somebody listens there, or the file is not a socket
///   OYEZ_ADDRESS_NOT_AVAILABLE    (EADDRNOTAVAIL, ENODEV) not an address or interface of this host
///   OYEZ_PERMISSION_DENIED        (EACCES, EPERM) a privileged port, a directory, a security policy
///   OYEZ_LIMIT_REACHED            (EMFILE, ENFILE, ENOBUFS, ENOMEM)
///   OYEZ_INVALID_ARGUMENT         a NULL address, a wrong struct, a descriptor that is not listening
/// Threads: any. Signals: not async-signal-safe.
/// Since 0.1. See socket(2), bind(2), listen(2), ip(7), ipv6(7), unix(7), sd_listen_fds(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_listen(address: *const c_char, options: *const oyez_listen_options) -> i32 {
    guard(|| {
        // SAFETY: the documentation asks for a terminated string.
        let address = unsafe { bytes(address, "oyez_listen", "address") }?;
        // SAFETY: the documentation asks for NULL or a struct of its size.
        let options = unsafe { options::listen(options, "oyez_listen") }?;
        let listener = listen::listen(address, &options)?;
        Ok(listener.release())
    })
}

/// The port that a socket is bound to.
///
/// Calls getsockname(2).
///
/// Parameters
///   fd  an IPv4 or IPv6 socket; borrowed
/// Returns
///   1 to 65535  the port
///   -1          it has none; errno and oyez_last_error() are set
/// Errors
///   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; (EAFNOSUPPORT) a Unix socket; (EADDRNOTAVAIL) not bound
/// Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_local_port(fd: i32) -> i32 {
    guard(|| Ok(i32::from(listen::local_port(sys::borrow(fd, "oyez_local_port")?)?)))
}

/// The address that a socket is bound to, in the form in which it could be passed to oyez_listen().
///
/// Calls getsockname(2). "127.0.0.1:9000", "[::1]:9000", "unix:/run/app.sock", "unix:@name"; "unix:" for a Unix socket
/// without a name. A listener at every address of the host reads "[::]:9000", as the kernel tells it.
///
/// Parameters
///   fd    a socket; borrowed
///   text  where to write; NULL where size is 0
///   size  how many bytes there are
/// Returns
///   >= 0  the length of the whole text, whatever fitted; what fitted is written and terminated
///   -1    errno and oyez_last_error() are set
/// Errors
///   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; text is NULL and size is not 0
/// Threads: any. Since 0.1. See snprintf(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_local_address(fd: i32, text: *mut c_char, size: usize) -> i32 {
    // SAFETY: the documentation asks for NULL or `size` writable bytes.
    unsafe { address_text(fd, text, size, "oyez_local_address", listen::local_address) }
}

/// The address of the other end of a connected socket, in the same form.
///
/// Calls getpeername(2). An IPv4 client of a dual-stack listener is shown as IPv4; a Unix client without a name as
/// "unix:". After a reset the kernel no longer knows it; oyez_accept() tells it in any case.
///
/// Parameters
///   fd    a connected socket; borrowed
///   text  where to write; NULL where size is 0
///   size  how many bytes there are
/// Returns
///   >= 0  the length of the whole text, whatever fitted; what fitted is written and terminated
///   -1    errno and oyez_last_error() are set
/// Errors
///   OYEZ_CLOSED            (ENOTCONN) not connected, or no longer
///   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; text is NULL and size is not 0
/// Threads: any. Since 0.1. See snprintf(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn oyez_peer_address(fd: i32, text: *mut c_char, size: usize) -> i32 {
    // SAFETY: the documentation asks for NULL or `size` writable bytes.
    unsafe { address_text(fd, text, size, "oyez_peer_address", listen::peer_address) }
}

/// # Safety
/// `text` is NULL or `size` writable bytes.
unsafe fn address_text(
    fd: i32,
    text: *mut c_char,
    size: usize,
    function: &'static str,
    address: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<Text>,
) -> i32 {
    guard(|| {
        // SAFETY: this function's own contract.
        let buffer = unsafe { output(text.cast(), size, function) }?;
        Ok(copy_text(&address(sys::borrow(fd, function)?)?, buffer))
    })
}

/// Closes a listener, and removes its Unix socket file if that is still the one that oyez_listen() made.
///
/// The file is recognised by its device and inode, so that a successor's is never removed; neither is the file of a
/// listener that was passed in. Connections that were accepted go on. close(2) does as well, and leaves the file to be
/// replaced by the next start. A listener of a server belongs to that server.
///
/// Parameters
///   listener  a descriptor from oyez_listen(); taken
/// Returns
///   0   closed
///   -1  errno and oyez_last_error() are set
/// Errors
///   OYEZ_INVALID_ARGUMENT  (EBADF, ENOTSOCK) not a socket; nothing is closed
/// Threads: any. Since 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn oyez_unlisten(listener: i32) -> i32 {
    guard(|| {
        listen::unlisten(sys::take_socket(listener, "oyez_unlisten")?);
        Ok(0)
    })
}
