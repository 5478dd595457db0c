//! The limits of this process's control group and of those above it. See cgroups(7).

use std::ffi::CStr;

use super::super::file;
use super::gauge::{Gauge, Raise};
use crate::text::Line;

/// What a control group limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// Threads and processes.
    Pids,
    /// Memory.
    Memory,
}

/// How many groups above each other are looked at.
const DEEPEST: usize = 12;

/// Beyond that the first version of control groups means no limit.
const NO_LIMIT: u64 = 1 << 60;

/// The group whose limit leaves least; `None` where there is no limit, or none that can be seen.
pub fn tightest(controller: Controller) -> Option<Gauge> {
    let mut buffer = [0; 4096];
    let groups = file::read(c"/proc/self/cgroup", &mut buffer)?;
    let (place, path) = controller.find(groups)?;
    levels(path)
        .take(DEEPEST)
        .filter_map(|path| controller.gauge(&place, path))
        .min_by_key(|gauge| gauge.left().unwrap_or(u64::MAX))
}

/// A group and those above it, the topmost as an empty text.
fn levels(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(above, _)| above))
}

/// Where a hierarchy is mounted, and which version it has.
struct Place {
    mount: &'static str,
    unified: bool,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Controller::Pids => "pids",
            Controller::Memory => "memory",
        }
    }

    /// The files with the limit and with what is used.
    fn files(self, unified: bool) -> (&'static str, &'static str) {
        match (self, unified) {
            (Controller::Pids, _) => ("pids.max", "pids.current"),
            (Controller::Memory, true) => ("memory.max", "memory.current"),
            (Controller::Memory, false) => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        }
    }

    /// The group of /proc/self/cgroup that this controller limits. One that the first version has is none of the
    /// second's.
    fn find(self, groups: &str) -> Option<(Place, &str)> {
        let mut fields = groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let old = fields.clone().find(|(names, _)| names.split(',').any(|name| name == self.name()));
        let (place, path) = match (old, self) {
            (Some((_, path)), Controller::Pids) => (Place { mount: "/sys/fs/cgroup/pids", unified: false }, path),
            (Some((_, path)), Controller::Memory) => (Place { mount: "/sys/fs/cgroup/memory", unified: false }, path),
            (None, _) => {
                (Place { mount: "/sys/fs/cgroup", unified: true }, fields.find(|(names, _)| names.is_empty())?.1)
            }
        };
        // A group outside what this process may see.
        let is_visible = !path.split('/').any(|part| part == "..");
        // In a container the path may be the host's, while what is mounted begins at the container's group.
        let path = if is_visible && place.has(path) { path.trim_end_matches('/') } else { "" };
        Some((place, path))
    }

    fn gauge(self, place: &Place, path: &str) -> Option<Gauge> {
        let (limit, usage) = self.files(place.unified);
        let most = file::read_number(place.file(path, limit).as_c_str()).filter(|&most| most < NO_LIMIT)?;
        let used = file::read_number(place.file(path, usage).as_c_str());
        let mut gauge = match self {
            Controller::Pids => {
                let what = "threads and processes of the control group";
                Gauge::new(what, limit, most, used, Raise::Group("TasksMax="))
            }
            Controller::Memory => {
                let (most, used) = (most / 1024, used.map(|used| used / 1024));
                // The kernel charges memory in advance, for each processor.
                let what = "kB of the control group's memory";
                Gauge::new(what, limit, most, used, Raise::Group("MemoryMax=")).with_need((most / 64).max(256))
            }
        };
        gauge.folder.set(format_args!("{}{path}", place.mount));
        Some(gauge)
    }
}

impl Place {
    fn file(&self, path: &str, file: &str) -> Line<400> {
        let mut name = Line::new();
        name.set(format_args!("{}{path}/{file}", self.mount));
        name
    }

    fn has(&self, path: &str) -> bool {
        let name = self.file(path, "cgroup.procs");
        is_there(name.as_c_str())
    }
}

fn is_there(path: &CStr) -> bool {
    rustix::fs::stat(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_and_those_above_it() {
        assert_eq!(levels("/a/b.service").collect::<Vec<_>>(), ["/a/b.service", "/a", ""]);
        assert_eq!(levels("").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn the_group_of_each_version() {
        let of = |controller: Controller, groups| {
            controller.find(groups).map(|(place, path)| (place.mount, place.unified, path))
        };
        // None of these groups is there: what is mounted begins at the group.
        assert_eq!(of(Controller::Pids, "0::/none/at:all\n"), Some(("/sys/fs/cgroup", true, "")));
        let both = "9:name=systemd:/\n8:pids,rdma:/none\n0::/\n";
        assert_eq!(of(Controller::Pids, both), Some(("/sys/fs/cgroup/pids", false, "")));
        assert_eq!(of(Controller::Memory, both), Some(("/sys/fs/cgroup", true, "")));
        assert_eq!(of(Controller::Pids, "0::/../other\n"), Some(("/sys/fs/cgroup", true, "")));
        assert_eq!(of(Controller::Pids, ""), None);
    }
}
