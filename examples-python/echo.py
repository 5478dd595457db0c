#!/usr/bin/env python3
"""A thread-per-connection echo server: oyez listens and accepts, Python's own sockets do the rest.

    python3 echo.py 127.0.0.1:9000      then, in another terminal:   nc 127.0.0.1 9000

No type is declared for any function of the library: every handle is a number that fits into ctypes' defaults, text
goes in as bytes, and NULL is None.
"""

import ctypes
import os
import pathlib
import socket
import sys
import threading
import time

BESIDE = pathlib.Path(__file__).resolve().parent.parent / "target" / "release" / "liboyez.so"
oyez = ctypes.CDLL(os.environ.get("OYEZ_LIBRARY") or str(BESIDE))

LIMIT_REACHED, TIMED_OUT = 7, 9  # OYEZ_LIMIT_REACHED and OYEZ_TIMED_OUT in oyez.h


def error_text():
    text = ctypes.create_string_buffer(2048)
    oyez.oyez_error_text(text, len(text))
    return "echo.py: " + text.value.decode()


def echo(connection):
    """Serves one client, on a thread of its own."""
    try:
        with connection:
            while data := connection.recv(16384):
                connection.sendall(data)
    except OSError as error:
        print("echo.py:", error, file=sys.stderr)


def main():
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9000"
    listener = oyez.oyez_listen(address.encode(), None)
    if listener < 0:
        sys.exit(error_text())

    text = ctypes.create_string_buffer(128)
    oyez.oyez_local_address(listener, text, len(text))
    print("listening on", text.value.decode(), flush=True)

    # The listener is a descriptor like any other. A non-blocking one is cheaper to accept from with a timeout.
    os.set_blocking(listener, False)
    try:
        while True:
            # Python sees Ctrl-C when the call returns, so it never waits for longer than a tenth of a second.
            client = oyez.oyez_accept(listener, None, 0, 100)
            if client >= 0:
                connection = socket.socket(fileno=client)
                threading.Thread(target=echo, args=(connection,), daemon=True).start()
            elif oyez.oyez_error_code(None) == LIMIT_REACHED:
                print(error_text(), file=sys.stderr)
                time.sleep(0.5)  # the client stays in the kernel's queue until a descriptor is free
            elif oyez.oyez_error_code(None) != TIMED_OUT:
                sys.exit(error_text())
    except KeyboardInterrupt:
        pass
    finally:
        oyez.oyez_unlisten(listener)


if __name__ == "__main__":
    main()
