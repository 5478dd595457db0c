"""What stopping costs the clients: those that connect meanwhile, and those that are in the middle of an answer."""

import contextlib
import os
import socket
import threading
import time

from running import Clients, Server, Wrong, soon

CLIENTS, DEPTH, HELD = 16, 4, 0.02
TRANSFERS, BIG, CHUNK = 20, 32 * 1024 * 1024, 128 * 1024
REQUEST = b"GET /%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def under_load(subject, privileged, cycles):
    """
    Starts and stops it so often under load; what the clients saw. Each second time the server is held for a moment
    when the signal comes, as by a busy machine: then there is somebody in its queue for certain.
    """
    seen = {"answered": 0, "reset": 0, "cut": 0, "silent": 0, "failed": 0, "kept_running": 0, "lost": 0, "lost_held": 0}
    for cycle in range(cycles):
        with Server(subject, privileged) as server, Clients("storm", server.port, CLIENTS, DEPTH, 0) as clients:
            time.sleep(0.25)
            if cycle % 2:
                server.ask_to_stop()
            else:
                with server.held(HELD):
                    server.ask_to_stop()
            told = clients.end(8)
            for what in ("answered", "reset", "cut", "silent", "failed"):
                seen[what] += told.get(what, 0)
            lost = sum(told.get(what, 0) for what in ("reset", "cut", "silent"))
            seen["lost" if cycle % 2 else "lost_held"] += lost
            seen["kept_running"] += server.wait(8) is None
    seen["lost"] += seen["lost_held"]
    return seen


def connected(port, what, receive_buffer=None):
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(15)
    client.connect(("127.0.0.1", port))
    client.sendall(REQUEST % what)
    return client


class Reader(threading.Thread):
    """Takes a long answer, so many bytes a second, to its end."""

    def __init__(self, port, rate):
        super().__init__(daemon=True)
        self.client, self.rate = connected(port, b"big", 256 * 1024), rate
        self.got, self.size, self.ending = 0, None, "none seen"
        self.start()

    def run(self):
        head, began = b"", time.monotonic()
        try:
            while self.got < BIG:
                bytes = self.client.recv(CHUNK)
                if not bytes:
                    self.ending = "FIN"
                    return
                if self.size is None:
                    head += bytes
                    if b"\r\n\r\n" not in head:
                        continue
                    bytes = head.partition(b"\r\n\r\n")[2]
                    self.size = BIG
                self.got += len(bytes)
                time.sleep(max(0, began + self.got / self.rate - time.monotonic()))
            self.ending = "whole"
        except ConnectionResetError:
            self.ending = "RST"
        except OSError as error:
            self.ending = os.strerror(error.errno) if error.errno else "no byte for 15 s"
        finally:
            self.client.close()


def transfers(subject, plain, drain_ms, seconds):
    """SIGTERM with 20 answers of 32 MB under way, each of which takes so many seconds."""
    with Server(subject, behind=plain if subject.name == "HAProxy" else None, drain=drain_ms) as server:
        with contextlib.ExitStack() as stack:
            readers = [Reader(server.port, BIG / seconds) for _ in range(TRANSFERS)]
            stack.callback(lambda: [reader.client.close() for reader in readers])
            if not soon(lambda: all(reader.got > BIG / 10 for reader in readers), 15):
                raise Wrong(f"{subject.name}: transfers did not begin")
            server.ask_to_stop()
            began = time.monotonic()
            status = server.wait(drain_ms / 1000 + seconds + 5)
            took = time.monotonic() - began
            for reader in readers:
                reader.join(20)
            endings = {}
            for reader in readers:
                endings[reader.ending] = endings.get(reader.ending, 0) + 1
            lost = TRANSFERS * BIG - sum(reader.got for reader in readers)
            return {"lost": lost, "endings": endings, "status": status, "took": took}
