//! Signal masks of threads, and the handler behind `stop_on_signals`.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use rustix::io::Errno;

/// The signals that stop a server which asked for it.
pub const STOP_SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

/// What a thread gets from its own faults. Blocking these would take a program's crash handler away.
const SYNCHRONOUS: [i32; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGSYS];

/// A set of signals.
#[derive(Clone, Copy)]
pub struct Signals(libc::sigset_t);

impl Signals {
    /// Just these.
    pub fn of(signals: &[i32]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the place is writable, and the call fills it.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: filled by the call above.
        let mut set = Self(unsafe { set.assume_init() });
        for &signal in signals {
            // SAFETY: an initialised set; a number that is no signal is refused without effect.
            unsafe { libc::sigaddset(&raw mut set.0, signal) };
        }
        set
    }

    /// All that a thread of the library leaves to the program's own threads.
    pub fn asynchronous() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the place is writable, and the call fills it.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        // SAFETY: filled by the call above.
        let mut set = Self(unsafe { set.assume_init() });
        set.remove(&SYNCHRONOUS);
        set
    }

    /// Takes signals out of the set.
    pub fn remove(&mut self, signals: &[i32]) {
        for &signal in signals {
            // SAFETY: an initialised set; a number that is no signal is refused without effect.
            unsafe { libc::sigdelset(&raw mut self.0, signal) };
        }
    }

    /// Whether a signal is in the set.
    pub fn contains(&self, signal: i32) -> bool {
        // SAFETY: an initialised set.
        unsafe { libc::sigismember(&raw const self.0, signal) == 1 }
    }
}

/// Blocks these signals on this thread too, and returns the mask from before.
pub fn block(signals: Signals) -> Signals {
    change_mask(libc::SIG_BLOCK, signals)
}

/// Unblocks these signals on this thread, and returns the mask from before.
pub fn unblock(signals: Signals) -> Signals {
    change_mask(libc::SIG_UNBLOCK, signals)
}

/// Puts a mask back.
pub fn restore(mask: Signals) {
    change_mask(libc::SIG_SETMASK, mask);
}

fn change_mask(how: i32, signals: Signals) -> Signals {
    let mut before = Signals::of(&[]);
    // SAFETY: two initialised sets; the call cannot fail with a known `how`.
    unsafe { libc::pthread_sigmask(how, &raw const signals.0, &raw mut before.0) };
    before
}

/// Blocks SIGPIPE on this thread until dropped; one that was raised meanwhile is taken away with it.
pub struct NoSigpipe {
    before: Signals,
    was_pending: bool,
}

impl NoSigpipe {
    /// From now on.
    pub fn new() -> Self {
        let was_pending = sigpipe_is_pending();
        Self { before: block(Signals::of(&[libc::SIGPIPE])), was_pending }
    }
}

impl Drop for NoSigpipe {
    fn drop(&mut self) {
        if self.before.contains(libc::SIGPIPE) {
            return;
        }
        if !self.was_pending && sigpipe_is_pending() {
            let sigpipe = Signals::of(&[libc::SIGPIPE]);
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: an initialised set and time; nothing is asked to be written.
            unsafe { libc::sigtimedwait(&raw const sigpipe.0, ptr::null_mut(), &raw const now) };
        }
        restore(self.before);
    }
}

/// Runs `body` with SIGPIPE blocked on this thread.
pub fn without_sigpipe<T>(body: impl FnOnce() -> T) -> T {
    let _blocked = NoSigpipe::new();
    body()
}

fn sigpipe_is_pending() -> bool {
    let mut pending = Signals::of(&[]);
    // SAFETY: an initialised set to write to.
    unsafe { libc::sigpending(&raw mut pending.0) };
    pending.contains(libc::SIGPIPE)
}

/// The dispositions from before the handler was installed, in the order of [`STOP_SIGNALS`].
pub struct Dispositions([libc::sigaction; 2]);

/// Whom a stop signal reaches: called in the signal handler, so it may only do what signal-safety(7) allows.
pub type OnSignal = fn();

/// In a child made for a handler the stop signals mean nothing: a Ctrl-C reaches the whole process group, and the
/// parent decides when its children end.
static IGNORING: AtomicBool = AtomicBool::new(false);
static PROCESS: AtomicI32 = AtomicI32::new(0);
/// An [`OnSignal`], or null. A handler of an earlier installation may still run while the next one is made.
static ON_SIGNAL: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
/// Read in a forked child alone, which has one thread then.
static mut BEFORE: Option<[libc::sigaction; 2]> = None;

/// Installs the handler for the stop signals. The caller makes sure that there is one at a time.
pub fn install_stop_handler(on_signal: OnSignal) -> Result<Dispositions, Errno> {
    // SAFETY: sigaction is plain data, for which zero is valid.
    let mut before: [libc::sigaction; 2] = unsafe { std::mem::zeroed() };
    for (signal, place) in STOP_SIGNALS.into_iter().zip(&mut before) {
        read_disposition(signal, place)?;
    }
    PROCESS.store(process_mark(), Ordering::Relaxed);
    ON_SIGNAL.store(on_signal as *mut (), Ordering::Release);
    let before_place = &raw mut BEFORE;
    // SAFETY: no handler reads it in this process, and there is one installer at a time.
    unsafe { before_place.write(Some(before)) };
    for signal in STOP_SIGNALS {
        set_disposition(signal, &stop_disposition())?;
    }
    Ok(Dispositions(before))
}

/// Puts the old dispositions back where the handler is still ours.
pub fn remove_stop_handler(dispositions: &Dispositions) {
    for (signal, before) in STOP_SIGNALS.into_iter().zip(&dispositions.0) {
        // SAFETY: sigaction is plain data, for which zero is valid.
        let mut current: libc::sigaction = unsafe { std::mem::zeroed() };
        let ours =
            read_disposition(signal, &mut current).is_ok() && current.sa_sigaction == stop_disposition().sa_sigaction;
        if ours {
            let _ = set_disposition(signal, before);
        }
    }
}

/// Lets the stop signals pass without effect in a child made for a handler, if they were caught.
pub fn ignore_stop_signals() {
    IGNORING.store(true, Ordering::Relaxed);
}

fn stop_disposition() -> libc::sigaction {
    // SAFETY: sigaction is plain data, for which zero is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_stop_signal as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    action.sa_mask = Signals::of(&[]).0;
    action
}

extern "C" fn on_stop_signal(signal: i32) {
    if IGNORING.load(Ordering::Relaxed) {
        return;
    }
    if PROCESS.load(Ordering::Relaxed) != process_mark() {
        return act_as_before(signal);
    }
    let on_signal = ON_SIGNAL.load(Ordering::Acquire);
    if !on_signal.is_null() {
        // SAFETY: not null, so what `install_stop_handler` has stored.
        let on_signal = unsafe { std::mem::transmute::<*mut (), OnSignal>(on_signal) };
        on_signal();
    }
}

/// In a child that the program forked the server is not there: the signal means what it meant before.
fn act_as_before(signal: i32) {
    let place = &raw const BEFORE;
    // SAFETY: written by the parent before this process was made.
    let before = unsafe { place.read() };
    for (known, disposition) in STOP_SIGNALS.into_iter().zip(before.iter().flatten()) {
        if known == signal {
            let _ = set_disposition(signal, disposition);
            // SAFETY: raise(3) is async-signal-safe; the signal is delivered when this handler returns.
            unsafe { libc::raise(signal) };
        }
    }
}

/// Whether the program has no handler for a signal.
pub fn is_without_handler(signal: i32) -> bool {
    // SAFETY: sigaction is plain data, for which zero is valid.
    let mut current: libc::sigaction = unsafe { std::mem::zeroed() };
    let known = read_disposition(signal, &mut current).is_ok();
    known && matches!(current.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
}

fn process_mark() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn read_disposition(signal: i32, place: &mut libc::sigaction) -> Result<(), Errno> {
    // SAFETY: asks only, and writes to a place of the right type.
    let failed = unsafe { libc::sigaction(signal, ptr::null(), place) };
    check(failed)
}

fn set_disposition(signal: i32, disposition: &libc::sigaction) -> Result<(), Errno> {
    // SAFETY: a whole disposition: one that the system gave, or ours, whose handler is async-signal-safe.
    let failed = unsafe { libc::sigaction(signal, disposition, ptr::null_mut()) };
    check(failed)
}

fn check(failed: i32) -> Result<(), Errno> {
    if failed == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(super::errno())) }
}
