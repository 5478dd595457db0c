//! A limit of the system and what is used of it: in words, and how to raise it.

use std::fmt::{self, Display, Formatter};

use rustix::process::{Resource, getpid, getrlimit};

use crate::text::{Escaped, Line};

/// A limit and what is used of it. Nothing here allocates: it is looked at when memory is used up, too.
#[derive(Clone)]
pub struct Gauge {
    /// What is counted, such as "threads of the system".
    pub what: &'static str,
    /// Where the limit stands, such as "RLIMIT_NPROC".
    pub name: &'static str,
    /// The folder in which `name` is a file; empty where it is none.
    pub folder: Line<400>,
    /// The limit.
    pub most: u64,
    /// What is used; `None` where that cannot be seen.
    pub used: Option<u64>,
    /// How much has to be left.
    pub need: u64,
    /// How it is raised.
    pub raise: Raise,
}

/// What raises a limit.
#[derive(Clone, Copy)]
pub enum Raise {
    /// setrlimit(2).
    Process(ProcessLimit),
    /// The file of the control group, or the setting of a systemd unit that writes it.
    Group(&'static str),
    /// sysctl(8).
    Sysctl,
    /// One of three numbers of sysctl(8).
    Tcp,
    /// It is no setting: less has to be used.
    Machine,
}

impl Gauge {
    /// A limit of one each: one more has to fit.
    pub fn new(what: &'static str, name: &'static str, most: u64, used: Option<u64>, raise: Raise) -> Self {
        Self { what, name, folder: Line::new(), most, used, need: 1, raise }
    }

    /// The same where so much has to be left.
    pub fn with_need(self, need: u64) -> Self {
        Self { need, ..self }
    }

    /// What is left; `None` where that cannot be seen.
    pub fn left(&self) -> Option<u64> {
        self.used.map(|used| self.most.saturating_sub(used))
    }

    /// Whether the limit is seen to be reached.
    pub fn is_reached(&self) -> bool {
        self.left().is_some_and(|left| left < self.need)
    }
}

impl Display for Gauge {
    /// Such as "4 of 4 threads of user 33, RLIMIT_NPROC".
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.used {
            Some(used) => write!(out, "{used} of {} {}, {}", self.most, self.what, self.name)?,
            None => {
                write!(out, "at most {} {}, {}, how many are used cannot be seen", self.most, self.what, self.name)?
            }
        }
        match self.folder.as_str() {
            "" => Ok(()),
            folder => write!(out, " of {}", Escaped(folder.as_bytes())),
        }
    }
}

/// What raises a limit, in words.
pub struct HowToRaise<'a>(pub &'a Gauge);

impl Display for HowToRaise<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Gauge { name, most, folder, .. } = self.0;
        match self.0.raise {
            Raise::Process(limit) => write!(out, "{limit}"),
            Raise::Group(setting) => {
                let folder = Escaped(folder.as_str().as_bytes());
                write!(
                    out,
                    "raise {name} in {folder}, or set {setting} of the systemd unit or the limit of the container"
                )
            }
            Raise::Sysctl => write!(out, "root raises it: `sysctl -w {name}={}`", most.saturating_mul(2)),
            Raise::Tcp => write!(out, "root raises the last of the three numbers of sysctl {name}"),
            Raise::Machine => out.write_str("`ps -eo pid,rss,comm --sort=-rss | head` shows who uses most of it"),
        }
    }
}

/// Why a call failed, told from the limits that could have been behind it.
pub struct Verdict<'a>(pub &'a [Option<Gauge>]);

impl Verdict<'_> {
    /// The limit that is reached.
    pub fn reached(&self) -> Option<&Gauge> {
        self.0.iter().flatten().find(|gauge| gauge.is_reached())
    }
}

impl Display for Verdict<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if let Some(gauge) = self.reached() {
            return write!(out, "limit reached: {gauge}");
        }
        let mut gauges = self.0.iter().flatten();
        let Some(first) = gauges.next() else { return out.write_str("which limit it was cannot be seen here") };
        write!(out, "no limit is seen to be reached: {first}")?;
        gauges.try_for_each(|gauge| write!(out, "; {gauge}"))
    }
}

/// A limit of this process, as setrlimit(2) has it, in the units of prlimit(1).
#[derive(Clone, Copy)]
pub struct ProcessLimit {
    /// The limit in force; `None` is no limit.
    pub soft: Option<u64>,
    /// Up to which the process may raise it.
    pub hard: Option<u64>,
    option: &'static str,
    shell: &'static str,
    unit: &'static str,
}

impl ProcessLimit {
    /// The limit on descriptors.
    pub fn descriptors() -> Self {
        Self::of(Resource::Nofile, "nofile", "ulimit -n", "LimitNOFILE=")
    }

    /// The limit on threads and processes of the user.
    pub fn tasks() -> Self {
        Self::of(Resource::Nproc, "nproc", "ulimit -u", "LimitNPROC=")
    }

    /// The limit on the address space.
    pub fn address_space() -> Self {
        Self::of(Resource::As, "as", "ulimit -v", "LimitAS=")
    }

    /// The limit on memory that is private and writable.
    pub fn data() -> Self {
        Self::of(Resource::Data, "data", "ulimit -d", "LimitDATA=")
    }

    fn of(resource: Resource, option: &'static str, shell: &'static str, unit: &'static str) -> Self {
        let limit = getrlimit(resource);
        Self { soft: limit.current, hard: limit.maximum, option, shell, unit }
    }

    /// Whether the process may raise it without privileges.
    pub fn has_room(&self) -> bool {
        self.hard.is_none_or(|hard| self.soft.is_some_and(|soft| soft < hard))
    }
}

impl Display for ProcessLimit {
    /// How to raise it.
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Self { option, shell, unit, .. } = self;
        let pid = getpid().as_raw_nonzero();
        if !self.has_room() {
            let more = self.soft.unwrap_or_default().saturating_mul(2);
            return write!(
                out,
                "have root (CAP_SYS_RESOURCE) raise the limit and the hard limit, which is no higher: \
                 `prlimit --pid {pid} --{option}={more}:{more}` now, {unit} of systemd or limits.conf(5) from the next start"
            );
        }
        let hard = Bound(self.hard);
        write!(
            out,
            "raise it up to the hard limit: `prlimit --pid {pid} --{option}={hard}` now, setrlimit(2) in the program, \
             `{shell}` or {unit} of systemd from the next start"
        )
    }
}

/// A limit as prlimit(1) writes it.
pub struct Bound(pub Option<u64>);

impl Display for Bound {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => write!(out, "{limit}"),
            None => out.write_str("unlimited"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(most: u64, used: Option<u64>) -> Gauge {
        Gauge::new("threads of the system", "kernel.threads-max", most, used, Raise::Sysctl)
    }

    #[test]
    fn the_limit_that_is_reached_is_the_one_that_is_told() {
        let gauges = [None, Some(gauge(9, Some(3))), Some(gauge(5, Some(5)))];
        let verdict = Verdict(&gauges);
        assert_eq!(verdict.to_string(), "limit reached: 5 of 5 threads of the system, kernel.threads-max");
        let raise = verdict.reached().map(|gauge| HowToRaise(gauge).to_string());
        assert_eq!(raise.as_deref(), Some("root raises it: `sysctl -w kernel.threads-max=10`"));
    }

    #[test]
    fn what_cannot_be_seen_is_told() {
        let gauges = [Some(gauge(9, Some(3))), Some(gauge(5, None).with_need(9))];
        let verdict = Verdict(&gauges);
        assert!(verdict.reached().is_none());
        assert_eq!(
            verdict.to_string(),
            "no limit is seen to be reached: 3 of 9 threads of the system, kernel.threads-max; at most 5 threads of the \
             system, kernel.threads-max, how many are used cannot be seen"
        );
        assert_eq!(Verdict(&[]).to_string(), "which limit it was cannot be seen here");
    }
}
