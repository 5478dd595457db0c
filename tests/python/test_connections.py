"""What a handler does with its connection, from Python."""

import ctypes
import errno
import os
import socket
import threading
import time
import unittest

import oyez_ctypes as oyez
from oyez_ctypes import lib
from support import PATIENCE, Server, TestCase, connect, eventually, receive_all


class Connections(TestCase):
    def serve_one(self, handler, **options):
        """A server whose handler's result or exception is kept."""
        results = []
        done = threading.Event()

        def keep(connection, _user):
            try:
                results.append(handler(connection))
            except BaseException as error:
                results.append(error)
            done.set()

        server = Server(self, keep, **options)

        def result():
            self.assertTrue(done.wait(PATIENCE))
            if isinstance(results[0], BaseException):
                raise results[0]
            return results[0]

        return server, result

    def test_addresses_descriptor_and_user_pointer(self):
        def handler(connection):
            fd = oyez.check(lib.oyez_conn_fd(connection))
            before = lib.oyez_conn_user(connection)
            oyez.check(lib.oyez_conn_set_user(connection, 0xDEADBEEF00))
            return (
                oyez.text(lib.oyez_conn_peer, connection),
                oyez.text(lib.oyez_conn_local, connection),
                os.get_blocking(fd),
                os.get_inheritable(fd),
                before,
                lib.oyez_conn_user(connection),
            )

        server, result = self.serve_one(handler)
        client = self.client(server.address)
        peer = "%s:%d" % client.getsockname()
        self.assertEqual(result(), (peer, server.address, True, False, None, 0xDEADBEEF00))
        server.close()

    def test_lines(self):
        def handler(connection):
            lines = []
            for _ in range(4):
                lines.append(oyez.conn_read_line(connection, 16))
            try:
                oyez.conn_read_line(connection, 8)
            except oyez.OyezError as error:
                lines.append((error.code, error.errno))
            lines.append(oyez.conn_read_line(connection, 16))
            # Nothing behind the line was taken from the socket.
            lines.append(os.read(lib.oyez_conn_fd(connection), 3))
            lines.append(oyez.conn_read_line(connection, 16))
            try:
                oyez.conn_read_line(connection, 8)
            except oyez.OyezError as error:
                lines.append(error.code)
            return lines

        server, result = self.serve_one(handler)
        client = self.client(server.address)
        client.sendall(b"one\r\ntwo\n\nwith\0nul\n1234567890\nrawlast")
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(
            result(),
            [
                b"one",
                b"two",
                b"",
                b"with\0nul",
                (oyez.LIMIT_REACHED, errno.EMSGSIZE),
                b"890",
                b"raw",
                b"last",
                oyez.CLOSED,
            ],
        )
        server.close()

    def test_abort_resets(self):
        def handler(connection):
            oyez.conn_read(connection)
            oyez.check(lib.oyez_conn_abort(connection))
            return lib.oyez_conn_abort(connection), lib.oyez_error_code(None)

        server, result = self.serve_one(handler)
        client = self.client(server.address)
        client.sendall(b"x")
        self.assertEqual(result(), (-1, oyez.CLOSED))
        with self.assertRaises(ConnectionResetError):
            client.recv(1)
        server.close()

    def test_close_keeps_what_was_written_and_wakes_other_threads(self):
        reading = []

        def handler(connection):
            buffer = ctypes.create_string_buffer(10)

            def read():
                reading.append((lib.oyez_conn_read(connection, buffer, 10), lib.oyez_error_code(None)))

            other = threading.Thread(target=read)
            other.start()
            oyez.conn_write(connection, b"farewell")
            time.sleep(0.05)  # the other thread is to be inside its call, which nothing announces
            oyez.check(lib.oyez_conn_close(connection))
            other.join(PATIENCE)
            return lib.oyez_conn_close(connection), lib.oyez_error_code(None)

        server, result = self.serve_one(handler)
        client = self.client(server.address)
        self.assertEqual(receive_all(client), b"farewell")
        self.assertEqual(result(), (-1, oyez.CLOSED))
        self.assertEqual(reading, [(-1, oyez.CLOSED)])
        client.close()
        server.close()

    def test_timeouts(self):
        for options, set_timeout in (
            ({"idle_timeout_ms": 100}, None),
            ({"read_timeout_ms": 100}, None),
            ({"lifetime_ms": 100}, None),
            ({"idle_timeout_ms": 20000}, 100),
        ):
            with self.subTest(**options, set_timeout=set_timeout):

                def handler(connection):
                    if set_timeout:
                        oyez.check(lib.oyez_conn_set_timeout(connection, set_timeout))
                    began = time.monotonic()
                    try:
                        oyez.conn_read(connection)
                    except oyez.OyezError as error:
                        # A lifetime began before the handler did.
                        return error.code, error.errno, 0.05 <= time.monotonic() - began < 5
                    return None

                server, result = self.serve_one(handler, **options)
                client = self.client(server.address)
                self.assertEqual(result(), (oyez.TIMED_OUT, errno.EAGAIN, True))
                client.close()
                eventually(lambda: server.stats().timeouts == 1, lambda: server.stats().timeouts)
                server.close()

    def test_a_write_that_nobody_reads_times_out(self):
        def handler(connection):
            try:
                oyez.conn_write(connection, bytes(64 << 20))
            except oyez.OyezError as error:
                return error.code
            return None

        server, result = self.serve_one(handler, write_timeout_ms=200)
        client = self.client(server.address)
        self.assertEqual(result(), oyez.TIMED_OUT)
        client.close()
        server.close()

    def test_numbers_are_never_used_twice(self):
        numbers = []

        def handler(connection, _user):
            numbers.append(connection)

        server = Server(self, handler)
        for _ in range(300):
            with connect(server.address) as client:
                self.assertEqual(client.recv(1), b"")
        server.stop()
        server.wait()
        self.assertEqual(len(set(numbers)), 300)
        self.assertNotIn(0, numbers)
        buffer = ctypes.create_string_buffer(1)
        for number in numbers:
            self.assertEqual(lib.oyez_conn_read(number, buffer, 1), -1)
            self.assertEqual(lib.oyez_error_code(None), oyez.CLOSED)
        server.close()

if __name__ == "__main__":
    unittest.main()
