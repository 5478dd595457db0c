"""Servers of Python programs, in processes of their own: signals, and a fork."""

import hashlib
import json
import signal
import socket
import time
import unittest

import oyez_ctypes as oyez
import programs
from support import (
    TestCase,
    ask,
    connect,
    eventually,
    listening,
    python_program,
    receive_all,
    receive_exactly,
    reset,
)


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
