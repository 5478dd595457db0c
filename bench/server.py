"""A server that runs, and the generator beside it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile


class Wrong(Exception):
    """A server did not do its work."""


def pinned(core):
    return None if core is None else lambda: os.sched_setaffinity(0, {core})


class Server:
    """Ended by `with`. `wrapped` is a command to run it under, such as strace."""

    def __init__(self, peer, core=None, line=False, unix=False, timeouts=False, wrapped=()):
        self.peer, self.name, self.core, self.unix, self.folder = peer, peer.name, core, unix, None
        self.command = [*wrapped, peer.program, *["line"] * line, *["timeouts"] * timeouts]

    def __enter__(self):
        command = self.command
        if self.unix:
            self.folder = tempfile.mkdtemp(prefix="bench-")
            command = [*command, "unix", self.path()]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        env={**os.environ, **self.peer.environment}, preexec_fn=pinned(self.core))
        told = self.process.stdout.readline().split()
        if len(told) != 2:
            self.process.kill()
            self.pid = self.process.pid
            self.__exit__()
            raise Wrong(f"{self.name} did not start")
        self.port, self.pid = map(int, told)
        return self

    def path(self):
        return os.path.join(self.folder, "socket")

    def address(self):
        return ["--unix", self.path()] if self.unix else ["--port", str(self.port)]

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        if self.folder:
            shutil.rmtree(self.folder)


class Load:
    """The generator's program, and the engine that it is to use."""

    def __init__(self, program, engine=None):
        self.command = [program, *(["--engine", engine] if engine else [])]

    def run(self, server, arguments, core=None):
        command = [*self.command, *server.address(), "--pid", str(server.pid), *arguments]
        try:
            done = subprocess.run(command, text=True, capture_output=True, preexec_fn=pinned(core), timeout=60)
        except subprocess.TimeoutExpired:
            raise Wrong(f"{server.name}: not done after a minute") from None
        if done.returncode != 0:
            raise Wrong(f"{server.name}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def held(self, server, arguments):
        """The time after what was asked for, with the connections still open."""
        command = [*self.command, *server.address(), *arguments, "--hold"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) as process:
            if not process.stdout.readline():
                raise Wrong(f"{server.name}: {process.stderr.read().strip()}")
            try:
                yield
            finally:
                process.stdin.close()
