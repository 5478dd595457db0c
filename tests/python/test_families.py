"""Listening sockets of each family, from Python: IPv4 and IPv6, datagrams, and Unix sockets."""

import errno
import os
import socket
import stat
import threading
import unittest

import oyez_ctypes as oyez
from oyez_ctypes import lib
from support import PATIENCE, TestCase, ask_once, connect, have_ipv6, listening_socket, needs_ipv6


class Families(TestCase):
    def test_every_address_on_one_socket(self):
        for text in ("0", ":0", "*:0"):
            with self.subTest(address=text), listening_socket(text) as listener:
                port = lib.oyez_local_port(listener.fileno())
                peer = ask_once(self, listener, f"127.0.0.1:{port}")
                self.assertRegex(peer, r"^127\.0\.0\.1:\d+$")
                if have_ipv6():
                    self.assertEqual(listener.family, socket.AF_INET6)
                    self.assertRegex(ask_once(self, listener, f"[::1]:{port}"), r"^\[::1\]:\d+$")

    @needs_ipv6
    def test_peers_as_oyez_accept_tells_them(self):
        with listening_socket(":0") as listener:
            port = lib.oyez_local_port(listener.fileno())
            for address in (f"127.0.0.1:{port}", f"[::1]:{port}"):
                client = self.client(address)
                name = client.getsockname()
                fd, peer = oyez.accept(listener.fileno())
                with socket.socket(fileno=fd):
                    expected = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
                    self.assertEqual(peer, expected)
                    self.assertEqual(oyez.peer_address(fd), expected)
                    self.assertEqual(oyez.local_address(fd), address)

    def test_ipv4_only(self):
        for text in ("0.0.0.0:0", "127.0.0.1:0"):
            with listening_socket(text) as listener:
                self.assertEqual(listener.family, socket.AF_INET)
                port = lib.oyez_local_port(listener.fileno())
                ask_once(self, listener, f"127.0.0.1:{port}")
                if have_ipv6():
                    with self.assertRaises(ConnectionRefusedError):
                        connect(f"[::1]:{port}")

    @needs_ipv6
    def test_ipv6_only(self):
        for text in ("[::]:0", "[::1]:0"):
            with listening_socket(text) as listener:
                self.assertEqual(listener.family, socket.AF_INET6)
                self.assertTrue(listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
                port = lib.oyez_local_port(listener.fileno())
                self.assertRegex(oyez.local_address(listener.fileno()), r"^\[::1?\]:\d+$")
                ask_once(self, listener, f"[::1]:{port}")
                with self.assertRaises(ConnectionRefusedError):
                    connect(f"127.0.0.1:{port}")

    def test_an_address_reads_back(self):
        for text in ("127.0.0.1:0", "0.0.0.0:0") + (("[::1]:0", "[::]:0", ":0") if have_ipv6() else ()):
            with listening_socket(text) as listener:
                address = oyez.local_address(listener.fileno())
            # What a wildcard of both families reads back as is an address of its own.
            with listening_socket(address) as again:
                self.assertEqual(oyez.local_address(again.fileno()), address)


class Datagrams(TestCase):
    def test_udp(self):
        with listening_socket("udp:127.0.0.1:0") as server:
            self.assertEqual(server.type, socket.SOCK_DGRAM)
            self.assertFalse(server.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))
            target = server.getsockname()
            self.assertEqual(target[1], lib.oyez_local_port(server.fileno()))
            server.settimeout(PATIENCE)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(PATIENCE)
                client.sendto(b"question", target)
                data, sender = server.recvfrom(100)
                self.assertEqual((data, sender[1]), (b"question", client.getsockname()[1]))
                server.sendto(b"answer", sender)
                self.assertEqual(client.recvfrom(100), (b"answer", target))

    def test_udp_of_both_families(self):
        with listening_socket("udp::0") as server:
            port = lib.oyez_local_port(server.fileno())
            server.settimeout(PATIENCE)
            for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
                if family == socket.AF_INET6 and not have_ipv6():
                    continue
                with socket.socket(family, socket.SOCK_DGRAM) as client:
                    client.sendto(b"x", (host, port))
                    self.assertEqual(server.recvfrom(10)[0], b"x")

    def test_udp_port_is_shared_only_on_request(self):
        with listening_socket("udp:127.0.0.1:0") as first:
            port = first.getsockname()[1]
            self.fails_with(oyez.ADDRESS_IN_USE, oyez.listen, f"udp:127.0.0.1:{port}")
        with listening_socket("udp:127.0.0.1:0?reuse_address=on") as first:
            port = first.getsockname()[1]
            listening_socket(f"udp:127.0.0.1:{port}", reuse_address=oyez.ON).close()

    def test_udp_cannot_be_accepted_from(self):
        with listening_socket("udp:127.0.0.1:0") as server:
            self.fails_with(oyez.INVALID_ARGUMENT, oyez.accept, server.fileno(), 0)


class UnixSockets(TestCase):
    def test_by_path(self):
        path = self.directory() + "/app.sock"
        fd = oyez.listen(f"unix:{path}", unix_mode=0o600)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.assertEqual(oyez.local_address(fd), f"unix:{path}")
        self.fails_with(oyez.INVALID_ARGUMENT, lambda: oyez.check(lib.oyez_local_port(fd)))
        client = self.client(f"unix:{path}")
        connection, peer = oyez.accept(fd)
        with socket.socket(fileno=connection) as served:
            self.assertEqual(served.family, socket.AF_UNIX)
            self.assertEqual(peer, "unix:")
            client.sendall(b"hello")
            self.assertEqual(served.recv(10), b"hello")
        oyez.check(lib.oyez_unlisten(fd))
        self.assertFalse(os.path.exists(path))

    def test_what_the_umask_takes_is_put_back(self):
        path = self.directory() + "/s"
        old = os.umask(0o077)
        try:
            fd = oyez.listen(f"unix:{path}?unix_mode=0666")
        finally:
            self.assertEqual(os.umask(old), 0o077, "the umask is as it was")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o666)
        oyez.check(lib.oyez_unlisten(fd))

    def test_a_stale_file_is_replaced_and_a_live_one_is_not(self):
        path = self.directory() + "/s"
        os.close(oyez.listen(f"unix:{path}"))
        self.assertTrue(os.path.exists(path))
        fd = oyez.listen(f"unix:{path}")
        self.fails_with(oyez.ADDRESS_IN_USE, oyez.listen, f"unix:{path}")
        client = self.client(f"unix:{path}")
        os.close(oyez.accept(fd)[0])
        del client
        oyez.check(lib.oyez_unlisten(fd))
        self.assertEqual(os.listdir(os.path.dirname(path)), [], "nothing stays beside it")

    def test_what_is_no_socket_is_never_removed(self):
        path = self.directory() + "/s"
        with open(path, "w", encoding="ascii") as file:
            file.write("precious")
        self.fails_with(oyez.ADDRESS_IN_USE, oyez.listen, f"unix:{path}")
        with open(path, encoding="ascii") as file:
            self.assertEqual(file.read(), "precious")

    def test_a_successors_file_is_left_alone(self):
        path = self.directory() + "/s"
        first = oyez.listen(f"unix:{path}")
        os.rename(path, path + ".old")
        second = oyez.listen(f"unix:{path}")
        oyez.check(lib.oyez_unlisten(first))
        self.assertTrue(os.path.exists(path))
        self.client(f"unix:{path}")
        os.close(oyez.accept(second)[0])
        oyez.check(lib.oyez_unlisten(second))
        self.assertFalse(os.path.exists(path))

    def test_two_starters_cannot_both_win(self):
        path = self.directory() + "/s"
        for _ in range(10):
            os.close(oyez.listen(f"unix:{path}"))
            barrier = threading.Barrier(4)

            def start():
                barrier.wait()
                try:
                    return oyez.listen(f"unix:{path}")
                except oyez.OyezError as error:
                    return -error.code

            results = [job.result() for job in [self.thread(start) for _ in range(4)]]
            winners = [fd for fd in results if fd >= 0]
            try:
                self.assertEqual(len(winners), 1, results)
                self.assertEqual(results.count(-oyez.ADDRESS_IN_USE), 3, results)
                self.client(f"unix:{path}")
                os.close(oyez.accept(winners[0])[0])
            finally:
                for fd in winners:
                    lib.oyez_unlisten(fd)

    def test_abstract(self):
        name = f"unix:@oyez-test-{os.getpid()}"
        with listening_socket(name) as listener:
            self.assertEqual(oyez.local_address(listener.fileno()), name)
            ask_once(self, listener, name)
            self.fails_with(oyez.ADDRESS_IN_USE, oyez.listen, name)

    def test_a_path_that_is_too_long_is_never_cut(self):
        directory = self.directory()
        longest = directory + "/" + "x" * (107 - len(directory) - 1)
        fd = oyez.listen(f"unix:{longest}")
        self.assertEqual(os.listdir(directory), [os.path.basename(longest)])
        oyez.check(lib.oyez_unlisten(fd))
        self.fails_with(oyez.INVALID_ADDRESS, oyez.listen, f"unix:{longest}x")
        self.assertEqual(os.listdir(directory), [])

    def test_a_folder_that_is_not_there(self):
        error = self.fails_with_any(oyez.listen, f"unix:{self.directory()}/no/such/folder")
        self.assertEqual(error.system_errno, errno.ENOENT)

    def fails_with_any(self, call, *arguments):
        with self.assertRaises(oyez.OyezError) as caught:
            call(*arguments)
        return caught.exception

if __name__ == "__main__":
    unittest.main()
