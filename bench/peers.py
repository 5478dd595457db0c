"""The servers that are compared: how each is built, and how it is started."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
WARNINGS = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O2"]
PLAIN, THREADS, EVENTS, OYEZ_THREADS = "plain epoll", "plain threads", "oyez events", "oyez threads"


class Peer:
    """A server's source, and what it needs: the header that shows whether it is there, the package that has it."""

    def __init__(self, name, source, flags=(), header=None, package=None, module=None):
        self.name, self.source, self.flags = name, source, list(flags)
        self.header, self.package, self.module = header, package, module

    def threaded(self):
        return self.name in (THREADS, OYEZ_THREADS)


def peers(library):
    oyez = ["-I" + os.path.join(ROOT, "include"), "-L" + library, "-loyez", "-Wl,-rpath," + library]
    return [
        Peer(PLAIN, "plain_epoll"),
        Peer("libuv", "libuv", ["-luv"], "uv.h", "libuv1-dev", "libuv"),
        Peer("libevent", "libevent", ["-levent_core"], "event2/bufferevent.h", "libevent-dev", "libevent"),
        Peer(EVENTS, "oyez_events", oyez),
        Peer(THREADS, "threads", ["-lpthread"]),
        Peer(OYEZ_THREADS, "oyez_threads", oyez),
    ]


def compiler():
    return os.environ.get("CC", "cc")


def compile_program(source, flags, folder):
    """Returns the program's path."""
    path = os.path.join(folder, os.path.basename(source))
    subprocess.run([compiler(), *WARNINGS, source + ".c", "-o", path, *flags], check=True)
    return path


def build(all_peers, folder):
    """Compiles what can be compiled. Returns those, and a line for each that is missing."""
    os.makedirs(folder, exist_ok=True)
    there, missing = [], []
    for peer in all_peers:
        if peer.header:
            tried = subprocess.run([compiler(), "-E", "-x", "c", "-"], input=f"#include <{peer.header}>\n", text=True,
                                   capture_output=True)
            if tried.returncode != 0:
                missing.append(f"{peer.name} is not measured: install the package {peer.package}")
                continue
        peer.program = compile_program(os.path.join(HERE, "servers", peer.source), peer.flags, folder)
        there.append(peer)
    return there, missing


def versions(there, library):
    """What was measured, for the head of the report."""
    oyez = ctypes.CDLL(os.path.join(library, "liboyez.so"))
    oyez.oyez_version.restype = ctypes.c_char_p
    found = ["oyez " + oyez.oyez_version().decode()]
    for peer in there:
        if peer.module:
            try:
                told = subprocess.run(["pkg-config", "--modversion", peer.module], text=True, capture_output=True)
                found.append(f"{peer.name} {told.stdout.strip()}".strip())
            except FileNotFoundError:
                found.append(peer.name)
    first = subprocess.run([compiler(), "--version"], text=True, capture_output=True).stdout.splitlines()[0]
    return [*found, re.sub(r"\s*\(.*?\)", "", first)]


class Server:
    """A running server, ended by `with`. `wrapped` is a command to run it under, such as strace."""

    def __init__(self, peer, core=None, line=False, wrapped=()):
        self.command = [*wrapped, peer.program] + (["line"] if line else [])
        self.name, self.core = peer.name, core

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        preexec_fn=pinned(self.core))
        told = self.process.stdout.readline().split()
        if len(told) != 2:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"{self.name} did not start")
        self.port, self.pid = map(int, told)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def pinned(core):
    return None if core is None else lambda: os.sched_setaffinity(0, {core})
