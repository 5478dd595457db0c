"""System calls counted and made to fail, with strace: what the library calls, and what it does about errors.

An injected error replaces the call: what strace fails has not happened, so a client stays in the queue.
"""

import contextlib
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
import unittest
from collections import Counter

import oyez_ctypes as oyez
from support import (
    HERE,
    PATIENCE,
    Program,
    TestCase,
    ask,
    compile_c,
    connect,
    eventually,
    have_ipv6,
    receive_all,
)

SOURCE = HERE / "fault_program.c"


def why_no_strace():
    """Why calls cannot be traced here, or None."""
    if not shutil.which("strace"):
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-f", "-qq", "-o", os.devnull, "-e", "trace=getpid", "-e", "inject=getpid:error=EPERM", "true"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return f"strace does not work here: {tried.stderr.strip()}" if tried.returncode else None


NO_STRACE = why_no_strace()


def tracer(log, *expressions):
    """The command that runs a program under strace."""
    options = [option for expression in expressions for option in ("-e", expression)]
    return ["strace", "-f", "-qq", "-ttt", "-o", log, "-e", "signal=none", *options]


class Call:
    """One call of a trace."""

    def __init__(self, line):
        match = re.match(r"(\d+) +(\d+\.\d+) (\w+)\((.*)", line)
        self.thread, self.time, self.name, self.rest = int(match[1]), float(match[2]), match[3], match[4]
        self.injected = "(INJECTED)" in line

    def __repr__(self):
        return f"{self.name}({self.rest}"


def calls(log):
    """The calls of a trace; the second half of an interrupted one counts with its first."""
    with open(log, encoding="utf-8", errors="replace") as lines:
        text = lines.read().split("\n")
    found = []
    for line in text:
        if re.match(r"\d+ +\d+\.\d+ \w+\(", line):
            found.append(Call(line))
        elif "resumed>" in line and "(INJECTED)" in line:
            thread = int(line.split()[0])
            next(call for call in reversed(found) if call.thread == thread).injected = True
    return found


def between_marks(log):
    found = calls(log)
    marks = [number for number, call in enumerate(found) if re.match(r'1, "(begin|end)\\n"', call.rest)]
    if len(marks) != 2:
        raise AssertionError(f"marks at {marks} of {found}")
    return found[marks[0] + 1 : marks[1]]


def traced_by(task):
    """The process that traces a thread, 0 where none does."""
    return int(re.search(r"^TracerPid:\t(\d+)$", (task / "status").read_text(), re.MULTILINE)[1])


@unittest.skipIf(NO_STRACE, NO_STRACE)
class Traced(TestCase):
    def setUp(self):
        super().setUp()
        self.executable = compile_c(SOURCE)
        self.log = os.path.join(self.directory(), "trace")

    def traced(self, *arguments, only=(), inject=(), ready=True):
        expressions = [f"trace={','.join(only)}"] if only else []
        expressions += [f"inject={one}" for one in inject]
        return Program(self, [self.executable, *arguments], tracer=tracer(self.log, *expressions), ready=ready)

    def attach(self, program, *expressions):
        """Traces a program from now on. What happens before is not counted, and the loader does without faults."""
        command = [*tracer(self.log, *expressions), "-p", str(program.pid)]
        self.tracing = subprocess.Popen(command, stderr=subprocess.PIPE)
        self.addCleanup(self.detach)

        def is_traced():
            if self.tracing.poll() is not None:
                self.skipTest(f"strace cannot attach here: {self.tracing.stderr.read().decode()}")
            return all(traced_by(task) for task in pathlib.Path(f"/proc/{program.pid}/task").iterdir())

        eventually(is_traced, "strace is attached")

    def attached(self, *arguments, inject):
        """A program whose calls of close(2) are traced, and fail, from when it listens on."""
        program = Program(self, [self.executable, *arguments])
        self.attach(program, "trace=close,write", f"inject={inject}")
        return program

    def detach(self):
        """Ends the tracing, which ends by itself with the program; then the trace is whole."""
        if self.tracing.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.tracing.wait(5)
            self.tracing.terminate()
        self.tracing.wait()
        self.tracing.stderr.close()

    def ends_well(self, program):
        self.assertEqual(program.wait(), 0, program.said())

    def exchange(self, address, count=6):
        """Clients one after another, each of which must get its bytes back and the end of the stream."""
        for number in range(count):
            with connect(address) as client:
                ask(client, b"client %d" % number)
                client.shutdown(socket.SHUT_WR)
                self.assertEqual(receive_all(client), b"")

    def injected(self):
        return sum(call.injected for call in calls(self.log))


class Counts(Traced):
    """No call more than a program that is written by hand."""

    def test_listen(self):
        for address in ("127.0.0.1:0", "0.0.0.0:0") + (("[::1]:0", ":0") if have_ipv6() else ()):
            with self.subTest(address=address):
                program = self.traced("listen", address)
                self.ends_well(program)
                names = [call.name for call in between_marks(self.log)]
                self.assertEqual((names[0], names[-2:]), ("socket", ["bind", "listen"]), names)
                self.assertEqual(set(names[1:-2]) - {"setsockopt"}, set(), names)

    def count_accepts(self, how, timeout_ms, peer):
        """What fifty connections cost that are in the queue; a loop that is ahead of its clients waits in between."""
        program = self.traced("accept", how, 50, timeout_ms, peer)
        with connect(program.address) as first:
            for _ in range(50):
                connect(program.address).close()
            first.sendall(b"x")
        self.ends_well(program)
        return Counter(call.name for call in between_marks(self.log))

    def test_accept(self):
        """A blocking listener without a timeout, and one that does not block with a timeout, as a loop has them."""
        for timeout_ms in (-1, 20000):
            for peer in (0, 1):
                with self.subTest(timeout_ms=timeout_ms, peer=peer):
                    plain = self.count_accepts("plain", timeout_ms, peer)
                    own = self.count_accepts("oyez", timeout_ms, peer)
                    told = f"by hand {dict(plain)}, oyez {dict(own)}"
                    self.assertEqual((plain["accept4"], own["accept4"]), (50, 50), told)
                    self.assertLessEqual(sum(own.values()), sum(plain.values()), told)
                    if timeout_ms == -1:
                        self.assertEqual(own, plain)


class Accepting(Traced):
    """oyez_accept while accept4 fails."""

    def talk(self, *inject, timeout_ms=-1, kind="blocking", only=("accept4",)):
        """Six clients, one after another."""
        program = self.traced("talk", 6, timeout_ms, kind, only=only, inject=inject)
        self.exchange(program.address)
        self.ends_well(program)
        self.assertNotIn("not close-on-exec and blocking", program.rest())
        return program

    def test_errors_that_are_retried(self):
        for error in (
            "ECONNABORTED",
            "EPROTO",
            "EINTR",
            "ENETDOWN",
            "ENOPROTOOPT",
            "EHOSTDOWN",
            "ENONET",
            "EHOSTUNREACH",
            "EOPNOTSUPP",
            "ENETUNREACH",
        ):
            with self.subTest(error=error):
                self.talk(f"accept4:error={error}:when=2..3")
                self.assertEqual(self.injected(), 2)

    def test_errors_that_are_retried_within_a_timeout(self):
        for error in ("ECONNABORTED", "EPROTO", "EINTR", "EAGAIN"):
            with self.subTest(error=error):
                self.talk(f"accept4:error={error}:when=2..3", timeout_ms=20000, kind="nonblocking")
                self.assertEqual(self.injected(), 2)

    def test_interrupted_waiting(self):
        program = self.traced(
            "talk", 6, 20000, "nonblocking", only=["poll", "ppoll"], inject=["poll,ppoll:error=EINTR:when=1..3"]
        )
        eventually(lambda: self.injected() == 3, "three waits are interrupted before the first client")
        self.exchange(program.address)
        self.ends_well(program)

    def test_where_the_system_refuses_io_uring(self):
        """A timeout on a blocking listener prefers it, and does without."""
        for error in ("ENOSYS", "EPERM", "ENOMEM"):
            with self.subTest(error=error):
                self.talk(f"io_uring_setup:error={error}", timeout_ms=20000, only=("io_uring_setup",))
        self.talk("io_uring_enter:error=EPERM", timeout_ms=20000, only=("io_uring_enter",))
        self.talk(timeout_ms=20000, only=("io_uring_setup",))

    def test_no_free_descriptor(self):
        for error, number in (("EMFILE", 24), ("ENFILE", 23), ("ENOMEM", 12), ("ENOBUFS", 105)):
            with self.subTest(error=error):
                program = self.traced("once", 5000, only=["accept4"], inject=[f"accept4:error={error}"])
                ended = program.wait_for("ended with .*")[0]
                self.assertIn(f"ended with OYEZ_LIMIT_REACHED errno {number} ", ended)
                self.ends_well(program)
                self.assertEqual(self.injected(), 1)

    def test_a_persistent_error_does_not_outstay_the_timeout(self):
        program = self.traced("once", 700, only=["accept4"], inject=["accept4:error=EPROTO"])
        ended = program.wait_for(r"ended with (\w+) errno \d+ after (\d+) ms")
        self.ends_well(program)
        self.assertEqual(ended[1], "OYEZ_TIMED_OUT")
        self.assertIn(int(ended[2]), range(690, 4000))
        # A hundred at once, then with pauses.
        self.assertLess(self.injected(), 250)

    def test_without_accept4(self):
        self.talk("accept4:error=ENOSYS")
        self.talk("accept4:error=ENOSYS", timeout_ms=20000, kind="nonblocking")

    def test_close_is_never_repeated(self):
        program = self.attached("close", inject="close:error=EINTR")
        connect(program.address).close()
        self.ends_well(program)
        self.detach()
        result, listener = re.search(r"unlisten (-?\d+) of (\d+)", "\n".join(program.rest())).groups()
        self.assertEqual(result, "0")
        closed = [call for call in between_marks(self.log) if call.rest.startswith(f"{listener})")]
        self.assertEqual(len(closed), 1, closed)

    def test_close_that_is_interrupted(self):
        program = self.attached("talk", 6, -1, "blocking", inject="close:error=EINTR")
        self.exchange(program.address)
        self.ends_well(program)
        self.detach()
        self.assertGreater(self.injected(), 5)


class Listening(Traced):
    """oyez_listen while a step of it fails."""

    def listen(self, address, inject):
        program = self.traced("listen", address, only=["socket", "bind", "listen", "write", "close"], inject=[inject])
        self.ends_well(program)
        self.assertEqual(self.injected(), 1)
        return program

    def test_interrupted_steps(self):
        for step in ("socket", "bind", "listen", "setsockopt"):
            with self.subTest(step=step):
                program = self.traced(
                    "listen", "127.0.0.1:0", only=[step], inject=[f"{step}:error=EINTR:when=1"]
                )
                self.ends_well(program)
                self.assertEqual(self.injected(), 1)
                self.assertRegex(program.address, r"^127\.0\.0\.1:\d+$")

    def test_a_host_without_ipv6(self):
        program = self.listen(":0", "socket:error=EAFNOSUPPORT:when=1")
        self.assertRegex(program.address, r"^0\.0\.0\.0:\d+$")

    def test_an_address_of_ipv6_on_a_host_without(self):
        program = self.traced(
            "listen", "[::1]:0", only=["socket"], inject=["socket:error=EAFNOSUPPORT:when=1"], ready=False
        )
        self.assertEqual(program.wait(), 1, program.said())
        self.assertIn("[::1]:0", program.errors())

    def test_a_step_that_fails_leaves_no_descriptor(self):
        for step, error in (
            ("socket", "EMFILE"),
            ("socket", "EACCES"),
            ("setsockopt", "ENOPROTOOPT"),
            ("bind", "EADDRINUSE"),
            ("bind", "EACCES"),
            ("listen", "EADDRINUSE"),
            ("listen", "ENOBUFS"),
        ):
            with self.subTest(step=step, error=error):
                program = self.traced(
                    "listen",
                    "127.0.0.1:0",
                    only=["socket", "setsockopt", "bind", "listen", "openat", "close", "write"],
                    inject=[f"{step}:error={error}:when=1"],
                    ready=False,
                )
                self.assertEqual(program.wait(), 1, program.said())
                # The line names the step and the address.
                self.assertRegex(program.errors(), rf"fault_program: .*{step}.*")
                self.assertIn("127.0.0.1:0", program.errors())
                made = between_marks(self.log)
                # Beyond the call that failed no step is taken: what is looked up for the error is closed, and so is the
                # socket.
                after = [call.name for call in made[[call.injected for call in made].index(True) + 1 :]]
                self.assertLessEqual(set(after), {"socket", "openat", "close"}, made)
                opened = [call for call in made if re.search(r"^(socket|openat)\(.* = \d+$", str(call))]
                self.assertEqual(len(opened), after.count("close"), made)


MODELS = {"threads": oyez.THREADS, "sequential": oyez.SEQUENTIAL, "processes": oyez.PROCESSES}


class Serving(Traced):
    """A server while accept4 fails."""

    def serve(self, model, inject, only=("accept4",), drain_ms=1000):
        return self.traced("serve", MODELS[model], drain_ms, only=list(only), inject=inject)

    def stop(self, program):
        program.signal(signal.SIGTERM)
        self.ends_well(program)
        return program.wait_for(r"accepted (\d+) errors (\d+) pauses (\d+) cut (\d+)")

    def test_passing_errors(self):
        for model, error in (
            ("threads", "ECONNABORTED"),
            ("threads", "EPROTO"),
            ("threads", "ENETDOWN"),
            ("threads", "EINTR"),
            ("threads", "EMFILE"),
            ("threads", "EPERM"),
            ("threads", "EKEYEXPIRED"),
            ("sequential", "EPROTO"),
            ("sequential", "ENOMEM"),
            ("processes", "ECONNABORTED"),
            ("processes", "ENFILE"),
        ):
            with self.subTest(model=model, error=error):
                program = self.serve(model, [f"accept4:error={error}:when=2..3"])
                self.exchange(program.address)
                ended = self.stop(program)
                self.assertEqual(ended[1], "6")
                # strace counts for each thread, and more than one accepts.
                self.assertGreaterEqual(self.injected(), 2)

    def test_without_accept4(self):
        for model in MODELS:
            with self.subTest(model=model):
                program = self.serve(model, ["accept4:error=ENOSYS"])
                self.exchange(program.address)
                self.assertEqual(self.stop(program)[1], "6")

    def test_close_that_is_interrupted(self):
        program = self.attached("serve", oyez.THREADS, 1000, inject="close:error=EINTR")
        # The close that strace prevents would have told the client the end, so it does not wait for that.
        for number in range(6):
            with connect(program.address) as client:
                ask(client, b"client %d" % number)
        self.assertEqual(self.stop(program)[1], "6")
        self.detach()
        self.assertGreater(self.injected(), 5)

    def cpu(self, pid):
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def persistent(self, error, model="threads"):
        program = Program(self, [self.executable, "serve", MODELS[model], 1000])
        existing = self.client(program.address)
        ask(existing, b"accepted before")
        self.attach(program, "trace=accept4", f"inject=accept4:error={error}")
        waiting = [self.client(program.address) for _ in range(5)]
        eventually(lambda: self.injected() > 0, "a failed accept")

        # What is retried at once has an end after half a second; then two seconds are the measure.
        time.sleep(0.5)
        pid = program.pid
        busy, began = self.cpu(pid), time.time()
        time.sleep(1)
        asked = time.monotonic()
        ask(existing, b"and served all the while")
        self.assertLess(time.monotonic() - asked, 0.5)
        time.sleep(1)
        busy, ended = self.cpu(pid) - busy, time.time()
        existing.close()

        stopping = time.monotonic()
        self.stop(program)
        self.assertLess(time.monotonic() - stopping, 4)
        self.detach()
        failed = [call.time for call in calls(self.log) if call.injected]
        rate = sum(began <= one <= ended for one in failed) / (ended - began)
        self.assertLessEqual(rate, 25, f"{len(failed)} in all")
        self.assertGreater(rate, 0, "it goes on trying")
        self.assertLess(len(failed), 300)
        self.assertLess(busy / (ended - began), 0.1, "of one processor")
        self.assertLessEqual(program.errors().count("\n"), 12, program.errors())
        for client in waiting:
            client.close()

    def test_persistent_eproto(self):
        self.persistent("EPROTO")

    def test_persistent_enomem(self):
        self.persistent("ENOMEM")

    def test_persistent_emfile(self):
        self.persistent("EMFILE")

    def test_persistent_unknown_error_of_a_server_of_processes(self):
        self.persistent("EKEYEXPIRED", "processes")


class Descriptors(TestCase):
    """Descriptors that run out for real, by the process's own limit."""

    def test_waiting_clients_are_served_once_the_limit_rises(self):
        executable = compile_c(SOURCE)
        program = Program(self, [executable, "serve", oyez.THREADS, 20000])
        existing = [self.client(program.address) for _ in range(5)]
        for client in existing:
            ask(client, b"in")
        used = max(int(fd) for fd in os.listdir(f"/proc/{program.pid}/fd"))
        _soft, hard = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (used + 1, hard))
        waiting = [self.client(program.address) for _ in range(40)]
        for client in waiting:
            client.sendall(b"waited")
        eventually(lambda: "log" in program.errors(), "a line in the log")
        for client in existing:
            ask(client, b"served all the while")

        # One that leaves makes room at once.
        existing.pop().close()
        began = time.monotonic()
        ready = []
        while not ready:
            self.assertLess(time.monotonic() - began, 5)
            ready = [client for client in waiting if readable(client)]
        self.assertEqual(ready[0].recv(10), b"waited")

        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (hard, hard))
        began = time.monotonic()
        for client in waiting:
            client.shutdown(socket.SHUT_WR)
            self.assertIn(receive_all(client), (b"waited", b"") if client is ready[0] else (b"waited",))
        self.assertLess(time.monotonic() - began, 3)
        for client in existing + waiting:
            client.close()
        program.signal(signal.SIGTERM)
        self.assertEqual(program.wait(), 0, program.said())
        ended = program.wait_for(r"accepted (\d+) errors (\d+) pauses (\d+) cut (\d+)")
        self.assertEqual((ended[1], ended[4]), ("45", "0"))
        self.assertGreaterEqual(int(ended[3]), 1)
        self.assertLessEqual(program.errors().count("\n"), 12, program.errors())


def readable(client):
    client.setblocking(False)
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        client.settimeout(PATIENCE)


if __name__ == "__main__":
    unittest.main()
