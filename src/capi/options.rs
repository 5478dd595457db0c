//! Options structs that grow: `size` first, set by the INIT macro.

use std::ffi::{c_char, c_void};
use std::mem::{offset_of, size_of};
use std::sync::Arc;
use std::time::Duration;

use super::optional_bytes;
use crate::error::{Code, Error, Result};
use crate::listen::{BeforeBind, Options as ListenOptions, Switch};
use crate::serve::{Backend, Level, Limits, Log, MaxConnections, Model, Options as ServerOptions, Rate, Rules};
use crate::text::Text;

/// The default: the value that every option has when it is zero.
pub const OYEZ_DEFAULT: i32 = 0;
/// A switch is on.
pub const OYEZ_ON: i32 = 1;
/// A switch is off.
pub const OYEZ_OFF: i32 = -1;

/// How a listening socket is made. Start from OYEZ_LISTEN_OPTIONS_INIT and set what differs; zero is the default.
///
/// An operator may set the same names in the address text: ":9000?backlog=64&reuse_port=on". Those win.
/// The strings are borrowed for the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct oyez_listen_options {
    /// The struct's size in bytes, set by OYEZ_LISTEN_OPTIONS_INIT.
    pub size: usize,
    /// How many completed connections may wait to be accepted, 1 or more. Default: the system's maximum. The kernel
    /// grants at most net.core.somaxconn: a server whose listener gets less than it asked for here logs
    /// "backlog_clamped", and oyez_server_stats() has what is in force. See listen(2).
    pub backlog: i32,
    /// SO_REUSEADDR, a switch. Default: on for streams, so that a restarted server binds at once; off for "udp:",
    /// where it would let a second copy share the port. See socket(7).
    pub reuse_address: i32,
    /// SO_REUSEPORT, a switch. Default: off, so that a second copy of the program fails instead of sharing silently.
    /// On, each thread of an event server has a listener of its own at a TCP address, and the kernel distributes clients
    /// by their addresses and ports: quicker for many short connections, uneven for long ones.
    pub reuse_port: i32,
    /// O_NONBLOCK on the listener, a switch. Default: off. oyez_accept() waits on either kind.
    pub nonblocking: i32,
    /// Close-on-exec, a switch. Default: on.
    pub close_on_exec: i32,
    /// TCP_NODELAY, a switch, inherited by accepted connections. Default: on, so that a small answer is not held back
    /// to wait for the acknowledgement of the one before. See tcp(7).
    pub no_delay: i32,
    /// SO_KEEPALIVE, inherited by accepted connections: seconds of silence before the peer is probed, 1 to 32767.
    /// Default: on, with the system's times (net.ipv4.tcp_keepalive_time, two hours). OYEZ_OFF = off.
    pub keep_alive_seconds: i32,
    /// TCP_DEFER_ACCEPT: for how many seconds a connection may wait for its first byte before it is accepted.
    /// Default: off. For protocols where the client speaks first.
    pub defer_accept_seconds: i32,
    /// TCP_FASTOPEN: how many pending fast-open requests are allowed. Default: off; OYEZ_ON = as many as the backlog.
    pub fast_open: i32,
    /// SO_RCVBUF in bytes, inherited by accepted connections. Default: the kernel adapts it.
    pub receive_buffer: i32,
    /// SO_SNDBUF in bytes, inherited by accepted connections. Default: the kernel adapts it.
    pub send_buffer: i32,
    /// IP_FREEBIND, a switch: bind an address that the host does not have yet. Default: off. See ip(7).
    pub free_bind: i32,
    /// Multipath TCP, a switch. Default: off. Where the kernel has none, the listener is plain TCP. See RFC 8684.
    pub multipath: i32,
    /// The file mode of a Unix socket, such as 0660; what the umask takes away is put back. It is set before anybody
    /// can connect. Default: 0777 less the umask. See unix(7).
    pub unix_mode: i32,
    /// SO_BINDTODEVICE: only what comes in by this interface, such as "eth0". Default: NULL, any.
    pub interface: *const c_char,
    /// The owner of the Unix socket file, a name or a number. Default: NULL, the process's.
    pub unix_user: *const c_char,
    /// The group of the Unix socket file, a name or a number. Default: NULL, the process's.
    pub unix_group: *const c_char,
    /// Called with each socket before it is bound, for an option that is not named here; not for "fd:" and "systemd:".
    /// A non-zero return stops the call: errno, as the hook left it, tells why (ECANCELED if it left 0).
    /// It must return normally. Default: NULL, none.
    pub before_bind: Option<unsafe extern "C-unwind" fn(fd: i32, user: *mut c_void) -> i32>,
    /// Passed to before_bind.
    pub before_bind_user: *mut c_void,
}

/// How a server serves. Start from OYEZ_SERVER_OPTIONS_INIT and set what differs; zero is the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct oyez_server_options {
    /// The struct's size in bytes, set by OYEZ_SERVER_OPTIONS_INIT.
    pub size: usize,
    /// OYEZ_THREADS (the default), OYEZ_SEQUENTIAL or OYEZ_PROCESSES.
    pub model: i32,
    /// The most handlers that run at once: threads or processes, 1 to 65536. Default: 256, which costs a small
    /// machine only what is in use; threads are made when needed and leave after five idle seconds. Clients beyond it
    /// wait in the kernel's queue. OYEZ_SEQUENTIAL has one. Of an event server: its threads; default: one for each
    /// processor that the process may use.
    pub workers: i32,
    /// Milliseconds that a connection may be silent: the longest that one oyez_conn_read(), _read_line() or _write()
    /// waits. Default: no limit. oyez_conn_set_timeout() overrides it for one connection.
    pub idle_timeout_ms: i32,
    /// Milliseconds within which an oyez_conn_read() or a whole line must have come. Default: no limit.
    pub read_timeout_ms: i32,
    /// Milliseconds within which an oyez_conn_write() must have been taken by the kernel. Default: no limit.
    pub write_timeout_ms: i32,
    /// Milliseconds after which a connection is over, however busy. Default: no limit.
    pub lifetime_ms: i32,
    /// Milliseconds that a stop by a signal or by oyez_server_close() waits for the connections under way; what is
    /// unfinished then is reset. Default: 5000; -1 = wait for all.
    pub drain_ms: i32,
    /// A switch: SIGINT and SIGTERM stop the server while it runs, whichever thread they reach, and a second one stops
    /// it at once; the dispositions from before are put back. Default: off, no signal is touched.
    pub stop_on_signals: i32,
    /// Called with what an operator should know. Default: NULL, nothing is logged.
    pub log: oyez_log,
    /// Passed to log.
    pub log_user: *mut c_void,
    /// Event servers: bytes of input that on_data may leave unconsumed on one connection; if it leaves more, and has not
    /// paused the connection, that is closed with OYEZ_LIMIT_REACHED. Default: 1 MiB.
    pub max_input: usize,
    /// Event servers: bytes that may wait to be sent on one connection; an oyez_conn_write() that would pass it fails
    /// with OYEZ_LIMIT_REACHED and queues nothing; so does any single one that is larger. Default: 16 MiB.
    pub max_output: usize,
    /// Event servers: OYEZ_BACKEND_AUTO (the default), OYEZ_BACKEND_EPOLL or OYEZ_BACKEND_IO_URING. A program sees no
    /// difference but speed. A server that oyez_server_poll() drives has epoll whatever is said here.
    pub backend: i32,
    /// The most connections at once, 1 or more. When there are as many the server stops accepting, and clients wait in
    /// the kernel's queue until one leaves. Default: as many as the limit of descriptors (RLIMIT_NOFILE) leaves room
    /// for, an eighth of it, at most 32 descriptors, being left to the rest of the program; -1 = no limit but the
    /// system's.
    pub max_connections: i32,
    /// The most connections at once from one address, 1 or more; of IPv6 from one /64. Further ones are accepted and
    /// closed. Clients of Unix sockets have no address. Default: no limit.
    pub max_connections_per_address: i32,
    /// How many connections may be accepted in a second on average, 1 or more. Further ones are accepted and closed.
    /// Default: no limit.
    pub accept_rate: i32,
    /// How many of them may come at once after a pause, 1 or more. Default: as many as accept_rate.
    pub accept_burst: i32,
    /// 0.
    pub reserved: i32,
    /// Who may connect: addresses and networks such as "10.0.0.0/8, 2001:db8::/32, 192.0.2.1, unix", separated by
    /// commas; "unix" is the clients of Unix sockets. With this list nobody else may. Of all networks in allow and deny
    /// that have a client's address the longest decides, and deny where it is in both. Who may not is closed at once.
    /// Default: NULL, everybody who is not denied. See RFC 4632.
    pub allow: *const c_char,
    /// Who may not connect, in the same form. Default: NULL, nobody.
    pub deny: *const c_char,
}

/// io_uring(7) where all that is needed of it works, which is tried once; else epoll(7). The environment variable
/// OYEZ_BACKEND (epoll, io_uring, auto) overrides it.
pub const OYEZ_BACKEND_AUTO: i32 = 0;
/// epoll(7) and system calls.
pub const OYEZ_BACKEND_EPOLL: i32 = 1;
/// io_uring(7): where that cannot be had, oyez_server_new_events() fails with OYEZ_UNSUPPORTED.
pub const OYEZ_BACKEND_IO_URING: i32 = 2;

/// A handler for each connection on a thread of a bounded pool: the default.
pub const OYEZ_THREADS: i32 = 0;
/// One connection at a time, on the thread that runs the server.
pub const OYEZ_SEQUENTIAL: i32 = 1;
/// A child process for each connection: a handler that crashes takes nothing else down.
pub const OYEZ_PROCESSES: i32 = 2;

/// Something for a developer.
pub const OYEZ_LOG_DEBUG: i32 = 0;
/// Something that happened as it should.
pub const OYEZ_LOG_INFO: i32 = 1;
/// Something that an operator should look at.
pub const OYEZ_LOG_WARNING: i32 = 2;
/// Something that failed.
pub const OYEZ_LOG_ERROR: i32 = 3;

/// Receives what a server reports.
///
/// It is called from any thread of the server, also from several at once, with no lock held. It must return normally;
/// it may call oyez, but not wait for the server.
///
///   level  OYEZ_LOG_DEBUG to OYEZ_LOG_ERROR
///   event  a fixed name for programs, as below; borrowed for the call
///   text   one line for a person; borrowed for the call
///   user   the options' log_user
///
/// What happens again and again is told once when it begins, and once with its count when it has been over for some
/// seconds, or the server ends.
///
///   descriptors_used_up, memory_used_up, accept_fails   accepting pauses; clients wait in the kernel's queue
///   accepting_again                                     that is over
///   threads_used_up, processes_used_up                  connections wait for a thread or a child
///   max_connections_reached                             accepting pauses until somebody leaves
///   max_connections_beyond_descriptors                  the limit of descriptors leaves room for fewer
///   refused_by_rules, refused_by_address, refused_by_rate, refused_by_limit   clients are closed at once
///   queue_fills, connections_dropped                    the kernel's queue is over four fifths full, or overflows
///   handler_crashed                                     its client is reset
///   foreign_close                                       the program closed a connection's descriptor itself
///   listener_dead                                       a listener is none any more; the others go on
///   address_skipped, backlog_clamped                    of oyez_server_listen()
///   io_uring_refused                                    epoll is used in its place
///   stopped, server_failed                              how it ended
pub type oyez_log =
    Option<unsafe extern "C-unwind" fn(level: i32, event: *const c_char, text: *const c_char, user: *mut c_void)>;

/// The largest struct that a caller may pass: what lies beyond the fields known here must be readable.
const LARGEST: usize = 1024;

/// A struct of C that grows: plain data, all fields after `size` zero by default.
///
/// # Safety
/// Valid for every bit pattern of zero bytes, `repr(C)`, starts with a `usize` that holds its size, and has no padding.
pub(super) unsafe trait Growing: Copy {
    const NAME: &'static str;
    const DEFAULT: Self;
    /// Where fields begin, in order: an older program's struct ends at one of them.
    const FIELDS: &'static [usize];
}

// SAFETY: repr(C), zero is valid for integers, pointers and optional functions; the tests compare fields with the size.
unsafe impl Growing for oyez_listen_options {
    const NAME: &'static str = "oyez_listen_options";
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        backlog: 0,
        reuse_address: 0,
        reuse_port: 0,
        nonblocking: 0,
        close_on_exec: 0,
        no_delay: 0,
        keep_alive_seconds: 0,
        defer_accept_seconds: 0,
        fast_open: 0,
        receive_buffer: 0,
        send_buffer: 0,
        free_bind: 0,
        multipath: 0,
        unix_mode: 0,
        interface: std::ptr::null(),
        unix_user: std::ptr::null(),
        unix_group: std::ptr::null(),
        before_bind: None,
        before_bind_user: std::ptr::null_mut(),
    };
    const FIELDS: &'static [usize] = &[
        offset_of!(Self, backlog),
        offset_of!(Self, reuse_address),
        offset_of!(Self, reuse_port),
        offset_of!(Self, nonblocking),
        offset_of!(Self, close_on_exec),
        offset_of!(Self, no_delay),
        offset_of!(Self, keep_alive_seconds),
        offset_of!(Self, defer_accept_seconds),
        offset_of!(Self, fast_open),
        offset_of!(Self, receive_buffer),
        offset_of!(Self, send_buffer),
        offset_of!(Self, free_bind),
        offset_of!(Self, multipath),
        offset_of!(Self, unix_mode),
        offset_of!(Self, interface),
        offset_of!(Self, unix_user),
        offset_of!(Self, unix_group),
        offset_of!(Self, before_bind),
        offset_of!(Self, before_bind_user),
    ];
}

// SAFETY: repr(C), zero is valid for integers, pointers and optional functions; the tests compare fields with the size.
unsafe impl Growing for oyez_server_options {
    const NAME: &'static str = "oyez_server_options";
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        model: 0,
        workers: 0,
        idle_timeout_ms: 0,
        read_timeout_ms: 0,
        write_timeout_ms: 0,
        lifetime_ms: 0,
        drain_ms: 0,
        stop_on_signals: 0,
        log: None,
        log_user: std::ptr::null_mut(),
        max_input: 0,
        max_output: 0,
        backend: 0,
        max_connections: 0,
        max_connections_per_address: 0,
        accept_rate: 0,
        accept_burst: 0,
        reserved: 0,
        allow: std::ptr::null(),
        deny: std::ptr::null(),
    };
    const FIELDS: &'static [usize] = &[
        offset_of!(Self, model),
        offset_of!(Self, workers),
        offset_of!(Self, idle_timeout_ms),
        offset_of!(Self, read_timeout_ms),
        offset_of!(Self, write_timeout_ms),
        offset_of!(Self, lifetime_ms),
        offset_of!(Self, drain_ms),
        offset_of!(Self, stop_on_signals),
        offset_of!(Self, log),
        offset_of!(Self, log_user),
        offset_of!(Self, max_input),
        offset_of!(Self, max_output),
        offset_of!(Self, backend),
        offset_of!(Self, max_connections),
        offset_of!(Self, max_connections_per_address),
        offset_of!(Self, accept_rate),
        offset_of!(Self, accept_burst),
        offset_of!(Self, reserved),
        offset_of!(Self, allow),
        offset_of!(Self, deny),
    ];
}

/// Checks the size that a caller's struct claims, for a struct of `known` bytes whose fields begin at `fields`.
pub(super) fn check_size(
    claimed: usize,
    known: usize,
    fields: &[usize],
    function: &'static str,
    name: &str,
) -> Result<()> {
    let newer = claimed > known && claimed <= LARGEST;
    if newer || claimed == known || fields.contains(&claimed) {
        return Ok(());
    }
    Err(Error::invalid(function, format_args!("{name}.size is {claimed}, which is no version of that struct"))
        .hint(format_args!("start from its INIT macro; this library's struct has {known} bytes")))
}

/// The caller's struct, with defaults for what an older program's lacks.
///
/// # Safety
/// `options` is NULL or points to a readable `size_t`, and to as many bytes as that says.
pub(super) unsafe fn read<T: Growing>(options: *const T, function: &'static str) -> Result<T> {
    let mut known = T::DEFAULT;
    if options.is_null() {
        return Ok(known);
    }
    // SAFETY: not NULL; a readable size by this function's contract, read without a claim about its alignment.
    let claimed = unsafe { options.cast::<usize>().read_unaligned() };
    check_size(claimed, size_of::<T>(), T::FIELDS, function, T::NAME)?;
    let copied = claimed.min(size_of::<T>());
    // SAFETY: `copied` bytes are readable by this function's contract and lie within `known`, a separate local.
    unsafe { std::ptr::copy_nonoverlapping(options.cast::<u8>(), (&raw mut known).cast::<u8>(), copied) };
    for offset in copied..claimed {
        // SAFETY: `offset` is below the size that the caller vouches for.
        let byte = unsafe { options.cast::<u8>().add(offset) };
        // SAFETY: as above.
        if unsafe { byte.read() } != 0 {
            return Err(unknown_field(offset, function, T::NAME));
        }
    }
    Ok(known)
}

fn unknown_field(offset: usize, function: &'static str, name: &str) -> Error {
    Error::invalid(function, format_args!("{name} sets a field at byte {offset}, which this library does not know"))
        .with_code(Code::Unsupported)
        .hint(format_args!("the program was built for a newer oyez; this is {}", env!("CARGO_PKG_VERSION")))
}

/// Reads listen options.
///
/// # Safety
/// `options` is NULL, or a struct of its `size` whose strings are NULL or terminated and outlive `'a`.
pub(super) unsafe fn listen<'a>(
    options: *const oyez_listen_options,
    function: &'static str,
) -> Result<ListenOptions<'a>> {
    // SAFETY: the same contract.
    let c = unsafe { read(options, function) }?;
    Ok(ListenOptions {
        backlog: number(c.backlog, 1, i32::MAX, function, "backlog")?,
        reuse_address: switch(c.reuse_address, function, "reuse_address")?,
        reuse_port: switch(c.reuse_port, function, "reuse_port")?,
        nonblocking: switch(c.nonblocking, function, "nonblocking")?,
        close_on_exec: switch(c.close_on_exec, function, "close_on_exec")?,
        no_delay: switch(c.no_delay, function, "no_delay")?,
        keep_alive_seconds: number(c.keep_alive_seconds, -1, 32767, function, "keep_alive_seconds")?,
        defer_accept_seconds: number(c.defer_accept_seconds, -1, i32::MAX, function, "defer_accept_seconds")?,
        fast_open: number(c.fast_open, -1, i32::MAX, function, "fast_open")?,
        receive_buffer: number(c.receive_buffer, 1, i32::MAX, function, "receive_buffer")?,
        send_buffer: number(c.send_buffer, 1, i32::MAX, function, "send_buffer")?,
        free_bind: switch(c.free_bind, function, "free_bind")?,
        multipath: switch(c.multipath, function, "multipath")?,
        unix_mode: number(c.unix_mode, 1, 0o7777, function, "unix_mode")?,
        // SAFETY: NULL or terminated by this function's contract.
        interface: unsafe { optional_bytes(c.interface) },
        // SAFETY: as above.
        unix_user: unsafe { optional_bytes(c.unix_user) },
        // SAFETY: as above.
        unix_group: unsafe { optional_bytes(c.unix_group) },
        before_bind: c.before_bind.map(|hook| BeforeBind::new(call_hook(hook, c.before_bind_user))),
    })
}

/// The hook of C as the core calls it: `None` to go on, `Some(errno)` to stop.
fn call_hook(
    hook: unsafe extern "C-unwind" fn(i32, *mut c_void) -> i32,
    user: *mut c_void,
) -> impl Fn(i32) -> Option<i32> {
    move |fd| {
        crate::sys::clear_errno();
        // SAFETY: the caller of oyez_listen() vouches for the hook and its pointer.
        let stop = unsafe { hook(fd, user) };
        (stop != 0).then(crate::sys::errno)
    }
}

/// Reads server options.
///
/// # Safety
/// `options` is NULL, or a struct of its `size`, whose strings are NULL or terminated; its log function may be called
/// from any thread with its log_user.
pub(super) unsafe fn server(options: *const oyez_server_options, function: &'static str) -> Result<ServerOptions> {
    // SAFETY: the same contract.
    let c = unsafe { read(options, function) }?;
    if c.reserved != 0 {
        return Err(unknown_field(offset_of!(oyez_server_options, reserved), function, "oyez_server_options"));
    }
    Ok(ServerOptions {
        model: match c.model {
            OYEZ_THREADS => Model::Threads,
            OYEZ_SEQUENTIAL => Model::Sequential,
            OYEZ_PROCESSES => Model::Processes,
            other => return Err(Error::invalid(function, format_args!("model is {other}, which is none"))),
        },
        workers: number(c.workers, 1, 65_536, function, "workers")?.map(i32::unsigned_abs),
        // SAFETY: the strings are as this function's contract says.
        limits: unsafe { limits(&c, function) }?,
        drain: match number(c.drain_ms, -1, i32::MAX, function, "drain_ms")? {
            None => ServerOptions::default().drain,
            Some(milliseconds) => drain(milliseconds),
        },
        stop_on_signals: switch(c.stop_on_signals, function, "stop_on_signals")? == Switch::On,
        log: c.log.map(|log| {
            let user = Shared(c.log_user);
            Log::new(move |level, event, text| call_log(log, &user, level, event, text))
        }),
        max_input: if c.max_input == 0 { ServerOptions::default().max_input } else { c.max_input },
        max_output: if c.max_output == 0 { ServerOptions::default().max_output } else { c.max_output },
        backend: match c.backend {
            OYEZ_BACKEND_AUTO => Backend::Auto,
            OYEZ_BACKEND_EPOLL => Backend::Epoll,
            OYEZ_BACKEND_IO_URING => Backend::IoUring,
            other => return Err(Error::invalid(function, format_args!("backend is {other}, which is none"))),
        },
    })
}

/// What oyez_server_set_limits() changes.
///
/// # Safety
/// The strings are NULL or terminated.
unsafe fn limits(c: &oyez_server_options, function: &'static str) -> Result<Limits> {
    let most = |value, name| number(value, 1, i32::MAX, function, name).map(|most| most.map(i32::unsigned_abs));
    let (rate, burst) = (most(c.accept_rate, "accept_rate")?, most(c.accept_burst, "accept_burst")?);
    if rate.is_none() && burst.is_some() {
        return Err(Error::invalid(function, format_args!("accept_burst is set without accept_rate")));
    }
    // SAFETY: NULL or terminated by this function's contract.
    let allow = unsafe { optional_bytes(c.allow) };
    // SAFETY: as above.
    let deny = unsafe { optional_bytes(c.deny) };
    let lists = allow.is_some() || deny.is_some();
    let rules = lists.then(|| Rules::read(allow, deny)).transpose().map_err(|fault| {
        let text = Text::format(format_args!("{}: {}", fault.list, fault.error));
        let hint = fault.error.hint_text();
        Error::invalid(function, format_args!("{text}")).hint(format_args!("{hint}"))
    })?;
    Ok(Limits {
        max_connections: match number(c.max_connections, -1, i32::MAX, function, "max_connections")? {
            None => MaxConnections::Descriptors,
            Some(-1) => MaxConnections::Unlimited,
            Some(number) => MaxConnections::Number(number.unsigned_abs()),
        },
        max_connections_per_address: most(c.max_connections_per_address, "max_connections_per_address")?,
        accept_rate: rate.map(|per_second| Rate { per_second, burst: burst.unwrap_or(per_second) }),
        rules: rules.map(Arc::new),
        idle_timeout: duration(c.idle_timeout_ms, function, "idle_timeout_ms")?,
        read_timeout: duration(c.read_timeout_ms, function, "read_timeout_ms")?,
        write_timeout: duration(c.write_timeout_ms, function, "write_timeout_ms")?,
        lifetime: duration(c.lifetime_ms, function, "lifetime_ms")?,
    })
}

/// A drain time as C gives it: -1 waits for all.
pub(super) fn drain(milliseconds: i32) -> Option<Duration> {
    u64::try_from(milliseconds).ok().map(Duration::from_millis)
}

/// A pointer that the program gave to be passed back from other threads.
pub(super) struct Shared(pub *mut c_void);

// SAFETY: oyez never looks behind the pointer; the program that gave it asked for calls from other threads.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

fn call_log(
    log: unsafe extern "C-unwind" fn(i32, *const c_char, *const c_char, *mut c_void),
    user: &Shared,
    level: Level,
    event: &'static std::ffi::CStr,
    text: &std::ffi::CStr,
) {
    let level = match level {
        Level::Debug => OYEZ_LOG_DEBUG,
        Level::Info => OYEZ_LOG_INFO,
        Level::Warning => OYEZ_LOG_WARNING,
        Level::Error => OYEZ_LOG_ERROR,
    };
    // SAFETY: the program vouches for its log function and pointer; the strings are terminated and outlive the call.
    unsafe { log(level, event.as_ptr(), text.as_ptr(), user.0) };
}

fn switch(value: i32, function: &'static str, name: &str) -> Result<Switch> {
    match value {
        OYEZ_DEFAULT => Ok(Switch::Default),
        OYEZ_ON => Ok(Switch::On),
        OYEZ_OFF => Ok(Switch::Off),
        other => Err(Error::invalid(function, format_args!("{name} is {other}, which is no switch"))
            .hint(format_args!("a switch is OYEZ_DEFAULT (0), OYEZ_ON (1) or OYEZ_OFF (-1)"))),
    }
}

/// A number within its range; zero is the default.
fn number(value: i32, lowest: i32, highest: i32, function: &'static str, name: &str) -> Result<Option<i32>> {
    match value {
        0 => Ok(None),
        _ if (lowest..=highest).contains(&value) => Ok(Some(value)),
        _ => Err(Error::invalid(function, format_args!("{name} is {value}, not within {lowest} to {highest}"))),
    }
}

/// A time in milliseconds; zero and -1 are no limit.
fn duration(milliseconds: i32, function: &'static str, name: &str) -> Result<Option<Duration>> {
    Ok(number(milliseconds, -1, i32::MAX, function, name)?.and_then(drain))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields that follow one another without a gap leave no padding: copying the bytes copies everything.
    fn assert_no_padding<T: Growing>(widths: &[usize]) {
        assert_eq!(T::FIELDS.len(), widths.len());
        let mut end = size_of::<usize>();
        for (offset, width) in T::FIELDS.iter().zip(widths) {
            assert_eq!(*offset, end, "{}", T::NAME);
            end += width;
        }
        assert_eq!(end, size_of::<T>(), "{}", T::NAME);
    }

    #[test]
    fn the_structs_have_no_padding() {
        assert_no_padding::<oyez_listen_options>(&[4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8, 8]);
        assert_no_padding::<oyez_server_options>(&[4, 4, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8, 4, 4, 4, 4, 4, 4, 8, 8]);
    }

    #[test]
    fn sizes_of_other_versions() {
        let known = size_of::<oyez_listen_options>();
        let check = |size| check_size(size, known, oyez_listen_options::FIELDS, "f", "o");
        for size in [known, known + 8, LARGEST, offset_of!(oyez_listen_options, backlog)] {
            assert!(check(size).is_ok(), "{size}");
        }
        for size in [0, 1, 3, 9, known - 1, LARGEST + 1, usize::MAX] {
            assert!(check(size).is_err(), "{size}");
        }
    }

    #[test]
    fn a_newer_struct_works_while_its_new_fields_are_zero() {
        #[repr(C)]
        struct Newer {
            known: oyez_listen_options,
            added: u64,
        }
        let mut newer = Newer { known: oyez_listen_options::DEFAULT, added: 0 };
        newer.known.size = size_of::<Newer>();
        newer.known.backlog = 7;
        let read_newer = |newer: &Newer| {
            // SAFETY: the size covers the whole struct.
            unsafe { read((&raw const *newer).cast::<oyez_listen_options>(), "f") }.map(|options| options.backlog)
        };
        assert_eq!(read_newer(&newer).unwrap(), 7);
        newer.added = 1 << 40;
        assert_eq!(read_newer(&newer).unwrap_err().code(), Code::Unsupported);
    }
}
