//! An io_uring(7) for the connections of one thread: input comes into buffers that the ring provides, output leaves from
//! buffers that it holds until they are sent.
//!
//! What the kernel may still read or write belongs to the ring, so that nothing a user of it does can free it too early.
//! Descriptors are named by their numbers: one that an entry refers to may be closed once [`Ring::submit`] has told the
//! kernel of the entry, which holds on to the socket itself from then on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::deadline::Deadline;

/// How many entries may be told to the kernel at once.
const ENTRIES: u32 = 256;
/// How many completions may wait to be looked at. The kernel keeps what is more, at a cost.
const COMPLETIONS: u32 = 2048;
/// Buffers for input, a power of two. All of them are used in turn: few enough to stay in the processor's cache, and
/// large enough for bulk (with 512 of 16 KiB a message of that size cost a third more, measured).
const BUFFERS: u16 = 64;
/// How much one buffer holds.
pub const BUFFER: usize = 32 * 1024;
/// The group of those buffers.
const GROUP: u16 = 0;

/// The kinds of entries, in the upper byte of the word that the kernel keeps with each.
const POLL: u64 = 1 << 56;
const RECEIVE: u64 = 2 << 56;
const SEND: u64 = 3 << 56;
const CANCEL: u64 = 4 << 56;
const VALUE: u64 = (1 << 56) - 1;

/// How long a thread rests when the kernel has no memory for entries.
const REST: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Something that has happened.
pub enum Event<'a> {
    /// The polled descriptor is ready. It is polled no longer.
    Polled,
    /// Input of the connection with that token, or why there is none: 0 is the end of the stream.
    Received {
        /// The connection.
        token: u64,
        /// What recv(2) would have said.
        input: Result<Input<'a>, Errno>,
        /// There will be more events of this receive.
        goes_on: bool,
        /// There was more in the kernel.
        has_more: bool,
    },
    /// Bytes of the connection with that token were sent.
    Sent {
        /// The connection.
        token: u64,
        /// The bytes.
        bytes: Vec<u8>,
        /// Where this send began in them.
        from: usize,
        /// What send(2) would have said.
        outcome: Result<usize, Errno>,
    },
    /// Nothing of interest.
    Other,
}

/// Received bytes. Their buffer goes back to the ring with them.
pub struct Input<'a> {
    buffers: &'a Buffers,
    id: Option<u16>,
    length: usize,
}

impl Deref for Input<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.id.map_or(&[], |id| self.buffers.bytes(id, self.length))
    }
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.buffers.provide(id);
        }
    }
}

/// The ring.
pub struct Ring {
    // Before the buffers, which the kernel may use until this is gone.
    queue: RefCell<Queue>,
    buffers: Buffers,
}

struct Queue {
    ring: IoUring,
    /// Completions that were taken out of the kernel's queue early.
    early: VecDeque<cqueue::Entry>,
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    /// How many entries the kernel has, or will have, of which another completion comes.
    under_way: usize,
}

/// A send that is under way.
struct Flight {
    token: u64,
    bytes: Vec<u8>,
    from: usize,
}

impl Ring {
    /// A ring for one thread, which is to [`Ring::enable`] it.
    pub fn new() -> Result<Self, Refusal> {
        let ring = IoUring::builder()
            .dontfork()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)
            .map_err(|error| Refusal { step: "io_uring_setup", errno: errno(error) })?;
        let buffers = Buffers::new().map_err(|errno| Refusal { step: "mmap", errno })?;
        let address = buffers.entries.as_ptr() as u64;
        // SAFETY: the buffers' mapping, which outlives the ring: see the order of the fields, and `drop`.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, BUFFERS, GROUP, 0) }
            .map_err(|error| Refusal { step: "io_uring_register", errno: errno(error) })?;
        (0..BUFFERS).for_each(|id| buffers.provide(id));
        let queue = Queue { ring, early: VecDeque::new(), flights: Vec::new(), free: Vec::new(), under_way: 0 };
        Ok(Self { queue: RefCell::new(queue), buffers })
    }

    /// From now on the ring belongs to this thread.
    pub fn enable(&self) -> Result<(), Errno> {
        self.queue.borrow().ring.submitter().register_enable_rings().map_err(errno)
    }

    /// Waits once for a descriptor to become readable.
    pub fn poll(&self, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
        let entry = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), libc::POLLIN as u32).build().user_data(POLL);
        self.queue.borrow_mut().push(&entry, 1)
    }

    /// Receives whatever comes on a connection, until an event says that it does not go on.
    pub fn receive(&self, socket: BorrowedFd<'_>, token: u64) -> Result<(), Errno> {
        let entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), GROUP).build().user_data(RECEIVE | token & VALUE);
        self.queue.borrow_mut().push(&entry, 1)
    }

    /// Lets a receive end. Its last event may bring input all the same.
    pub fn cancel(&self, token: u64) -> Result<(), Errno> {
        let entry = opcode::AsyncCancel::new(RECEIVE | token & VALUE).build().user_data(CANCEL);
        self.queue.borrow_mut().push(&entry, 1)
    }

    /// Ends a receive at once. True where input of it waits to be looked at.
    pub fn cancel_now(&self, token: u64) -> Result<bool, Errno> {
        let word = RECEIVE | token & VALUE;
        let mut queue = self.queue.borrow_mut();
        queue.submit()?;
        match queue.ring.submitter().register_sync_cancel(None, CancelBuilder::user_data(word)).map_err(errno) {
            Ok(()) | Err(Errno::NOENT | Errno::ALREADY) => {}
            Err(error) => return Err(error),
        }
        // What the kernel has put off is done, and looked through.
        queue.enter(Deadline::after(std::time::Duration::ZERO))?;
        queue.take_early()?;
        let of_it = |entry: &&cqueue::Entry| entry.user_data() == word;
        Ok(queue.early.iter().filter(of_it).any(|entry| entry.result() > 0))
    }

    /// Sends bytes from a place in them on. Where the kernel takes no more at once, `patient` says whether that is waited
    /// for. Gives them back where that cannot be.
    pub fn send(
        &self,
        socket: BorrowedFd<'_>,
        token: u64,
        bytes: Vec<u8>,
        from: usize,
        patient: bool,
    ) -> Result<(), Vec<u8>> {
        let mut queue = self.queue.borrow_mut();
        let Some(index) = queue.free_flight() else { return Err(bytes) };
        let rest = bytes.get(from..).unwrap_or_default();
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let flags = if patient { libc::MSG_NOSIGNAL } else { libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT };
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), rest.as_ptr(), length).flags(flags).build();
        // The flight holds the bytes, which do not move with it, until the kernel has done with them.
        if queue.push(&entry.user_data(SEND | u64::from(index)), 1).is_err() {
            queue.free.push(index);
            return Err(bytes);
        }
        if let Some(place) = queue.flights.get_mut(index as usize) {
            *place = Some(Flight { token, bytes, from });
        }
        Ok(())
    }

    /// Tells the kernel of all entries. From then on their descriptors may be closed.
    pub fn submit(&self) -> Result<(), Errno> {
        self.queue.borrow_mut().submit()
    }

    /// Tells the kernel of all entries, and waits for something to happen.
    pub fn enter(&self, deadline: Deadline) -> Result<(), Errno> {
        self.queue.borrow_mut().enter(deadline)
    }

    /// How many events wait to be looked at.
    pub fn waiting(&self) -> usize {
        let mut queue = self.queue.borrow_mut();
        queue.early.len() + queue.ring.completion().len()
    }

    /// The next event.
    pub fn next(&self) -> Option<Event<'_>> {
        let mut queue = self.queue.borrow_mut();
        let early = queue.early.pop_front();
        let entry = early.or_else(|| queue.ring.completion().next())?;
        let (word, flags) = (entry.user_data(), entry.flags());
        let outcome = usize::try_from(entry.result()).map_err(|_| Errno::from_raw_os_error(-entry.result()));
        let goes_on = cqueue::more(flags);
        if !goes_on {
            queue.under_way -= 1;
        }
        Some(match word & !VALUE {
            POLL => Event::Polled,
            RECEIVE => {
                // Its buffer goes back also where there was an error.
                let length = outcome.unwrap_or(0);
                let input = Input { buffers: &self.buffers, id: cqueue::buffer_select(flags), length };
                let input = outcome.map(|_| input);
                let has_more = cqueue::sock_nonempty(flags);
                Event::Received { token: word & VALUE, input, goes_on, has_more }
            }
            SEND => {
                let index = (word & VALUE) as u32;
                match queue.flights.get_mut(index as usize).and_then(Option::take) {
                    Some(Flight { token, bytes, from }) => {
                        queue.free.push(index);
                        Event::Sent { token, bytes, from, outcome }
                    }
                    None => Event::Other,
                }
            }
            _ => Event::Other,
        })
    }
}

/// Waits until the kernel has interrupted this thread, whose ring is gone: it does so once, a little later, when it has
/// taken the ring down, and the program's own next wait is not to be what it interrupts.
pub fn settle() {
    use rustix::event::epoll;
    let Ok(nothing) = epoll::create(epoll::CreateFlags::CLOEXEC) else { return };
    let mut events = [std::mem::MaybeUninit::<epoll::Event>::uninit()];
    let _ =
        epoll::wait(&nothing, &mut events, Deadline::after(std::time::Duration::from_millis(200)).timespec().as_ref());
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Ring")
    }
}

// SAFETY: all that it points to belongs to it, and the kernel lets any one thread enable and use it.
unsafe impl Send for Ring {}

impl Drop for Ring {
    fn drop(&mut self) {
        let queue = self.queue.get_mut();
        let _ = queue.submit();
        let _ = queue.ring.submitter().register_sync_cancel(Some(Timespec::new().sec(1)), CancelBuilder::any());
        let patience = Deadline::after(std::time::Duration::from_secs(1));
        while queue.under_way > 0 && !patience.is_over() && queue.enter(patience).is_ok() {
            let _ = queue.take_early();
            queue.under_way -= queue.early.drain(..).filter(|entry| !cqueue::more(entry.flags())).count();
        }
        if queue.under_way > 0 {
            // Better lost than written to by the kernel when it is something else.
            std::mem::forget(std::mem::take(&mut queue.flights));
            self.buffers.keep.set(true);
        }
    }
}

impl Queue {
    /// Adds an entry of which so many completions come.
    fn push(&mut self, entry: &squeue::Entry, completions: usize) -> Result<(), Errno> {
        // SAFETY: what entries point to belongs to the ring until they are complete: see `send`, and `Buffers`.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.submit()?;
        }
        self.under_way += completions;
        Ok(())
    }

    fn free_flight(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = self.flights.len();
        // Giving one back must not need memory.
        let room = self.flights.try_reserve(1).and_then(|()| self.free.try_reserve(index + 1));
        room.ok()?;
        self.flights.push(None);
        u32::try_from(index).ok()
    }

    fn submit(&mut self) -> Result<(), Errno> {
        let mut patience = 0;
        while !self.ring.submission().is_empty() {
            match self.ring.submit().map_err(errno) {
                Ok(_) | Err(Errno::INTR) => {}
                // Completions have to be taken out before.
                Err(Errno::BUSY) => self.take_early()?,
                Err(Errno::AGAIN | Errno::NOMEM) if patience < 100 => {
                    patience += 1;
                    let _ = rustix::thread::nanosleep(&REST);
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn enter(&mut self, deadline: Deadline) -> Result<(), Errno> {
        let at_once = !self.early.is_empty() || !self.ring.completion().is_empty();
        let deadline = if at_once { Deadline::after(std::time::Duration::ZERO) } else { deadline };
        let entered = match deadline.timespec() {
            None => self.ring.submit_and_wait(1),
            Some(time) => {
                let time = Timespec::new().sec(time.tv_sec.unsigned_abs()).nsec(time.tv_nsec as u32);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match entered.map_err(errno) {
            Ok(_) | Err(Errno::INTR | Errno::TIME | Errno::BUSY) => Ok(()),
            Err(Errno::AGAIN | Errno::NOMEM) => {
                let _ = rustix::thread::nanosleep(&REST);
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    /// Takes what is complete out of the kernel's queue, to be looked at later.
    fn take_early(&mut self) -> Result<(), Errno> {
        let completion = self.ring.completion();
        self.early.try_reserve(completion.len()).map_err(|_| Errno::NOMEM)?;
        self.early.extend(completion);
        Ok(())
    }
}

/// The buffers that the kernel takes for input, and the ring of entries by which they are provided to it.
struct Buffers {
    entries: NonNull<BufRingEntry>,
    /// Where the next entry goes.
    tail: Cell<u16>,
    /// The kernel may use them still: they stay mapped.
    keep: Cell<bool>,
}

/// The room for the entries: whole pages, which have 64 KiB at most, so that what is said of them is not said of a buffer.
const ENTRIES_SIZE: usize = (BUFFERS as usize * size_of::<BufRingEntry>()).next_multiple_of(64 * 1024);
const MAPPING_SIZE: usize = ENTRIES_SIZE + BUFFERS as usize * BUFFER;

impl Buffers {
    fn new() -> Result<Self, Errno> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a fresh anonymous mapping, which touches nothing that exists.
        let mapping = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), MAPPING_SIZE, access, flags) }?;
        let entries = NonNull::new(mapping.cast::<BufRingEntry>()).ok_or(Errno::NOMEM)?;
        let buffers = Self { entries, tail: Cell::new(0), keep: Cell::new(false) };
        // SAFETY: the entries of above. A child gets none of them: the kernel goes on with the parent's pages. It gets the
        // buffers, since a function that forks may go on reading its input there.
        unsafe { rustix::mm::madvise(mapping, ENTRIES_SIZE, Advice::LinuxDontFork) }?;
        Ok(buffers)
    }

    fn start(&self, id: u16) -> *mut u8 {
        let offset = ENTRIES_SIZE + usize::from(id % BUFFERS) * BUFFER;
        // SAFETY: within the mapping, by its size.
        unsafe { self.entries.as_ptr().cast::<u8>().add(offset) }
    }

    /// What the kernel has written to a buffer, which is not provided to it just now.
    fn bytes(&self, id: u16, length: usize) -> &[u8] {
        // SAFETY: within the mapping, initialised as all of it, and left alone by the kernel until it is provided again.
        unsafe { std::slice::from_raw_parts(self.start(id), length.min(BUFFER)) }
    }

    /// Provides a buffer to the kernel.
    fn provide(&self, id: u16) {
        let tail = self.tail.get();
        let index = usize::from(tail % BUFFERS);
        // SAFETY: one of the entries, which all lie in the mapping.
        let place = unsafe { self.entries.as_ptr().add(index) };
        // SAFETY: the kernel reads no entry behind the tail. Its last two bytes stay as they are: in the first entry
        // they are the tail.
        let entry = unsafe { &mut *place };
        entry.set_addr(self.start(id) as u64);
        entry.set_len(BUFFER as u32);
        entry.set_bid(id);
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: the base of the entries.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: aligned, in the mapping, and shared with the kernel alone.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail.get(), Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if !self.keep.get() {
            // SAFETY: the mapping of `new`, whole; the ring is gone.
            let _ = unsafe { rustix::mm::munmap(self.entries.as_ptr().cast::<c_void>(), MAPPING_SIZE) };
        }
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Why rings cannot be had: what was tried last, and what the kernel said.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// The step.
    pub step: &'static str,
    /// What the kernel said.
    pub errno: Errno,
}

/// What is known of the reason for a refusal, to be put behind it.
pub fn why(refusal: Refusal) -> &'static str {
    match refusal.errno {
        Errno::NOSYS => ": the kernel has none, or a sandbox hides it",
        Errno::PERM | Errno::ACCESS => match std::fs::read("/proc/sys/kernel/io_uring_disabled").as_deref() {
            Ok([b'1' | b'2', ..]) => ": kernel.io_uring_disabled forbids it",
            _ => ": a sandbox forbids it",
        },
        Errno::INVAL => ": the kernel is too old, Linux 6.1 is needed",
        Errno::NOMEM => ": there is no memory, or RLIMIT_MEMLOCK (ulimit -l) is too low",
        Errno::OPNOTSUPP => ": what it does with connections is not sound before Linux 6.6",
        _ => "",
    }
}

static PROBED: OnceLock<Result<(), Refusal>> = OnceLock::new();

/// Whether rings can be had, and everything that connections need of them works: tried once, with a connection.
///
/// On a thread of its own: the kernel takes a ring down in the background, and interrupts the thread that made it while
/// doing so.
pub fn probe() -> Result<(), Refusal> {
    if let Some(outcome) = PROBED.get() {
        return *outcome;
    }
    let without_thread = |errno| Refusal { step: "pthread_create", errno };
    let mut outcome = Err(without_thread(Errno::AGAIN));
    // A thread that cannot be made says nothing of rings.
    super::thread::run_apart(&mut || outcome = try_everything()).map_err(without_thread)?;
    match outcome {
        // It may be otherwise the next time.
        Err(Refusal {
            errno: Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN | Errno::INTR,
            ..
        }) => outcome,
        outcome => *PROBED.get_or_init(|| outcome),
    }
}

fn try_everything() -> Result<(), Refusal> {
    let step = |step| move |errno| Refusal { step, errno };
    let (here, there) = UnixStream::pair().map_err(errno).map_err(step("socketpair"))?;
    let ring = Ring::new()?;
    ring.enable().map_err(step("io_uring_register"))?;
    let failed = step("io_uring_enter");
    let patience = Deadline::after(std::time::Duration::from_secs(1));
    let (mut polled, mut sent, mut received, mut ended) = (false, false, 0, false);
    ring.poll(there.as_fd()).map_err(failed)?;
    ring.receive(there.as_fd(), 1).map_err(failed)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(5).map_err(|_| failed(Errno::NOMEM))?;
    bytes.extend_from_slice(b"probe");
    ring.send(here.as_fd(), 2, bytes, 0, false).map_err(|_| failed(Errno::NOMEM))?;
    while !(polled && sent && received == 5) {
        if patience.is_over() {
            return Err(failed(Errno::TIMEDOUT));
        }
        ring.enter(patience).map_err(failed)?;
        while let Some(event) = ring.next() {
            match event {
                Event::Polled => polled = true,
                Event::Received { input, goes_on: true, .. } => received += input.map_err(failed)?.len(),
                Event::Received { input, .. } => return Err(failed(input.err().unwrap_or(Errno::OPNOTSUPP))),
                Event::Sent { outcome, .. } => sent = outcome.map_err(failed)? == 5,
                Event::Other => {}
            }
        }
    }
    // Bytes and the end at once: a kernel may forget the end (CVE-2026-23473).
    rustix::net::send(&here, b"last", rustix::net::SendFlags::NOSIGNAL).map_err(failed)?;
    rustix::net::shutdown(&here, rustix::net::Shutdown::Write).map_err(failed)?;
    while !(ended && received == 9) {
        if patience.is_over() {
            return Err(failed(Errno::OPNOTSUPP));
        }
        ring.enter(patience).map_err(failed)?;
        while let Some(event) = ring.next() {
            if let Event::Received { input, .. } = event {
                let length = input.map_err(failed)?.len();
                received += length;
                ended |= length == 0;
            }
        }
    }
    ring.receive(there.as_fd(), 3).map_err(failed)?;
    ring.cancel_now(3).map_err(step("io_uring_register")).map(drop)
}

/// Whether the kernel's rings are known to be sound with connections: receives that go on by themselves could overflow
/// the queue of completions before Linux 6.6 (CVE-2023-54030).
pub fn is_sound() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 6)
}
