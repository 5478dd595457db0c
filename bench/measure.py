"""The measurements of work: rounds of load, system calls, instructions."""

import contextlib
import os
import re
import tempfile

from modes import TABLES
from peers import OYEZ_THREADS, PLAIN, THREADS
from server import Load, Server, Wrong

DESCRIPTORS = 64        # what a program needs beside its connections
MOST_THREADS = 1000


def working_load(program, uring, plain):
    """The generator with an engine that works here, and what is to be said of it."""
    if not uring:
        return Load(program), ["the generator's engine on io_uring: install the package liburing-dev"]
    load = Load(program, "io_uring")
    try:
        with Server(plain) as server:
            load.run(server, ["--messages", "1"])
        return load, []
    except Wrong as wrong:
        return Load(program, "epoll"), [f"the generator's engine on io_uring: {wrong}"]


def checked(load, there):
    """Messages that no socket buffer holds: a server that loses what a send has not taken is no peer. Returns those
    that start here, and a line for each that does not; one that does start and then errs is an error."""
    good, missing = [], []
    for peer in there:
        with contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(Server(peer))
            except Wrong as wrong:
                missing.append(f"{peer.name} is not measured: {wrong}")
                continue
            load.run(server, ["--connections", "4", "--size", str(4 << 20), "--messages", "16"])
            good.append(peer)
    return good, missing


def rounds(load, there, modes, cores, count, warm, seconds, time_left, told):
    """Runs A B C A B C ..., `count` times. Returns what each run gave: results[table][mode][server], by round."""
    results = {}
    for number in range(count):
        if number > 0 and time_left() < 0:
            told(f"the time is up: {number} rounds of {count}")
            break
        for table in TABLES:
            for mode in modes:
                for peer in there:
                    if peer.name in (THREADS, OYEZ_THREADS) and mode.connections > MOST_THREADS:
                        continue
                    with Server(peer, cores[0], mode.line, mode.unix) as server:
                        got = load.run(server, [*mode.arguments(), "--warm", str(warm), "--seconds", str(seconds)],
                                       cores[TABLES.index(table)])
                    results.setdefault(table, {}).setdefault(mode.name, {}).setdefault(peer.name, []).append(got)
        told(f"round {number + 1} of {count}")
    return results


def serve_and_end(load, server, mode, messages):
    """The server ends before its connections do: what it does at their end is not part of a message."""
    with contextlib.ExitStack() as connections:
        with server:
            connections.enter_context(load.held(server, [*mode.arguments(), "--messages", str(messages)]))


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
