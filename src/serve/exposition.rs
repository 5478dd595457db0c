//! The statistics as text, in the exposition format of Prometheus.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use super::queues::View;
use super::{Server, Snapshot};
use crate::error::{Error, Result};
use crate::text::Text;

/// Errnos from here on are counted as one.
const ERRNOS: usize = 140;

/// How often accepting failed with each errno.
#[derive(Debug)]
pub struct ByErrno([AtomicU32; ERRNOS]);

impl Default for ByErrno {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; ERRNOS])
    }
}

impl ByErrno {
    /// Once more.
    pub fn count(&self, errno: Errno) {
        let index = usize::try_from(errno.raw_os_error()).unwrap_or(0);
        if let Some(count) = self.0.get(index).or_else(|| self.0.first()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those that have happened.
    fn counts(&self) -> impl Iterator<Item = (i32, u32)> {
        let all = self.0.iter().enumerate().map(|(errno, count)| (errno as i32, count.load(Ordering::Relaxed)));
        all.filter(|&(_, count)| count > 0)
    }
}

/// The value of a label: backslashes, quotes and line ends are escaped.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '\\' => out.write_str("\\\\"),
            '"' => out.write_str("\\\""),
            '\n' => out.write_str("\\n"),
            _ => out.write_char(character),
        })
    }
}

/// A metric: its name without the prefix, its type, and what it means.
struct Metric(&'static str, &'static str, &'static str);

impl Metric {
    fn head(&self, out: &mut Text) -> fmt::Result {
        let Self(name, kind, help) = self;
        write!(out, "# HELP oyez_{name} {help}\n# TYPE oyez_{name} {kind}\n")
    }

    fn alone(&self, out: &mut Text, value: u64) -> fmt::Result {
        self.head(out)?;
        writeln!(out, "oyez_{} {value}", self.0)
    }

    fn labelled<T: fmt::Display>(
        &self,
        out: &mut Text,
        label: &str,
        values: impl Iterator<Item = (T, u64)>,
    ) -> fmt::Result {
        self.head(out)?;
        for (of, value) in values {
            writeln!(out, "oyez_{}{{{label}=\"{of}\"}} {value}", self.0)?;
        }
        Ok(())
    }
}

impl Server {
    /// The statistics as text.
    pub fn stats_text(&self) -> Result<Text> {
        let snapshot = self.snapshot();
        let mut views: Vec<View> = Vec::new();
        for listener in self.listeners().each() {
            let view = View::of(&listener);
            // Several may share an address, whose series may be there but once.
            if let Some(other) = views.iter_mut().find(|other| other.address.as_str() == view.address.as_str()) {
                other.add(&view);
            } else if views.try_reserve(1).is_ok() {
                views.push(view);
            }
        }
        let mut text = Text::new();
        let written = write_counters(&mut text, &snapshot)
            .and_then(|()| write_refusals(&mut text, &snapshot))
            .and_then(|()| write_errors(&mut text, self.errors()))
            .and_then(|()| write_listeners(&mut text, &views));
        written.map_err(|_| Error::system("oyez_server_stats_text", Errno::NOMEM))?;
        Ok(text)
    }
}

fn write_counters(out: &mut Text, of: &Snapshot) -> fmt::Result {
    let counters = [
        (Metric("connections_accepted_total", "counter", "Connections accepted and admitted."), of.accepted),
        (Metric("connections_active", "gauge", "Connections that are open."), of.active),
        (Metric("connections_drained_total", "counter", "Connections finished in time by a stop."), of.drained),
        (Metric("connections_cut_total", "counter", "Connections reset at the end of a drain time."), of.cut),
        (Metric("handler_failures_total", "counter", "Handlers that crashed."), of.handler_failures),
        (Metric("timeouts_total", "counter", "Reads, writes and connections that took too long."), of.timeouts),
        (Metric("received_bytes_total", "counter", "Bytes read from clients."), of.bytes_in),
        (Metric("sent_bytes_total", "counter", "Bytes written to clients."), of.bytes_out),
        (
            Metric("accept_pauses_total", "counter", "Times that descriptors or memory were used up."),
            of.descriptor_pauses,
        ),
        (Metric("listeners", "gauge", "Listeners that are open."), of.listeners),
        (Metric("dropped_total", "counter", "Attempts to connect that the kernel dropped."), of.dropped),
    ];
    counters.iter().try_for_each(|(metric, value)| metric.alone(out, *value))
}

fn write_refusals(out: &mut Text, of: &Snapshot) -> fmt::Result {
    let refusals = [
        ("limit", of.refused_limit),
        ("address", of.refused_address),
        ("rate", of.refused_rate),
        ("rules", of.refused_rules),
    ];
    let metric = Metric("connections_refused_total", "counter", "Connections refused, by reason.");
    metric.labelled(out, "reason", refusals.into_iter())
}

fn write_errors(out: &mut Text, errors: &ByErrno) -> fmt::Result {
    let name = |errno: i32| match (errno, nix::errno::Errno::from_raw(errno)) {
        (0, _) => Text::from("other"),
        (_, nix::errno::Errno::UnknownErrno) => Text::format(format_args!("{errno}")),
        (_, name) => Text::format(format_args!("{name:?}")),
    };
    let metric = Metric("accept_errors_total", "counter", "Failed accepts, by errno.");
    metric.labelled(out, "errno", errors.counts().map(|(errno, count)| (name(errno), u64::from(count))))
}

fn write_listeners(out: &mut Text, views: &[View]) -> fmt::Result {
    let by_address = |value: fn(&View) -> Option<u64>| {
        views.iter().filter_map(move |view| value(view).map(|value| (Label(view.address.as_str()), value)))
    };
    let queue = Metric("listener_queue", "gauge", "Connections that wait to be accepted.");
    queue.labelled(out, "address", by_address(|view| view.queue.map(|(waiting, _)| u64::from(waiting))))?;
    let backlog = Metric("listener_backlog", "gauge", "Connections that may wait, as the kernel has it.");
    backlog.labelled(out, "address", by_address(|view| view.queue.map(|(_, most)| u64::from(most))))?;
    let dropped = Metric("listener_dropped_total", "counter", "Attempts to connect dropped at this listener.");
    dropped.labelled(out, "address", by_address(|view| Some(view.dropped)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(Label("unix:/a\"b\\c\nd").to_string(), "unix:/a\\\"b\\\\c\\nd");
    }

    #[test]
    fn errnos_have_names() {
        let errors = ByErrno::default();
        errors.count(Errno::MFILE);
        errors.count(Errno::MFILE);
        errors.count(Errno::from_raw_os_error(4000));
        let mut text = Text::new();
        write_errors(&mut text, &errors).unwrap();
        assert!(text.as_str().contains("{errno=\"EMFILE\"} 2\n") && text.as_str().contains("{errno=\"other\"} 1\n"));
        let mut text = Text::new();
        errors.count(Errno::from_raw_os_error(138));
        errors.count(Errno::from_raw_os_error(139));
        write_errors(&mut text, &errors).unwrap();
        assert!(text.as_str().contains("{errno=\"138\"} 1\n") && text.as_str().contains("{errno=\"139\"} 1\n"));
    }
}
