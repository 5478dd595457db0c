"""What oyez_listen returns is a descriptor like any other: for Python's sockets, loops and servers."""

import asyncio
import errno
import http.client
import http.server
import os
import select
import socket
import socketserver
import subprocess
import sys
import time
import unittest

import oyez_ctypes as oyez
from oyez_ctypes import lib
from support import PATIENCE, TestCase, ask, ask_once, listening_socket, python_program, receive_all


class AsPythonSocket(TestCase):
    def test_family_type_and_accept(self):
        with listening_socket() as listener:
            self.assertEqual((listener.family, listener.type), (socket.AF_INET, socket.SOCK_STREAM))
            self.assertEqual(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), 1)
            host, port = listener.getsockname()
            self.assertEqual(host, "127.0.0.1")
            self.assertEqual(port, lib.oyez_local_port(listener.fileno()))
            client = self.client(f"127.0.0.1:{port}")
            connection, peer = listener.accept()
            with connection:
                self.assertEqual(peer, client.getsockname())
                connection.sendall(b"hello")
                self.assertEqual(client.recv(10), b"hello")

    def test_defaults_of_a_good_server(self):
        with listening_socket() as listener:
            self.assertTrue(listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))
            self.assertFalse(listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
            self.assertFalse(listener.get_inheritable())
            self.assertTrue(os.get_blocking(listener.fileno()))
            self.client(oyez.local_address(listener.fileno()))
            connection, _peer = listener.accept()
            with connection:
                self.assertTrue(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                self.assertTrue(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            # TCP_INFO of a listener: tcpi_sacked (the 8th 32-bit field behind eight bytes) is the backlog in force.
            information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            backlog = int.from_bytes(information[28:32], sys.byteorder)
            with open("/proc/sys/net/core/somaxconn", encoding="ascii") as somaxconn:
                self.assertEqual(backlog, int(somaxconn.read()))

    def test_options(self):
        with listening_socket(
            backlog=7,
            nonblocking=oyez.ON,
            close_on_exec=oyez.OFF,
            no_delay=oyez.OFF,
            keep_alive_seconds=oyez.OFF,
            reuse_port=oyez.ON,
            receive_buffer=32768,
        ) as listener:
            self.assertFalse(os.get_blocking(listener.fileno()))
            self.assertTrue(listener.get_inheritable())
            self.assertTrue(listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
            self.assertEqual(listener.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), 2 * 32768)
            information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            self.assertEqual(int.from_bytes(information[28:32], sys.byteorder), 7)
            self.client(oyez.local_address(listener.fileno()))
            connection = oyez.accept(listener.fileno())[0]
            with socket.socket(fileno=connection) as connection:
                self.assertFalse(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                self.assertFalse(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
                self.assertTrue(connection.getblocking())

    def test_keep_alive_seconds(self):
        with listening_socket(keep_alive_seconds=90) as listener:
            self.client(oyez.local_address(listener.fileno()))
            connection, _peer = listener.accept()
            with connection:
                self.assertTrue(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
                self.assertEqual(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 90)

    def test_the_address_text_wins_over_the_struct(self):
        with listening_socket("127.0.0.1:0?nonblocking=off&reuse_port=on", nonblocking=oyez.ON) as listener:
            self.assertTrue(os.get_blocking(listener.fileno()))
            self.assertTrue(listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))

    def test_a_second_copy_fails_and_shares_only_on_request(self):
        with listening_socket() as listener:
            address = oyez.local_address(listener.fileno())
            error = self.fails_with(oyez.ADDRESS_IN_USE, oyez.listen, address)
            self.assertEqual((error.errno, error.system_errno), (errno.EADDRINUSE, errno.EADDRINUSE))
            self.assertEqual(error.address, address)
            self.assertIn(error.operation, ("bind", "listen"))
        with listening_socket(reuse_port=oyez.ON) as listener:
            address = oyez.local_address(listener.fileno())
            listening_socket(address, reuse_port=oyez.ON).close()

    def test_the_hook_before_bind(self):
        seen = []

        @oyez.BeforeBind
        def mark(fd, user):
            with socket.socket(fileno=os.dup(fd)) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 5)
                seen.append((sock.getsockname()[1], user))
            return 0

        @oyez.BeforeBind
        def refuse(_fd, _user):
            return 1

        with listening_socket(before_bind=mark, before_bind_user=77) as listener:
            self.assertEqual(listener.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY), 5)
        self.assertEqual(seen, [(0, 77)])
        with self.assertRaises(oyez.OyezError) as caught:
            oyez.listen(before_bind=refuse)
        self.assertNotEqual(caught.exception.errno, 0)

    def test_a_host_name(self):
        with listening_socket("localhost:0") as listener:
            ask_once(self, listener, oyez.local_address(listener.fileno()))
        self.fails_with(oyez.NAME_NOT_FOUND, oyez.listen, "no-such-host.invalid:80")
        self.fails_with(oyez.ADDRESS_NOT_AVAILABLE, oyez.listen, "192.0.2.1:0")

    def test_unlisten_leaves_accepted_connections(self):
        fd = oyez.listen()
        client = self.client(oyez.local_address(fd))
        connection, _peer = oyez.accept(fd)
        self.addCleanup(os.close, connection)
        oyez.check(lib.oyez_unlisten(fd))
        client.sendall(b"still here")
        self.assertEqual(oyez.read(connection), b"still here")


class Readiness(TestCase):
    def test_select_poll_and_epoll(self):
        with listening_socket(nonblocking=oyez.ON) as listener, select.epoll() as epoll:
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            epoll.register(listener, select.EPOLLIN)
            self.assertEqual(select.select([listener], [], [], 0)[0], [])
            self.assertEqual(poll.poll(0), [])
            self.assertEqual(epoll.poll(0), [])
            with self.assertRaises(BlockingIOError):
                listener.accept()

            client = self.client(oyez.local_address(listener.fileno()))
            self.assertEqual(select.select([listener], [], [], PATIENCE)[0], [listener])
            self.assertEqual(poll.poll(PATIENCE * 1000), [(listener.fileno(), select.POLLIN)])
            self.assertEqual(epoll.poll(PATIENCE), [(listener.fileno(), select.EPOLLIN)])
            connection, _peer = listener.accept()
            with connection:
                self.assertTrue(client.send(b"x"))
            self.assertEqual(poll.poll(0), [])

    def test_accept_waits_on_a_listener_that_does_not_block(self):
        with listening_socket(nonblocking=oyez.ON) as listener:
            fd = listener.fileno()
            began = time.monotonic()
            self.fails_with(oyez.TIMED_OUT, oyez.accept, fd, 100)
            self.assertGreaterEqual(time.monotonic() - began, 0.1)
            for timeout in (-1, 20000):
                waiting = self.thread(oyez.accept, fd, timeout)
                client = self.client(oyez.local_address(fd))
                connection, peer = waiting.result()
                with socket.socket(fileno=connection) as connection:
                    self.assertEqual(peer, "%s:%d" % client.getsockname())
                    self.assertTrue(os.get_blocking(connection.fileno()))
            self.assertFalse(os.get_blocking(fd), "the listener's flags are as they were")

    def test_nobody_outstays_a_timeout_on_a_shared_listener(self):
        for nonblocking in (oyez.OFF, oyez.ON):
            with self.subTest(nonblocking=nonblocking), listening_socket(nonblocking=nonblocking) as listener:
                fd = listener.fileno()
                flags = os.get_blocking(fd)

                def accept_one():
                    began = time.monotonic()
                    try:
                        os.close(oyez.accept(fd, 400)[0])
                        return "client", 0
                    except oyez.OyezError as error:
                        return oyez.CODES[error.code], time.monotonic() - began

                waiting = [self.thread(accept_one) for _ in range(6)]
                clients = [self.client(oyez.local_address(fd)) for _ in range(2)]
                results = [one.result() for one in waiting]
                self.assertEqual(
                    sorted(kind for kind, _ in results), ["OYEZ_TIMED_OUT"] * 4 + ["client"] * 2, results
                )
                self.assertLess(max(passed for _, passed in results), 3)
                self.assertEqual(os.get_blocking(fd), flags)
                del clients


class PythonServers(TestCase):
    def test_asyncio(self):
        async def main(listener):
            async def serve(reader, writer):
                while True:
                    data = await reader.read(65536)
                    if not data:
                        break
                    writer.write(data)
                    await writer.drain()
                writer.close()
                await writer.wait_closed()

            async def talk(port, number):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                message = b"client %d " % number * 1000
                writer.write(message)
                writer.write_eof()
                answer = await reader.read(-1)
                writer.close()
                await writer.wait_closed()
                return answer == message

            server = await asyncio.start_server(serve, sock=listener)
            port = listener.getsockname()[1]
            answers = await asyncio.gather(*(talk(port, number) for number in range(100)))
            server.close()
            await server.wait_closed()
            return answers

        listener = listening_socket()
        self.addCleanup(listener.close)
        answers = asyncio.run(asyncio.wait_for(main(listener), 60))
        self.assertEqual(answers, [True] * 100)

    def test_socketserver(self):
        class Echo(socketserver.StreamRequestHandler):
            def handle(self):
                for line in self.rfile:
                    self.wfile.write(line.upper())

        class Threaded(socketserver.ThreadingTCPServer):
            daemon_threads = False

        with Threaded(("127.0.0.1", 0), Echo, bind_and_activate=False) as server:
            server.socket.close()
            server.socket = listening_socket()
            address = oyez.local_address(server.socket.fileno())
            running = self.thread(server.serve_forever, 0.05)
            try:
                for number in range(20):
                    client = self.client(address)
                    client.sendall(b"line %d\n" % number)
                    client.shutdown(socket.SHUT_WR)
                    self.assertEqual(receive_all(client), b"LINE %d\n" % number)
            finally:
                server.shutdown()
                running.result()

    def test_http_server(self):
        class Hello(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[::-1])

            def log_message(self, *arguments):
                pass

        class Threaded(http.server.ThreadingHTTPServer):
            daemon_threads = False

        with Threaded(("127.0.0.1", 0), Hello, bind_and_activate=False) as server:
            server.socket.close()
            server.socket = listening_socket()
            server.server_name, server.server_port = server.socket.getsockname()
            running = self.thread(server.serve_forever, 0.05)
            try:
                body = os.urandom(200000)
                connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
                for _ in range(3):
                    connection.request("POST", "/", body)
                    response = connection.getresponse()
                    self.assertEqual((response.status, response.read()), (200, body[::-1]))
                connection.close()
            finally:
                server.shutdown()
                running.result()


class Inherited(TestCase):
    def serve_by(self, how):
        with listening_socket() as listener:
            address = oyez.local_address(listener.fileno())
            program = python_program(
                self, "inherited", listener.fileno(), how, pass_fds=(listener.fileno(),)
            )
            self.assertEqual(program.address, address)
            client = self.client(address)
            ask(client, b"through the child")
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(receive_all(client), b"")
            self.assertEqual(program.wait(), 0, program.errors())
            return program

    def test_descriptor(self):
        self.serve_by("descriptor")

    def test_systemd(self):
        program = self.serve_by("systemd")
        self.assertIn('{"missing": %d}' % oyez.NAME_NOT_FOUND, program.lines)

    def test_no_listening_descriptor(self):
        with socket.socket() as plain:
            self.fails_with(oyez.INVALID_ARGUMENT, oyez.listen, f"fd:{plain.fileno()}")
        with open(__file__, encoding="utf-8") as file:
            self.fails_with(oyez.INVALID_ARGUMENT, oyez.listen, f"fd:{file.fileno()}")
        self.fails_with(oyez.INVALID_ARGUMENT, oyez.listen, "fd:54321")

    def test_systemd_that_passed_nothing(self):
        self.assertNotIn("LISTEN_FDS", os.environ)
        self.fails_with(oyez.NAME_NOT_FOUND, oyez.listen, "systemd:")

    def test_close_on_exec(self):
        for inherited, close_on_exec in ((False, oyez.DEFAULT), (True, oyez.OFF)):
            with listening_socket(close_on_exec=close_on_exec) as listener:
                inode = os.readlink(f"/proc/self/fd/{listener.fileno()}")
                done = subprocess.run(
                    [sys.executable, "-c", LIST_DESCRIPTORS],
                    stdout=subprocess.PIPE,
                    close_fds=False,
                    text=True,
                    check=True,
                )
                self.assertEqual(inode in done.stdout, inherited, done.stdout)


# Prints what each open descriptor is; a socket by its inode.
LIST_DESCRIPTORS = """
import os
for fd in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink("/proc/self/fd/" + fd))
    except OSError:
        pass
"""


class Reading(TestCase):
    def pair(self):
        """A client, and the descriptor on the server's side."""
        listener = oyez.listen()
        try:
            client = self.client(oyez.local_address(listener))
            fd, _peer = oyez.accept(listener)
        finally:
            lib.oyez_unlisten(listener)
        self.addCleanup(os.close, fd)
        return client, fd

    def test_a_write_has_one_deadline_for_all_of_it(self):
        client, fd = self.pair()
        began = time.monotonic()
        error = self.fails_with(oyez.TIMED_OUT, oyez.write, fd, b"x" * (64 << 20), 300)
        self.assertEqual(error.errno, errno.EAGAIN)
        self.assertGreaterEqual(time.monotonic() - began, 0.3)
        self.assertLess(time.monotonic() - began, 5)
        del client

    def test_a_whole_write_arrives(self):
        client, fd = self.pair()
        data = os.urandom(8 << 20)
        for blocking in (True, False):
            for timeout in (-1, 20000):
                os.set_blocking(fd, blocking)
                reading = self.thread(lambda: b"".join(iter_exactly(client, len(data))))
                oyez.write(fd, data, timeout)
                self.assertEqual(reading.result(), data)

    def test_reading_waits_and_ends(self):
        client, fd = self.pair()
        for blocking in (True, False):
            for timeout in (-1, 20000):
                os.set_blocking(fd, blocking)
                reading = self.thread(oyez.read, fd, 100, timeout)
                client.sendall(b"word")
                self.assertEqual(reading.result(), b"word")
            self.fails_with(oyez.TIMED_OUT, oyez.read, fd, 100, 0)
            self.fails_with(oyez.TIMED_OUT, oyez.read, fd, 100, 50)
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(oyez.read(fd), b"")
        oyez.write(fd, b"half closed")
        self.assertEqual(client.recv(100), b"half closed")

    def test_no_descriptor_and_no_socket(self):
        with open(__file__, encoding="utf-8") as file:
            for fd in (-1, 54321, file.fileno()):
                self.fails_with(oyez.INVALID_ARGUMENT, oyez.read, fd, 10, 0)
                self.fails_with(oyez.INVALID_ARGUMENT, oyez.write, fd, b"x", 0)
                self.fails_with(oyez.INVALID_ARGUMENT, oyez.accept, fd, 0)
                self.fails_with(oyez.INVALID_ARGUMENT, oyez.local_address, fd)
                self.fails_with(oyez.INVALID_ARGUMENT, oyez.peer_address, fd)

    def test_nothing_to_read_or_write(self):
        _client, fd = self.pair()
        self.assertEqual(lib.oyez_read(fd, None, 0, 0), 0)
        self.assertEqual(lib.oyez_write(fd, None, 0, 0), 0)


def iter_exactly(sock, size):
    while size:
        part = sock.recv(min(size, 1 << 18))
        if not part:
            return
        size -= len(part)
        yield part

if __name__ == "__main__":
    unittest.main()
