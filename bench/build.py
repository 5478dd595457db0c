"""Makes the programs. What the system lacks is left out and named, never an error."""

import ctypes
import glob
import os
import re
import shutil
import subprocess

from peers import HERE, SERVERS

C = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O2"]
CPP = ["-std=c++17", *C[1:]]


class Missing(Exception):
    """What cannot be made here, and why."""


def compiler(language="c"):
    return os.environ.get("CC", "cc") if language == "c" else os.environ.get("CXX", "c++")


def has_header(header, language="c"):
    tried = subprocess.run([compiler(language), "-E", "-x", language, "-"], input=f"#include <{header}>\n", text=True,
                           capture_output=True)
    return tried.returncode == 0


def compile_program(sources, flags, path):
    language = "c++" if sources[0].endswith(".cpp") else "c"
    warnings = CPP if language == "c++" else C
    subprocess.run([compiler(language), *warnings, *sources, "-o", path, *flags], check=True)
    return path


def run_tool(command, folder, name):
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    if done.returncode != 0:
        raise Missing(f"{name} is not measured: {command[0]} could not make it: {done.stderr.strip().splitlines()[-1]}")


def build_peer(peer, folder):
    """Returns the program's path."""
    source, path = os.path.join(SERVERS, peer.source), os.path.join(folder, os.path.splitext(peer.source)[0])
    if peer.needs:
        what, package = peer.needs
        language = "c++" if peer.source.endswith(".cpp") else "c"
        if language == "c++" and not shutil.which(compiler(language)):
            raise Missing(f"{peer.name} is not measured: install the package g++")
        there = has_header(what, language) if os.path.isfile(source) else shutil.which(what)
        if not there:
            raise Missing(f"{peer.name} is not measured: install the package {package}")
    if peer.source == "tokio":
        target = os.path.join(folder, "cargo")
        run_tool(["cargo", "build", "--quiet", "--release", "--locked", "--target-dir", target], source, peer.name)
        return os.path.join(target, "release", "tokio-echo")
    if peer.source == "go":
        run_tool(["go", "build", "-o", path, "."], source, peer.name)
        return path
    return compile_program([source], peer.flags, path)


def build(all_peers, folder):
    """Returns those that could be made, and a line for each that is missing."""
    os.makedirs(folder, exist_ok=True)
    there, missing = [], []
    for peer in all_peers:
        try:
            peer.program = build_peer(peer, os.path.abspath(folder))
            there.append(peer)
        except Missing as missed:
            missing.append(str(missed))
    return there, missing


def build_load(folder):
    """The generator, and whether it has the engine on io_uring."""
    path = os.path.join(os.path.abspath(folder), "load")
    sources = sorted(glob.glob(os.path.join(HERE, "load", "*.c")))
    if has_header("liburing.h"):
        return compile_program(sources, ["-DWITH_URING", "-luring"], path), True
    return compile_program([source for source in sources if not source.endswith("uring.c")], [], path), False


def versions(there, library):
    """What was measured, for the head of the report."""
    oyez = ctypes.CDLL(os.path.join(library, "liboyez.so"))
    oyez.oyez_version.restype = ctypes.c_char_p
    found = ["oyez " + oyez.oyez_version().decode()]
    for peer in there:
        version = peer.version()
        if version:
            found.append(f"{peer.name.replace('plain io_uring', 'liburing')} {version}")
    first = subprocess.run([compiler(), "--version"], text=True, capture_output=True).stdout.splitlines()[0]
    return [*found, re.sub(r"\s*\(.*?\)", "", first)]
