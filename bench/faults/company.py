"""What some clients do to the others: those that reset in the middle, those that are slow, those that are many."""

import contextlib
import json
import socket
import struct
import time

from running import Clients, Server
from shortages import Waiting, look_after
from stops import connected

PROCESSES = 4           # that make slow clients
FLOOD_RATE = 2000       # connections a second on top


def reset_mid_write(subject, plain, times):
    """SIGPIPE at its default. Clients take 128 kB of 32 MB and reset, each second one after its own end; one pings."""
    behind = plain if subject.name == "HAProxy" else None
    sequential = subject.name == "oyez sequential"      # one at a time: nobody can be there beside
    with Server(subject, behind=behind, sigpipe=1) as server:
        with contextlib.ExitStack() as stack:
            pings = None if sequential else stack.enter_context(Clients("ping", server.port, 1, 10))
            log, resets = server.log_lines(), 0
            for turn in range(times):
                with contextlib.suppress(OSError):
                    client = connected(server.port, b"big")
                    got = 0
                    while got < 128 * 1024:
                        bytes = client.recv(64 * 1024)
                        if not bytes:
                            break
                        got += len(bytes)
                    if turn % 2:
                        client.shutdown(socket.SHUT_WR)
                        time.sleep(0.02)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                    resets += 1
                    time.sleep(0.05)
            time.sleep(0.2)
            seen = pings.account() if pings else None
            after = [Waiting(server.port)] if server.alive() else []
            for _ in look_after(after, 3, lambda: all(one.over for one in after)):
                pass
            return {"alive": server.alive(), "resets": resets, "pings": seen, "log_lines": server.log_lines() - log,
                    "next": bool(after) and after[0].over == "answered", "status": server.process.poll()}


def slow(subject, count, workers, seconds):
    """So many clients that send a byte each 5 s, a calm one, and then a flood of connects."""
    wanted = {"workers": workers} if workers else {}
    with Server(subject, **wanted) as server, Clients("ping", server.port, 1, 2) as calm:
        calm.account()
        time.sleep(seconds)
        found = {"calm": calm.account(), "asked": count, "memory_before": server.memory()}
        with contextlib.ExitStack() as stack:
            connected_now = 0
            groups = [Clients("slow", server.port, count // PROCESSES, 5000) for _ in range(PROCESSES)]
            for group in groups:
                stack.enter_context(group)
                connected_now += json.loads(group.first)["connected"]
            time.sleep(0.5)
            calm.account()
            start, began = server.cpu(), time.monotonic()
            time.sleep(seconds)
            found["slow"] = calm.account()
            found["cpu"] = (server.cpu() - start) / (time.monotonic() - began) * 100
            found["connected"], found["held"] = connected_now, server.sockets()
            found["memory"] = server.memory() - found["memory_before"]
            with Clients("storm", server.port, 16, 1, FLOOD_RATE) as flood:
                time.sleep(0.3)
                calm.account(), flood.account()
                time.sleep(seconds)
                found["flood"], found["flooded"] = calm.account(), flood.account()
            found["seconds"] = seconds
            found["lost"] = sum(group.end().get("lost", 0) for group in groups)
        time.sleep(0.5)
        calm.account()
        time.sleep(seconds)
        found["again"] = calm.account()
        found["alive"] = server.alive()
        return found

