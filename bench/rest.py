"""Connections that do nothing: what they hold of memory, and take of the processor."""

import re
import time

from measure import DESCRIPTORS
from server import Server

POINTS = (1000, 10000, 50000, 100000)
WANTED = POINTS[-1]


def points(descriptors):
    """How many connections there may be: the points, and, where the last do not fit, as many as do."""
    most = descriptors - DESCRIPTORS
    return [count for count in POINTS if count <= most] + ([most // 100 * 100] if most < WANTED else [])


def served(count):
    """Each has had one message."""
    return ["--connections", str(count), "--messages", str(count)]


def bytes_in_use(pid):
    with open(f"/proc/{pid}/smaps_rollup") as text:
        return int(re.search(r"^Pss:\s+(\d+) kB", text.read(), re.M).group(1)) * 1024


def bytes_with(load, peer, count):
    with Server(peer, timeouts=True) as server, load.held(server, served(count)):
        return bytes_in_use(server.pid)


def memory(load, peer, counts):
    """By number of connections: bytes of process memory for each."""
    one = bytes_with(load, peer, 1)
    return {str(count): (bytes_with(load, peer, count) - one) // (count - 1) for count in counts}


def processor_ns(pid):
    clock = (~pid << 3) | 2     # what clock_getcpuclockid(3) makes of a process: its CPU time
    return time.clock_gettime_ns(clock)


def at_rest(load, peer, count, seconds):
    """The part of a core that a server takes with so many connections that wait, which their timeouts watch."""
    with Server(peer, timeouts=True) as server, load.held(server, served(count)):
        time.sleep(1)
        before, began = processor_ns(server.pid), time.monotonic_ns()
        time.sleep(seconds)
        return (processor_ns(server.pid) - before) / (time.monotonic_ns() - began)
