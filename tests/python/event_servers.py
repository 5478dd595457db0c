"""Event servers of this process, on threads of their own and polled by the test."""

import ctypes
import random

import oyez_ctypes as oyez
from oyez_ctypes import lib
from support import Server, eventually, payload


def echo(connection, data):
    """Sends back what comes."""
    oyez.conn_write(connection, data)
    return len(data)


def echo_lines(connection, data):
    """Sends back whole lines, and leaves the rest."""
    whole = data.rfind(b"\n") + 1
    if whole:
        oyez.conn_write(connection, data[:whole])
    return whole


class EventServer(Server):
    """An event server of this process, closed at the test's end.

    Its functions take a connection; on_data takes the bytes too, on_close the code and the errno of the reason. What
    was opened and closed is noted. An exception in one of them fails the test.
    """

    def __init__(self, test, on_open=None, on_data=echo, on_drain=None, on_close=None, start=True, **options):
        self.opened = []
        self.closed = []
        self._functions = (on_open, on_data, on_drain, on_close)
        # ctypes knows nothing of who calls them: they are kept for as long as the server lives.
        self.events = oyez.Events(
            on_open=oyez.OnConnection(self._on_open),
            on_data=oyez.OnData(self._on_data),
            on_drain=oyez.OnConnection(self._on_drain),
            on_close=oyez.OnClose(self._on_close),
        )
        self.options = oyez.ServerOptions(**options)
        self.number = oyez.check(
            lib.oyez_server_new_events(ctypes.byref(self.events), None, ctypes.byref(self.options))
        )
        test.addCleanup(self._close_if_open)
        self.listener = self.listen("127.0.0.1:0")
        if start:
            self.start()

    def _on_open(self, connection, _user):
        self.opened.append(connection)
        if self._functions[0]:
            self._functions[0](connection)

    def _on_data(self, connection, data, size, _user):
        return self._functions[1](connection, ctypes.string_at(data, size))

    def _on_drain(self, connection, _user):
        if self._functions[2]:
            self._functions[2](connection)

    def _on_close(self, connection, why, _user):
        self.closed.append((connection, lib.oyez_error_code(why), lib.oyez_error_errno(why)))
        if self._functions[3]:
            self._functions[3](connection)

    def connection(self):
        """The number of the first client that has come."""
        eventually(lambda: self.opened, "a client was accepted")
        return self.opened[0]

    def reasons(self):
        """The code and the errno of each end."""
        return [ended[1:] for ended in self.closed]

    def end(self, drain_ms=-1):
        self.stop(drain_ms)
        self.wait()
        self.close()

    def poll_fd(self):
        return oyez.check(lib.oyez_server_poll_fd(self.number))

    def poll(self, timeout_ms=0):
        return oyez.check(lib.oyez_server_poll(self.number, timeout_ms))


def payloads(count, largest):
    generator = random.Random(count)
    return [payload(generator, largest) for _ in range(count)]


class PolledServer(EventServer):
    """An event server that the test drives."""

    def __init__(self, test, **keywords):
        super().__init__(test, start=False, **keywords)
        self.fd = self.poll_fd()
        self.polls = 0

    def poll_until_stopped(self):
        """One step for a loop: False once the server has stopped and is drained."""
        self.polls += 1
        if lib.oyez_server_poll(self.number, 0) == 0:
            return True
        if lib.oyez_error_code(None) != oyez.STOPPED:
            raise oyez.OyezError()
        return False
