"""The command: `oyez check` at the shell, its text, its JSON and its exit status. OYEZ_COMMAND is its path."""

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import unittest

import oyez_ctypes as oyez
from support import PATIENCE, TestCase, needs_ipv6, python_program

COMMAND = os.environ.get("OYEZ_COMMAND")
NOBODY = 65534

# What a program may rely on: every field and its types.
NUMBER, FLAG, TEXT, NONE = (int,), (bool,), (str,), (type(None),)
FAILURE = {"code": TEXT, "errno": NUMBER + NONE, "operation": TEXT, "message": TEXT, "hint": TEXT}
RESIDENT = {
    "address": TEXT,
    "listens": FLAG,
    "user": TEXT + NONE,
    "pid": NUMBER + NONE,
    "name": TEXT + NONE,
    "descriptor": NUMBER + NONE,
    "processes": NUMBER,
    "queue": NUMBER + NONE,
    "backlog": NUMBER + NONE,
    "drops": NUMBER + NONE,
}
CHECKED = {
    "address": TEXT,
    "optional": FLAG,
    "available": FLAG,
    "skipped": FLAG,
    "bound": TEXT + NONE,
    "stale_file": FLAG,
    "failure": (dict,) + NONE,
    "residents": (list,),
    "backlog": (dict,) + NONE,
    "port": (dict,) + NONE,
}
BACKLOG = {"asked": NUMBER + NONE, "in_force": NUMBER}
PORT = {"number": NUMBER, "privileged": FLAG, "outgoing": FLAG}
HOST = {
    "descriptors": (dict,),
    "privileged_below": NUMBER,
    "may_bind_privileged": FLAG + NONE,
    "outgoing_ports": (dict,) + NONE,
    "largest_backlog": NUMBER + NONE,
    "ipv6": (dict,),
}
DESCRIPTORS = {"open": NUMBER + NONE, "limit": NUMBER + NONE, "hard_limit": NUMBER + NONE}
RANGE = {"first": NUMBER, "last": NUMBER}
IPV6 = {"available": FLAG + NONE, "dual_stack": FLAG + NONE, "reason": TEXT + NONE}


@unittest.skipUnless(COMMAND, "OYEZ_COMMAND does not name the command; `make command` builds it")
class CommandTestCase(TestCase):
    def run_it(self, *arguments, **keywords):
        """The finished command; its output as text that must be UTF-8."""
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **keywords}
        done = subprocess.run([COMMAND, *arguments], timeout=PATIENCE, check=False, **keywords)
        for name in ("stdout", "stderr"):
            setattr(done, name, (getattr(done, name) or b"").decode())
        return done

    def check(self, *addresses, status=0, **keywords):
        """The text for a person."""
        done = self.run_it("check", "--", *addresses, **keywords)
        self.assertEqual((done.returncode, done.stderr), (status, ""), done.stdout)
        return done.stdout

    def report(self, *addresses, status=0, **keywords):
        """What it says to a program, every field of it looked at."""
        done = self.run_it("check", "--json", "--", *addresses, **keywords)
        self.assertEqual((done.returncode, done.stderr), (status, ""), done.stdout)
        report = json.loads(done.stdout)
        self.has_fields(report, {"addresses": (list,), "host": (dict,)})
        for checked in report["addresses"]:
            self.has_fields(checked, CHECKED)
            self.assertEqual(checked["failure"] is None, checked["available"])
            for name, fields in (("failure", FAILURE), ("backlog", BACKLOG), ("port", PORT)):
                if checked[name] is not None:
                    self.has_fields(checked[name], fields)
            for resident in checked["residents"]:
                self.has_fields(resident, RESIDENT)
        host = report["host"]
        self.has_fields(host, HOST)
        self.has_fields(host["descriptors"], DESCRIPTORS)
        self.has_fields(host["ipv6"], IPV6)
        if host["outgoing_ports"] is not None:
            self.has_fields(host["outgoing_ports"], RANGE)
        return report

    def one(self, address, status=0, **keywords):
        """What it says to a program about one address."""
        (checked,) = self.report(address, status=status, **keywords)["addresses"]
        return checked

    def has_fields(self, value, fields):
        self.assertEqual(set(value), set(fields))
        for name, types in fields.items():
            self.assertIn(type(value[name]), types, name)

    def listen(self, address="127.0.0.1:0", **options):
        """A listener of this process, and its address."""
        fd = oyez.listen(address, **options)
        self.addCleanup(os.close, fd)
        return fd, oyez.local_address(fd)

    def free_port(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            return server.getsockname()[1]


class Words(CommandTestCase):
    def test_help_and_version(self):
        for arguments in (["--help"], ["-h"], ["check", "--help"], ["check", "9000", "--help"]):
            done = self.run_it(*arguments)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertTrue(done.stdout.startswith("usage: oyez check [--json]"), done.stdout)
        for flag in ("--version", "-V"):
            done = self.run_it(flag)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertRegex(done.stdout, r"\Aoyez \d+\.\d+\.\d+\n\Z")
        self.assertIn(oyez.lib.oyez_version().decode(), done.stdout)

    def test_what_was_not_understood(self):
        for arguments, says in (
            ([], "what is to be done?"),
            (["check"], "which address?"),
            (["check", "--json"], "which address?"),
            (["chekc", "9000"], "there is no command"),
            (["check", "--jsno", "9000"], "--jsno"),
            (["check", "--json=yes", "9000"], "--json"),
            (["check", "-x"], "-x"),
            (["check", "-[::1]:9000"], "-["),
            ([b"\xff", "9000"], "there is no command"),
        ):
            with self.subTest(arguments=arguments):
                done = self.run_it(*arguments)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertTrue(done.stderr.startswith("oyez: "), done.stderr)
                self.assertIn(says, done.stderr.splitlines()[0])
                self.assertIn("usage: oyez check", done.stderr)

    def test_a_reader_who_has_gone(self):
        for code, addresses in ((0, ["127.0.0.1:0"]), (1, ["127.0.0.1:0", "nonsense"])):
            reading, writing = os.pipe()
            os.close(reading)
            try:
                done = self.run_it("check", *addresses, stdout=writing)
            finally:
                os.close(writing)
            self.assertEqual((done.returncode, done.stderr), (code, ""))

    def test_an_output_that_cannot_be_written(self):
        for arguments in (["check", "127.0.0.1:0"], ["check", "--json", "127.0.0.1:0"], ["--help"]):
            with open("/dev/full", "wb") as full:
                done = self.run_it(*arguments, stdout=full)
            self.assertEqual(done.returncode, 2)
            self.assertIn(os.strerror(errno.ENOSPC), done.stderr)

    def test_without_standard_descriptors(self):
        script = '"$0" check 127.0.0.1:0 <&- >&- 2>&-'
        done = subprocess.run(["sh", "-c", script, COMMAND], timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, 0)

    def test_malformed_ones_among_others(self):
        good = f"127.0.0.1:{self.free_port()}"
        bad = ["nonsense", "", b"\xff\xfe:80", "127.0.0.1:99999", "unix:@a\nb,x", "9000?backlgo=1", "x" * 5000]
        report = self.report(good, *bad, good, status=1)["addresses"]
        self.assertEqual([checked["available"] for checked in report], [True] + [False] * len(bad) + [True])
        for checked in report[1:-1]:
            self.assertEqual(checked["failure"]["code"], "OYEZ_INVALID_ADDRESS")
            self.assertIn("^", checked["failure"]["hint"])
            self.assertNotIn("\n", checked["address"] + checked["failure"]["message"])
        text = self.check(good, *bad, good, status=1)
        self.assertIn('\n"": cannot be had\n', text)
        self.assertIn("\n\\xff\\xfe:80: cannot be had\n", text)
        self.assertEqual(text.count(f"{good}: can be had\n"), 2)
        self.assertTrue(all(line.isprintable() for line in text.splitlines()))

    def test_a_long_list(self):
        port = self.free_port()
        addresses = [f"127.0.0.1:{port}"] * 300
        self.assertEqual(self.check(*addresses).count(": can be had\n"), 300)
        self.assertEqual(len(self.report(",".join(addresses[:150]))["addresses"]), 150)


class Ports(CommandTestCase):
    def test_a_free_port(self):
        port = self.free_port()
        checked = self.one(f"127.0.0.1:{port}")
        self.assertEqual(
            {name: checked[name] for name in ("address", "available", "bound", "residents", "skipped", "optional")},
            {
                "address": f"127.0.0.1:{port}",
                "available": True,
                "bound": f"127.0.0.1:{port}",
                "residents": [],
                "skipped": False,
                "optional": False,
            },
        )
        self.assertEqual(checked["port"]["number"], port)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))

    def test_a_held_port_and_who_waits(self):
        fd, address = self.listen(backlog=8)
        for _ in range(3):
            self.client(address)
        checked = self.one(address, status=1)
        failure = checked["failure"]
        self.assertEqual((failure["code"], failure["operation"]), ("OYEZ_ADDRESS_IN_USE", "bind"))
        self.assertEqual(failure["errno"], errno.EADDRINUSE)
        self.assertIn(f"pid {os.getpid()}", failure["message"])
        (resident,) = checked["residents"]
        expected = {"address": address, "listens": True, "pid": os.getpid(), "descriptor": fd, "queue": 3, "backlog": 8}
        self.assertEqual({name: resident[name] for name in expected}, {**expected})
        self.assertEqual((resident["processes"], resident["drops"]), (1, 0))
        text = self.check(address, f"127.0.0.1:{self.free_port()}", status=1)
        self.assertIn("; queue 3 of 8\n", text)
        self.assertIn(f"(pid {os.getpid()}, user ", text)

    def test_a_full_queue_drops(self):
        _fd, address = self.listen(backlog=1)
        for _ in range(2):
            self.client(address)
        late = socket.socket()
        self.addCleanup(late.close)
        late.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            late.connect(("127.0.0.1", int(address.rsplit(":", 1)[1])))
        (resident,) = self.one(address, status=1)["residents"]
        self.assertEqual((resident["queue"], resident["backlog"]), (2, 1))
        self.assertGreaterEqual(resident["drops"], 1)
        self.assertRegex(self.check(address, status=1), r"; queue 2 of 1, full; \d+ packets dropped\n")

    def test_a_server_that_serves_does_not_notice(self):
        program = python_program(self, "echo", oyez.THREADS, -1)
        for _ in range(10):
            self.assertEqual(self.one(program.address, status=1)["residents"][0]["pid"], program.pid)
        self.client(program.address)

    def test_optional_addresses(self):
        good, missing = f"127.0.0.1:{self.free_port()}", "-[2001:db8::1]:9000"
        skipped, had = self.report(missing, good)["addresses"]
        self.assertEqual((skipped["optional"], skipped["skipped"], skipped["available"]), (True, True, False))
        self.assertEqual((had["optional"], had["skipped"], had["available"]), (False, False, True))
        self.assertIn("[2001:db8::1]:9000: cannot be had, and is skipped: it is optional\n", self.check(missing, good))
        self.check(f"{good},{missing}")
        self.check(missing, status=1)  # a server would be left with nothing
        _fd, held = self.listen()
        self.assertFalse(self.one(f"-{held}", status=1)["skipped"])

    def test_backlogs(self):
        with open("/proc/sys/net/core/somaxconn", encoding="ascii") as somaxconn:
            most = int(somaxconn.read())
        address = f"127.0.0.1:{self.free_port()}"
        for asked, options in ((None, ""), (7, "?backlog=7"), (most + 1, f"?backlog={most + 1}")):
            backlog = self.one(address + options)["backlog"]
            self.assertEqual(backlog, {"asked": asked, "in_force": min(asked or most, most)})
        self.assertIn(f"{most}, not {most + 1} as asked", self.check(f"{address}?backlog={most + 1}"))
        self.assertIsNone(self.one("udp:127.0.0.1:0")["backlog"])

    @needs_ipv6
    def test_both_families_on_one_socket(self):
        report = self.report(":0")
        self.assertEqual(report["host"]["ipv6"], {"available": True, "dual_stack": True, "reason": None})
        self.assertTrue(report["addresses"][0]["bound"].startswith("[::]:"))

    def test_the_descriptor_limit_of_programs_started_here(self):
        limited = ["sh", "-c", 'ulimit -S -n 77; exec "$0" check --json 127.0.0.1:0', COMMAND]
        done = subprocess.run(limited, stdout=subprocess.PIPE, timeout=PATIENCE, check=True)
        self.assertEqual(json.loads(done.stdout)["host"]["descriptors"]["limit"], 77)

    @unittest.skipUnless(os.geteuid() == 0, "only root can become somebody else")
    def test_what_another_user_may_see_and_have(self):
        command = os.path.join(self.directory(), "oyez")
        shutil.copy(COMMAND, command)
        os.chmod(os.path.dirname(command), 0o755)
        _fd, address = self.listen()
        arguments = [command, "check", "--json", "127.0.0.1:1", address]
        as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        done = subprocess.run(arguments, stdout=subprocess.PIPE, timeout=PATIENCE, check=False, **as_nobody)
        self.assertEqual(done.returncode, 1)
        report = json.loads(done.stdout)
        privileged, held = report["addresses"]
        if report["host"]["privileged_below"] > 1:
            self.assertEqual(privileged["failure"]["code"], "OYEZ_PERMISSION_DENIED")
            self.assertEqual(privileged["port"]["privileged"], True)
            self.assertIs(report["host"]["may_bind_privileged"], False)
        (resident,) = held["residents"]
        self.assertEqual((resident["user"], resident["pid"], resident["processes"]), ("root", None, 0))
        self.assertEqual(resident["queue"], 0)


class Places(CommandTestCase):
    def test_unix_paths(self):
        folder = self.directory()
        path = f"{folder}/socket"
        checked = self.one(f"unix:{path}")
        self.assertEqual((checked["bound"], checked["port"], checked["stale_file"]), (None, None, False))
        self.assertEqual(os.listdir(folder), [])
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(4)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                (resident,) = self.one(f"unix:{path}", status=1)["residents"]
                self.assertEqual((resident["address"], resident["pid"]), (f"unix:{path}", os.getpid()))
                self.assertEqual((resident["queue"], resident["backlog"], resident["drops"]), (1, 4, None))
        before = os.stat(path)
        self.assertTrue(self.one(f"unix:{path}")["stale_file"])
        self.assertEqual(os.stat(path), before)
        self.assertEqual(self.one("unix:/no/where/at/all", status=1)["failure"]["code"], "OYEZ_ADDRESS_NOT_AVAILABLE")

    def test_inherited_descriptors(self):
        fd, _address = self.listen()
        with socket.socket() as other:
            report = self.report(f"fd:{fd}", f"fd:{other.fileno()}", status=1, pass_fds=(fd, other.fileno()))
        self.assertEqual([checked["available"] for checked in report["addresses"]], [True, False])
        self.assertIsNone(report["addresses"][0]["backlog"])

    def test_sockets_of_the_service_manager(self):
        fd, _address = self.listen()
        environment = {**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
        script = 'exec 3<&"$1"; LISTEN_PID=$$; export LISTEN_PID; exec "$0" check systemd: systemd:web systemd:mail'
        done = subprocess.run(
            ["bash", "-c", script, COMMAND, str(fd)],
            env=environment,
            pass_fds=(fd,),
            stdout=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
        said = done.stdout.decode()
        self.assertEqual(done.returncode, 1)
        for line in ("systemd:: can be had\n", "\nsystemd:web: can be had\n", "\nsystemd:mail: cannot be had\n"):
            self.assertIn(line, said)
        self.check("systemd:", status=1)  # nothing is passed here


class FromAProgram(TestCase):
    """oyez_check, which has no other types than integers and pointers."""

    def test_the_same_words(self):
        library = oyez.untyped()
        length = library.oyez_check(b"127.0.0.1:0,fd:9999", None, 0)
        self.assertGreater(length, 0)
        buffer = oyez.ctypes.create_string_buffer(length + 100)
        self.assertGreater(library.oyez_check(b"127.0.0.1:0,fd:9999", buffer, len(buffer)), 0)
        lines = buffer.value.decode().splitlines()
        self.assertEqual(lines[0], "127.0.0.1:0: can be had")
        self.assertIn("fd:9999: cannot be had", lines)
        self.assertIn("this host, and this process:", lines)
        self.assertEqual(library.oyez_check(b"127.0.0.1:0,nonsense", buffer, len(buffer)), -1)
        self.assertEqual(library.oyez_error_code(None), oyez.INVALID_ADDRESS)


if __name__ == "__main__":
    unittest.main()
