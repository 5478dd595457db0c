"""Event servers inside the loops of `selectors` and of asyncio."""

import asyncio
import ctypes
import errno
import selectors
import threading
import time
import unittest

import oyez_ctypes as oyez
from event_servers import EventServer, PolledServer, echo, echo_lines, payloads
from oyez_ctypes import lib
from support import PATIENCE, Server, TestCase, connect, exchange_all, receive_all, receive_exactly


class InSelectors(TestCase):
    def setUp(self):
        super().setUp()
        self.selector = selectors.DefaultSelector()
        self.addCleanup(self.selector.close)

    def drive(self, server, until=lambda: False):
        """Drives the server by its descriptor alone, until it is drained or the condition holds."""
        deadline = time.monotonic() + PATIENCE
        goes_on = True
        while goes_on and not until():
            self.assertTrue(self.selector.select(deadline - time.monotonic()), "the server has work within the time")
            goes_on = server.poll_until_stopped()
        return goes_on

    def server(self, **keywords):
        server = PolledServer(self, **keywords)
        self.selector.register(server.fd, selectors.EVENT_READ)
        return server

    def test_a_hundred_clients(self):
        server = self.server()
        sent = payloads(100, 1 << 16)

        def clients():
            try:
                exchange_all(server.address, sent, all_at_once=True)
            finally:
                # From another thread: the descriptor becomes readable.
                server.stop()

        running = self.thread(clients)
        self.drive(server)
        running.result()
        self.fails_with(oyez.STOPPED, server.poll)
        stats = server.stats()
        self.assertEqual((stats.accepted, stats.active, stats.cut), (100, 0, 0))
        self.assertEqual(stats.bytes_out, sum(map(len, sent)))
        self.assertEqual(sorted(server.opened), sorted(ended[0] for ended in server.closed))
        self.selector.close()
        server.close()

    def test_all_on_the_polling_thread(self):
        seen = set()

        def note(*arguments):
            seen.add(threading.get_ident())
            return echo(*arguments) if len(arguments) == 2 else None

        server = self.server(on_open=note, on_data=note, on_close=note, workers=4)
        running = self.thread(exchange_all, server.address, payloads(20, 5000))
        self.drive(server, lambda: len(server.closed) == 20)
        running.result()
        self.assertEqual(seen, {threading.get_ident()})
        self.selector.close()
        server.close()

    def test_timeouts_without_traffic(self):
        for name in ("idle_timeout_ms", "read_timeout_ms", "lifetime_ms"):
            with self.subTest(timeout=name):
                server = self.server(**{name: 200})
                client = self.client(server.address)
                self.drive(server, lambda server=server: server.opened)
                began = time.monotonic()
                self.drive(server, lambda server=server: server.closed)
                self.assertGreaterEqual(time.monotonic() - began, 0.19)
                self.assertLess(time.monotonic() - began, 2)
                self.assertEqual(server.reasons(), [(oyez.TIMED_OUT, errno.EAGAIN)])
                self.assertEqual(receive_all(client), b"")
                client.close()
                self.selector.unregister(server.fd)
                server.close()

    def test_nothing_to_do_is_not_readable(self):
        server = self.server(idle_timeout_ms=60000)
        client = self.client(server.address)
        client.sendall(b"hello")
        self.drive(server, lambda: len(server.opened) and server.stats().bytes_out == 5)
        server.polls = 0
        end = time.monotonic() + 0.5
        while self.selector.select(max(0, end - time.monotonic())) and time.monotonic() < end:
            server.poll_until_stopped()
        # A timer wheel may look once or twice in between.
        self.assertLess(server.polls, 5)
        client.close()
        self.selector.close()
        server.close()

    def test_calls_of_other_threads_make_it_readable(self):
        server = self.server()
        client = self.client(server.address)
        self.drive(server, lambda: server.opened)
        connection = server.opened[0]
        writing = self.thread(oyez.conn_write, connection, b"from a thread")
        self.drive(server, lambda: server.stats().bytes_out == 13)
        writing.result()
        self.assertEqual(receive_exactly(client, 13), b"from a thread")
        # And those of the loop's own thread, outside of a poll.
        oyez.conn_write(connection, b"from the loop")
        self.drive(server, lambda: server.stats().bytes_out == 26)
        self.assertEqual(receive_exactly(client, 13), b"from the loop")
        oyez.check(lib.oyez_conn_pause(connection))
        client.sendall(b"echo")
        oyez.check(lib.oyez_conn_resume(connection))
        self.drive(server, lambda: server.stats().bytes_out == 30)
        self.assertEqual(receive_exactly(client, 4), b"echo")
        oyez.check(lib.oyez_conn_set_timeout(connection, 100))
        self.drive(server, lambda: server.closed)
        self.assertEqual(server.reasons()[0][0], oyez.TIMED_OUT)
        client.close()
        self.selector.close()
        server.close()

    def test_the_end_of_the_drain_time(self):
        for drain_ms in (0, 200):
            with self.subTest(drain_ms=drain_ms):
                server = self.server(on_data=lambda *_: 0)
                client = self.client(server.address)
                client.sendall(b"never answered")
                self.drive(server, lambda server=server: server.stats().bytes_in == 14)
                began = time.monotonic()
                server.stop(drain_ms)
                # No traffic: only the time.
                self.assertFalse(self.drive(server))
                self.assertGreaterEqual(time.monotonic() - began, drain_ms / 1000)
                self.assertLess(time.monotonic() - began, drain_ms / 1000 + 2)
                self.assertEqual(server.reasons()[0][0], oyez.STOPPED)
                self.assertEqual(server.stats().cut, 1)
                with self.assertRaises(ConnectionResetError):
                    client.recv(1)
                client.close()
                self.selector.unregister(server.fd)
                server.close()

    def test_what_does_not_go_together(self):
        codes = []

        def on_data(connection, data):
            codes.append((lib.oyez_server_poll(server.number, 0), lib.oyez_error_code(None), ctypes.get_errno()))
            return echo(connection, data)

        server = self.server(on_data=on_data)
        client = self.client(server.address)
        client.sendall(b"x")
        self.drive(server, lambda: codes)
        self.assertEqual(codes, [(-1, oyez.INVALID_ARGUMENT, errno.EBUSY)])
        self.fails_with(oyez.INVALID_ARGUMENT, server.start)
        self.fails_with(oyez.INVALID_ARGUMENT, server.run)
        client.close()
        self.selector.close()
        server.close()
        started = EventServer(self)
        self.fails_with(oyez.INVALID_ARGUMENT, started.poll)
        self.fails_with(oyez.INVALID_ARGUMENT, started.poll_fd)
        started.end()
        with_handler = Server(self, oyez.echo, start=False)
        self.fails_with(oyez.INVALID_ARGUMENT, lambda: oyez.check(lib.oyez_server_poll(with_handler.number, 0)))
        with_handler.close()


class AsyncioServer(PolledServer):
    """An event server in the running loop of asyncio; `ended` is done when it has stopped and is drained."""

    def __init__(self, test, **keywords):
        super().__init__(test, **keywords)
        self._loop = asyncio.get_running_loop()
        self.ended = self._loop.create_future()
        self._loop.add_reader(self.fd, self._on_readable)

    def _on_readable(self):
        try:
            if self.poll_until_stopped():
                return
            self.ended.set_result(None)
        except oyez.OyezError as error:
            self.ended.set_exception(error)
        self._loop.remove_reader(self.fd)

    async def end(self, drain_ms=-1):
        self.stop(drain_ms)
        await asyncio.wait_for(self.ended, PATIENCE)
        stats = self.stats()
        self.close()
        return stats

    def client(self):
        host, port = self.address.split(":")
        return asyncio.open_connection(host, int(port))


async def hang_up(writer):
    writer.close()
    await writer.wait_closed()


async def soon(condition):
    """Waits until it holds, by turns of the loop, in which the server's descriptor is looked at."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("not in time")
        await asyncio.sleep(0.001)


class InAsyncio(TestCase):
    """The server, its clients and whatever else there is share one loop and one thread."""

    def test_a_hundred_clients(self):
        async def one(server, data):
            reader, writer = await server.client()

            async def send():
                writer.write(data)
                await writer.drain()
                writer.write_eof()

            _, answer = await asyncio.gather(send(), reader.read())
            await hang_up(writer)
            self.assertEqual(answer, data)

        async def main():
            server = AsyncioServer(self)
            sent = [bytes(data) for data in payloads(100, 1 << 16)]
            await asyncio.wait_for(asyncio.gather(*(one(server, data) for data in sent)), PATIENCE)
            self.assertEqual(server.stats().accepted, 100)
            self.assertEqual(server.stats().bytes_out, sum(map(len, sent)))
            await server.end()
            self.assertEqual(set(server.reasons()), {(oyez.CLOSED, 0)})

        asyncio.run(main())

    def test_a_task_answers(self):
        tasks = set()

        async def answer(connection, data):
            await asyncio.sleep(0.01)
            oyez.conn_write(connection, data.upper())
            oyez.check(lib.oyez_conn_resume(connection))

        def on_data(connection, data):
            oyez.check(lib.oyez_conn_pause(connection))
            task = asyncio.ensure_future(answer(connection, data))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return len(data)

        async def main():
            server = AsyncioServer(self, on_data=on_data)
            reader, writer = await server.client()
            for _ in range(10):
                writer.write(b"question\n")
                self.assertEqual(await asyncio.wait_for(reader.readline(), PATIENCE), b"QUESTION\n")
            await hang_up(writer)
            await server.end()

        asyncio.run(main())

    def test_timeouts_without_traffic(self):
        async def main(name):
            server = AsyncioServer(self, **{name: 200})
            began = time.monotonic()
            reader, writer = await server.client()
            # Nothing else is under way in the loop: the server's own timer makes its descriptor readable.
            self.assertEqual(await asyncio.wait_for(reader.read(), PATIENCE), b"")
            self.assertGreaterEqual(time.monotonic() - began, 0.19)
            self.assertLess(time.monotonic() - began, 2)
            self.assertEqual(server.reasons(), [(oyez.TIMED_OUT, errno.EAGAIN)])
            self.assertLess(server.polls, 20)
            await hang_up(writer)
            await server.end()

        for name in ("idle_timeout_ms", "read_timeout_ms", "lifetime_ms"):
            with self.subTest(timeout=name):
                asyncio.run(main(name))

    def test_a_stop_drains(self):
        async def main():
            server = AsyncioServer(self, on_data=echo_lines)
            address = server.address
            idle_reader, idle = await server.client()
            idle.write(b"served\n")
            self.assertEqual(await idle_reader.readline(), b"served\n")
            busy_reader, busy = await server.client()
            busy.write(b"half of ")
            await soon(lambda: server.stats().bytes_in == len(b"served\nhalf of "))
            # Connected by the kernel, and not accepted yet: the loop has had no turn since.
            late = connect(address)
            late.sendall(b"late\n")
            server.stop(-1)
            # Who is idle is sent home, the others are served.
            self.assertEqual(await asyncio.wait_for(idle_reader.read(), PATIENCE), b"")
            self.assertFalse(server.ended.done())
            with self.assertRaises(ConnectionRefusedError):
                connect(address)
            busy.write(b"a line\n")
            self.assertEqual(await asyncio.wait_for(busy_reader.read(), PATIENCE), b"half of a line\n")
            self.assertEqual(receive_all(late), b"late\n")
            late.close()
            await asyncio.gather(hang_up(idle), hang_up(busy))
            stats = await server.end()
            self.assertEqual((stats.accepted, stats.active, stats.cut), (3, 0, 0))

        asyncio.run(main())

    def test_the_end_of_the_drain_time(self):
        async def main():
            server = AsyncioServer(self, on_data=echo_lines)
            reader, writer = await server.client()
            writer.write(b"never a whole line")
            await soon(lambda: server.stats().bytes_in == 18)
            began = time.monotonic()
            await server.end(200)
            self.assertGreaterEqual(time.monotonic() - began, 0.2)
            self.assertLess(time.monotonic() - began, 2)
            with self.assertRaises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            self.assertEqual(server.reasons()[0][0], oyez.STOPPED)

        asyncio.run(main())

    def test_an_idle_server_stops_at_once(self):
        async def main():
            server = AsyncioServer(self)
            # Never polled so far.
            began = time.monotonic()
            await server.end()
            self.assertLess(time.monotonic() - began, 2)

        asyncio.run(main())

if __name__ == "__main__":
    unittest.main()
