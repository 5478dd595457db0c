//! A socket that could not be made, bound, or told to listen at a port.

use rustix::io::Errno;

use super::limits::for_limits;
use crate::error::Error;

/// The port up to which binding takes a privilege, unless the system says otherwise (ip(7)).
const PRIVILEGED: u16 = 1024;

/// A socket could not be bound, or could not listen.
pub fn for_bind(error: Error, port: Option<u16>) -> Error {
    match (error.errno(), port) {
        (Some(Errno::ADDRINUSE), Some(port)) => error.hint(format_args!(
            "another socket holds the port: `ss -ltnp sport = :{port}` shows whose; port 0 takes a free one"
        )),
        (Some(Errno::ACCESS), Some(port)) if port < PRIVILEGED => error.hint(format_args!(
            "a port below 1024 needs CAP_NET_BIND_SERVICE (`setcap cap_net_bind_service=+ep PROGRAM`), a lower sysctl \
             net.ipv4.ip_unprivileged_port_start, or a socket passed in by the service manager"
        )),
        (Some(Errno::ACCESS | Errno::PERM), Some(_)) => error.hint(format_args!(
            "it is not the port's number: a security policy (seccomp, an LSM, a cgroup's BPF) refused it"
        )),
        (Some(Errno::ADDRNOTAVAIL), _) => error.hint(format_args!(
            "`ip -brief address` lists the addresses of this host; free_bind allows one that it will have later"
        )),
        _ => for_limits(error),
    }
}

/// A socket could not be made.
pub fn for_socket(error: Error) -> Error {
    match error.errno() {
        Some(Errno::ACCESS | Errno::PERM) => {
            error.hint(format_args!("a security policy (seccomp, an LSM) refused the socket; it is not the address"))
        }
        Some(Errno::AFNOSUPPORT) => {
            error.hint(format_args!("this kernel lacks the address family: IPv6 may be switched off"))
        }
        _ => for_limits(error),
    }
}
