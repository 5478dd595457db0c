"""The examples and the README's programs, driven by real clients.

The executables are those in OYEZ_EXAMPLES, by default build/examples of this tree; one that is missing is skipped.
"""

import contextlib
import os
import pathlib
import random
import re
import signal
import socket
import stat
import sys
import time
import unittest

import oyez_ctypes as oyez
from support import (
    PATIENCE,
    ROOT,
    Program,
    TestCase,
    ask,
    compile_c,
    connect,
    eventually,
    exchange_all,
    listening,
    payload,
    receive_all,
    receive_exactly,
)

EXAMPLES = pathlib.Path(os.environ.get("OYEZ_EXAMPLES") or ROOT / "build/examples").resolve()
PYTHON_EXAMPLES = ROOT / "examples-python"


class Example(TestCase):
    """One executable of examples-c."""

    name = None

    def setUp(self):
        super().setUp()
        self.path = EXAMPLES / self.name
        if not os.access(self.path, os.X_OK):
            self.skipTest(f"{self.path} is missing; 'make examples' builds it")

    def start(self, address="127.0.0.1:0", **keywords):
        return Program(self, [self.path, address], **keywords)

    def ends(self, program, number, status=0):
        """Sends a signal, and the program ends well and at once."""
        began = time.monotonic()
        program.signal(number)
        self.assertEqual(program.wait(), status, program.said())
        self.assertLess(time.monotonic() - began, 3)
        program.rest()

    def start_in_use(self, address):
        """A second copy fails with a message and a hint."""
        second = self.start(address, ready=False)
        self.assertEqual(second.wait(), 1, second.said())
        self.assertIn(address.partition(":")[2] if address.startswith("unix:") else address, second.errors())
        self.assertIn("hint: ", second.errors())


class Banner(Example):
    name = "banner"

    def test_each_client_gets_the_line(self):
        program = self.start()
        for _ in range(50):
            with connect(program.address) as client:
                self.assertRegex(receive_all(client), rb"^[^\r\n]+\r?\n$")
        self.start_in_use(program.address)

    def test_killed_and_started_again_at_once(self):
        program = self.start()
        for _ in range(3):
            for _ in range(5):
                with connect(program.address) as client:
                    receive_all(client)
            program.signal(signal.SIGKILL)
            program.wait()
            self.assertTrue(in_time_wait(program.address))
            # A server that does not ask for it could not bind now.
            host, port = program.address.split(":")
            with socket.socket() as naive, self.assertRaises(OSError):
                naive.bind((host, int(port)))
            again = self.start(program.address)
            self.assertEqual(again.address, program.address)
            program = again


def in_time_wait(address):
    """Whether a connection of the server's port is in TIME_WAIT."""
    port = int(address.rpartition(":")[2])
    with open("/proc/net/tcp", encoding="ascii") as table:
        next(table)
        sockets = [line.split() for line in table]
    return any(int(fields[1].split(":")[1], 16) == port and fields[3] == "06" for fields in sockets)


class Echo(Example):
    name = "echo"

    def test_many_clients(self):
        program = self.start()
        generator = random.Random(7)
        exchange_all(program.address, [payload(generator, 1 << 17) for _ in range(100)], all_at_once=True)
        self.start_in_use(program.address)
        self.ends(program, signal.SIGTERM)

    def test_it_says_how_to_try_it(self):
        program = self.start()
        host, port = program.address.split(":")
        self.assertIn(f"nc {host} {port}", program.wait_for("try")[0] + program.lines[-1])
        # Signals are the program's own affair until the server runs, which the first answer shows.
        with connect(program.address) as client:
            ask(client, b"hello")
        self.ends(program, signal.SIGINT)
        self.assertEqual(program.lines[-1], "stopped")

    def test_sigterm_drains(self):
        program = self.start()
        client = self.client(program.address)
        ask(client, b"before")
        program.signal(signal.SIGTERM)
        eventually(lambda: not listening(program.address), "the listener is closed")
        ask(client, b"and still served")
        self.assertTrue(program.running())
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(receive_all(client), b"")
        self.assertEqual(program.wait(), 0, program.said())
        self.assertEqual(program.rest()[-1], "stopped")

    def test_a_second_signal_resets(self):
        program = self.start()
        client = self.client(program.address)
        ask(client, b"before")
        program.signal(signal.SIGINT)
        eventually(lambda: not listening(program.address), "the listener is closed")
        self.ends(program, signal.SIGINT)
        with self.assertRaises(ConnectionResetError):
            client.recv(1)


class AcceptLoop(Example):
    name = "accept_loop"

    def test_the_listener_goes_and_the_client_stays(self):
        program = self.start()
        with connect(program.address) as first:
            ask(first, b"one at a time")
        second = self.client(program.address)
        ask(second, b"accepted")
        program.wait_for("listener closed")
        with self.assertRaises(ConnectionRefusedError):
            connect(program.address)
        ask(second, b"and talking " * 10000)
        second.close()
        self.assertEqual(program.wait(), 0, program.said())


class Sequential(Example):
    name = "sequential"

    def test_tickets_one_client_at_a_time(self):
        program = self.start()
        first, second = self.client(program.address), self.client(program.address)
        second.sendall(b"late\n\n")
        for number, name in ((1, b"ada"), (2, b"bob")):
            first.sendall(name + b"\r\n")
            self.assertEqual(first.recv(100), b"ticket %d for %s\n" % (number, name))
        first.sendall(b"\n")
        self.assertEqual(receive_all(first), b"")
        self.assertEqual(receive_all(second), b"ticket 3 for late\n")
        with connect(program.address) as third:
            third.sendall(b"x" * 64 + b"\n")
            self.assertIn(b"too long", receive_all(third))
        self.ends(program, signal.SIGTERM)
        self.assertEqual(program.lines[-1], "3 tickets sold")


class UnixSocket(Example):
    name = "unix_socket"

    def test_the_file_comes_and_goes(self):
        path = self.directory() + "/app.sock"
        program = self.start(f"unix:{path}")
        self.assertEqual(program.address, f"unix:{path}")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o660)
        for number in range(3):
            with connect(program.address) as client:
                self.assertEqual(receive_all(client), b"%d came before you\n" % number)
        self.start_in_use(f"unix:{path}")
        # The second copy connected to find out whether anybody listens, which may count.
        with connect(program.address) as client:
            self.assertRegex(receive_all(client), rb"^[34] came before you\n$")

        # Killed, it leaves its file, and the next start replaces it.
        program.signal(signal.SIGKILL)
        program.wait()
        self.assertTrue(os.path.exists(path))
        for number in (signal.SIGINT, signal.SIGTERM):
            program = self.start(f"unix:{path}")
            with connect(program.address) as client:
                self.assertEqual(receive_all(client), b"0 came before you\n")
            self.ends(program, number)
            self.assertFalse(os.path.exists(path))


class Errors(Example):
    name = "errors"

    def test_every_part_of_each_error(self):
        program = self.start()
        self.assertEqual(program.wait(), 0, program.said())
        text = "\n".join(program.rest())
        codes = "INVALID_ADDRESS ADDRESS_IN_USE ADDRESS_NOT_AVAILABLE NAME_NOT_FOUND TIMED_OUT CLOSED"
        for code in codes.split():
            self.assertIn(f"OYEZ_{code}", text)
        for part in ("errno", "operation", "address", "message", "hint", "^"):
            self.assertIn(part, text)
        self.assertNotIn("listens\n", text.partition("\n")[2])
        self.assertTrue(program.errors().startswith("errors: "), program.errors())
        self.assertTrue(os.path.isfile("/etc/passwd"))


class Events(Example):
    name = "events"

    def test_whole_lines_only(self):
        program = self.start()
        client = self.client(program.address)
        for piece, answer in ((b"fir", b""), (b"st\nsec", b"first\n"), (b"ond\n\nthird\nre", b"second\n\nthird\n")):
            client.sendall(piece)
            self.assertEqual(receive_exactly(client, len(answer)), answer)
        host, port = client.getsockname()
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(receive_all(client), b"")
        program.wait_for(f"^{re.escape(f'{host}:{port}')}: 4 lines; .*ended")
        self.start_in_use(program.address)
        self.ends(program, signal.SIGINT)
        self.assertEqual(program.lines[-1], "stopped")

    def test_many_clients(self):
        program = self.start()
        generator = random.Random(9)
        lines = [
            b"\n".join((b"", b"short", generator.randbytes(generator.randint(0, 5000)).replace(b"\n", b""), b""))
            for _ in range(100)
        ]
        exchange_all(program.address, lines)
        for _ in lines:
            program.wait_for(": 3 lines; ")
        self.ends(program, signal.SIGTERM)

    def test_a_client_that_does_not_read(self):
        program = self.start()
        client = self.client(program.address, timeout=0.3)
        lines = (b"x" * 999 + b"\n") * 64
        sent = 0
        # Once what is queued for it is as much as may be, nothing more is read from it.
        with self.assertRaises(socket.timeout):
            while sent < 1 << 27:
                sent += client.send(lines[sent % 1000 :])
        # It costs nobody else anything.
        with connect(program.address) as other:
            ask(other, b"served\n")
        client.settimeout(PATIENCE)

        def rest():
            client.sendall(lines[sent % 1000 : 1000])
            client.shutdown(socket.SHUT_WR)

        sending = self.thread(rest)
        received = receive_all(client)
        sending.result()
        self.assertEqual(len(received), sent - sent % 1000 + 1000)
        self.assertEqual(received.count(lines[:1000]), len(received) // 1000)
        self.ends(program, signal.SIGTERM)

    def test_a_line_that_is_too_long(self):
        program = self.start()
        with connect(program.address) as client, contextlib.suppress(ConnectionError):
            client.sendall(b"y" * 3000000)
            receive_all(client)
        program.wait_for("0 lines; .*max_input")
        self.ends(program, signal.SIGTERM)

    def test_sigterm_drains(self):
        program = self.start()
        idle, busy = self.client(program.address), self.client(program.address)
        ask(idle, b"served\n")
        ask(busy, b"served\n")
        busy.sendall(b"served\nhalf of ")
        receive_exactly(busy, 7)
        program.signal(signal.SIGTERM)
        self.assertEqual(receive_all(idle), b"")
        self.assertTrue(program.running())
        busy.sendall(b"a line\n")
        self.assertEqual(receive_all(busy), b"half of a line\n")
        self.assertEqual(program.wait(), 0, program.said())
        self.assertEqual(program.rest()[-1], "stopped")

    def test_a_second_signal_resets(self):
        program = self.start()
        client = self.client(program.address)
        client.sendall(b"a line\nand half")
        receive_exactly(client, 7)
        program.signal(signal.SIGINT)
        eventually(lambda: not listening(program.address), "the listener is closed")
        self.ends(program, signal.SIGINT)
        with self.assertRaises(ConnectionResetError):
            client.recv(1)


class Chat(Example):
    name = "chat"

    def join(self, program, name):
        client = self.client(program.address)
        self.assertEqual(receive_exactly(client, 11), b"your name? ")
        client.sendall(name + b"\n")
        return client

    def test_all_others_are_told(self):
        program = self.start()
        clients = []
        for number in range(30):
            name = b"guest %d" % number
            new = self.join(program, name)
            for client in clients:
                self.assertEqual(receive_exactly(client, len(name) + 10), name + b" has come\n")
            clients.append(new)
        clients[0].sendall(b"hel")
        clients[0].sendall(b"lo\nall\n")
        said = b"guest 0: hello\nguest 0: all\n"
        for client in clients[1:]:
            self.assertEqual(receive_exactly(client, len(said)), said)
        clients.pop(0).close()
        for client in clients:
            self.assertEqual(receive_exactly(client, 17), b"guest 0 has left\n")
        self.start_in_use(program.address)
        self.ends(program, signal.SIGTERM)
        for client in clients:
            receive_all(client)
            client.close()

    def test_who_does_not_read_is_thrown_out(self):
        program = self.start()
        deaf = self.join(program, b"deaf")
        speaker = self.join(program, b"speaker")
        lines = (b"x" * 999 + b"\n") * 50
        speaker.settimeout(0.01)
        told = b""

        def is_told():
            nonlocal told
            speaker.sendall(lines)
            with contextlib.suppress(socket.timeout):
                told += speaker.recv(100)
            return told

        eventually(is_told, "the one that does not read is thrown out")
        self.assertEqual(told, b"deaf has left\n")
        with self.assertRaises(ConnectionResetError):
            receive_all(deaf)
        deaf.close()
        speaker.close()
        self.ends(program, signal.SIGTERM)


class PythonExample(TestCase):
    def start(self, name, *arguments, **keywords):
        path = PYTHON_EXAMPLES / name
        if not path.exists():
            self.skipTest(f"{path} is missing")
        return Program(self, [sys.executable, path, *arguments], **keywords)

    def talk(self, program):
        generator = random.Random(8)
        exchange_all(program.address, [payload(generator, 1 << 16) for _ in range(50)])

    def end(self, program, number, statuses=(0,)):
        began = time.monotonic()
        program.signal(number)
        self.assertIn(program.wait(), statuses, program.said())
        self.assertLess(time.monotonic() - began, 2, "promptly")

    def test_echo(self):
        program = self.start("echo.py", "127.0.0.1:0")
        self.talk(program)
        self.end(program, signal.SIGINT)
        self.assertEqual(program.errors(), "")

    def test_echo_with_a_client_that_stays(self):
        program = self.start("echo.py", "127.0.0.1:0")
        ask(self.client(program.address), b"here")
        self.end(program, signal.SIGINT)

    def test_serve(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            program = self.start("serve.py", "127.0.0.1:0")
            self.talk(program)
            self.end(program, number)
            self.assertEqual(program.errors(), "")

    def test_what_cannot_be_listened_at(self):
        with socket.socket(fileno=oyez.listen()) as taken:
            address = oyez.local_address(taken.fileno())
            for name in ("echo.py", "serve.py"):
                for wrong in (address, "127.0.0.1:65536"):
                    program = self.start(name, wrong, ready=False)
                    self.assertEqual(program.wait(), 1, program.said())
                    self.assertTrue(program.errors().startswith(f"{name}: "), program.errors())
                    self.assertIn(wrong, program.errors())
                    self.assertNotIn("Traceback", program.errors())


def listening_port(pid):
    """The TCP port that a process listens at, or None."""
    inodes = set()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
            if match:
                inodes.add(match[1])
    except OSError:
        return None
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table, encoding="ascii") as lines:
            next(lines)
            for fields in map(str.split, lines):
                if fields[3] == "0A" and fields[9] in inodes:
                    return int(fields[1].split(":")[1], 16)
    return None


def readme_programs(language, is_whole):
    """The whole programs among the README's blocks of a language, with any port made a free one."""
    path = ROOT / "README.md"
    if not path.exists():
        return []
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    free = [re.sub(r'"[^"\s]*:\d{2,5}"', '"127.0.0.1:0"', block) for block in blocks if is_whole(block)]
    return [block.replace("target/release/liboyez.so", oyez.LIBRARY) for block in free]


class Readme(TestCase):
    def drive(self, program, interrupt):
        """The program serves clients until a signal ends it."""

        def port():
            self.assertTrue(program.running(), program.said())
            return listening_port(program.pid)

        eventually(port, "it listens")
        address = f"127.0.0.1:{port()}"
        for _ in range(3):
            with connect(address) as client:
                self.assertIn(b"hello", receive_all(client))
        began = time.monotonic()
        program.signal(interrupt)
        self.assertIn(program.wait(), (0, -interrupt), program.said())
        self.assertLess(time.monotonic() - began, 2, "promptly")

    def test_c(self):
        programs = readme_programs("c", lambda block: "int main(" in block)
        if not programs:
            self.skipTest("README.md has no whole C program")
        for number, source in enumerate(programs):
            with self.subTest(program=number):
                path = os.path.join(self.directory(), f"readme{number}.c")
                with open(path, "w", encoding="utf-8") as file:
                    file.write(source)
                executable = compile_c(path, "-std=c99", "-pedantic")
                for interrupt in (signal.SIGTERM, signal.SIGINT):
                    self.drive(Program(self, [executable], ready=False), interrupt)

    def test_python(self):
        programs = readme_programs("python", lambda block: re.search(r"^(import|from) ", block, re.MULTILINE))
        if not programs:
            self.skipTest("README.md has no whole Python program")
        for number, source in enumerate(programs):
            with self.subTest(program=number):
                path = os.path.join(self.directory(), f"readme{number}.py")
                with open(path, "w", encoding="utf-8") as file:
                    file.write(source)
                self.drive(Program(self, [sys.executable, path], ready=False), signal.SIGINT)


if __name__ == "__main__":
    unittest.main()
