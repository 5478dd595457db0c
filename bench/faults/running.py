"""A server that runs, what it uses, and the clients beside it."""

import contextlib
import glob
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

TICKS = os.sysconf("SC_CLK_TCK")
UNPRIVILEGED = ["setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set=-all"]


class Wrong(Exception):
    """A server or a client did not do what the measurement needs."""


def soon(what, seconds=10, every=0.005):
    """Waits until it is true, and returns what it is."""
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found or time.monotonic() > end:
            return found
        time.sleep(every)


def free_port():
    """Below those of clients: one that connects to a closed port could meet itself there. The next is free too."""
    for port in random.sample(range(15000, 32000, 2), 200):
        with socket.socket() as one, socket.socket() as other:
            with contextlib.suppress(OSError):
                for held, number in ((one, port), (other, port + 1)):
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    held.bind(("127.0.0.1", number))
                return port
    raise Wrong("no port is free")


def listens(port):
    wanted = f"0100007F:{port:04X}"
    with open("/proc/net/tcp") as table:
        return any(wanted == fields[1] and fields[3] == "0A" for fields in map(str.split, table))


def children(pid):
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError), open(path) as file:
            found += map(int, file.read().split())
    return found


def tree(pid):
    return [pid, *(one for child in children(pid) for one in tree(child))]


def fields_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


class Server:
    """Started by `with`, and killed at its end. `wrapped` is a command to run it under."""

    def __init__(self, subject, privileged=True, wrapped=(), behind=None, **wanted):
        self.subject, self.name, self.privileged, self.wrapped = subject, subject.name, privileged, list(wrapped)
        self.wanted, self.behind = {"drain": 5000, **wanted}, behind

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="faults-")
        os.chmod(self.folder, 0o777)
        self.port, self.log, self.ended = free_port(), os.path.join(self.folder, "log"), None
        command = [*self.wrapped, *(UNPRIVILEGED if os.geteuid() == 0 and not self.privileged else []),
                   *self.subject.command(self.port, self.folder, self.wanted)]
        self.beside = None
        if self.behind:
            self.beside = subprocess.Popen(self.behind.command(self.port + 1, self.folder, self.wanted),
                                           stderr=subprocess.DEVNULL, start_new_session=True)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                                            env={**os.environ, **self.subject.environment}, start_new_session=True)
        if not soon(lambda: self.process.poll() is not None or listens(self.port)) or self.process.poll() is not None:
            text = self.log_text()
            self.__exit__()
            raise Wrong(f"{self.name} did not start: {text[-300:]}")
        self.main = self.process.pid
        if self.wrapped:
            self.main = soon(lambda: children(self.process.pid))[-1]
        self.pid = self.main
        if self.subject.has_worker:
            self.pid = (soon(lambda: children(self.main)) or [self.main])[-1]
            time.sleep(0.1)     # until it accepts
        return self

    def __exit__(self, *_):
        for process in filter(None, (self.process, self.beside)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask_to_stop(self):
        os.kill(self.main, self.subject.stop_signal)

    @contextlib.contextmanager
    def held(self, seconds):
        """Stands still for so long, and meanwhile."""
        os.kill(self.pid, signal.SIGSTOP)
        time.sleep(seconds)
        try:
            yield
            time.sleep(0.005)
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def alive(self):
        with contextlib.suppress(OSError):
            return self.process.poll() is None and fields_of(self.pid)[0] != "Z"
        return False

    def wait(self, seconds):
        """Its status, or None where it still runs. (What subprocess waits with looks each 50 ms only.)"""
        ended = os.pidfd_open(self.process.pid)
        select.select([ended], [], [], seconds)
        os.close(ended)
        return self.process.poll()

    def cpu(self):
        """Seconds of processor time so far, its children's included."""
        total = 0
        for pid in tree(self.pid):
            with contextlib.suppress(OSError):
                total += sum(map(int, fields_of(pid)[11:15]))
        return total / TICKS

    def memory(self):
        """Proportional set size in kilobytes, its children's included."""
        total = 0
        for pid in tree(self.pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        return total

    def sockets(self):
        """Connections that it holds, its children's included."""
        held = set()
        for pid in tree(self.pid):
            for path in glob.glob(f"/proc/{pid}/fd/*"):
                with contextlib.suppress(OSError):
                    target = os.readlink(path)
                    held.update([target] if target.startswith("socket:") else [])
        return len(held)

    def log_size(self):
        return os.path.getsize(self.log)

    def log_text(self):
        with open(self.log, "rb") as file:
            return file.read(4000).decode(errors="replace")

    def log_lines(self, start=0):
        with open(self.log, "rb") as file:
            file.seek(start)
            return sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))

    def limit_to_now(self):
        """From now on it gets no descriptor; what it has stays."""
        used = set(map(int, os.listdir(f"/proc/{self.pid}/fd")))
        lowest = next(number for number in range(len(used) + 1) if number not in used)
        before = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (lowest, before[1]))
        return before

    def limit(self, limits):
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, limits)


class Clients:
    """The program of clients.c, under way within `with`; accounts() begins a new account, end() ends it."""

    program = None

    def __init__(self, *arguments):
        self.arguments = list(map(str, arguments))

    def __enter__(self):
        self.process = subprocess.Popen([self.program, *self.arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.first = self.process.stdout.readline()
        if not self.first:
            raise Wrong(f"clients {self.arguments[0]}: {self.process.stderr.read().strip()}")
        return self

    def account(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return self.told()

    def told(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def end(self, seconds=0):
        """What was seen since the last account; waits so long for it to end by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        return self.told()

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()
