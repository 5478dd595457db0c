"""oyez_server_stats_text: read by a strict parser of the exposition format, and compared with oyez_server_stats."""

import ctypes
import os
import re
import socket
import threading
import unittest

import oyez_ctypes as oyez
from oyez_ctypes import lib
from support import PATIENCE, Server, TestCase, ask, connect, eventually, receive_all

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\d+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
ESCAPES = {'\\"': '"', "\\\\": "\\", "\\n": "\n"}


class FormatError(Exception):
    """A text that is not in the format, or would be refused by who reads it."""


def unescape(value):
    return re.sub(r"\\.", lambda match: ESCAPES[match[0]], value)


def labels_of(text):
    """{a="b",c="d"} as a tuple of pairs."""
    if text is None:
        return ()
    pairs, rest = [], text[1:-1]
    while rest:
        match = LABEL.match(rest)
        if not match:
            raise FormatError(f"labels {text!r}")
        pairs.append((match[1], unescape(match[2])))
        rest = rest[match.end() :]
        if rest and (rest[0] != "," or len(rest) == 1):
            raise FormatError(f"labels {text!r}")
        rest = rest[1:]
    if not pairs or len({name for name, _ in pairs}) != len(pairs):
        raise FormatError(f"labels {text!r}")
    return tuple(pairs)


class Exposition:
    """The series of a text, by name and labels; what is wrong in it is a FormatError."""

    def __init__(self, text):
        self.types = {}
        self.series = {}
        helped, family = set(), None
        if not text.endswith("\n"):
            raise FormatError("the last line does not end")
        for line in text[:-1].split("\n"):
            if line.startswith("# HELP "):
                name, _, words = line[7:].partition(" ")
                if not NAME.fullmatch(name) or not words or name in helped:
                    raise FormatError(line)
                helped.add(name)
                family = None
            elif line.startswith("# TYPE "):
                name, _, kind = line[7:].partition(" ")
                if name not in helped or name in self.types or kind not in ("counter", "gauge"):
                    raise FormatError(line)
                if (kind == "counter") != name.endswith("_total"):
                    raise FormatError(line)
                self.types[name] = kind
                family = name
            else:
                self._sample(line, family)

    def _sample(self, line, family):
        match = SAMPLE.fullmatch(line)
        if not match or match[1] != family:
            raise FormatError(line)
        key = (match[1], labels_of(match[2]))
        if key in self.series:
            raise FormatError(f"twice: {line}")
        self.series[key] = int(match[3])

    def value(self, name, **labels):
        return self.series[f"oyez_{name}", tuple(labels.items())]

    def of(self, name):
        """The values of a labelled metric, by the label's value."""
        return {labels[0][1]: value for (of, labels), value in self.series.items() if of == f"oyez_{name}"}


def stats_text(number):
    size = 0
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = oyez.check(lib.oyez_server_stats_text(number, buffer if size else None, size))
        if length < size:
            assert len(buffer.value) == length
            return buffer.value.decode()
        size = length + 1


def end(server):
    """Stops it, waits for all, and closes it."""
    server.stop()
    server.wait()
    server.close()


COUNTERS = {
    "connections_accepted_total": "accepted",
    "connections_active": "active",
    "connections_drained_total": "drained",
    "connections_cut_total": "cut",
    "handler_failures_total": "handler_failures",
    "timeouts_total": "timeouts",
    "received_bytes_total": "bytes_in",
    "sent_bytes_total": "bytes_out",
    "accept_pauses_total": "descriptor_pauses",
    "listeners": "listeners",
    "dropped_total": "dropped",
}


class Parser(unittest.TestCase):
    """It refuses what is wrong."""

    def test_faults(self):
        head = "# HELP a_total b\n# TYPE a_total counter\n"
        good = Exposition(head + 'a_total{x="y\\"\\\\\\n"} 1\na_total 2\n')
        self.assertEqual(good.series, {("a_total", (("x", 'y"\\\n'),)): 1, ("a_total", ()): 2})
        for body in (
            "a_total 1",
            "a_total 1\na_total 2\n",
            "b_total 1\n",
            "a_total -1\n",
            'a_total{x="\\t"} 1\n',
            'a_total{x="y" } 1\n',
            'a_total{x="a"b"} 1\n',
            "a_total{} 1\n",
            "a_total 1\n\n",
            "# TYPE a_total counter\n",
            "# TYPE c gauge\n",
        ):
            with self.subTest(body=body), self.assertRaises(FormatError):
                Exposition(head + body)


class StatsText(TestCase):
    """The text of servers that have something to tell."""

    def compare(self, server):
        """The text's values are those of oyez_server_stats, which are asked for before and after."""
        while True:
            before = server.stats()
            text = Exposition(stats_text(server.number))
            after = server.stats()
            if bytes(before) == bytes(after):
                break
        for name, field in COUNTERS.items():
            self.assertEqual(text.value(name), getattr(after, field), name)
        for reason in ("limit", "address", "rate", "rules"):
            self.assertEqual(
                text.value("connections_refused_total", reason=reason), getattr(after, f"refused_{reason}")
            )
        self.assertEqual(sum(text.of("accept_errors_total").values()), after.accept_errors)
        self.assertEqual(sum(text.of("listener_queue").values()), after.queue)
        self.assertEqual(sum(text.of("listener_dropped_total").values()), after.dropped)
        return text

    def test_a_server_that_has_served(self):
        server = Server(self, oyez.echo, max_connections_per_address=3)
        other = server.listen("127.0.0.1:0")
        for _ in range(5):
            with connect(server.address) as client:
                ask(client, b"hello")
                client.shutdown(socket.SHUT_WR)
                self.assertEqual(receive_all(client), b"")
        eventually(lambda: server.stats().active == 0, "all have left")
        clients = [self.client(server.address) for _ in range(3)]
        for client in clients:
            ask(client, b"12345678")
        refused = self.client(server.address)
        self.assertEqual(receive_all(refused), b"")
        text = self.compare(server)
        self.assertEqual(text.value("connections_accepted_total"), 8)
        self.assertEqual(text.value("connections_active"), 3)
        self.assertEqual(text.value("received_bytes_total"), 49)
        self.assertEqual(text.value("connections_refused_total", reason="address"), 1)
        self.assertEqual(set(text.of("listener_queue")), {server.address, oyez.local_address(other)})
        for client in clients:
            client.close()
        end(server)

    def test_addresses_that_need_escapes(self):
        paths = [os.path.join(self.directory(), name) for name in ('a"b', "a\\b", "a\\n", 'q\\"', "{x=1} 2", "a\nb")]
        server = Server(self, oyez.echo)
        expected = {server.address}
        for path in paths:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                descriptor = oyez.check(lib.oyez_server_adopt(server.number, listener.fileno()))
                listener.detach()
            expected.add(oyez.local_address(descriptor))
        self.assertEqual(len(expected), len(paths) + 1)
        text = self.compare(server)
        self.assertEqual(set(text.of("listener_dropped_total")), expected)
        end(server)

    def test_several_listeners_at_one_address(self):
        server = Server(self, oyez.echo)
        port = server.address.rpartition(":")[2]
        first = server.listen("127.0.0.1:0", reuse_port=oyez.ON)
        address = oyez.local_address(first)
        server.listen(address, reuse_port=oyez.ON)
        oyez.check(lib.oyez_server_pause(server.number))
        clients = [self.client(address) for _ in range(20)]
        eventually(lambda: server.stats().queue == len(clients), "all wait")
        text = self.compare(server)
        self.assertEqual(text.of("listener_queue")[address], len(clients))
        self.assertEqual(set(text.of("listener_backlog")), {address, f"127.0.0.1:{port}"})
        oyez.check(lib.oyez_server_resume(server.number))
        for client in clients:
            ask(client, b"x")
            client.close()
        end(server)

    def test_the_length_is_told(self):
        server = Server(self, oyez.echo)
        whole = stats_text(server.number)
        for size in (1, 2, 100, len(whole)):
            buffer = ctypes.create_string_buffer(size)
            self.assertEqual(lib.oyez_server_stats_text(server.number, buffer, size), len(whole))
            self.assertEqual(buffer.value.decode(), whole[: size - 1])
        self.fails_with(oyez.INVALID_ARGUMENT, lambda: oyez.check(lib.oyez_server_stats_text(server.number, None, 9)))
        end(server)

    def test_while_all_moves(self):
        """Whenever it is asked for, it can be parsed, and counters do not go back."""
        server = Server(self, oyez.echo)
        over = threading.Event()

        def come_and_go():
            while not over.is_set():
                with connect(server.address) as client:
                    ask(client, b"hello")

        jobs = [self.thread(come_and_go) for _ in range(2)]
        last = {}
        try:
            for _ in range(200):
                text = Exposition(stats_text(server.number))
                for key, value in text.series.items():
                    if text.types[key[0]] == "counter":
                        self.assertGreaterEqual(value, last.get(key, 0), key)
                last = text.series
        finally:
            over.set()
        for job in jobs:
            job.result(PATIENCE)
        end(server)


if __name__ == "__main__":
    unittest.main()
