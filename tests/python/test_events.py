"""Event servers from Python, on threads of their own."""

import ctypes
import errno
import socket
import threading
import unittest

import oyez_ctypes as oyez
from event_servers import EventServer, echo_lines, payloads
from oyez_ctypes import lib
from support import TestCase, ask, connect, eventually, exchange_all, receive_all, receive_exactly, reset


class OnThreads(TestCase):
    """The server runs on threads of its own."""

    def test_a_hundred_clients(self):
        for workers in (1, 4):
            with self.subTest(workers=workers):
                server = EventServer(self, workers=workers)
                sent = payloads(100, 1 << 17)
                exchange_all(server.address, sent, all_at_once=True)
                server.stop()
                server.wait()
                stats = server.stats()
                total = sum(map(len, sent))
                self.assertEqual((stats.accepted, stats.active, stats.cut), (100, 0, 0))
                self.assertEqual((stats.bytes_in, stats.bytes_out), (total, total))
                self.assertEqual(len(set(server.opened)), 100)
                self.assertEqual(sorted(server.opened), sorted(ended[0] for ended in server.closed))
                self.assertEqual(set(server.reasons()), {(oyez.CLOSED, 0)})
                server.close()

    def test_lines_in_pieces(self):
        server = EventServer(self, on_data=echo_lines)
        client = self.client(server.address)
        for piece, answer in ((b"fir", b""), (b"st\nsec", b"first\n"), (b"ond\n\nthird\n", b"second\n\nthird\n")):
            client.sendall(piece)
            self.assertEqual(receive_exactly(client, len(answer)), answer)
        client.close()
        server.end()

    def test_pause_and_resume_from_a_thread(self):
        got = []

        def on_data(_connection, data):
            got.append(data)
            return len(data)

        server = EventServer(self, on_data=on_data)
        client = self.client(server.address)
        connection = server.connection()

        def done_so_far():
            """What was asked of the server's thread is done in order; the peer gets a byte when this has been."""
            oyez.conn_write(connection, b".")
            self.assertEqual(receive_exactly(client, 1), b".")

        for _ in range(3):
            oyez.check(lib.oyez_conn_pause(connection))
            done_so_far()
            client.sendall(b"held back")
            done_so_far()
            self.assertEqual(got, [])
            oyez.check(lib.oyez_conn_resume(connection))
            eventually(lambda: got, "input comes after the resume")
            self.assertEqual(got, [b"held back"])
            got.clear()
        client.close()
        server.end()
        self.fails_with(oyez.CLOSED, lambda: oyez.check(lib.oyez_conn_pause(connection)))
        self.fails_with(oyez.CLOSED, lambda: oyez.check(lib.oyez_conn_resume(connection)))

    def test_an_answer_from_another_thread(self):
        answers = []

        def on_data(connection, data):
            oyez.check(lib.oyez_conn_pause(connection))
            answers.append(self.thread(answer, connection, data))
            return len(data)

        def answer(connection, data):
            oyez.conn_write(connection, data.upper())
            oyez.check(lib.oyez_conn_resume(connection))

        server = EventServer(self, on_data=on_data)
        with connect(server.address) as client:
            for _ in range(50):
                client.sendall(b"question")
                self.assertEqual(receive_exactly(client, 8), b"QUESTION")
            # The end of the stream is noticed after the answer only.
            client.sendall(b"last")
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(receive_all(client), b"LAST")
        for one in answers:
            one.result()
        server.end()

    def test_threads_write_to_one_connection(self):
        server = EventServer(self)
        client = self.client(server.address)
        connection = server.connection()

        def write(name):
            for number in range(500):
                oyez.conn_write(connection, b"%d %d\n" % (name, number))

        writers = [self.thread(write, name) for name in range(4)]
        lines = client.makefile("rb")
        seen = {name: 0 for name in range(4)}
        for _ in range(4 * 500):
            name, number = map(int, lines.readline().split())
            self.assertEqual(number, seen[name])
            seen[name] += 1
        for writer in writers:
            writer.result()
        lines.close()
        client.close()
        server.end()

    def test_output_that_is_not_read(self):
        refused = []
        drained = threading.Event()

        def on_open(connection):
            part = bytes(1 << 16)
            while lib.oyez_conn_write(connection, part, len(part)) == len(part):
                pass
            refused.append(lib.oyez_error_code(None))

        def on_drain(connection):
            drained.set()
            oyez.check(lib.oyez_conn_close(connection))

        server = EventServer(self, on_open=on_open, on_drain=on_drain, max_output=1 << 20)
        client = self.client(server.address)
        eventually(lambda: refused, "the queue is full")
        self.assertEqual(refused, [oyez.LIMIT_REACHED])
        self.assertFalse(drained.is_set())
        got = len(receive_all(client))
        self.assertTrue(drained.is_set())
        self.assertGreater(got, (1 << 20) - (1 << 16))
        self.assertEqual(got % (1 << 16), 0, "what was refused is not sent in part")
        client.close()
        server.end()
        self.assertEqual(server.reasons(), [(oyez.OK, 0)])

    def end_of_one(self, end, functions=None, **options):
        """The reason that on_close is given, once for a connection that `end(server, client)` has ended."""
        server = EventServer(self, **(functions or {}), **options)
        client = self.client(server.address)
        server.connection()
        end(server, client)
        eventually(lambda: server.closed, "on_close is called")
        server.end(0)
        client.close()
        self.assertEqual([ended[0] for ended in server.closed], server.opened)
        return server.reasons()[0]

    def test_reasons_of_the_client(self):
        self.assertEqual(self.end_of_one(lambda _, client: client.close()), (oyez.CLOSED, 0))
        self.assertEqual(self.end_of_one(lambda _, client: client.shutdown(socket.SHUT_WR)), (oyez.CLOSED, 0))
        self.assertEqual(self.end_of_one(lambda _, client: reset(client)), (oyez.CLOSED, errno.ECONNRESET))

    def test_reasons_of_the_program(self):
        for call in (lib.oyez_conn_close, lib.oyez_conn_abort):
            with self.subTest(call=call.__name__):
                # By the test's thread, and by the function that is called for the connection.
                by_thread = self.end_of_one(lambda server, _, call=call: oyez.check(call(server.opened[0])))
                self.assertEqual(by_thread, (oyez.OK, 0))
                inside = {"on_open": lambda connection, call=call: oyez.check(call(connection))}
                self.assertEqual(self.end_of_one(lambda *_: None, inside), (oyez.OK, 0))

    def test_reasons_of_the_server(self):
        for name in ("idle_timeout_ms", "read_timeout_ms", "lifetime_ms"):
            with self.subTest(timeout=name):
                self.assertEqual(
                    self.end_of_one(lambda *_: None, **{name: 50}), (oyez.TIMED_OUT, errno.EAGAIN)
                )
        keeps_all = {"on_data": lambda *_: 0}
        self.assertEqual(
            self.end_of_one(lambda _, client: client.sendall(bytes(2000)), keeps_all, max_input=1000),
            (oyez.LIMIT_REACHED, errno.EMSGSIZE),
        )
        self.assertEqual(
            self.end_of_one(lambda server, client: (ask(client, b"served"), server.stop(-1)))[0], oyez.STOPPED
        )
        # One that is not idle is reset when the drain time is over.
        self.assertEqual(
            self.end_of_one(lambda server, client: (client.sendall(b"left"), server.stop(50)), keeps_all)[0],
            oyez.STOPPED,
        )

    def test_stop_and_close_from_a_function(self):
        def stop(connection, data):
            oyez.conn_write(connection, data)
            server.stop(-1)
            return len(data)

        def close(connection, data):
            oyez.conn_write(connection, data)
            server.close()
            return len(data)

        for function in (stop, close):
            with self.subTest(function=function.__name__):
                server = EventServer(self, on_data=function)
                client = self.client(server.address)
                client.sendall(b"stop")
                self.assertEqual(receive_all(client), b"stop")
                client.close()
                if function is stop:
                    server.wait()
                    server.close()
                eventually(lambda server=server: server.closed, "on_close is called")
                self.assertEqual(server.reasons()[0][0], oyez.STOPPED)

    def test_wrong_structs(self):
        events = oyez.Events()
        for wrong in (0, 3, 1 << 40):
            events.size = wrong
            self.fails_with(
                oyez.INVALID_ARGUMENT,
                lambda: oyez.check(lib.oyez_server_new_events(ctypes.byref(events), None, None)),
            )
        self.fails_with(oyez.INVALID_ARGUMENT, lambda: oyez.check(lib.oyez_server_new_events(None, None, None)))

if __name__ == "__main__":
    unittest.main()
