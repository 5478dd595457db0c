//! What the system does not permit: privileged ports, and security policies.

use rustix::fs::{CWD, readlinkat_raw};
use rustix::process::geteuid;

use super::file;
use super::processes::User;
use super::system::{first_unprivileged_port, has_seccomp_filter, is_in_initial_user_namespace, may_bind_privileged};
use crate::error::Error;
use crate::text::{Escaped, Text};

/// bind(2) was refused at a port.
pub fn explain_bind(error: Error, port: u16) -> Error {
    let limit = first_unprivileged_port();
    let is_privileged = port != 0 && port < limit;
    match may_bind_privileged() {
        Some(true) if is_privileged && is_in_initial_user_namespace() == Some(false) => error
            .because(format_args!(
                "ports below {limit} are privileged, and this process has CAP_NET_BIND_SERVICE only within its user \
                 namespace, which may not own the network"
            ))
            .hint(format_args!("lower the limit where the network belongs: {}", Sysctl(port))),
        Some(true) if is_privileged => {
            refused(error, format_args!("this process has CAP_NET_BIND_SERVICE, so it is not the port's number"))
        }
        _ if is_privileged => unprivileged(error, port, limit),
        _ => refused(error, format_args!("it is not the port's number: ports from {limit} on take no privilege")),
    }
}

/// socket(2) was refused.
pub fn explain_socket(error: Error) -> Error {
    refused(error, format_args!("it is not the address"))
}

fn unprivileged(error: Error, port: u16, limit: u16) -> Error {
    let user = geteuid().as_raw();
    error
        .because(format_args!(
            "ports below {limit} are privileged, and this process of user {} has no CAP_NET_BIND_SERVICE",
            User(user)
        ))
        .hint(format_args!(
            "`sudo setcap cap_net_bind_service=+ep {}`; or {}; or let the service manager pass the socket: address \
             `systemd:` with a socket unit, or AmbientCapabilities=CAP_NET_BIND_SERVICE",
            program(),
            Sysctl(port)
        ))
}

/// The command that makes a port free for everybody.
struct Sysctl(u16);

impl std::fmt::Display for Sysctl {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "`sudo sysctl net.ipv4.ip_unprivileged_port_start={}`", self.0)
    }
}

/// The file of the running program; "PROGRAM" where that is not to be seen.
fn program() -> Text {
    let mut buffer = [0u8; 512];
    match readlinkat_raw(CWD, c"/proc/self/exe", &mut buffer[..]) {
        Ok(length) if length < 512 => {
            Text::format(format_args!("{}", Escaped(buffer.get(..length).unwrap_or_default())))
        }
        _ => Text::from("PROGRAM"),
    }
}

/// A security policy is behind it: which ones there are.
fn refused(error: Error, not: std::fmt::Arguments<'_>) -> Error {
    let filter = if has_seccomp_filter() {
        "this process runs under a seccomp filter: look at the sandbox's rules, and"
    } else {
        "no seccomp filter is on: look"
    };
    let mut buffer = [0; 256];
    let label = file::read(c"/proc/self/attr/current", &mut buffer).unwrap_or_default();
    let label = label.trim_matches(['\0', '\n']);
    let label = match label {
        "" | "unconfined" => Text::new(),
        label => Text::format(format_args!(" (the label of this process is {})", Escaped(label.as_bytes()))),
    };
    error.because(format_args!("{not}; a security policy refused it")).hint(format_args!(
        "{filter} at the LSM (AppArmor, SELinux, Landlock){label}, whose refusals `journalctl -k` shows, and at the BPF \
         programs of the control group (`bpftool cgroup tree`)"
    ))
}
