"""What is done to the servers: which of them, how often and how long, in full and in the quick form."""

import company
import shortages
import stops
from subjects import HAPROXY, PROCESSES, SEQUENTIAL, THREADS

SLOW, FEWER = 10000, {PROCESSES: 1000, HAPROXY: 8000}     # HAProxy counts two descriptors for each


class Scene:
    """`measure(subject, how)` returns a plain dictionary; `how` has quick, folder and plain, the plain loop."""

    def __init__(self, name, measure, sequential=False, needs=None):
        self.name, self.measure, self.sequential, self.needs = name, measure, sequential, needs

    def is_for(self, subject):
        """One client at a time: most of it means nothing there."""
        return self.sequential or subject.name != SEQUENTIAL


def stop_as_root(subject, how):
    return stops.under_load(subject, True, 2 if how.quick else 20)


def stop_unprivileged(subject, how):
    return stops.under_load(subject, False, 2 if how.quick else 20)


def descriptors(subject, how):
    return shortages.descriptors(subject, *((1, 1) if how.quick else (10, 3)))


def no_memory(subject, how):
    return shortages.injected(subject, "ENOMEM", 1 if how.quick else 3, how.folder)


def protocol_error(subject, how):
    return shortages.injected(subject, "EPROTO", 1 if how.quick else 3, how.folder)


def drained(subject, how):
    return stops.transfers(subject, how.plain, 10000, 1 if how.quick else 3)


def cut(subject, how):
    return stops.transfers(subject, how.plain, 300, 1 if how.quick else 3)


def reset(subject, how):
    return company.reset_mid_write(subject, how.plain, 5 if how.quick else 20)


def slow(subject, how):
    count = FEWER.get(subject.name, SLOW)
    count = count // 10 if how.quick else count
    workers = count + 100 if subject.name in (THREADS, PROCESSES) else 0
    return company.slow(subject, count, workers, 0.5 if how.quick else 4)


def idle(subject, how):
    return shortages.idle(subject, 1 if how.quick else 2)


SCENES = [
    Scene("stop", stop_as_root, sequential=True, needs="root"),
    Scene("stop unprivileged", stop_unprivileged, sequential=True),
    Scene("descriptors", descriptors),
    Scene("ENOMEM", no_memory, needs="strace"),
    Scene("EPROTO", protocol_error, needs="strace"),
    Scene("drained", drained),
    Scene("cut", cut),
    Scene("reset", reset, sequential=True),
    Scene("slow", slow),
    Scene("idle", idle),
]
