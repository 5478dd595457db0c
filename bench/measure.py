"""The measurements: rounds of load, system calls, instructions and memory."""

import contextlib
import json
import os
import re
import subprocess
import tempfile

from peers import Server, pinned

ONE, EACH = "one core", "a core each"


class Mode:
    def __init__(self, name, connections, size=64, window=1, line=False, quick=False, tables=(ONE, EACH)):
        self.name, self.connections, self.size, self.window = name, connections, size, window
        self.line, self.quick, self.tables = line, quick, tables

    def arguments(self):
        return ["--connections", str(self.connections), "--size", str(self.size), "--window", str(self.window),
                *(["--line"] if self.line else [])]


MODES = [
    Mode("64 B, 1", 1),
    Mode("64 B, 100", 100, quick=True),
    Mode("64 B, 1,000", 1000, quick=True),
    Mode("64 B, 10,000", 10000, tables=(EACH,)),
    Mode("1 KiB, 100", 100, size=1024),
    Mode("16 KiB, 100", 100, size=16384),
    Mode("pipelined 16 × 64 B, 100", 100, window=16, quick=True),
    Mode("connect, line, close", 32, line=True, quick=True),
]
ECHO, LINE = MODES[1], MODES[-1]
DESCRIPTORS = 64     # what a program needs beside its connections


class Wrong(Exception):
    """A server did not do its work."""


def run_load(load, server, arguments, core=None):
    command = [load, "--port", str(server.port), "--pid", str(server.pid), *arguments]
    try:
        done = subprocess.run(command, text=True, capture_output=True, preexec_fn=pinned(core), timeout=60)
    except subprocess.TimeoutExpired:
        raise Wrong(f"{server.name}: not done after a minute") from None
    if done.returncode != 0:
        raise Wrong(f"{server.name}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def check(load, peer):
    """Messages that no socket buffer holds: a server that loses what a send has not taken is no peer."""
    with Server(peer) as server:
        run_load(load, server, ["--connections", "4", "--size", str(4 << 20), "--messages", "16"])


def rounds(load, there, modes, cores, count, warm, seconds, time_left, told):
    """Runs A B C A B C ..., `count` times. Returns what each run gave: results[table][mode][server], by round."""
    results = {}
    for number in range(count):
        if time_left() < 0:
            told(f"the time is up: {number} rounds of {count}")
            break
        for table in (ONE, EACH):
            for mode in modes:
                if table not in mode.tables:
                    continue
                for peer in there:
                    if peer.threaded() and mode.connections > 1000:
                        continue
                    with Server(peer, cores[0], mode.line) as server:
                        got = run_load(load, server, [*mode.arguments(), "--warm", str(warm), "--seconds",
                                       str(seconds)], cores[0] if table == ONE else cores[1])
                    results.setdefault(table, {}).setdefault(mode.name, {}).setdefault(peer.name, []).append(got)
        told(f"round {number + 1} of {count}")
    return results


@contextlib.contextmanager
def held(load, server, mode, messages):
    """The time after so many messages, with the connections still open."""
    command = [load, "--port", str(server.port), *mode.arguments(), "--messages", str(messages), "--hold"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if not process.stdout.readline():
            raise Wrong(f"{server.name}: {messages} messages of {mode.name} did not come back")
        try:
            yield
        finally:
            process.stdin.close()


def serve_and_end(load, server, mode, messages):
    """The server ends before its connections do: what it does at their end is not part of a message."""
    with contextlib.ExitStack() as connections:
        with server:
            connections.enter_context(held(load, server, mode, messages))


def difference(once, load, peer, mode, few, many):
    """What a message costs: a run with more messages less one with fewer, so that start and end do not count."""
    low, high = (once(load, peer, mode, messages) for messages in (few, many))
    return {name: (high[name] - low.get(name, 0)) / (many - few) for name in high}


def system_calls(load, peer, mode, messages):
    """Of one run, by name."""
    with tempfile.NamedTemporaryFile("r") as counted:
        serve_and_end(load, Server(peer, line=mode.line, wrapped=["strace", "-f", "-c", "-o", counted.name]), mode,
                      messages)
        found = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", counted.read(), re.M)
    return {name: int(calls) for calls, name in found if name != "total"}


def instructions(load, peer, mode, messages):
    """Of one run, the program's own, without the kernel's."""
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log")
        server = Server(peer, line=mode.line, wrapped=["valgrind", "--tool=callgrind", "--log-file=" + log,
                                                       "--callgrind-out-file=/dev/null"])
        serve_and_end(load, server, mode, messages)
        with open(log) as text:
            found = re.search(r"Collected : (\d+)", text.read())
    if not found:
        raise Wrong(f"{peer.name}: valgrind told no count")
    return {"instructions": int(found.group(1))}


def bytes_in_use(pid):
    with open(f"/proc/{pid}/smaps_rollup") as text:
        return int(re.search(r"^Pss:\s+(\d+) kB", text.read(), re.M).group(1)) * 1024


def memory(load, peer, connections):
    """Bytes of process memory with so many connections, each of which has been served once."""
    with Server(peer) as server:
        with held(load, server, Mode("idle", connections), connections):
            return bytes_in_use(server.pid)
