//! How long a look may take, whatever the size of /proc and of the kernel's lists.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::deadline::Deadline;

/// Time on a processor. On a machine that is busy otherwise a look lasts longer, and finds as much.
const WORK: Duration = Duration::from_millis(30);

/// Time on the clock, where the thread gets no processor.
const WAIT: Duration = Duration::from_millis(250);

/// What is left of a look's time.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    work: Duration,
    wait: Deadline,
}

impl Budget {
    /// A whole one, from now on and on this thread.
    pub fn new() -> Self {
        Self { work: used() + WORK, wait: Deadline::after(WAIT) }
    }

    /// Whether it is used up.
    pub fn is_over(self) -> bool {
        used() >= self.work || self.wait.is_over()
    }

    /// The same, with a third of a whole one left at least: the kernel cannot be interrupted, and may have used it up.
    pub fn with_a_rest(self) -> Self {
        Self { work: self.work.max(used() + WORK / 3), ..self }
    }

    /// How long a wait may take; `None` where none may.
    pub fn longest_wait(self) -> Option<Duration> {
        self.wait.left().filter(|left| !left.is_zero())
    }
}

/// The processor time of this thread.
fn used() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
