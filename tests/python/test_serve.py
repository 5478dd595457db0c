"""Servers with a handler, from Python, in this process: in each model, and by hand."""

import ctypes
import os
import random
import select
import socket
import threading
import time
import unittest

import oyez_ctypes as oyez
from oyez_ctypes import lib
from support import (
    PATIENCE,
    Server,
    TestCase,
    ask,
    connect,
    eventually,
    exchange_all,
    payload,
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

if __name__ == "__main__":
    unittest.main()
