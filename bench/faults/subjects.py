"""The servers whose behaviour is compared: how each is made, started and asked to stop."""

import os
import re
import shutil
import signal
import subprocess

from build import Missing, compile_program, has_header
from peers import ROOT, packaged, told

HERE = os.path.dirname(os.path.abspath(__file__))
SERVERS = os.path.join(HERE, "servers")

THREADS, SEQUENTIAL, PROCESSES = "oyez threads", "oyez sequential", "oyez processes"
EPOLL, URING = "oyez events (epoll)", "oyez events (io_uring)"
PLAIN, LIBUV, LIBEVENT, NGINX, HAPROXY = "plain loop", "libuv", "libevent", "nginx", "HAProxy"
OYEZ = (THREADS, SEQUENTIAL, PROCESSES, EPOLL, URING)


class Subject:
    """A server of ours. `needs` is (header, Debian package)."""

    stop_signal, has_worker = signal.SIGTERM, False

    def __init__(self, name, source, arguments=(), flags=(), needs=None, environment=None, version=None):
        self.name, self.source, self.arguments, self.flags = name, source, list(arguments), list(flags)
        self.needs, self.environment, self.version = needs, environment or {}, version or (lambda: None)

    def build(self, folder):
        if self.needs and not has_header(self.needs[0]):
            raise Missing(f"{self.name} is not measured: install the package {self.needs[1]}")
        self.program = os.path.join(folder, os.path.splitext(self.source)[0])
        compile_program([os.path.join(SERVERS, self.source)], self.flags, self.program)

    def is_oyez(self):
        return self.name in OYEZ

    def command(self, port, _folder, wanted):
        """`wanted`: drain and idle in milliseconds, workers, sigpipe; slots of those that have a table of them."""
        return [self.program, str(port), *self.arguments, *(f"{name}={value}" for name, value in wanted.items())]


class Nginx(Subject):
    """A master and one worker; SIGQUIT is its graceful way."""

    stop_signal, has_worker = signal.SIGQUIT, True

    def __init__(self):
        super().__init__(NGINX, None, version=told_on_stderr)

    def build(self, _folder):
        self.program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
        if not self.program:
            raise Missing("nginx is not measured: install the package nginx-light")

    def command(self, port, folder, wanted):
        with open(os.path.join(folder, "big"), "wb") as file:
            file.truncate(32 * 1024 * 1024)
        with open(os.path.join(folder, "nginx.conf"), "w") as file:
            file.write(NGINX_CONFIGURATION.format(
                folder=folder, port=port, idle=max(1, wanted.get("idle", 600000) // 1000), drain=wanted["drain"],
                slots=wanted.get("slots", 19000),
                user="user root;" if os.geteuid() == 0 else ""))
        return [self.program, "-p", folder, "-c", os.path.join(folder, "nginx.conf"), "-e", "stderr"]


class Haproxy(Subject):
    """In the foreground; SIGUSR1 is its graceful way. What is long comes from the plain loop, at the next port."""

    stop_signal = signal.SIGUSR1

    def __init__(self):
        super().__init__(HAPROXY, None, version=told(["haproxy", "-v"], r"version (\d[\d.]*)"))

    def build(self, _folder):
        self.program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/sbin")
        if not self.program:
            raise Missing("HAProxy is not measured: install the package haproxy")

    def command(self, port, folder, wanted):
        with open(os.path.join(folder, "haproxy.cfg"), "w") as file:
            file.write(HAPROXY_CONFIGURATION.format(port=port, behind=port + 1, idle=wanted.get("idle", 600000),
                                                    drain=wanted["drain"], slots=wanted.get("slots", 9000)))
        return [self.program, "-db", "-f", os.path.join(folder, "haproxy.cfg")]


NGINX_CONFIGURATION = """daemon off;
worker_processes 1;
{user}
pid {folder}/pid;
error_log stderr;
worker_shutdown_timeout {drain}ms;
events {{ worker_connections {slots}; }}
http {{
    access_log off;
    client_header_timeout {idle};
    keepalive_requests 1000000;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location /ping {{ return 200 "pong\\n"; }}
        location /once {{ return 200 "done\\n"; }}
        location /big {{ root {folder}; }}
    }}
}}
"""

HAPROXY_CONFIGURATION = """global
    maxconn {slots}
    nbthread 1
    hard-stop-after {drain}ms
    log fd@2 format raw local0 notice
defaults
    mode http
    log global
    timeout client 600s
    timeout connect 5s
    timeout server 600s
    timeout http-request {idle}
frontend front
    bind 127.0.0.1:{port} backlog 4096
    http-request return status 200 content-type text/plain lf-string "pong\\n" if {{ path /ping }}
    http-request return status 200 content-type text/plain lf-string "done\\n" if {{ path /once }}
    default_backend long
backend long
    server plain 127.0.0.1:{behind}
"""


def told_on_stderr():
    found = re.search(r"nginx/(\S+)", subprocess.run(["nginx", "-v"], text=True, capture_output=True).stderr)
    return found and found.group(1)


def subjects(library):
    oyez = ["-I" + os.path.join(ROOT, "include"), os.path.join(library, "liboyez.a"), "-lpthread", "-ldl", "-lm"]
    return [
        Subject(THREADS, "oyez_handler.c", ["model=threads"], oyez),
        Subject(SEQUENTIAL, "oyez_handler.c", ["model=sequential"], oyez),
        Subject(PROCESSES, "oyez_handler.c", ["model=processes"], oyez),
        Subject(EPOLL, "oyez_events.c", flags=oyez, environment={"OYEZ_BACKEND": "epoll"}),
        Subject(URING, "oyez_events.c", flags=oyez, environment={"OYEZ_BACKEND": "io_uring"}),
        Subject(PLAIN, "plain.c", flags=["-lpthread"]),
        Subject(LIBUV, "libuv.c", flags=["-luv"], needs=("uv.h", "libuv1-dev"), version=packaged("libuv")),
        Subject(LIBEVENT, "libevent.c", flags=["-levent_core"], needs=("event2/bufferevent.h", "libevent-dev"),
                version=packaged("libevent")),
        Nginx(),
        Haproxy(),
    ]


def build(wanted, folder):
    """Those that could be made, and a line for each that could not."""
    os.makedirs(folder, exist_ok=True)
    there, missing = [], []
    for subject in wanted:
        try:
            subject.build(folder)
            there.append(subject)
        except Missing as missed:
            missing.append(str(missed))
    clients = compile_program([os.path.join(HERE, "clients.c")], ["-lpthread"], os.path.join(folder, "clients"))
    return there, missing, clients
