"""Servers with a handler, from Python: in this process, and stopped by signals in processes of their own."""

import ctypes
import errno
import hashlib
import json
import os
import random
import select
import signal
import socket
import threading
import time
import unittest

import oyez_ctypes as oyez
import programs
from oyez_ctypes import lib
from support import (
    PATIENCE,
    Server,
    TestCase,
    ask,
    connect,
    eventually,
    exchange_all,
    listening,
    payload,
    python_program,
    receive_all,
    receive_exactly,
    reset,
    threads,
)


class Echo(TestCase):
    model = oyez.THREADS
    largest = 1 << 20

    def payloads(self, count, largest):
        generator = random.Random(count + self.model)
        return [payload(generator, largest) for _ in range(count)]

    def test_random_payloads(self):
        server = Server(self, oyez.echo, model=self.model)
        exchange_all(server.address, self.payloads(30, self.largest))
        self.assertEqual(server.stats().accepted, 30)
        server.stop()
        server.wait()
        server.close()

    def test_two_hundred_clients_at_once(self):
        server = Server(self, oyez.echo, model=self.model)
        sent = self.payloads(200, 1 << 18)
        exchange_all(server.address, sent, all_at_once=self.model == oyez.THREADS)
        server.stop()
        server.wait()
        stats = server.stats()
        total = sum(map(len, sent))
        self.assertEqual(
            (stats.accepted, stats.active, stats.bytes_in, stats.bytes_out, stats.cut), (200, 0, total, total, 0)
        )
        server.close()

    def test_a_thousand_short_connections(self):
        server = Server(self, oyez.echo, model=self.model)
        for number in range(1000):
            client = connect(server.address)
            client.sendall(b"%d" % number)
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(receive_all(client), b"%d" % number)
            client.close()
        server.stop()
        server.wait()
        self.assertEqual((server.stats().accepted, server.stats().active), (1000, 0))
        server.close()

    def test_clients_that_reset_do_no_harm(self):
        server = Server(self, oyez.echo, model=self.model)
        for number in range(40):
            client = connect(server.address)
            client.sendall(b"x" * (number * 5000))
            reset(client)
        ask_and_close(server.address)
        server.close()

    def test_stop_while_clients_wait(self):
        """Clients that the kernel has connected but nobody has accepted are served, new ones are refused."""
        held = threading.Event()
        entered = threading.Semaphore(0)
        self.addCleanup(held.set)

        def handler(connection, user):
            entered.release()
            held.wait(PATIENCE)
            oyez.echo(connection, user)

        server = Server(self, handler, model=self.model, workers=0 if self.model == oyez.SEQUENTIAL else 2)
        address = server.address
        clients = [self.client(address) for _ in range(20)]
        for client in clients:
            client.sendall(b"hello")
        self.assertTrue(entered.acquire(timeout=PATIENCE))
        server.stop(-1)
        self.fails_with(oyez.TIMED_OUT, server.wait, 50)
        held.set()
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        for client in clients:
            self.assertEqual(receive_all(client), b"hello")
        server.wait()
        with self.assertRaises(ConnectionRefusedError):
            connect(address)
        stats = server.stats()
        self.assertEqual((stats.accepted, stats.cut, stats.active), (20, 0, 0))
        server.close()

    def test_what_the_drain_time_cuts_is_reset(self):
        results = []
        entered = threading.Event()

        def handler(connection, _user):
            oyez.conn_write(connection, b"begun")
            entered.set()
            buffer = ctypes.create_string_buffer(10)
            results.append((lib.oyez_conn_read(connection, buffer, 10), lib.oyez_error_code(None)))

        server = Server(self, handler, model=self.model)
        client = self.client(server.address)
        self.assertTrue(entered.wait(PATIENCE))
        began = time.monotonic()
        server.stop(200)
        server.wait()
        self.assertGreaterEqual(time.monotonic() - began, 0.2)
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(results, [(-1, oyez.STOPPED)])
        self.assertEqual(receive_exactly(client, 5), b"begun")
        with self.assertRaises(ConnectionResetError):
            client.recv(10)
        self.assertEqual((server.stats().cut, server.stats().drained), (1, 0))
        server.close()

    def test_a_second_stop_ends_the_drain_time(self):
        entered = threading.Event()

        def handler(connection, user):
            entered.set()
            oyez.echo(connection, user)

        server = Server(self, handler, model=self.model)
        client = self.client(server.address)
        self.assertTrue(entered.wait(PATIENCE))
        server.stop(-1)
        self.fails_with(oyez.TIMED_OUT, server.wait, 50)
        server.stop(-1)
        server.wait(5000)
        with self.assertRaises(ConnectionResetError):
            client.recv(10)
        server.close()

    def test_an_unread_request_does_not_destroy_the_reply(self):
        reply = os.urandom(200000)

        def handler(connection, _user):
            oyez.conn_read(connection, 10)
            oyez.conn_write(connection, reply)

        server = Server(self, handler, model=self.model)
        client = self.client(server.address)
        client.sendall(b"x" * (1 << 20))
        self.assertEqual(receive_all(client), reply)
        client.close()
        server.close()

    def test_stop_from_the_handler(self):
        numbers = []

        def handler(connection, user):
            oyez.check(lib.oyez_server_stop(numbers[0], -1))
            # Waiting for oneself would never end.
            numbers.append((lib.oyez_server_wait(numbers[0], -1), lib.oyez_error_code(None)))
            oyez.echo(connection, user)

        server = Server(self, handler, model=self.model, start=False)
        numbers.append(server.number)
        server.start()
        client = self.client(server.address)
        ask(client, b"last words")
        client.close()
        server.wait()
        self.assertEqual(numbers[1:], [(-1, oyez.INVALID_ARGUMENT)])
        server.close()

    def test_close_from_the_handler(self):
        numbers = []
        ended = threading.Event()

        def handler(connection, user):
            numbers.append(lib.oyez_server_close(numbers[0]))
            oyez.echo(connection, user)
            ended.set()

        server = Server(self, handler, model=self.model, start=False)
        numbers.append(server.number)
        server.start()
        client = self.client(server.address)
        ask(client, b"last words")
        client.close()
        self.assertTrue(ended.wait(PATIENCE))
        self.assertEqual(numbers[1:], [0])
        self.fails_with(oyez.CLOSED, server.stats)

    def test_running_twice_and_after_the_stop(self):
        server = Server(self, oyez.echo, model=self.model)
        self.fails_with(oyez.INVALID_ARGUMENT, server.start)
        self.fails_with(oyez.INVALID_ARGUMENT, server.run)
        server.stop()
        server.wait()
        self.fails_with(oyez.STOPPED, server.start)
        self.fails_with(oyez.STOPPED, server.listen, "127.0.0.1:0")
        server.close()
        idle = Server(self, oyez.echo, addresses=None, start=False, model=self.model)
        self.fails_with(oyez.INVALID_ARGUMENT, idle.start)
        self.fails_with(oyez.INVALID_ARGUMENT, idle.wait, 0)
        by_hand = Server(self, None, start=False, model=self.model)
        self.fails_with(oyez.INVALID_ARGUMENT, by_hand.start)

    def test_pause_and_resume(self):
        server = Server(self, oyez.echo, model=self.model)
        ask_and_close(server.address)
        oyez.check(lib.oyez_server_pause(server.number))
        waiting = self.client(server.address)
        waiting.sendall(b"?")
        waiting.settimeout(0.2)
        with self.assertRaises(socket.timeout):
            waiting.recv(1)
        waiting.settimeout(PATIENCE)
        self.assertEqual(server.stats().queue, 1)
        oyez.check(lib.oyez_server_resume(server.number))
        self.assertEqual(waiting.recv(1), b"?")
        waiting.close()
        server.stop(0)
        server.wait()
        server.close()

    def test_several_listeners(self):
        path = self.directory() + "/s"
        server = Server(self, oyez.echo, f"127.0.0.1:0,unix:{path},-[2001:db8::1]:0", model=self.model)
        more = oyez.local_address(server.listen("127.0.0.1:0"))
        self.assertEqual(server.stats().listeners, 3)
        for address in (f"unix:{path}", more):
            client = self.client(address)
            ask(client, b"here")
            client.close()
        server.stop()
        server.wait()
        server.close()
        self.assertFalse(os.path.exists(path))

    def test_a_list_of_which_one_fails_leaves_none(self):
        server = Server(self, oyez.echo, None, start=False, model=self.model)
        path = self.directory() + "/s"
        self.fails_with(oyez.ADDRESS_NOT_AVAILABLE, server.listen, f"unix:{path},127.0.0.1:0,192.0.2.1:0")
        self.assertEqual(server.stats().listeners, 0)
        self.assertFalse(os.path.exists(path))
        self.fails_with(oyez.ADDRESS_NOT_AVAILABLE, server.listen, "-192.0.2.1:0")
        server.close()


class EchoSequential(Echo):
    model = oyez.SEQUENTIAL
    largest = 1 << 19

    def test_one_at_a_time_on_the_calling_thread(self):
        seen = []
        active = []

        def handler(connection, user):
            active.append(connection)
            seen.append((threading.get_native_id(), len(active)))
            oyez.echo(connection, user)
            active.remove(connection)

        server = Server(self, handler, model=self.model, start=False)

        def run():
            server.run()
            return threading.get_native_id()

        before = len(threads())
        running = self.thread(run)
        exchange_all(server.address, self.payloads(20, 1000))
        self.assertLessEqual(len(threads()), before + 2, "the calling thread, and none for each client")
        server.stop()
        caller = running.result()
        self.assertEqual(seen, [(caller, 1)] * 20)
        server.close()


class Threads(TestCase):
    def test_no_more_handlers_than_workers(self):
        lock = threading.Lock()
        state = {"now": 0, "most": 0}

        def handler(connection, user):
            with lock:
                state["now"] += 1
                state["most"] = max(state["most"], state["now"])
            oyez.echo(connection, user)
            with lock:
                state["now"] -= 1

        server = Server(self, handler, workers=4)
        generator = random.Random(4)
        exchange_all(server.address, [payload(generator, 20000) for _ in range(60)])
        self.assertLessEqual(state["most"], 4)
        server.close()

    def test_a_handler_that_hangs_holds_one_thread_only(self):
        held = threading.Event()
        hung = threading.Event()
        self.addCleanup(held.set)

        def handler(connection, user):
            line = oyez.conn_read(connection, 4)
            if line == b"hang":
                hung.set()
                held.wait(PATIENCE)
                return
            oyez.conn_write(connection, line)

        server = Server(self, handler, workers=2)
        stuck = self.client(server.address)
        stuck.sendall(b"hang")
        self.assertTrue(hung.wait(PATIENCE))
        for _ in range(20):
            client = self.client(server.address)
            client.sendall(b"ping")
            self.assertEqual(receive_all(client), b"ping")
            client.close()
        stuck.close()
        held.set()
        server.close()

    def test_idle_threads_leave_and_threads_are_made_when_needed(self):
        server = Server(self, oyez.echo)
        idle = len(threads())
        clients = [self.client(server.address) for _ in range(40)]
        for client in clients:
            ask(client, b"x")
        self.assertGreaterEqual(len(threads()), idle + 39)
        for client in clients:
            client.close()
        eventually(lambda: len(threads()) <= idle + 4, "idle threads leave", patience=15)
        ask(self.client(server.address), b"again")
        server.stop(0)
        server.wait()
        server.close()

    def test_an_idle_server_stops_at_once(self):
        took = []
        for _ in range(12):
            server = Server(self, oyez.echo)
            ask_and_close(server.address)
            eventually(lambda: server.stats().active == 0, "idle")
            began = time.monotonic()
            server.stop(-1)
            server.wait()
            took.append(time.monotonic() - began)
            server.close()
        # The machine may be busy with something else, so not each, but some must show it.
        self.assertLess(sorted(took)[len(took) // 4], 0.005, took)

    def test_a_stop_just_when_the_last_handler_returns(self):
        """Nothing is left to do then, and nothing but the handler's own return says so."""
        for number in range(150):
            server = Server(self, oyez.echo)
            clients = [connect(server.address) for _ in range(1 + number % 3)]
            for client in clients:
                ask(client, b"hello")
                client.close()
            server.stop(-1)
            server.wait(10000)
            server.close()

    def test_a_handler_owns_what_it_detaches(self):
        owned = []
        taken = threading.Event()

        def handler(connection, _user):
            owned.append(oyez.check(lib.oyez_conn_detach(connection)))
            owned.append((lib.oyez_conn_fd(connection), lib.oyez_error_code(None)))
            taken.set()

        server = Server(self, handler)
        client = self.client(server.address)
        self.assertTrue(taken.wait(PATIENCE))
        server.stop(-1)
        server.wait()
        server.close()
        self.assertEqual(owned[1], (-1, oyez.CLOSED))
        with socket.socket(fileno=owned[0]) as sock:
            self.assertTrue(sock.getblocking())
            self.assertFalse(sock.get_inheritable())
            client.sendall(b"mine")
            self.assertEqual(sock.recv(10), b"mine")


def ask_and_close(address):
    with connect(address) as client:
        ask(client, b"hello")


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


def accept(server, connection, timeout_ms):
    return oyez.check(lib.oyez_server_accept(server.number, ctypes.byref(connection), timeout_ms))


class ByHand(TestCase):
    def test_a_loop_of_ones_own(self):
        server = Server(self, None, "127.0.0.1:0,127.0.0.1:0", start=False)
        watched = oyez.check(lib.oyez_server_poll_fd(server.number))
        connection = ctypes.c_uint64()
        # It may be readable for the sake of tidying up; once that is done it is not.
        self.fails_with(oyez.TIMED_OUT, accept, server, connection, 0)
        self.assertEqual(select.select([watched], [], [], 0)[0], [])
        client = self.client(server.address)
        self.assertEqual(select.select([watched], [], [], PATIENCE)[0], [watched])
        fd = accept(server, connection, 0)
        self.assertEqual(lib.oyez_conn_fd(connection.value), fd)
        self.assertTrue(os.get_blocking(fd))
        client.sendall(b"word")
        self.assertEqual(oyez.conn_read(connection.value), b"word")
        oyez.conn_write(connection.value, b"answer")
        oyez.check(lib.oyez_conn_close(connection.value))
        self.assertEqual(receive_all(client), b"answer")
        client.close()
        server.close()

    def test_a_stop_wakes_and_loses_nobody(self):
        server = Server(self, None, start=False)
        connection = ctypes.c_uint64()
        waiting = self.thread(lib.oyez_server_accept, server.number, ctypes.byref(connection), -1)
        with connect(server.address):
            self.assertGreaterEqual(waiting.result(), 0)
            oyez.check(lib.oyez_conn_close(connection.value))
        clients = [self.client(server.address) for _ in range(3)]
        server.stop(-1)
        for _ in clients:
            fd = lib.oyez_server_accept(server.number, ctypes.byref(connection), 5000)
            self.assertGreaterEqual(fd, 0, "a client that waits in the queue is handed out")
            oyez.check(lib.oyez_conn_close(connection.value))
        self.assertEqual(lib.oyez_server_accept(server.number, ctypes.byref(connection), 5000), -1)
        self.assertEqual(lib.oyez_error_code(None), oyez.STOPPED)
        for client in clients:
            self.assertEqual(receive_all(client), b"")
            client.close()
        server.close()

    def test_a_stop_or_a_close_wakes_all_who_wait(self):
        def wait():
            connection = ctypes.c_uint64()
            return lib.oyez_server_accept(server.number, ctypes.byref(connection), -1), lib.oyez_error_code(None)

        for end, codes in (
            (lambda: server.stop(0), {oyez.STOPPED}),
            (lambda: server.stop(-1), {oyez.STOPPED}),
            (lambda: server.close(), {oyez.STOPPED, oyez.CLOSED}),
        ):
            server = Server(self, None, start=False, drain_ms=100)
            waiting = [self.thread(wait) for _ in range(4)]
            with connect(server.address):
                # One of them takes this client, so all of them have been scheduled by then, or are about to.
                eventually(lambda: sum(one.running() for one in waiting) == 3, "a client was taken")
            end()
            results = [one.result(10) for one in waiting]
            self.assertEqual(len([fd for fd, _ in results if fd >= 0]), 1, results)
            self.assertLessEqual({code for fd, code in results if fd < 0}, codes)
            if lib.oyez_server_stop(server.number, 0) == 0:
                server.close()

    def test_stays_open_without_a_handler(self):
        server = Server(self, oyez.echo)
        self.fails_with(oyez.INVALID_ARGUMENT, lambda: oyez.check(lib.oyez_server_poll_fd(server.number)))
        connection = ctypes.c_uint64()
        self.assertEqual(lib.oyez_server_accept(server.number, ctypes.byref(connection), 0), -1)
        self.assertEqual(lib.oyez_error_code(None), oyez.INVALID_ARGUMENT)
        server.close()


class Signals(TestCase):
    MEBIBYTES = 32

    def told(self, program):
        """What the program told, in order."""
        return [json.loads(line) for line in program.rest() if line.startswith("{")]

    def last(self, program):
        """The report that the program ends with."""
        return self.told(program)[-1]

    def report(self, program, key):
        """What the program told under a key, in order."""
        return [report[key] for report in self.told(program) if key in report]

    def test_idle(self):
        for model in (oyez.THREADS, oyez.SEQUENTIAL):
            for number in (signal.SIGTERM, signal.SIGINT):
                with self.subTest(model=model, signal=number.name):
                    program = python_program(self, "echo", model, 60000)
                    with connect(program.address) as client:
                        ask(client, b"before")
                    began = time.monotonic()
                    program.signal(number)
                    self.assertEqual(program.wait(), 0, program.errors())
                    # Most of this is the interpreter's own end.
                    self.assertLess(time.monotonic() - began, 3)
                    self.assertEqual(self.last(program)["cut"], 0)
                    self.assertEqual(program.errors(), "")

    def stop_in_a_transfer(self, number):
        whole = programs.pattern()
        for model in (oyez.THREADS, oyez.SEQUENTIAL):
            with self.subTest(model=model):
                program = python_program(self, "send", model, 30000, self.MEBIBYTES)
                client = self.client(program.address)
                digest = hashlib.sha256(receive_exactly(client, 1 << 20))
                got = 1 << 20
                program.signal(number)
                # The listener goes once the queue is empty. A sequential server looks at it between two clients.
                if model == oyez.THREADS:
                    eventually(lambda: not listening(program.address), "the listener is closed")
                while True:
                    part = client.recv(1 << 18)
                    if not part:
                        break
                    digest.update(part)
                    got += len(part)
                self.assertEqual(got, self.MEBIBYTES << 20)
                self.assertEqual(digest.digest(), hashlib.sha256(whole * self.MEBIBYTES).digest())
                client.close()
                self.assertEqual(program.wait(), 0, program.errors())
                self.assertEqual(self.report(program, "written"), [self.MEBIBYTES << 20])
                last = self.last(program)
                self.assertEqual((last["accepted"], last["drained"], last["cut"], last["active"]), (1, 1, 0, 0))

    def test_sigterm_in_a_transfer(self):
        self.stop_in_a_transfer(signal.SIGTERM)

    def test_sigint_in_a_transfer(self):
        self.stop_in_a_transfer(signal.SIGINT)

    def test_after_the_drain_time_the_client_can_tell(self):
        program = python_program(self, "send", oyez.THREADS, 200, self.MEBIBYTES)
        client = self.client(program.address)
        receive_exactly(client, 1 << 20)
        program.signal(signal.SIGTERM)
        self.assertEqual(program.wait(), 0, program.errors())
        with self.assertRaises(ConnectionResetError):
            receive_all(client)
        self.assertEqual(self.report(program, "written"), [-1])
        self.assertEqual(self.report(program, "code")[0], oyez.STOPPED)
        last = self.last(program)
        self.assertEqual((last["drained"], last["cut"]), (0, 1))

    def test_a_second_signal_stops_at_once(self):
        program = python_program(self, "send", oyez.THREADS, 600000, self.MEBIBYTES)
        client = self.client(program.address)
        receive_exactly(client, 1 << 20)
        program.signal(signal.SIGTERM)
        eventually(lambda: not listening(program.address), "the listener is closed")
        self.assertTrue(program.running())
        program.signal(signal.SIGTERM)
        self.assertEqual(program.wait(), 0, program.errors())
        with self.assertRaises(ConnectionResetError):
            receive_all(client)

    def test_serve_in_one_call_puts_the_dispositions_back(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = "127.0.0.1:%d" % probe.getsockname()[1]
        program = python_program(self, "serve_call", address)
        eventually(lambda: listening(address), "it listens")
        with connect(address) as client:
            ask(client, b"hello")
        program.signal(signal.SIGINT)
        self.assertEqual(program.wait(), 0, program.errors())
        self.assertEqual(self.report(program, "result"), [0])
        self.assertEqual(self.report(program, "same"), [True])
        self.assertEqual(self.report(program, "handled_inside"), [True])
        self.assertEqual(self.report(program, "interrupted"), [True])

    def test_sigpipe_never_ends_the_process(self):
        program = python_program(self, "broken_pipe")
        for end in (socket.socket.close, reset):
            client = connect(program.address)
            client.sendall(b"go")
            end(client)
        self.assertEqual(program.wait(), 0, program.errors())
        self.assertEqual(self.report(program, "codes"), [[oyez.CLOSED, oyez.CLOSED, "EPIPE"]])
        self.assertEqual(self.report(program, "disposition"), [True])

    def test_a_forked_child_is_told(self):
        program = python_program(self, "fork")
        client = self.client(program.address)
        told = json.loads(program.wait_for(r"^\{.*child.*\}$")[0])
        self.assertEqual(told["status"], 0)
        results = told["child"]
        self.assertEqual(results.pop("own"), [1, 0])
        self.assertEqual(results, {name: [-1, oyez.FORKED] for name in results})
        self.assertEqual(len(results), 12)
        # The parent has lost nothing by it.
        ask(client, b"still there")
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(receive_all(client), b"")
        self.assertEqual(program.wait(), 0, program.errors())


if __name__ == "__main__":
    unittest.main()
