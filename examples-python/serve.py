#!/usr/bin/env python3
"""An echo server whose handler is called by oyez, on a thread of its pool for each client.

    python3 serve.py 127.0.0.1:9000     then, in another terminal:   nc 127.0.0.1 9000

Ctrl-C and SIGTERM stop it: clients that are connected get two seconds to finish.
"""

import ctypes
import os
import pathlib
import sys
import traceback

BESIDE = pathlib.Path(__file__).resolve().parent.parent / "target" / "release" / "liboyez.so"
oyez = ctypes.CDLL(os.environ.get("OYEZ_LIBRARY") or str(BESIDE))

OYEZ_ON = 1
Connection = ctypes.c_uint64
Handler = ctypes.CFUNCTYPE(None, Connection, ctypes.c_void_p)


class ServerOptions(ctypes.Structure):
    """oyez_server_options of oyez.h; zero is the default."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("model", ctypes.c_int32),
        ("workers", ctypes.c_int32),
        ("idle_timeout_ms", ctypes.c_int32),
        ("read_timeout_ms", ctypes.c_int32),
        ("write_timeout_ms", ctypes.c_int32),
        ("lifetime_ms", ctypes.c_int32),
        ("drain_ms", ctypes.c_int32),
        ("stop_on_signals", ctypes.c_int32),
        ("log", ctypes.c_void_p),
        ("log_user", ctypes.c_void_p),
    ]


# A connection is a 64-bit number, so the functions that take one are declared; for the others ctypes' defaults do.
oyez.oyez_conn_read.argtypes = [Connection, ctypes.c_void_p, ctypes.c_size_t]
oyez.oyez_conn_read.restype = ctypes.c_ssize_t
oyez.oyez_conn_write.argtypes = [Connection, ctypes.c_char_p, ctypes.c_size_t]
oyez.oyez_conn_write.restype = ctypes.c_ssize_t


def check(result):
    """Ends the program with the library's words where a call failed."""
    if result < 0:
        text = ctypes.create_string_buffer(2048)
        oyez.oyez_error_text(text, len(text))
        sys.exit("serve.py: " + text.value.decode())
    return result


@Handler
def echo(client, _user):
    """Serves one client; the connection is closed when it returns. No exception may leave it."""
    try:
        buffer = ctypes.create_string_buffer(16384)
        while (size := oyez.oyez_conn_read(client, buffer, len(buffer))) > 0:
            if oyez.oyez_conn_write(client, buffer.raw[:size], size) < 0:
                return
    except Exception:
        traceback.print_exc()


def main():
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9000"
    options = ServerOptions(size=ctypes.sizeof(ServerOptions), drain_ms=2000, stop_on_signals=OYEZ_ON)
    server = check(oyez.oyez_server_new(echo, None, ctypes.byref(options)))
    listener = check(oyez.oyez_server_listen(server, address.encode(), None))

    text = ctypes.create_string_buffer(128)
    check(oyez.oyez_local_address(listener, text, len(text)))
    print("listening on", text.value.decode(), flush=True)

    check(oyez.oyez_server_run(server))
    check(oyez.oyez_server_close(server))
    print("stopped")


if __name__ == "__main__":
    main()
