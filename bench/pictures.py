"""Which plots there are, and how each server is drawn in them."""

import os

from modes import EACH
from peers import OYEZ_EPOLL, OYEZ_EVENTS, OYEZ_THREADS, OYEZ_URING, PLAIN, THREADS, URING
from plot import COLOURS, SHAPES, Line, chart
from targets import IDLE_BYTES

OYEZ_COLOUR = "#d62728"
BY_HAND = {PLAIN: ("#111111", "circle", False), URING: ("#111111", "square", True),
           THREADS: ("#aaaaaa", "triangle", True), OYEZ_EPOLL: (OYEZ_COLOUR, "circle", False),
           OYEZ_URING: (OYEZ_COLOUR, "square", True), OYEZ_THREADS: ("#f0a0a0", "triangle", True)}


def lines(report, points_of):
    """A line for each server that has points."""
    found, libraries = [], [name for name in report.names if name not in BY_HAND]
    for name in report.names:
        points = points_of(name)
        if name in BY_HAND:
            colour, shape, dashed = BY_HAND[name]
        else:
            number = libraries.index(name)
            colour, shape, dashed = COLOURS[number % len(COLOURS)], SHAPES[number % len(SHAPES)], False
        if points:
            found.append(Line(name, points, colour, shape, dashed, strong=name in OYEZ_EVENTS))
    return found


def against_connections(report, figure, scale=1):
    modes = [mode for mode in report.modes if mode.is_small_echo()]

    def points(name):
        found = [(mode.connections, report.median(EACH, mode, figure, name)) for mode in modes]
        return [(count, value * scale) for count, value in found if value]
    return lines(report, points)


def draw(report, folder):
    """Writes the files. Returns (title, path) of each."""
    wide = "connections"
    throughput, tail = against_connections(report, "rate"), against_connections(report, "p99")
    memory = lines(report, lambda name: [(int(count), max(size, 1)) for count, size
                                         in report.memory.get(name, {}).items()])
    wanted = [
        ("throughput", "Echo of 64 bytes: throughput (higher is better)", throughput,
         lambda title: chart(title, wide, "messages per second", throughput)),
        ("p99", "Echo of 64 bytes: 99th percentile of the round trip (lower is better)", tail,
         lambda title: chart(title, wide, "microseconds", tail, log_y=True)),
        ("memory", "Process memory of an idle connection (lower is better)", memory,
         lambda title: chart(title, wide, "bytes per connection", memory, log_y=True,
                             bound=(IDLE_BYTES, f"target for oyez events: {IDLE_BYTES}"))),
    ]
    drawn = []
    os.makedirs(folder, exist_ok=True)
    for name, title, there, make in wanted:
        if there:
            path = os.path.join(folder, name + ".svg")
            with open(path, "w") as output:
                output.write(make(title))
            drawn.append((title, path))
    return drawn
