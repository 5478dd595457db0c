"""The faults: what each is called, what the reader is told, and how it is made."""

import dataclasses
import os
import resource
import socket
from typing import Callable, Dict, Sequence, Union

from world import APP, PROGRAM, World, look_up_in, refuse_bind, refuse_bind_by_landlock, sysctl

INHERITED = "The others have no such address: a program takes the descriptor from its environment itself."


@dataclasses.dataclass
class Fault:
    title: str
    told: str                                           # the situation
    address: str
    make: Callable[[World], None] = lambda world: None
    flags: Sequence[str] = ()                           # of main.c, for all programs
    oyez_options: str = ""                              # in oyez's address, for which the others have
    other_flags: Sequence[str] = ()                     # these flags
    user: Union[str, None] = None                       # whose program it is; None: root's
    alone: str = ""                                     # why only oyez is run
    notes: Dict[str, str] = dataclasses.field(default_factory=dict)     # why another program does not fail


# In use

def _closed_first(world):
    """A connection that the server closed first: its end waits for 60 seconds."""
    with socket.create_server(("127.0.0.1", 8080)) as server:
        client = socket.create_connection(("127.0.0.1", 8080), source_address=("127.0.0.1", 50001))
        connection, _ = server.accept()
        connection.close()
        client.recv(1)
        client.close()
    world.wait_for(8080, "06")


def _connection_is_open(world):
    world.hold("server = socket.create_server(('127.0.0.1', 8080))\n"
               "clients = [socket.create_connection(('127.0.0.1', 8080), source_address=('127.0.0.1', port))\n"
               "           for port in (50001, 50002, 50003)]\n"
               "connections = [server.accept() for _ in clients]\n"
               "server.close()")


def _listens_in_between(world):
    holder = world.hold("server = socket.socket()\n"
                        "server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
                        "server.bind(('127.0.0.1', 8080))\n"
                        "print('ready', flush=True)\n"
                        "input()\n"
                        "server.listen()")

    def listen():
        holder.stdin.write("\n")
        holder.stdin.flush()
        holder.stdout.readline()
    world.stop_at_listen(listen)


# Limits, and the host as it is

def _few_descriptors(world):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
    world.launch.update(preexec_fn=limit)


def _without_ipv6(world):
    for name in ("all", "lo"):
        sysctl(f"net/ipv6/conf/{name}/disable_ipv6", 1)


# Files

LONG_PATH = (f"{APP}/customers/example-corporation/environments/production/services/checkout/instances/seventeen/"
             "control.sock")


def _long_path(world):
    os.makedirs(os.path.dirname(LONG_PATH))


def _private_folder(world):
    os.mkdir(f"{APP}/private", mode=0o700)


def _plain_file(world):
    with open(f"{APP}/app.sock", "w") as file:
        file.write("not a socket\n")


def _live_socket(world):
    world.hold(f"server = socket.socket(socket.AF_UNIX); server.bind('{APP}/app.sock'); server.listen()")


def _stale_socket(world):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{APP}/app.sock")
        server.listen()


# Inherited

def _give_file(world):
    world.give(open("/dev/null"))


def _give_bound(world):
    bound = socket.socket()
    bound.bind(("127.0.0.1", 8080))
    world.give(bound)


def _give_datagrams(world):
    bound = socket.socket(type=socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 8080))
    world.give(bound)


def _passed(pid, names):
    def make(world):
        world.give(socket.create_server(("127.0.0.1", 8080)))
        world.environment.update(LISTEN_PID=str(pid), LISTEN_FDS="1", LISTEN_FDNAMES=names)
    return make


HTTP = "`python3 -m http.server --bind {} 8080` runs as root"

GROUPS = {
    "The address is in use": [
        Fault("The port is held by another process", HTTP.format("127.0.0.1") + ".",
              "127.0.0.1:8080", lambda world: world.serve("127.0.0.1")),
        Fault("The port is held by this process itself", "The program has listened there before.",
              "127.0.0.1:8080", flags=["-2"]),
        Fault("The port is held by a child of this process",
              "The program has listened, forked a child, and closed its own copy of the listener.",
              "127.0.0.1:8080", flags=["-c"]),
        Fault("The port is held by a process that we may not inspect",
              HTTP.format("127.0.0.1") + ", and the program as nobody.",
              "127.0.0.1:8080", lambda world: world.serve("127.0.0.1"), user="nobody"),
        Fault("The port is held on every IPv4 address", HTTP.format("0.0.0.0") + ".",
              "127.0.0.1:8080", lambda world: world.serve("0.0.0.0")),
        Fault("The port is held on every IPv6 and IPv4 address", HTTP.format("::") + ", on one socket for both.",
              "127.0.0.1:8080", lambda world: world.serve("::")),
        Fault("A connection has just ended, and SO_REUSEADDR is off",
              "The server that closed it is gone; the connection is in TIME_WAIT.",
              "127.0.0.1:8080", _closed_first, oyez_options="?reuse_address=off", other_flags=["-a"],
              notes={"libuv": "it always sets SO_REUSEADDR"}),
        Fault("Connections are still open, and SO_REUSEADDR is off",
              "Another process has closed its listener and goes on with three connections.",
              "127.0.0.1:8080", _connection_is_open, oyez_options="?reuse_address=off", other_flags=["-a"],
              notes={"libuv": "it always sets SO_REUSEADDR"}),
        Fault("The port is shared with SO_REUSEPORT by another user",
              "A process of root's listens there with SO_REUSEPORT; the program asks for it too, as nobody.",
              "127.0.0.1:8080",
              lambda world: world.hold("server = socket.create_server(('127.0.0.1', 8080), reuse_port=True)"),
              oyez_options="?reuse_port=on", other_flags=["-p"], user="nobody"),
        Fault("The other side does not have SO_REUSEPORT",
              HTTP.format("127.0.0.1") + ", without SO_REUSEPORT; the program asks for it.",
              "127.0.0.1:8080", lambda world: world.serve("127.0.0.1"),
              oyez_options="?reuse_port=on", other_flags=["-p"]),
        Fault("Somebody else listens between bind and listen",
              "Both have bound the port, which SO_REUSEADDR permits, and the other one listens first.",
              "127.0.0.1:8080", _listens_in_between),
    ],
    "It is not permitted": [
        Fault("The port is privileged", "The program runs as nobody.", "127.0.0.1:80", user="nobody"),
        Fault("A seccomp filter refuses", "The filter answers bind(2) with EPERM. The port is free.",
              "127.0.0.1:8080", lambda world: world.launch.update(preexec_fn=refuse_bind)),
        Fault("A security module refuses", "Landlock permits no port to be bound. The port is free.",
              "127.0.0.1:8080", lambda world: world.launch.update(preexec_fn=refuse_bind_by_landlock)),
    ],
    "The host does not have it": [
        Fault("The address is not on this host", "The host has 192.0.2.10 on eth0.",
              "192.0.2.20:8080", World.add_eth0),
        Fault("IPv6 is switched off", "The sysctl net.ipv6.conf.all.disable_ipv6 is 1.", "[::1]:8080", _without_ipv6),
        Fault("A link-local address without its interface", "The host has fe80::1 on eth0.",
              "[fe80::1]:8080", World.add_eth0),
        Fault("There is no such interface", "The host has eth0.", "[fe80::1%eth9]:8080", World.add_eth0),
        Fault("There is no such interface, asked for by an option", "The host has eth0.",
              "127.0.0.1:8080", World.add_eth0, oyez_options="?interface=eth9",
              alone="The others have no such option: a program calls setsockopt(2) itself."),
    ],
    "The name is not found": [
        Fault("The host name is not found", "/etc/hosts does not have it, and nothing else is asked.", "ap1:8080"),
        Fault("No name server answers", "None runs at the address that /etc/resolv.conf names.",
              "ap1.example.com:8080", lambda world: look_up_in("files dns")),
        Fault("The service is not found", "/etc/services does not have it.", "localhost:htpt"),
    ],
    "The path of a Unix socket": [
        Fault("The path is too long", f"It has {len(LONG_PATH)} bytes.", f"unix:{LONG_PATH}", _long_path,
              notes={"libuv": "at a path that it has cut"}),
        Fault("The directory does not exist", f"There is {APP}, but nothing in it.", f"unix:{APP}/web/app.sock"),
        Fault("The directory is not writable", "/run is root's, with the mode 0755; the program runs as nobody.",
              "unix:/run/app.sock", user="nobody"),
        Fault("A directory on the way may not be searched",
              f"{APP}/private is root's, with the mode 0700; the program runs as nobody.",
              f"unix:{APP}/private/app.sock", _private_folder, user="nobody"),
        Fault("A file that is not a socket is there", "It is a file with a line of text.",
              f"unix:{APP}/app.sock", _plain_file),
        Fault("The socket is alive", "Another process listens there.", f"unix:{APP}/app.sock", _live_socket),
        Fault("The socket is stale, but not ours to remove",
              f"Nobody listens there any more. {APP} is root's; the program runs as nobody.",
              f"unix:{APP}/app.sock", _stale_socket, user="nobody"),
    ],
    "Something is used up": [
        Fault("Descriptors", "The program may have 64, and has opened files until none was left.",
              "127.0.0.1:8080", _few_descriptors, flags=["-f"]),
    ],
    "An inherited descriptor": [
        Fault("The descriptor is closed", "Nothing was passed.", "fd:3", alone=INHERITED),
        Fault("The descriptor is not a socket", "It is /dev/null.", "fd:3", _give_file, alone=INHERITED),
        Fault("The descriptor is not listening", "It is a TCP socket, bound to 127.0.0.1:8080.",
              "fd:3", _give_bound, alone=INHERITED),
        Fault("The descriptor is a socket of another type", "It is a UDP socket, bound to 127.0.0.1:8080.",
              "fd:3", _give_datagrams, alone=INHERITED),
        Fault("The service manager has passed nothing", "There is no LISTEN_FDS in the environment.",
              "systemd:", alone=INHERITED),
        Fault("The sockets were passed to another process", f"LISTEN_PID is 4200; the program is process {PROGRAM}.",
              "systemd:", _passed(4200, "web"), alone=INHERITED),
        Fault("None of the sockets passed has the name", "LISTEN_FDNAMES is `web`.",
              "systemd:admin", _passed(PROGRAM, "web"), alone=INHERITED),
    ],
    "The text is no address": [
        Fault("A number with a leading zero", "Some programs read it in octal.", "010.0.0.1:80"),
        Fault("A port that does not exist", "The largest is 65535.", "127.0.0.1:65536",
              notes={"plain": "at a free port: 65536 is taken for 0", "libuv": "at a free port: 65536 is taken for 0"}),
        Fault("A bracket is missing", "It is the text of an IPv6 address.", "[::1:8080"),
    ],
}
