//! What to do next about a failure, as far as the failure itself tells.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::error::Error;

/// The port up to which binding takes a privilege, unless the system says otherwise (ip(7)).
const PRIVILEGED: u16 = 1024;

/// Descriptors, memory or threads are used up.
pub fn for_limits(error: Error) -> Error {
    match error.errno() {
        Some(Errno::MFILE) => {
            let limit = getrlimit(Resource::Nofile);
            let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
            error.because(format_args!("all {soft} descriptors of this process are in use")).hint(format_args!(
                "close some, or raise the limit: `ulimit -n`, setrlimit(2) up to {hard}, or LimitNOFILE= of systemd"
            ))
        }
        Some(Errno::NFILE) => error
            .because(format_args!("the whole system's descriptors are in use"))
            .hint(format_args!("see /proc/sys/fs/file-nr; raise sysctl fs.file-max")),
        Some(Errno::NOMEM | Errno::NOBUFS) => {
            error.hint(format_args!("the kernel is short of memory: see free(1), and the limits of the memory cgroup"))
        }
        _ => error,
    }
}

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
