//! Sequences of calls from three threads, and from the handlers of servers that they make, on real sockets. Afterwards
//! every server is closed, and no descriptor, no thread and no child is left.
#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;

static PREPARED: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    PREPARED.call_once(prepare);
    oyez_fuzz::calls::run(bytes);
});

/// SIGTERM stops what oyez serves, and nothing else here; and descriptors have numbers below those that never are open.
fn prepare() {
    // SAFETY: sets a disposition and a limit of this process.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let limit = libc::rlimit { rlim_cur: 1024, rlim_max: 1024 };
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}
