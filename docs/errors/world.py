"""A small world of its own for each fault: a network, a /run, and process numbers that are the same each time.

Everything happens in namespaces that end with this program, so nothing of the machine is touched and nothing stays.
"""

import ctypes
import errno
import fcntl
import os
import pwd
import select
import shutil
import socket
import struct
import subprocess
import sys
import time

APP = "/run/app"                        # where a fault keeps its files
HOLDER, PROGRAM = 4242, 4250            # process numbers; the program's child is the next
ENVIRONMENT = {"PATH": os.environ.get("PATH", "/usr/bin:/bin:/usr/sbin:/sbin"), "LC_ALL": "C"}
DEADLINE = 10                           # seconds that anything may take

_NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class NotHere(Exception):
    """This machine cannot make the fault, and why."""


def enter():
    """Starts this program again inside namespaces of its own. Returns, there; raises NotHere where it cannot be."""
    if os.environ.get("OYEZ_ERRORS_INSIDE") == "1" and os.getpid() == 1:
        os.umask(0o022)
        _furnish()
        return
    if os.geteuid() != 0:
        raise NotHere("it takes root: users and network namespaces are changed")
    for command, package in (("unshare", "util-linux"), ("mount", "mount"), ("ip", "iproute2"), ("python3", "python3")):
        if shutil.which(command) is None:
            raise NotHere(f"{command} is missing: install the package {package}")
    tried = subprocess.run([*_NAMESPACES, "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if tried.returncode != 0:
        raise NotHere(f"namespaces are not permitted here: {tried.stderr.strip()}")
    os.environ["OYEZ_ERRORS_INSIDE"] = "1"
    os.execvp(_NAMESPACES[0], [*_NAMESPACES, sys.executable, *sys.argv])


def _furnish():
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    _replace("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    _replace("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    look_up_in("files")
    while os.open("/dev/null", os.O_RDONLY) < 3:    # so that nothing else of this program is descriptor 3
        pass


def _replace(path, text):
    """Puts another file where one is, for this mount namespace only."""
    real = os.path.realpath(path)
    copy = real if real.startswith("/run/") else "/run/" + os.path.basename(path)
    new = not os.path.exists(copy)
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    with open(copy, "w") as file:
        file.write(text)
    if copy != real and new:
        _mount("--bind", copy, real)


def _mount(*arguments):
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise NotHere(done.stderr.strip())


def look_up_in(hosts):
    """Where host names are looked up: "files", or "files dns", whose server does not exist here."""
    _replace("/etc/nsswitch.conf", f"passwd: files\ngroup: files\nservices: files\nhosts: {hosts}\n")


def ip(*lines):
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True)
    if done.returncode != 0:
        raise NotHere(f"ip: {done.stderr.splitlines()[0]}")


def sysctl(name, value):
    try:
        with open(f"/proc/sys/{name}", "w") as file:
            file.write(str(value))
    except OSError as error:
        raise NotHere(f"/proc/sys/{name}: {error.strerror}")


class World:
    """What surrounds one run of one program. What a fault starts here ends with it."""

    def __init__(self):
        self.launch = {}                # what the program is started with besides
        self.after_start = lambda: None
        self.environment = {}
        self.holders = []
        self.sockets = []

    def __enter__(self):
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise NotHere(f"unshare: {os.strerror(ctypes.get_errno())}")
        ip("link set lo up")
        look_up_in("files")
        shutil.rmtree(APP, ignore_errors=True)
        os.mkdir(APP)
        return self

    def __exit__(self, *_):
        for holder in self.holders:
            holder.kill()
            holder.wait()
            for stream in (holder.stdin, holder.stdout):
                if stream is not None:
                    stream.close()
        for each in self.sockets:
            each.close()

    def add_eth0(self):
        """An interface besides the loopback, with 192.0.2.10 and fe80::1: of whichever kind the kernel has."""
        for kind in ("dummy", "ifb", "bridge"):
            try:
                ip(f"link add eth0 type {kind}")
                break
            except NotHere:
                continue
        else:
            raise NotHere("the kernel has no kind of interface to add")
        ip("link set eth0 addrgenmode none", "link set eth0 up", "address add 192.0.2.10/24 dev eth0",
           "address add fe80::1/64 dev eth0 nodad")
        others = {name for _, name in socket.if_nameindex()} - {"lo", "eth0"}
        if others:                      # what a tunnel's module adds to each network
            raise NotHere(f"a new network has {', '.join(sorted(others))} besides")

    def hold(self, code):
        """A python3 that runs `code`, and then keeps what it has. Returns when it has run."""
        code = f"import signal, socket\n{code}\nprint('ready', flush=True)\nsignal.pause()\n"
        holder = self._start(["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if holder.stdout.readline() != "ready\n":
            raise NotHere("the program that holds the address failed")
        return holder

    def serve(self, address, port=8080):
        """Python's own web server, a program that anybody may have running."""
        self._start(["python3", "-m", "http.server", "--bind", address, str(port)], stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait_for(port, "0A")

    def _start(self, command, **launch):
        next_process(HOLDER)
        holder = subprocess.Popen(command, env=ENVIRONMENT, cwd="/", **launch)
        self.holders.append(holder)
        if holder.pid != HOLDER:
            raise NotHere("process numbers cannot be chosen")
        return holder

    def wait_for(self, port, state):
        """Waits until a TCP socket at this port is in a state, as /proc/net/tcp writes it: 0A listens, 06 TIME_WAIT."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and all(holder.poll() is None for holder in self.holders):
            for table in ("tcp", "tcp6"):
                if not os.path.exists(f"/proc/self/net/{table}"):
                    continue            # a kernel without IPv6
                with open(f"/proc/self/net/{table}") as lines:
                    for line in lines:
                        local, here = line.split()[1], line.split()[3]
                        if local.endswith(f":{port:04X}") and here == state:
                            return
            time.sleep(0.005)
        raise NotHere(f"no socket at port {port} reached the state {state}")

    def run(self, command, user=None):
        """What a program prints, on both of its streams."""
        launch = dict(self.launch)
        if user is not None:
            try:
                known = pwd.getpwnam(user)
            except KeyError:
                raise NotHere(f"there is no user {user}")
            launch.update(user=known.pw_uid, group=known.pw_gid, extra_groups=[])
        next_process(PROGRAM)
        try:
            program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, text=True, errors="backslashreplace", cwd="/",
                                       env={**ENVIRONMENT, **self.environment}, **launch)
        except subprocess.SubprocessError as error:     # what was to happen before its start
            raise NotHere(str(error))
        if program.pid != PROGRAM:
            program.kill()
            program.communicate()
            raise NotHere("process numbers cannot be chosen")
        try:
            self.after_start()
            output, _ = program.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            program.kill()
            program.communicate()
            return f"(still running after {DEADLINE} seconds)"
        if program.returncode < 0:
            return f"{output}(ended by signal {-program.returncode})"
        return output.rstrip("\n")

    def give(self, thing):
        """Lets the program inherit a socket or a file as descriptor 3."""
        self.sockets.append(thing)
        number = thing.fileno()
        self.launch.update(preexec_fn=lambda: os.dup2(number, 3), pass_fds=(3,))

    def stop_at_listen(self, meanwhile):
        """When the program calls listen(2), `meanwhile` is done first."""
        stop = StopAtListen(meanwhile)
        self.launch.update(preexec_fn=stop.before_start)
        self.after_start = stop.after_start


def next_process(number):
    """The next process that is started has this number."""
    sysctl("kernel/ns_last_pid", number - 1)


# What the kernel is told about a program that is about to start: passed on as preexec_fn.

_NUMBERS = {                            # of bind, listen and seccomp
    "x86_64": (49, 50, 317),
    "aarch64": (200, 201, 277),
    "riscv64": (200, 201, 277),
}
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 8
_SECCOMP_RET_ERRNO, _SECCOMP_RET_USER_NOTIF, _SECCOMP_RET_ALLOW = 0x00050000, 0x7FC00000, 0x7FFF0000
_SECCOMP_IOCTL_NOTIF_RECV, _SECCOMP_IOCTL_NOTIF_SEND, _SECCOMP_USER_NOTIF_FLAG_CONTINUE = 0xC0502100, 0xC0182101, 1
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF, _LANDLOCK_ACCESS_NET_BIND_TCP = 444, 446, 1


def _system_call(number, *arguments):
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(each) if isinstance(each, int) else each
                                                    for each in arguments))
    if result < 0:
        raise NotHere(f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return result


def _no_new_privileges():
    zero = ctypes.c_ulong(0)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero)


def _numbers():
    if os.uname().machine not in _NUMBERS:
        raise NotHere("the numbers of this machine's system calls are not known")
    return _NUMBERS[os.uname().machine]


def _filter(number, answer, flags):
    """Lets seccomp(2) answer one system call, and allow every other one. Returns what seccomp returns."""
    instructions = b"".join(struct.pack("=HBBI", *each) for each in (
        (0x20, 0, 0, 0),                # load the number of the system call
        (0x15, 0, 1, number),           # that one?
        (0x06, 0, 0, answer),
        (0x06, 0, 0, _SECCOMP_RET_ALLOW)))
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(buffer))
    _no_new_privileges()
    return _system_call(_numbers()[2], _SECCOMP_SET_MODE_FILTER, flags, program)


def refuse_bind():
    """seccomp(2): bind(2) fails with EPERM, as the filter of a container may let it."""
    _filter(_numbers()[0], _SECCOMP_RET_ERRNO | errno.EPERM, 0)


def refuse_bind_by_landlock():
    """Landlock, a security module that any program may use: no TCP port may be bound."""
    rules = struct.pack("=QQ", 0, _LANDLOCK_ACCESS_NET_BIND_TCP)
    ruleset = _system_call(_LANDLOCK_CREATE_RULESET, rules, len(rules), 0)
    _no_new_privileges()
    _system_call(_LANDLOCK_RESTRICT_SELF, ruleset, 0)


class StopAtListen:
    """Stops a program when it calls listen(2), and lets it go on when something else has been done."""

    def __init__(self, meanwhile):
        _numbers()
        self.meanwhile = meanwhile
        self.here, self.there = socket.socketpair()

    def before_start(self):
        notices = _filter(_numbers()[1], _SECCOMP_RET_USER_NOTIF, _SECCOMP_FILTER_FLAG_NEW_LISTENER)
        socket.send_fds(self.there, [b"."], [notices])

    def after_start(self):
        with self.here, self.there:
            notices = socket.recv_fds(self.here, 1, 1)[1][0]
        if select.select([notices], [], [], DEADLINE)[0]:
            notice = bytearray(80)
            fcntl.ioctl(notices, _SECCOMP_IOCTL_NOTIF_RECV, notice)
            self.meanwhile()
            answer = notice[:8] + struct.pack("=qiI", 0, 0, _SECCOMP_USER_NOTIF_FLAG_CONTINUE)
            fcntl.ioctl(notices, _SECCOMP_IOCTL_NOTIF_SEND, answer)
        os.close(notices)
