"""The library through ctypes, as the tests use it.

`lib` has every function's types set. `untyped()` makes a fresh library object without any, which is what a program has
that just calls. The library is the file in OYEZ_LIBRARY, by default the release build of this tree.
"""

import ctypes
import os
import pathlib
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_int32,
    c_size_t,
    c_ssize_t,
    c_uint64,
    c_void_p,
)

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIBRARY = str(pathlib.Path(os.environ.get("OYEZ_LIBRARY") or ROOT / "target/release/liboyez.so").resolve())

if not os.path.exists(LIBRARY):
    raise FileNotFoundError(f"{LIBRARY} is missing: run 'cargo build --release', or set OYEZ_LIBRARY")

CODES = [
    "OYEZ_OK",
    "OYEZ_INVALID_ARGUMENT",
    "OYEZ_INVALID_ADDRESS",
    "OYEZ_NAME_NOT_FOUND",
    "OYEZ_ADDRESS_IN_USE",
    "OYEZ_ADDRESS_NOT_AVAILABLE",
    "OYEZ_PERMISSION_DENIED",
    "OYEZ_LIMIT_REACHED",
    "OYEZ_UNSUPPORTED",
    "OYEZ_TIMED_OUT",
    "OYEZ_STOPPED",
    "OYEZ_CLOSED",
    "OYEZ_REFUSED",
    "OYEZ_TLS",
    "OYEZ_PROTOCOL",
    "OYEZ_FORKED",
    "OYEZ_SYSTEM",
    "OYEZ_INTERNAL",
]
(
    OK,
    INVALID_ARGUMENT,
    INVALID_ADDRESS,
    NAME_NOT_FOUND,
    ADDRESS_IN_USE,
    ADDRESS_NOT_AVAILABLE,
    PERMISSION_DENIED,
    LIMIT_REACHED,
    UNSUPPORTED,
    TIMED_OUT,
    STOPPED,
    CLOSED,
    REFUSED,
    TLS,
    PROTOCOL,
    FORKED,
    SYSTEM,
    INTERNAL,
) = range(18)

DEFAULT, ON, OFF = 0, 1, -1
THREADS, SEQUENTIAL, PROCESSES = 0, 1, 2

Handler = CFUNCTYPE(None, c_uint64, c_void_p)
BeforeBind = CFUNCTYPE(c_int32, c_int32, c_void_p)
Log = CFUNCTYPE(None, c_int32, c_char_p, c_char_p, c_void_p)
# The bytes are an address for ctypes.string_at(), the reason is one for oyez_error_code() and its like.
OnConnection = CFUNCTYPE(None, c_uint64, c_void_p)
OnData = CFUNCTYPE(c_size_t, c_uint64, c_void_p, c_size_t, c_void_p)
OnClose = CFUNCTYPE(None, c_uint64, c_void_p, c_void_p)


class ListenOptions(Structure):
    """oyez_listen_options; made with its size set, like the INIT macro does."""

    _fields_ = [("size", c_size_t)]
    _fields_ += [
        (name, c_int32)
        for name in (
            "backlog",
            "reuse_address",
            "reuse_port",
            "nonblocking",
            "close_on_exec",
            "no_delay",
            "keep_alive_seconds",
            "defer_accept_seconds",
            "fast_open",
            "receive_buffer",
            "send_buffer",
            "free_bind",
            "multipath",
            "unix_mode",
        )
    ]
    _fields_ += [
        ("interface", c_char_p),
        ("unix_user", c_char_p),
        ("unix_group", c_char_p),
        ("before_bind", BeforeBind),
        ("before_bind_user", c_void_p),
    ]

    def __init__(self, **values):
        super().__init__(size=ctypes.sizeof(ListenOptions), **values)


class ServerOptions(Structure):
    """oyez_server_options; made with its size set, like the INIT macro does."""

    _fields_ = [("size", c_size_t)]
    _fields_ += [
        (name, c_int32)
        for name in (
            "model",
            "workers",
            "idle_timeout_ms",
            "read_timeout_ms",
            "write_timeout_ms",
            "lifetime_ms",
            "drain_ms",
            "stop_on_signals",
        )
    ]
    _fields_ += [("log", Log), ("log_user", c_void_p), ("max_input", c_size_t), ("max_output", c_size_t)]
    _fields_ += [
        (name, c_int32)
        for name in (
            "backend",
            "max_connections",
            "max_connections_per_address",
            "accept_rate",
            "accept_burst",
            "reserved",
        )
    ]
    _fields_ += [("allow", c_char_p), ("deny", c_char_p)]

    def __init__(self, **values):
        super().__init__(size=ctypes.sizeof(ServerOptions), **values)


class Events(Structure):
    """oyez_events; made with its size set, like the INIT macro does. What is not given is NULL."""

    _fields_ = [
        ("size", c_size_t),
        ("on_open", OnConnection),
        ("on_data", OnData),
        ("on_drain", OnConnection),
        ("on_close", OnClose),
    ]

    def __init__(self, **values):
        super().__init__(size=ctypes.sizeof(Events), **values)


class Stats(Structure):
    """oyez_stats; made with its size set, like the INIT macro does."""

    _fields_ = [("size", c_size_t)]
    _fields_ += [
        (name, c_uint64)
        for name in (
            "accepted",
            "active",
            "handler_failures",
            "refused_limit",
            "refused_address",
            "refused_rate",
            "refused_rules",
            "refused_proxy",
            "refused_tls",
            "accept_errors",
            "descriptor_pauses",
            "drained",
            "cut",
            "bytes_in",
            "bytes_out",
            "timeouts",
            "listeners",
            "queue",
            "backlog",
            "dropped",
        )
    ]

    def __init__(self, **values):
        super().__init__(size=ctypes.sizeof(Stats), **values)


SIGNATURES = {
    "oyez_version": (c_char_p, []),
    "oyez_last_error": (c_void_p, []),
    "oyez_error_code": (c_int32, [c_void_p]),
    "oyez_error_errno": (c_int32, [c_void_p]),
    "oyez_error_operation": (c_char_p, [c_void_p]),
    "oyez_error_address": (c_char_p, [c_void_p]),
    "oyez_error_message": (c_char_p, [c_void_p]),
    "oyez_error_hint": (c_char_p, [c_void_p]),
    "oyez_code_name": (c_char_p, [c_int32]),
    "oyez_perror": (None, [c_char_p]),
    # c_void_p takes a buffer of any kind, NULL, and an address as a number.
    "oyez_error_text": (c_int32, [c_void_p, c_size_t]),
    "oyez_listen": (c_int32, [c_char_p, POINTER(ListenOptions)]),
    "oyez_local_port": (c_int32, [c_int32]),
    "oyez_local_address": (c_int32, [c_int32, c_void_p, c_size_t]),
    "oyez_peer_address": (c_int32, [c_int32, c_void_p, c_size_t]),
    "oyez_unlisten": (c_int32, [c_int32]),
    "oyez_check": (c_int32, [c_char_p, c_void_p, c_size_t]),
    "oyez_accept": (c_int32, [c_int32, c_void_p, c_size_t, c_int32]),
    "oyez_read": (c_ssize_t, [c_int32, c_void_p, c_size_t, c_int32]),
    "oyez_write": (c_ssize_t, [c_int32, c_void_p, c_size_t, c_int32]),
    "oyez_conn_fd": (c_int32, [c_uint64]),
    "oyez_conn_peer": (c_int32, [c_uint64, c_void_p, c_size_t]),
    "oyez_conn_local": (c_int32, [c_uint64, c_void_p, c_size_t]),
    "oyez_conn_read": (c_ssize_t, [c_uint64, c_void_p, c_size_t]),
    "oyez_conn_read_line": (c_ssize_t, [c_uint64, c_void_p, c_size_t]),
    "oyez_conn_write": (c_ssize_t, [c_uint64, c_void_p, c_size_t]),
    "oyez_conn_close": (c_int32, [c_uint64]),
    "oyez_conn_abort": (c_int32, [c_uint64]),
    "oyez_conn_detach": (c_int32, [c_uint64]),
    "oyez_conn_set_user": (c_int32, [c_uint64, c_void_p]),
    "oyez_conn_user": (c_void_p, [c_uint64]),
    "oyez_conn_set_timeout": (c_int32, [c_uint64, c_int32]),
    "oyez_conn_pause": (c_int32, [c_uint64]),
    "oyez_conn_resume": (c_int32, [c_uint64]),
    "oyez_serve": (c_int32, [c_char_p, Handler, c_void_p, POINTER(ServerOptions)]),
    "oyez_server_new": (c_int32, [Handler, c_void_p, POINTER(ServerOptions)]),
    "oyez_server_new_events": (c_int32, [POINTER(Events), c_void_p, POINTER(ServerOptions)]),
    "oyez_server_listen": (c_int32, [c_int32, c_char_p, POINTER(ListenOptions)]),
    "oyez_server_adopt": (c_int32, [c_int32, c_int32]),
    "oyez_server_run": (c_int32, [c_int32]),
    "oyez_server_start": (c_int32, [c_int32]),
    "oyez_server_wait": (c_int32, [c_int32, c_int32]),
    "oyez_server_pause": (c_int32, [c_int32]),
    "oyez_server_resume": (c_int32, [c_int32]),
    "oyez_server_stop": (c_int32, [c_int32, c_int32]),
    "oyez_server_close": (c_int32, [c_int32]),
    "oyez_server_stats": (c_int32, [c_int32, POINTER(Stats)]),
    "oyez_server_stats_text": (c_int32, [c_int32, c_char_p, c_size_t]),
    "oyez_server_set_limits": (c_int32, [c_int32, POINTER(ServerOptions)]),
    "oyez_server_accept": (c_int32, [c_int32, POINTER(c_uint64), c_int32]),
    "oyez_server_poll": (c_int32, [c_int32, c_int32]),
    "oyez_server_poll_fd": (c_int32, [c_int32]),
}


def untyped():
    """A library object on which no argtypes and no restype is set."""
    return ctypes.CDLL(LIBRARY)


def _typed():
    library = ctypes.CDLL(LIBRARY, use_errno=True)
    for name, (result, parameters) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = parameters
    return library


lib = _typed()

# A handler that is NULL: the program accepts by hand.
NO_HANDLER = ctypes.cast(None, Handler)


class OyezError(Exception):
    """A failed call, with every part of its error."""

    def __init__(self):
        self.errno = ctypes.get_errno()
        self.code = lib.oyez_error_code(None)
        self.system_errno = lib.oyez_error_errno(None)
        self.operation = lib.oyez_error_operation(None).decode()
        self.address = lib.oyez_error_address(None).decode()
        self.message = lib.oyez_error_message(None).decode()
        self.hint = lib.oyez_error_hint(None).decode()
        super().__init__(f"{CODES[self.code]}: {self.message}" + (f" (hint: {self.hint})" if self.hint else ""))


def check(result):
    """The result of a call, or its error as an exception."""
    if result is None or result < 0:
        raise OyezError()
    return result


def text(function, *arguments):
    """The text that a function with snprintf's rules writes."""
    buffer = ctypes.create_string_buffer(256)
    length = check(function(*arguments, buffer, len(buffer)))
    assert length == len(buffer.value), (length, buffer.value)
    return buffer.value.decode()


def local_address(fd):
    return text(lib.oyez_local_address, fd)


def peer_address(fd):
    return text(lib.oyez_peer_address, fd)


def listen(address="127.0.0.1:0", **options):
    """A listening descriptor, with the options named."""
    return check(lib.oyez_listen(address.encode(), ctypes.byref(ListenOptions(**options)) if options else None))


def accept(listener, timeout_ms=20000):
    """A connected descriptor and the client's address."""
    peer = ctypes.create_string_buffer(128)
    fd = check(lib.oyez_accept(listener, peer, len(peer), timeout_ms))
    return fd, peer.value.decode()


def read(fd, size=65536, timeout_ms=20000):
    buffer = ctypes.create_string_buffer(size)
    length = check(lib.oyez_read(fd, buffer, size, timeout_ms))
    return buffer.raw[:length]


def write(fd, data, timeout_ms=20000):
    written = check(lib.oyez_write(fd, data, len(data), timeout_ms))
    assert written == len(data), (written, len(data))


def conn_read(connection, size=65536):
    buffer = ctypes.create_string_buffer(size)
    length = check(lib.oyez_conn_read(connection, buffer, size))
    return buffer.raw[:length]


def conn_write(connection, data):
    written = check(lib.oyez_conn_write(connection, data, len(data)))
    assert written == len(data), (written, len(data))


def conn_read_line(connection, size=4096):
    buffer = ctypes.create_string_buffer(size)
    length = check(lib.oyez_conn_read_line(connection, buffer, size))
    return buffer.raw[:length]


def echo(connection, _user):
    """A handler that sends back what it gets."""
    buffer = ctypes.create_string_buffer(65536)
    while True:
        size = lib.oyez_conn_read(connection, buffer, len(buffer))
        if size <= 0 or lib.oyez_conn_write(connection, buffer, size) != size:
            return
