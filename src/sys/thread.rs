//! Threads by pthread_create(3): one that cannot be made is an error here, where std's panics or aborts, and making
//! one allocates nothing.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use rustix::io::Errno;

use super::signal::{self, Signals};

/// What a new thread runs.
pub trait Main {
    /// What it shares with those who made it.
    type Shared: Send + Sync + 'static;

    /// The thread's whole life.
    fn main(shared: Arc<Self::Shared>);
}

/// A thread that was made: to be joined or let go.
pub struct Thread(libc::pthread_t);

/// Starts a thread with these signals blocked.
pub fn spawn<M: Main>(shared: &Arc<M::Shared>, blocked: Signals) -> Result<Thread, Errno> {
    let shared = Arc::into_raw(Arc::clone(shared));
    let mut thread = 0;
    // A thread starts with the mask of the one that makes it.
    let mask = signal::block(blocked);
    // SAFETY: `enter::<M>` takes over the reference that `shared` stands for.
    let failed = unsafe { libc::pthread_create(&raw mut thread, ptr::null(), enter::<M>, shared.cast_mut().cast()) };
    signal::restore(mask);
    if failed == 0 {
        return Ok(Thread(thread));
    }
    // SAFETY: no thread took the reference over.
    drop(unsafe { Arc::from_raw(shared) });
    Err(Errno::from_raw_os_error(failed))
}

extern "C" fn enter<M: Main>(shared: *mut c_void) -> *mut c_void {
    // SAFETY: the reference that `spawn` gave away.
    let shared = unsafe { Arc::from_raw(shared.cast_const().cast::<M::Shared>()) };
    // A panic may not leave this frame. What runs here catches its handlers' own.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| M::main(shared))) {
        std::mem::forget(payload);
    }
    ptr::null_mut()
}

/// Runs `body` on a thread made for it, and waits for its end.
pub fn run_apart(body: &mut (dyn FnMut() + Send)) -> Result<(), Errno> {
    let mut body = body;
    let mut thread = 0;
    let mask = signal::block(Signals::asynchronous());
    // SAFETY: `enter_apart` takes a pointer to such a reference, which outlives the thread: it is joined below.
    let failed =
        unsafe { libc::pthread_create(&raw mut thread, ptr::null(), enter_apart, (&raw mut body).cast::<c_void>()) };
    signal::restore(mask);
    if failed != 0 {
        return Err(Errno::from_raw_os_error(failed));
    }
    Thread(thread).join();
    Ok(())
}

extern "C" fn enter_apart(body: *mut c_void) -> *mut c_void {
    let body = body.cast::<&mut (dyn FnMut() + Send)>();
    // SAFETY: `run_apart` keeps the reference until this thread has ended, and does not touch it meanwhile.
    let body = unsafe { &mut *body };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(body)) {
        std::mem::forget(payload);
    }
    ptr::null_mut()
}

impl Thread {
    /// Waits for its end.
    pub fn join(self) {
        // SAFETY: a thread that was made joinable and neither joined nor detached, since both take `self`.
        unsafe { libc::pthread_join(self.0, ptr::null_mut()) };
    }

    /// Lets it end by itself.
    pub fn detach(self) {
        // SAFETY: as above.
        unsafe { libc::pthread_detach(self.0) };
    }
}
