"""What a lack of descriptors, and accepts that fail, do to a server and to its clients."""

import contextlib
import os
import re
import resource
import select
import socket
import time

from running import Clients, Server
from stops import REQUEST

WAITING, PINGERS = 200, 10
ANSWER_END = b"done\n"


class Waiting:
    """A client that has asked and waits, without a thread of its own."""

    def __init__(self, port, what=b"once"):
        self.client, self.bytes, self.over, self.asked, self.what = socket.socket(), b"", None, False, what
        self.client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self.client.connect(("127.0.0.1", port))

    def fileno(self):
        return self.client.fileno()

    def on_event(self, flags):
        """Asks once it is connected; `over` is "answered", "FIN" or "RST" at last."""
        try:
            if flags & select.POLLOUT and not self.asked:
                self.client.sendall(REQUEST % self.what)
                self.asked = True
            if flags & (select.POLLIN | select.POLLHUP | select.POLLERR):
                bytes = self.client.recv(4096)
                self.bytes += bytes
                if ANSWER_END in self.bytes:
                    self.over = "answered"
                elif not bytes:
                    self.over = "FIN"
        except BlockingIOError:
            pass
        except OSError:
            self.over = "RST"

    def events(self):
        return select.POLLIN if self.asked else select.POLLIN | select.POLLOUT


def look_after(waiting, seconds, until=lambda: False):
    """Yields each that is over, and when, until so much time has gone by."""
    end = time.monotonic() + seconds
    poll, by_fd = select.poll(), {}
    for one in waiting:
        if one.over is None:
            poll.register(one, one.events())
            by_fd[one.fileno()] = one
    while by_fd and not until() and (left := end - time.monotonic()) > 0:
        for fd, flags in poll.poll(min(left, 0.1) * 1000):
            one = by_fd[fd]
            one.on_event(flags)
            if one.over:
                poll.unregister(fd)
                del by_fd[fd]
                yield one, time.monotonic()
            else:
                poll.modify(fd, one.events())
    if not until() and (left := end - time.monotonic()) > 0 and not by_fd:
        time.sleep(left)


def closed(waiting):
    return sum(one.over in ("FIN", "RST") for one in waiting)


def descriptors(subject, seconds, after):
    """No descriptor for so long, with 10 clients that ping and 200 that wait; then the limit rises."""
    with Server(subject) as server, Clients("ping", server.port, PINGERS, 100) as pings:
        start = server.cpu()
        time.sleep(after / 3)
        calm_cpu, calm = (server.cpu() - start) / (after / 3) * 100, pings.account()
        before, log = server.limit_to_now(), server.log_size()
        waiting = [Waiting(server.port) for _ in range(WAITING)]
        start, began = server.cpu(), time.monotonic()
        for _ in look_after(waiting, seconds):
            pass
        took = time.monotonic() - began
        found = {"cpu": (server.cpu() - start) / took * 100, "calm_cpu": calm_cpu, "calm": calm,
                 "pings": pings.account(), "closed": closed(waiting),
                 "log_bytes": server.log_size() - log, "log_lines": server.log_lines(log),
                 "served_before": sum(one.over == "answered" for one in waiting), "alive": server.alive()}
        found["served"], found["first_ms"] = 0, None
        if server.alive():
            server.limit(before)
            raised = time.monotonic()
            for one, when in look_after(waiting, after):
                if one.over == "answered":
                    found["served"] += 1
                    found["first_ms"] = found["first_ms"] or (when - raised) * 1000
        found["log"] = server.log_text()
        return found


def injected(subject, errno, seconds, folder):
    """Each thread's accepts fail by strace from the tenth on. A client from before pings; five wait."""
    trace = os.path.join(folder, "accepts")
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-ttt", "-e", "signal=none", "-e", "trace=accept,accept4",
              "-e", f"inject=accept,accept4:error={errno}:when=10+", "-o", trace]
    with Server(subject, wrapped=strace) as server, Clients("ping", server.port, 1, 50) as pings:
        log, before = server.log_size(), []
        while not times_injected(trace) and len(before) < 200:
            before.append(Waiting(server.port))
            for _ in look_after(before[-1:], 0.1, lambda: before[-1].over):
                pass
        pings.account()
        began = time.time()
        waiting = [Waiting(server.port) for _ in range(5)]
        for _ in look_after(waiting, seconds):
            pass
        ended = time.time()
        found = {"log_bytes": server.log_size() - log, "log_lines": server.log_lines(log),
                 "pings": pings.account(), "alive": server.alive(), "closed": closed(waiting)}
    within = [when for when in times_injected(trace) if began <= when <= ended]
    os.unlink(trace)
    return {**found, "accepts": len(within), "rate": len(within) / (ended - began)}


def times_injected(trace):
    with open(trace, errors="replace") as lines:
        found = (re.match(r"\d+\s+(\d+\.\d+) .*INJECTED", line) for line in lines)
        return [float(match.group(1)) for match in found if match]


def idle(subject, seconds):
    """500 silent connections, 256 descriptors, and one client more. What has timeouts ends the idle so soon."""
    with Server(subject, idle=seconds * 1000, slots=240) as server:
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        server.limit((256, hard))
        silent = []
        for _ in range(500):
            client = socket.socket()
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", server.port))
            silent.append(client)
        time.sleep(0.2)
        one, began, answered_after = [Waiting(server.port)], time.monotonic(), None
        log, start = server.log_size(), server.cpu()
        for _, when in look_after(one, seconds * 0.65):
            answered_after = (when - began) * 1000
        cpu = (server.cpu() - start) / (time.monotonic() - began) * 100
        for _, when in look_after(one, seconds * 2.85, lambda: one[0].over):
            answered_after = (when - began) * 1000
        found = {"over": one[0].over, "after_ms": answered_after, "alive": server.alive(), "cpu": cpu,
                 "log_bytes": server.log_size() - log, "closed": sum(is_over(client) for client in silent)}
        for client in silent:
            client.close()
        return found


def is_over(client):
    try:
        return not client.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True
