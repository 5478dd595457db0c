"""The servers that are compared: what each is made of, and what it needs."""

import os
import re
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
SERVERS = os.path.join(HERE, "servers")

PLAIN, URING, THREADS = "plain epoll", "plain io_uring", "plain threads"
OYEZ_EPOLL, OYEZ_URING, OYEZ_THREADS = "oyez events (epoll)", "oyez events (io_uring)", "oyez threads"
OYEZ_EVENTS = (OYEZ_EPOLL, OYEZ_URING)


class Peer:
    """`source` is a file or folder of servers/; `needs` is (header or command, Debian package)."""

    def __init__(self, name, source, flags=(), needs=None, version=None, environment=None):
        self.name, self.source, self.flags, self.needs = name, source, list(flags), needs
        self.version = version or (lambda: None)
        self.environment = environment or {}

    def threaded(self):
        return self.name in (THREADS, OYEZ_THREADS)

    def is_oyez(self):
        return self.name in OYEZ_EVENTS or self.name == OYEZ_THREADS

    def counted_by_callgrind(self):
        """Valgrind does not end a program that waits in io_uring_enter(2), nor tell anything of use of Go's threads."""
        return self.source != "go" and self.name not in (URING, OYEZ_URING)


def peers(library):
    oyez = ["-I" + os.path.join(ROOT, "include"), "-L" + library, "-loyez", "-Wl,-rpath," + library]
    return [
        Peer(PLAIN, "plain_epoll.c"),
        Peer(URING, "plain_uring.c", ["-luring"], ("liburing.h", "liburing-dev"), packaged("liburing")),
        Peer("libuv", "libuv.c", ["-luv"], ("uv.h", "libuv1-dev"), packaged("libuv")),
        Peer("libevent", "libevent.c", ["-levent_core"], ("event2/bufferevent.h", "libevent-dev"), packaged("libevent")),
        Peer("libev", "libev.c", ["-lev"], ("ev.h", "libev-dev"), defined("ev.h", "EV_VERSION_MAJOR.EV_VERSION_MINOR")),
        Peer("asio", "asio.cpp", ["-lpthread"], ("asio.hpp", "libasio-dev"), asio),
        Peer("tokio", "tokio", needs=("cargo", "cargo"), version=locked("tokio")),
        Peer("Go", "go", needs=("go", "golang-go"), version=told(["go", "version"], r"go(\d\S*)")),
        Peer(OYEZ_EPOLL, "oyez_events.c", oyez, environment={"OYEZ_BACKEND": "epoll"}),
        Peer(OYEZ_URING, "oyez_events.c", oyez, environment={"OYEZ_BACKEND": "io_uring"}),
        Peer(THREADS, "threads.c", ["-lpthread"]),
        Peer(OYEZ_THREADS, "oyez_threads.c", oyez),
    ]


def told(command, pattern):
    def version():
        try:
            found = re.search(pattern, subprocess.run(command, text=True, capture_output=True).stdout)
        except FileNotFoundError:
            return None
        return found and found.group(1)
    return version


def packaged(module):
    return told(["pkg-config", "--modversion", module], r"(\S+)")


def defined(header, macros):
    """What the preprocessor makes of names."""
    def version():
        done = subprocess.run([os.environ.get("CC", "cc"), "-E", "-P", "-include", header, "-x", "c", "-"],
                              input=macros + "\n", text=True, capture_output=True)
        return "".join(done.stdout.strip().splitlines()[-1:]).replace(" ", "") or None
    return version


def asio():
    number = int(defined("asio/version.hpp", "ASIO_VERSION")() or 0)    # 102201 is 1.22.1
    return number and f"{number // 100000}.{number // 100 % 1000}.{number % 100}"


def locked(crate):
    def version():
        with open(os.path.join(SERVERS, "tokio", "Cargo.lock")) as text:
            return re.search(rf'name = "{crate}"\nversion = "(.*?)"', text.read()).group(1)
    return version
