"""Programs that the tests start as processes of their own: python3 programs.py NAME [ARGUMENT ...].

Those that serve print "listening on ADDRESS" once they do, and lines of JSON about what happened.
"""

import ctypes
import errno
import json
import os
import signal
import sys
import threading

import oyez_ctypes as oyez
from oyez_ctypes import lib

PATTERN_SIZE = 1 << 20


def pattern():
    """A mebibyte in which no two stretches are alike, the same in the program and in its test."""
    import random

    return random.Random(32).randbytes(PATTERN_SIZE)


def tell(**what):
    print(json.dumps(what), flush=True)


def signal_masks():
    """The signals that are blocked, ignored and caught. The C library's own two are not the program's business."""
    with open("/proc/self/status", encoding="ascii") as status:
        lines = [line.split() for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
    return [(name, int(mask, 16) & ~(3 << 31)) for name, mask in lines]


def serve(handler, address="127.0.0.1:0", **options):
    """Serves until a signal stops it, and tells how it ended."""
    callback = oyez.Handler(handler)
    given = oyez.ServerOptions(stop_on_signals=oyez.ON, **options)
    server = oyez.check(lib.oyez_server_new(callback, None, ctypes.byref(given)))
    listener = oyez.check(lib.oyez_server_listen(server, address.encode(), None))
    print("listening on", oyez.local_address(listener), flush=True)
    oyez.check(lib.oyez_server_run(server))
    stats = oyez.Stats()
    oyez.check(lib.oyez_server_stats(server, ctypes.byref(stats)))
    oyez.check(lib.oyez_server_close(server))
    tell(accepted=stats.accepted, drained=stats.drained, cut=stats.cut, active=stats.active)


def echo(model, drain_ms):
    """An echo server."""
    serve(oyez.echo, model=int(model), drain_ms=int(drain_ms))


def send(model, drain_ms, mebibytes):
    """A server that sends so many mebibytes to each client, in one call."""
    data = pattern() * int(mebibytes)

    def handler(connection, _user):
        tell(began=True)
        written = lib.oyez_conn_write(connection, data, len(data))
        tell(written=written, code=0 if written >= 0 else lib.oyez_error_code(None))

    serve(handler, model=int(model), drain_ms=int(drain_ms))


def serve_call(address):
    """oyez_serve itself, on the main thread; the dispositions are compared before and after."""

    before = signal_masks()
    inside = []

    def log(_level, event, text, _user):
        del event, text

    def handler(connection, user):
        inside.append(signal_masks() != before)
        oyez.echo(connection, user)

    callback, logger = oyez.Handler(handler), oyez.Log(log)
    options = oyez.ServerOptions(stop_on_signals=oyez.ON, log=logger)
    # Where oyez_serve listens only the program's own choice of the address tells.
    print("listening on", address, flush=True)
    result = lib.oyez_serve(address.encode(), callback, None, ctypes.byref(options))
    tell(result=result, same=signal_masks() == before, handled_inside=all(inside))
    interrupted = False
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        interrupted = True
    tell(interrupted=interrupted)


def broken_pipe():
    """Writes to clients that are gone, with SIGPIPE at its default, which ends a process."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    listener = oyez.listen()
    print("listening on", oyez.local_address(listener), flush=True)
    fd, _peer = oyez.accept(listener)
    assert oyez.read(fd) == b"go", "the client's word"
    codes = []
    for _ in range(100):
        if lib.oyez_write(fd, b"x" * 1000, 1000, 1000) < 0:
            codes.append(lib.oyez_error_code(None))
            break
        threading.Event().wait(0.01)
    os.close(fd)

    done = threading.Event()

    def handler(connection, _user):
        oyez.conn_read(connection)
        for _ in range(100):
            if lib.oyez_conn_write(connection, b"x" * 1000, 1000) < 0:
                codes.append(lib.oyez_error_code(None))
                break
            threading.Event().wait(0.01)
        # A plain write(2) of a handler: SIGPIPE is blocked in its thread.
        try:
            os.write(lib.oyez_conn_fd(connection), b"x")
            codes.append("no error")
        except OSError as error:
            codes.append(errno.errorcode[error.errno])
        done.set()

    callback = oyez.Handler(handler)
    server = oyez.check(lib.oyez_server_new(callback, None, None))
    oyez.check(lib.oyez_server_adopt(server, listener))
    oyez.check(lib.oyez_server_start(server))
    done.wait(20)
    oyez.check(lib.oyez_server_close(server))
    tell(codes=codes, disposition=signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL)


def fork():
    """A child that fork made uses its parent's server and connection."""
    results = {}
    forked = threading.Event()
    release = threading.Event()
    connections = []

    def handler(connection, user):
        connections.append(connection)
        forked.set()
        release.wait(20)
        oyez.echo(connection, user)

    callback = oyez.Handler(handler)
    server = oyez.check(lib.oyez_server_new(callback, None, None))
    listener = oyez.check(lib.oyez_server_listen(server, b"127.0.0.1:0", None))
    oyez.check(lib.oyez_server_start(server))
    print("listening on", oyez.local_address(listener), flush=True)
    forked.wait(20)
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing may wait in here: the parent's threads, and what they hold, are not in the child.
        signal.alarm(20)
        buffer = ctypes.create_string_buffer(16)
        connection = connections[0]
        calls = {
            "start": lambda: lib.oyez_server_start(server),
            "stop": lambda: lib.oyez_server_stop(server, 0),
            "wait": lambda: lib.oyez_server_wait(server, 0),
            "close": lambda: lib.oyez_server_close(server),
            "listen": lambda: lib.oyez_server_listen(server, b"127.0.0.1:0", None),
            "stats": lambda: lib.oyez_server_stats(server, ctypes.byref(oyez.Stats())),
            "pause": lambda: lib.oyez_server_pause(server),
            "conn_read": lambda: lib.oyez_conn_read(connection, buffer, 16),
            "conn_write": lambda: lib.oyez_conn_write(connection, b"x", 1),
            "conn_fd": lambda: lib.oyez_conn_fd(connection),
            "conn_close": lambda: lib.oyez_conn_close(connection),
            "conn_abort": lambda: lib.oyez_conn_abort(connection),
        }
        for name, call in calls.items():
            results[name] = [call(), lib.oyez_error_code(None)]
        # A server of the child's own works.
        own = lib.oyez_server_new(callback, None, None)
        results["own"] = [min(own, 1), lib.oyez_server_close(own)]
        os.write(writable, json.dumps(results).encode())
        os._exit(0)
    os.close(writable)
    told = b""
    while True:
        part = os.read(readable, 65536)
        if not part:
            break
        told += part
    os.close(readable)
    status = os.waitpid(child, 0)[1]
    tell(child=json.loads(told or b"{}"), status=status)
    release.set()
    oyez.check(lib.oyez_server_stop(server, -1))
    oyez.check(lib.oyez_server_wait(server, 20000))
    oyez.check(lib.oyez_server_close(server))
    tell(closed=True)


def quiet():
    """What loading the library, listening, accepting and closing leave as it was, and that nothing is printed."""

    def look():
        with open("/proc/self/status", encoding="ascii") as status:
            more = [line for line in status if line.startswith(("Umask", "Threads"))]
        return signal_masks(), more, dict(os.environb), os.getcwd()

    before = look()
    library = ctypes.CDLL(oyez.LIBRARY)
    assert look() == before, "loading"
    fd = library.oyez_listen(b"127.0.0.1:0", None)
    assert library.oyez_accept(fd, None, 0, 10) == -1
    assert library.oyez_listen(b"nonsense", None) == -1
    server = library.oyez_server_new(None, None, None)
    assert library.oyez_server_adopt(server, fd) == fd
    assert library.oyez_server_close(server) == 0
    assert look() == before, "listening, accepting, closing"


def inherited(fd, passed_by):
    """Listens on a descriptor that was passed in, and serves one client by hand."""
    if passed_by == "systemd":
        os.dup2(int(fd), 3, inheritable=True)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
        listener = oyez.listen("systemd:web")
        assert listener == 3, listener
        oyez_error = None
        try:
            oyez.listen("systemd:other")
        except oyez.OyezError as error:
            oyez_error = error.code
        tell(missing=oyez_error)
    else:
        listener = oyez.listen(f"fd:{fd}")
    print("listening on", oyez.local_address(listener), flush=True)
    connection, _peer = oyez.accept(listener)
    while True:
        data = oyez.read(connection)
        if not data:
            break
        oyez.write(connection, data)
    os.close(connection)


COMMANDS = {
    "broken_pipe": broken_pipe,
    "echo": echo,
    "fork": fork,
    "inherited": inherited,
    "quiet": quiet,
    "send": send,
    "serve_call": serve_call,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
