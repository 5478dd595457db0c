"""A program that loads the library and calls, without a single argtypes or restype.

ctypes then takes and returns C ints, which is enough for everything here because every handle is a number.
"""

import ctypes
import errno
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import unittest
from ctypes import byref, create_string_buffer

import oyez_ctypes as oyez
from support import (
    HERE,
    PATIENCE,
    ROOT,
    Job,
    TestCase,
    connect,
    exchange_all,
    payload,
    receive_all,
    reset,
)


class UntypedTestCase(TestCase):
    def setUp(self):
        super().setUp()
        self.lib = oyez.untyped()

    def assert_no_types(self):
        for name in oyez.SIGNATURES:
            self.assertIsNone(getattr(self.lib, name).argtypes, name)
            self.assertIs(getattr(self.lib, name).restype, ctypes.c_int, name)

    def ok(self, result):
        """The result of a call that must succeed."""
        if result < 0:
            self.fail(self.error_text())
        return result

    def fails(self, code, result):
        self.assertEqual(result, -1)
        self.assertEqual(oyez.CODES[self.lib.oyez_error_code(None)], oyez.CODES[code], self.error_text())

    def error_text(self):
        text = create_string_buffer(4096)
        length = self.lib.oyez_error_text(text, len(text))
        self.assertEqual(length, len(text.value))
        return text.value.decode()

    def listen(self, address=b"127.0.0.1:0"):
        fd = self.ok(self.lib.oyez_listen(address, None))
        self.addCleanup(self.lib.oyez_unlisten, fd)
        return fd

    def address(self, fd):
        text = create_string_buffer(128)
        self.assertEqual(self.lib.oyez_local_address(fd, text, len(text)), len(text.value))
        return text.value.decode()


class Listening(UntypedTestCase):
    def test_listen_port_and_address(self):
        fd = self.listen()
        port = self.lib.oyez_local_port(fd)
        self.assertIn(port, range(1, 65536))
        self.assertEqual(self.address(fd), f"127.0.0.1:{port}")
        self.client(f"127.0.0.1:{port}")
        self.assert_no_types()

    def test_address_follows_snprintf(self):
        fd = self.listen()
        whole = self.address(fd).encode()
        for size in (1, 2, 5, len(whole), len(whole) + 1):
            text = create_string_buffer(b"#" * 40, 40)
            self.assertEqual(self.lib.oyez_local_address(fd, text, size), len(whole))
            self.assertEqual(text.value, whole[: size - 1])
            self.assertEqual(text.raw[size:], b"#" * (40 - size), "nothing is written beyond the size")
        self.assertEqual(self.lib.oyez_local_address(fd, None, 0), len(whole))
        self.fails(oyez.INVALID_ARGUMENT, self.lib.oyez_local_address(fd, None, 10))

    def test_unlisten_closes_and_only_once(self):
        fd = self.ok(self.lib.oyez_listen(b"127.0.0.1:0", None))
        address = self.address(fd)
        self.assertEqual(self.lib.oyez_unlisten(fd), 0)
        self.fails(oyez.INVALID_ARGUMENT, self.lib.oyez_unlisten(fd))
        with self.assertRaises(ConnectionRefusedError):
            connect(address)

    def test_options_by_address_text(self):
        fd = self.listen(b"127.0.0.1:0?backlog=3&nonblocking=on")
        self.assertFalse(os.get_blocking(fd))

    def test_options_struct_needs_no_types(self):
        options = oyez.ListenOptions(nonblocking=oyez.ON)
        fd = self.ok(self.lib.oyez_listen(b"127.0.0.1:0", byref(options)))
        self.addCleanup(self.lib.oyez_unlisten, fd)
        self.assertFalse(os.get_blocking(fd))

    def test_in_use(self):
        address = self.address(self.listen())
        self.fails(oyez.ADDRESS_IN_USE, self.lib.oyez_listen(address.encode(), None))
        self.assertEqual(self.lib.oyez_error_errno(None), errno.EADDRINUSE)
        self.assertIn(address, self.error_text())

    def test_no_address(self):
        for bad in (
            b"",
            b" ",
            b"nonsense",
            b":",
            b":-1",
            b":65536",
            b":70000000000",
            b":08080",
            b": 80",
            b":+80",
            b":80 ",
            b":0x50",
            b"127.0.0.1",
            b"127.0.0.1:",
            b"127.0.0.1 :80",
            b"010.0.0.1:80",
            b"0x7f.1:80",
            b"127.1:80",
            b"1.2.3.4.5:80",
            b"256.0.0.1:80",
            b"::1:80",
            b"[::1:80",
            b"[::1]",
            b"[::1]:",
            b"[::1]80",
            b"[127.0.0.1]:80",
            b"[::1%lo]:0",
            b"unix:",
            b"unix:@",
            b"unix:/" + b"x" * 200,
            b"udp:",
            b"fd:",
            b"fd:-1",
            b"fd:x",
            b":0?",
            b":0?backlog",
            b":0?backlog=x",
            b":0?bakclog=5",
            b":0?reuse_port=maybe",
            b"127.0.0.1:0,127.0.0.1:0",
            b"x" * 100000,
            b"\xff\xfe:80",
        ):
            with self.subTest(address=bad[:40]):
                result = self.lib.oyez_listen(bad, None)
                if result >= 0:
                    os.close(result)
                self.assertEqual(result, -1)
                code = self.lib.oyez_error_code(None)
                self.assertEqual(oyez.CODES[code], "OYEZ_INVALID_ADDRESS", self.error_text())
                self.assertLess(len(self.error_text()), 2048, "a long text is not repeated whole")

    def test_caret_is_under_the_fault(self):
        self.fails(oyez.INVALID_ADDRESS, self.lib.oyez_listen(b"127.0.0.1:90x0", None))
        text = self.error_text()
        lines = text.split("\n")
        carets = [number for number, line in enumerate(lines) if line.lstrip().startswith("^")]
        self.assertEqual(len(carets), 1, text)
        shown, caret = lines[carets[0] - 1], lines[carets[0]]
        self.assertIn("127.0.0.1:90x0", shown)
        self.assertEqual(shown[caret.index("^")], "x", text)

    def test_nothing_for_an_argument(self):
        fd = self.listen()
        for call in (
            lambda: self.lib.oyez_listen(None, None),
            lambda: self.lib.oyez_local_port(-1),
            lambda: self.lib.oyez_local_address(-1, None, 0),
            lambda: self.lib.oyez_peer_address(-1, None, 0),
            lambda: self.lib.oyez_unlisten(-1),
            lambda: self.lib.oyez_accept(-1, None, 0, 0),
            lambda: self.lib.oyez_read(-1, None, 0, 0),
            lambda: self.lib.oyez_read(fd, None, 5, 0),
            lambda: self.lib.oyez_write(-1, None, 0, 0),
            lambda: self.lib.oyez_write(fd, None, 5, 0),
            lambda: self.lib.oyez_error_text(None, 5),
            lambda: self.lib.oyez_server_listen(0, None, None),
            lambda: self.lib.oyez_serve(None, None, None, None),
            lambda: self.lib.oyez_serve(b"127.0.0.1:0", None, None, None),
        ):
            self.assertEqual(call(), -1)
            code = self.lib.oyez_error_code(None)
            self.assertIn(code, (oyez.INVALID_ARGUMENT, oyez.CLOSED), self.error_text())

    def test_a_struct_of_a_wrong_size(self):
        for size in (0, 1, 3, 7, ctypes.sizeof(oyez.ListenOptions) + (1 << 20), (1 << 64) - 1):
            options = oyez.ListenOptions()
            options.size = size
            self.fails(oyez.INVALID_ARGUMENT, self.lib.oyez_listen(b"127.0.0.1:0", byref(options)))
            options = oyez.ServerOptions()
            options.size = size
            self.fails(oyez.INVALID_ARGUMENT, self.lib.oyez_server_new(None, None, byref(options)))

    def test_a_struct_of_a_newer_program(self):
        class Newer(ctypes.Structure):
            _fields_ = [("known", oyez.ListenOptions), ("unknown", ctypes.c_uint64 * 2)]

        newer = Newer()
        newer.known.__init__()
        newer.known.size = ctypes.sizeof(Newer)
        fd = self.ok(self.lib.oyez_listen(b"127.0.0.1:0", byref(newer)))
        self.assertEqual(self.lib.oyez_unlisten(fd), 0)
        newer.unknown[1] = 1
        self.assertEqual(self.lib.oyez_listen(b"127.0.0.1:0", byref(newer)), -1)
        # The header leaves open whether it is the argument or what this library can do.
        self.assertIn(self.lib.oyez_error_code(None), (oyez.INVALID_ARGUMENT, oyez.UNSUPPORTED))


class Accepting(UntypedTestCase):
    def test_accept_read_write(self):
        listener = self.listen()
        client = self.client(self.address(listener))
        peer = create_string_buffer(64)
        fd = self.ok(self.lib.oyez_accept(listener, peer, len(peer), 5000))
        self.addCleanup(os.close, fd)
        self.assertEqual(peer.value.decode(), "%s:%d" % client.getsockname())
        self.assertTrue(os.get_blocking(fd))
        self.assertFalse(os.get_inheritable(fd))
        text = create_string_buffer(64)
        self.assertEqual(self.lib.oyez_peer_address(fd, text, len(text)), len(peer.value))
        self.assertEqual(text.value, peer.value)

        client.sendall(b"question")
        buffer = create_string_buffer(64)
        self.assertEqual(self.lib.oyez_read(fd, buffer, len(buffer), 5000), 8)
        self.assertEqual(buffer.value, b"question")
        self.assertEqual(self.lib.oyez_write(fd, b"answer", 6, 5000), 6)
        self.assertEqual(client.recv(64), b"answer")
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(self.lib.oyez_read(fd, buffer, len(buffer), 5000), 0)

    def test_accept_times_out(self):
        listener = self.listen()
        for timeout in (0, 1, 150):
            began = time.monotonic()
            self.fails(oyez.TIMED_OUT, self.lib.oyez_accept(listener, None, 0, timeout))
            passed = time.monotonic() - began
            self.assertEqual(self.lib.oyez_error_errno(None), errno.EAGAIN)
            self.assertGreaterEqual(passed, timeout / 1000)
            self.assertLess(passed, timeout / 1000 + 2)

    def test_accept_waits_without_a_timeout(self):
        listener = self.listen()
        waiting = self.thread(self.lib.oyez_accept, listener, None, 0, -1)
        self.client(self.address(listener))
        os.close(self.ok(waiting.result()))

    def test_read_times_out_and_a_broken_connection_is_closed(self):
        listener = self.listen()
        client = self.client(self.address(listener))
        fd = self.ok(self.lib.oyez_accept(listener, None, 0, 5000))
        self.addCleanup(os.close, fd)
        buffer = create_string_buffer(8)
        self.fails(oyez.TIMED_OUT, self.lib.oyez_read(fd, buffer, 8, 50))
        reset(client)
        self.fails(oyez.CLOSED, self.lib.oyez_read(fd, buffer, 8, 5000))
        self.assertEqual(self.lib.oyez_error_errno(None), errno.ECONNRESET)

    def test_an_address_survives_a_reset(self):
        listener = self.listen()
        client = self.client(self.address(listener))
        name = "%s:%d" % client.getsockname()
        reset(client)
        peer = create_string_buffer(64)
        fd = self.ok(self.lib.oyez_accept(listener, peer, len(peer), 5000))
        self.addCleanup(os.close, fd)
        self.assertEqual(peer.value.decode(), name)
        self.fails(oyez.CLOSED, self.lib.oyez_peer_address(fd, None, 0))

    def test_error_text_follows_snprintf(self):
        self.fails(oyez.INVALID_ADDRESS, self.lib.oyez_listen(b"nonsense", None))
        whole = self.error_text().encode()
        text = create_string_buffer(b"#" * 20, 20)
        self.assertEqual(self.lib.oyez_error_text(text, 10), len(whole))
        self.assertEqual(text.value, whole[:9])
        self.assertEqual(self.lib.oyez_error_text(None, 0), len(whole))

    def test_each_thread_has_its_own_error(self):
        self.fails(oyez.INVALID_ADDRESS, self.lib.oyez_listen(b"nonsense", None))

        def other():
            code = self.lib.oyez_error_code(None)
            self.lib.oyez_listen(None, None)
            return code, self.lib.oyez_error_code(None)

        self.assertEqual(self.thread(other).result(), (oyez.OK, oyez.INVALID_ARGUMENT))
        self.assertEqual(self.lib.oyez_error_code(None), oyez.INVALID_ADDRESS)

    def test_two_hundred_clients(self):
        listener = self.listen()
        stopping = threading.Event()

        def talk(fd):
            buffer = create_string_buffer(65536)
            try:
                while True:
                    size = self.ok(self.lib.oyez_read(fd, buffer, len(buffer), 20000))
                    if size == 0:
                        return
                    self.assertEqual(self.lib.oyez_write(fd, buffer, size, 20000), size)
            finally:
                os.close(fd)

        def accept_all():
            talks = []
            while len(talks) < 200 and not stopping.is_set():
                talks.append(Job(talk, self.ok(self.lib.oyez_accept(listener, None, 0, 10000))))
            for one in talks:
                one.result()
            return len(talks)

        accepting = self.thread(accept_all)
        generator = random.Random(200)
        try:
            exchange_all(self.address(listener), [payload(generator, 1 << 16) for _ in range(200)], all_at_once=True)
        finally:
            stopping.set()
        self.assertEqual(accepting.result(), 200)


class Serving(UntypedTestCase):
    def echo(self, connection, _user):
        # A connection is 64 bits wide, so it is handed on as what it is.
        connection = ctypes.c_uint64(connection)
        buffer = create_string_buffer(65536)
        while True:
            size = self.lib.oyez_conn_read(connection, buffer, len(buffer))
            if size <= 0 or self.lib.oyez_conn_write(connection, buffer, size) != size:
                return

    def test_a_server_and_two_hundred_clients(self):
        handler = oyez.Handler(self.echo)
        server = self.ok(self.lib.oyez_server_new(handler, None, None))
        self.assertGreater(server, 0)
        try:
            listener = self.ok(self.lib.oyez_server_listen(server, b"127.0.0.1:0", None))
            self.assertIn(self.lib.oyez_local_port(listener), range(1, 65536))
            address = self.address(listener)
            self.assertEqual(self.lib.oyez_server_start(server), 0)
            self.fails(oyez.TIMED_OUT, self.lib.oyez_server_wait(server, 50))
            generator = random.Random(201)
            exchange_all(address, [payload(generator, 1 << 16) for _ in range(200)], all_at_once=True)
            stats = oyez.Stats()
            self.assertEqual(self.lib.oyez_server_stats(server, byref(stats)), 0)
            self.assertEqual(stats.accepted, 200)
            self.assertEqual(self.lib.oyez_server_stop(server, -1), 0)
            self.assertEqual(self.lib.oyez_server_wait(server, PATIENCE * 1000), 0)
            with self.assertRaises(ConnectionRefusedError):
                connect(address)
        finally:
            self.assertEqual(self.lib.oyez_server_close(server), 0)
        self.assert_no_types()

    def test_connection_numbers_passed_as_plain_integers(self):
        numbers = []

        def handler(connection, _user):
            numbers.append(connection)
            buffer = create_string_buffer(64)
            size = self.lib.oyez_conn_read(connection, buffer, len(buffer))
            self.lib.oyez_conn_write(connection, buffer, max(size, 0))

        callback = oyez.Handler(handler)
        server = self.ok(self.lib.oyez_server_new(callback, None, None))
        try:
            listener = self.ok(self.lib.oyez_server_listen(server, b"127.0.0.1:0", None))
            self.ok(self.lib.oyez_server_start(server))
            answers = []
            for _ in range(3):
                client = self.client(self.address(listener))
                client.sendall(b"hello")
                client.shutdown(socket.SHUT_WR)
                answers.append(receive_all(client))
            self.assertEqual(answers, [b"hello"] * 3, [hex(number) for number in numbers])
        finally:
            self.ok(self.lib.oyez_server_close(server))

    def test_a_server_can_be_closed_in_every_state(self):
        handler = oyez.Handler(self.echo)
        for listens, starts, stops, waits in (
            (False, False, False, False),
            (True, False, False, False),
            (True, False, True, False),
            (True, True, False, False),
            (True, True, True, False),
            (True, True, True, True),
        ):
            with self.subTest(listens=listens, starts=starts, stops=stops, waits=waits):
                server = self.ok(self.lib.oyez_server_new(handler, None, None))
                if listens:
                    self.ok(self.lib.oyez_server_listen(server, b"127.0.0.1:0", None))
                if starts:
                    self.ok(self.lib.oyez_server_start(server))
                if stops:
                    self.ok(self.lib.oyez_server_stop(server, 0))
                if waits:
                    self.ok(self.lib.oyez_server_wait(server, 5000))
                self.assertEqual(self.lib.oyez_server_close(server), 0)
                for call in (
                    lambda: self.lib.oyez_server_close(server),
                    lambda: self.lib.oyez_server_stop(server, 0),
                    lambda: self.lib.oyez_server_start(server),
                    lambda: self.lib.oyez_server_run(server),
                    lambda: self.lib.oyez_server_wait(server, 0),
                    lambda: self.lib.oyez_server_pause(server),
                    lambda: self.lib.oyez_server_resume(server),
                    lambda: self.lib.oyez_server_listen(server, b"127.0.0.1:0", None),
                    lambda: self.lib.oyez_server_stats(server, byref(oyez.Stats())),
                    lambda: self.lib.oyez_server_accept(server, byref(ctypes.c_uint64()), 0),
                    lambda: self.lib.oyez_server_poll_fd(server),
                ):
                    self.fails(oyez.CLOSED, call())

    def test_numbers_of_no_server_and_no_connection(self):
        text = create_string_buffer(64)
        for server in (0, -1, 1 << 20, 0x7FFFFFFF):
            self.fails(oyez.CLOSED, self.lib.oyez_server_stop(server, 0))
            self.fails(oyez.CLOSED, self.lib.oyez_server_close(server))
            self.fails(oyez.CLOSED, self.lib.oyez_server_wait(server, 0))
        for number in (0, 1, 1 << 31, 1 << 63, (1 << 64) - 1):
            connection = ctypes.c_uint64(number)
            self.fails(oyez.CLOSED, self.lib.oyez_conn_close(connection))
            self.fails(oyez.CLOSED, self.lib.oyez_conn_read(connection, text, 64))
            self.fails(oyez.CLOSED, self.lib.oyez_conn_write(connection, text, 64))
            self.fails(oyez.CLOSED, self.lib.oyez_conn_read_line(connection, text, 64))
            self.fails(oyez.CLOSED, self.lib.oyez_conn_fd(connection))
            self.fails(oyez.CLOSED, self.lib.oyez_conn_peer(connection, text, 64))
            self.fails(oyez.CLOSED, self.lib.oyez_conn_local(connection, text, 64))
            self.fails(oyez.CLOSED, self.lib.oyez_conn_abort(connection))
            self.fails(oyez.CLOSED, self.lib.oyez_conn_detach(connection))
            self.fails(oyez.CLOSED, self.lib.oyez_conn_set_user(connection, None))
            self.fails(oyez.CLOSED, self.lib.oyez_conn_set_timeout(connection, 1))

    def test_accepting_by_hand(self):
        server = self.ok(self.lib.oyez_server_new(None, None, None))
        try:
            listener = self.ok(self.lib.oyez_server_listen(server, b"127.0.0.1:0", None))
            connection = ctypes.c_uint64()
            self.fails(oyez.TIMED_OUT, self.lib.oyez_server_accept(server, byref(connection), 20))
            self.fails(oyez.INVALID_ARGUMENT, self.lib.oyez_server_accept(server, None, 0))
            client = self.client(self.address(listener))
            fd = self.ok(self.lib.oyez_server_accept(server, byref(connection), 5000))
            self.assertNotEqual(connection.value, 0)
            self.assertEqual(self.lib.oyez_conn_fd(connection), fd)
            self.assertEqual(self.lib.oyez_conn_detach(connection), fd)
            self.fails(oyez.CLOSED, self.lib.oyez_conn_fd(connection))
        finally:
            self.ok(self.lib.oyez_server_close(server))
        # Python owns it now, and the server's end did not touch it.
        with socket.socket(fileno=fd) as owned:
            owned.sendall(b"mine")
            self.assertEqual(client.recv(10), b"mine")


class Library(UntypedTestCase):
    def test_header_library_and_binding_have_the_same_functions(self):
        header = (ROOT / "include" / "oyez.h").read_text(encoding="utf-8")
        code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
        declared = set(re.findall(r"\b(oyez_\w+)\(", code))
        self.assertEqual(declared, set(oyez.SIGNATURES))
        for name in declared:
            getattr(self.lib, name)

    def test_code_names(self):
        for code, name in enumerate(oyez.CODES):
            self.assertEqual(oyez.lib.oyez_code_name(code).decode(), name)
        for code in (-1, 18, 1 << 30):
            self.assertEqual(oyez.lib.oyez_code_name(code), b"OYEZ_UNKNOWN")

    def test_loading_and_listening_leave_the_process_alone(self):
        done = subprocess.run(
            [sys.executable, HERE / "programs.py", "quiet"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, OYEZ_LIBRARY=oyez.LIBRARY),
            timeout=PATIENCE,
            check=False,
        )
        self.assertEqual((done.returncode, done.stdout), (0, b""))

    def test_perror_prints_the_message_and_the_hint(self):
        script = (
            "import ctypes, os; lib = ctypes.CDLL(os.environ['OYEZ_LIBRARY'])\n"
            "lib.oyez_listen(b'127.0.0.1:65536', None); lib.oyez_perror(b'app')"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ, OYEZ_LIBRARY=oyez.LIBRARY),
            timeout=PATIENCE,
            text=True,
            check=True,
        )
        lines = done.stderr.split("\n")
        self.assertEqual(done.stdout, "")
        self.assertTrue(lines[0].startswith("app: "), lines)
        self.assertTrue(lines[1].startswith("  hint: "), lines)


if __name__ == "__main__":
    unittest.main()
