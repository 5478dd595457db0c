"""What the tests share: the class that counts descriptors and threads, clients, servers and child processes."""

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import os
import random
import re
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import oyez_ctypes as oyez
from oyez_ctypes import HERE, ROOT, lib
from programs import signal_masks

# Longest wait for anything that must happen; a healthy run never comes near it.
PATIENCE = 30
# A test that hangs in a call ends the run with a traceback after this many seconds.
HANG = 150

# Random bytes that payloads are cut from: random enough to show a byte that is lost, doubled or from another client.
NOISE = random.Random(20240229).randbytes(2 << 20)


def payload(generator, largest):
    """Random bytes of a random length, 0 and `largest` included."""
    size = generator.choice((0, 1, largest, generator.randint(0, largest), generator.randint(0, largest)))
    start = generator.randint(0, len(NOISE) - size)
    return memoryview(NOISE)[start : start + size]


def eventually(condition, what, patience=PATIENCE):
    """Waits until the condition holds, for what no descriptor or event announces."""
    deadline = time.monotonic() + patience
    pause = 0.001
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience} s: {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def open_descriptors():
    """What this process has open, by number."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    # The listing's own descriptor is gone by the time that its link is read.
    return {fd: target for fd, target in found.items() if not target.startswith(f"/proc/{os.getpid()}/fd")}


def threads():
    """The kernel's threads of this process, Python's or not."""
    return set(os.listdir("/proc/self/task"))


class TestCase(unittest.TestCase):
    """A test that must leave descriptors, threads and signal dispositions as it found them."""

    def setUp(self):
        super().setUp()
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(HANG, exit=True, file=sys.__stderr__)
            self.addCleanup(faulthandler.cancel_dump_traceback_later)
        self.unraisable = []
        hook, sys.unraisablehook = sys.unraisablehook, self._note_unraisable
        self.addCleanup(setattr, sys, "unraisablehook", hook)
        gc.collect()
        self._descriptors = open_descriptors()
        self._threads = threads()
        self._dispositions = signal_masks()
        self.addCleanup(self._check_nothing_is_left)

    def _note_unraisable(self, args):
        self.unraisable.append(f"{args.err_msg or 'ignored'} in {args.object!r}: {args.exc_value!r}")

    def _check_nothing_is_left(self):
        gc.collect()
        self.assertEqual(self.unraisable, [], "exceptions in a callback or a finalizer")

        def left():
            new = {fd: to for fd, to in open_descriptors().items() if self._descriptors.get(fd) != to}
            gone = {fd: to for fd, to in self._descriptors.items() if fd not in open_descriptors()}
            return f"descriptors left {new}, gone {gone}; threads left {threads() - self._threads}"

        eventually(
            lambda: open_descriptors() == self._descriptors and threads() <= self._threads,
            left,
            patience=8,
        )
        self.assertEqual(signal_masks(), self._dispositions, "signal dispositions changed")

    def fails_with(self, code, call, *arguments, **keywords):
        """Calls, expects an OyezError of this code, checks what every error must have, and returns it."""
        with self.assertRaises(oyez.OyezError) as caught:
            call(*arguments, **keywords)
        error = caught.exception
        self.assertEqual(oyez.CODES[error.code], oyez.CODES[code], error)
        self.assertNotEqual(error.errno, 0, error)
        self.assertNotEqual(error.message, "", error)
        self.assertNotIn("\n", error.message)
        return error

    def directory(self):
        """A directory with a short name, for Unix sockets, removed at the end."""
        path = tempfile.mkdtemp(prefix="oyez-")
        self.addCleanup(shutil.rmtree, path, ignore_errors=True)
        return path

    def client(self, address, timeout=PATIENCE):
        """A connected client, closed at the end."""
        sock = connect(address, timeout)
        self.addCleanup(sock.close)
        return sock

    def thread(self, function, *arguments):
        """Runs a function on a thread; `result()` joins it and passes its result or exception on."""
        job = Job(function, *arguments)
        self.addCleanup(job.join)
        return job


class Job:
    """A function that runs on a thread of its own."""

    def __init__(self, function, *arguments):
        self._outcome = None
        self._error = None

        def run():
            try:
                self._outcome = function(*arguments)
            except BaseException as error:  # handed to result()
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def join(self):
        self._thread.join(PATIENCE)

    def running(self):
        return self._thread.is_alive()

    def result(self, patience=PATIENCE):
        self._thread.join(patience)
        if self._thread.is_alive():
            raise AssertionError(f"still running after {patience} s")
        if self._error is not None:
            # The traceback's frames would keep the test's sockets alive.
            error, self._error = self._error, None
            raise error
        return self._outcome


def have_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


needs_ipv6 = unittest.skipUnless(have_ipv6(), "this host has no ::1")


def parse(address):
    """An address text of oyez as a family and what Python's sockets take; a wildcard becomes loopback."""
    if address.startswith("unix:@"):
        return socket.AF_UNIX, "\0" + address[6:]
    if address.startswith("unix:"):
        return socket.AF_UNIX, address[5:]
    match = re.fullmatch(r"\[([^\]]*)\]:(\d+)", address)
    if match:
        return socket.AF_INET6, ("::1" if match[1] == "::" else match[1], int(match[2]))
    match = re.fullmatch(r"([\d.]+):(\d+)", address)
    if not match:
        raise AssertionError(f"not an address: {address!r}")
    return socket.AF_INET, ("127.0.0.1" if match[1] == "0.0.0.0" else match[1], int(match[2]))


def connect(address, timeout=PATIENCE):
    """A client, connected to an address text of oyez."""
    family, target = parse(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def listening(address):
    """Whether a socket listens at an IPv4 address, without connecting, which a server would notice."""
    _family, (_host, port) = parse(address)
    with open("/proc/net/tcp", encoding="ascii") as table:
        next(table)
        sockets = [line.split() for line in table]
    return any(int(fields[1].split(":")[1], 16) == port and fields[3] == "0A" for fields in sockets)


def receive_exactly(sock, size):
    """As many bytes as were asked for."""
    parts = []
    while size:
        part = sock.recv(min(size, 1 << 20))
        if not part:
            raise AssertionError(f"the stream ended {size} bytes early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_all(sock):
    """Everything until the end of the stream."""
    parts = []
    while True:
        part = sock.recv(1 << 18)
        if not part:
            return b"".join(parts)
        parts.append(part)


def ask(sock, data):
    """Sends and expects it back."""
    sock.sendall(data)
    answer = receive_exactly(sock, len(data))
    if answer != data:
        raise AssertionError(f"sent {data!r}, got {answer!r}")


def reset(sock):
    """Closes a client with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


class Exchange:
    """One client that sends a payload, ends its stream, and compares what comes back as it comes."""

    def __init__(self, sock, data):
        self.sock = sock
        self.data = data
        self.sent = 0
        self.received = 0
        self.done = False

    def interest(self):
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.sent < len(self.data) else 0)

    def send(self, limit):
        if self.sent < limit:
            self.sent += self.sock.send(self.data[self.sent : min(limit, self.sent + (1 << 17))])

    def receive(self):
        part = self.sock.recv(1 << 17)
        if not part:
            if self.received != len(self.data):
                raise AssertionError(f"{len(self.data)} bytes sent, {self.received} came back")
            self.done = True
            return
        if part != self.data[self.received : self.received + len(part)]:
            raise AssertionError(f"wrong bytes after {self.received} of {len(self.data)}")
        self.received += len(part)


def exchange_all(address, payloads, all_at_once=False):
    """Connects a client for each payload, all open at the same time, and exchanges every byte, from one thread.

    With `all_at_once` each client's first byte must have come back before any sends more: all are served at once.
    """
    exchanges = []
    selector = selectors.DefaultSelector()
    try:
        for data in payloads:
            exchanges.append(Exchange(connect(address), data))
        if all_at_once:
            for exchange in exchanges:
                exchange.send(1)
            for exchange in exchanges:
                if len(exchange.data):
                    exchange.receive()
        for exchange in exchanges:
            exchange.sock.setblocking(False)
            if exchange.sent == len(exchange.data):
                exchange.sock.shutdown(socket.SHUT_WR)
            selector.register(exchange.sock, exchange.interest(), exchange)
        _run_exchanges(selector, len(exchanges))
    finally:
        selector.close()
        for exchange in exchanges:
            exchange.sock.close()


def _run_exchanges(selector, open_count):
    deadline = time.monotonic() + 60
    while open_count:
        events = selector.select(max(0, deadline - time.monotonic()))
        if not events and time.monotonic() > deadline:
            raise AssertionError(f"{open_count} clients unfinished after 60 s")
        for key, mask in events:
            exchange = key.data
            if mask & selectors.EVENT_WRITE and exchange.sent < len(exchange.data):
                exchange.send(len(exchange.data))
                if exchange.sent == len(exchange.data):
                    exchange.sock.shutdown(socket.SHUT_WR)
                    selector.modify(exchange.sock, selectors.EVENT_READ, exchange)
            if mask & selectors.EVENT_READ:
                exchange.receive()
                if exchange.done:
                    selector.unregister(exchange.sock)
                    open_count -= 1


class Server:
    """A server of this process, closed at the test's end."""

    def __init__(self, test, handler, addresses="127.0.0.1:0", start=True, listen_options=None, **options):
        self.callback = oyez.Handler(handler) if handler else oyez.NO_HANDLER
        self.options = oyez.ServerOptions(**options)
        self.number = oyez.check(lib.oyez_server_new(self.callback, None, ctypes.byref(self.options)))
        test.addCleanup(self._close_if_open)
        self.listener = None
        if addresses:
            self.listener = self.listen(addresses, **(listen_options or {}))
        if start:
            oyez.check(lib.oyez_server_start(self.number))

    def listen(self, addresses, **options):
        given = ctypes.byref(oyez.ListenOptions(**options)) if options else None
        return oyez.check(lib.oyez_server_listen(self.number, addresses.encode(), given))

    @property
    def address(self):
        return oyez.local_address(self.listener)

    def run(self):
        return oyez.check(lib.oyez_server_run(self.number))

    def start(self):
        return oyez.check(lib.oyez_server_start(self.number))

    def stop(self, drain_ms=-1):
        return oyez.check(lib.oyez_server_stop(self.number, drain_ms))

    def wait(self, timeout_ms=PATIENCE * 1000):
        return oyez.check(lib.oyez_server_wait(self.number, timeout_ms))

    def close(self):
        return oyez.check(lib.oyez_server_close(self.number))

    def stats(self):
        stats = oyez.Stats()
        oyez.check(lib.oyez_server_stats(self.number, ctypes.byref(stats)))
        return stats

    def _close_if_open(self):
        # Whatever state a failed test left it in: end the drain time at once, then close.
        if lib.oyez_server_stop(self.number, 0) == 0:
            lib.oyez_server_close(self.number)


class Program:
    """A child process that says "listening on ADDRESS" on a line of its standard output."""

    def __init__(self, test, arguments, env=None, cwd=None, tracer=(), pass_fds=(), ready=True):
        environment = dict(os.environ, OYEZ_LIBRARY=oyez.LIBRARY, PYTHONUNBUFFERED="1")
        library = os.path.dirname(oyez.LIBRARY)
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, (library, environment.get("LD_LIBRARY_PATH"))))
        environment["PYTHONPATH"] = ":".join(filter(None, (str(HERE), environment.get("PYTHONPATH"))))
        environment.update(env or {})
        self.traced = bool(tracer)
        self.arguments = [str(argument) for argument in arguments]
        self._errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*tracer, *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=cwd,
            env=environment,
            pass_fds=pass_fds,
        )
        test.addCleanup(self._end)
        self._pending = b""
        self.lines = []
        self.address = None
        if ready:
            self.address = self.wait_for(r"listening on (\S+)")[1]

    @property
    def pid(self):
        """The program's process id, also where it runs under a tracer."""
        if not self.traced:
            return self.process.pid
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as children:
            return int(children.read().split()[0])

    def line(self, patience=PATIENCE):
        """The next line of its output, or None at the end."""
        deadline = time.monotonic() + patience
        while b"\n" not in self._pending:
            if not select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{self} said nothing for {patience} s; {self.said()}")
            part = os.read(self.process.stdout.fileno(), 65536)
            if not part:
                return None
            self._pending += part
        line, self._pending = self._pending.split(b"\n", 1)
        self.lines.append(line.decode(errors="replace"))
        return self.lines[-1]

    def wait_for(self, pattern, patience=PATIENCE):
        """Reads on to a line that has the pattern; the match."""
        while True:
            line = self.line(patience)
            if line is None:
                raise AssertionError(f"{self} ended without {pattern!r}; {self.said()}")
            match = re.search(pattern, line)
            if match:
                return match

    def signal(self, number):
        os.kill(self.pid, number)

    def wait(self, patience=PATIENCE):
        """Its exit status, negative for a signal."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} still runs after {patience} s; {self.said()}") from None

    def running(self):
        return self.process.poll() is None

    def rest(self):
        """Reads its output to the end and returns all of its lines."""
        while self.line() is not None:
            pass
        return self.lines

    def errors(self):
        """What it wrote to standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def said(self):
        return f"output {self.lines + [self._pending]!r}, errors {self.errors()!r}"

    def __str__(self):
        return " ".join(os.path.basename(argument) for argument in self.arguments[:4])

    def _end(self):
        if self.running():
            # A tracer that is killed lets its program go on, so the program first.
            with contextlib.suppress(OSError, IndexError):
                os.kill(self.pid, signal.SIGKILL)
            if self.traced:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(2)
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self._errors.close()


def python_program(test, *arguments, **keywords):
    """programs.py of this folder in a child process."""
    return Program(test, [sys.executable, HERE / "programs.py", *arguments], **keywords)


def listening_socket(address="127.0.0.1:0", **options):
    """Python's socket object on a descriptor from oyez_listen."""
    return socket.socket(fileno=oyez.listen(address, **options))


def ask_once(test, listener, address):
    """One client, accepted by Python, that gets its bytes back; returns the peer as oyez tells it."""
    client = test.client(address)
    connection, _peer = listener.accept()
    with connection:
        client.sendall(b"question")
        test.assertEqual(connection.recv(64), b"question")
        connection.sendall(b"answer")
        test.assertEqual(client.recv(64), b"answer")
        return oyez.peer_address(connection.fileno())


_compiled = {}
_compiled_in = None


def compile_c(source, *flags):
    """An executable made from a C file and the library, once for the whole run; skips where there is no compiler."""
    global _compiled_in
    compiler = os.environ.get("CC") or "cc"
    if not shutil.which(compiler):
        raise unittest.SkipTest(f"there is no C compiler {compiler}")
    if source not in _compiled:
        if _compiled_in is None:
            _compiled_in = tempfile.mkdtemp(prefix="oyez-c-")
            atexit.register(shutil.rmtree, _compiled_in, ignore_errors=True)
        output = os.path.join(_compiled_in, f"program{len(_compiled)}")
        command = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", *flags, "-I", str(ROOT / "include")]
        command += [str(source), "-o", output, oyez.LIBRARY, "-Wl,-rpath," + os.path.dirname(oyez.LIBRARY), "-pthread"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout}")
        _compiled[source] = output
    return _compiled[source]
