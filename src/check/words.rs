//! A report for a person.

use std::fmt::{self, Display, Formatter};

use super::{Backlog, Checked, Failure, Host, Ipv6, Port, Report, Resident};

impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        for checked in &self.addresses {
            write!(out, "{checked}")?;
        }
        write!(out, "{}", self.host)
    }
}

impl Display for Checked {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let verdict = match (self.available, self.skipped) {
            (true, _) => "can be had",
            (false, true) => "cannot be had, and is skipped: it is optional",
            (false, false) => "cannot be had",
        };
        let address = if self.address.is_empty() { "\"\"" } else { self.address.as_str() };
        writeln!(out, "{address}: {verdict}")?;
        if let Some(failure) = &self.failure {
            failure.fmt(out)?;
        }
        if let Some(bound) = self.bound.as_ref().filter(|bound| bound.as_str() != self.address.as_str()) {
            writeln!(out, "  bound as      {bound}")?;
        }
        if self.stale_file {
            writeln!(out, "  there already a stale socket file, which is replaced")?;
        }
        for resident in &self.residents {
            resident.fmt(out)?;
        }
        if let Some(backlog) = self.backlog.filter(|_| self.available) {
            backlog.fmt(out)?;
        }
        self.port.map_or(Ok(()), |port| port.fmt(out))
    }
}

impl Display for Failure {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "  {}", self.message)?;
        let mut lead = "hint:";
        for line in self.hint.as_str().lines() {
            writeln!(out, "  {lead:5} {line}")?;
            lead = "";
        }
        Ok(())
    }
}

impl Display for Resident {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let does = if self.listens { "is held" } else { "is bound, without listening," };
        write!(out, "  there already {} {does} by {}", self.address, self.who)?;
        if let (Some(queue), Some(backlog)) = (self.queue, self.backlog) {
            write!(out, "; queue {queue} of {backlog}{}", if queue > backlog { ", full" } else { "" })?;
        }
        match self.drops {
            None | Some(0) => writeln!(out),
            Some(drops) => writeln!(out, "; {drops} packets dropped"),
        }
    }
}

impl Display for Backlog {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.asked {
            Some(asked) if u64::try_from(asked).is_ok_and(|asked| asked > self.in_force) => {
                writeln!(out, "  backlog       {}, not {asked} as asked: net.core.somaxconn bounds it", self.in_force)
            }
            _ => writeln!(out, "  backlog       {}", self.in_force),
        }
    }
}

impl Display for Port {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if self.privileged {
            writeln!(out, "  port          {} is privileged: it takes CAP_NET_BIND_SERVICE", self.number)?;
        }
        if self.outgoing {
            writeln!(
                out,
                "  port          {} may be taken at random, by an outgoing connection; added to \
                 net.ipv4.ip_local_reserved_ports it is kept free",
                self.number
            )?;
        }
        Ok(())
    }
}

impl Display for Host {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "this host, and this process:")?;
        let number = |number: Option<u64>| number.map_or_else(|| "unlimited".to_owned(), |number| number.to_string());
        let (limit, hard) = (number(self.descriptors.limit), number(self.descriptors.hard_limit));
        write!(out, "  descriptors   ")?;
        if let Some(open) = self.descriptors.open {
            write!(out, "{open} open, ")?;
        }
        match limit == hard {
            true => writeln!(out, "{limit} at most")?,
            false => writeln!(out, "{limit} at most; a program may raise that to {hard}")?,
        }
        let may = match self.may_bind_privileged {
            Some(true) => "; this process may bind them",
            Some(false) => "; this process may not bind them",
            None => "",
        };
        writeln!(out, "  privileged    ports below {}{may}", self.privileged_below)?;
        if let Some(range) = self.outgoing_ports {
            writeln!(out, "  outgoing      ports {} to {}", range.first, range.last)?;
        }
        if let Some(backlog) = self.largest_backlog {
            writeln!(out, "  backlog       {backlog} at most")?;
        }
        writeln!(out, "  IPv6          {}", self.ipv6)
    }
}

impl Display for Ipv6 {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match (self.available, &self.reason) {
            (Some(true), _) => write!(out, "on; `:PORT` takes IPv6 and IPv4 on one socket"),
            (Some(false), Some(reason)) => write!(out, "off ({reason}); `:PORT` takes IPv4 alone"),
            (Some(false), None) => write!(out, "off; `:PORT` takes IPv4 alone"),
            (None, Some(reason)) => write!(out, "cannot be seen ({reason})"),
            (None, None) => write!(out, "cannot be seen"),
        }
    }
}
