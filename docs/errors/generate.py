#!/usr/bin/env python3
"""Writes docs/errors.md: makes each fault, and shows what oyez, perror, libuv and libevent say about it.

    docs/errors/generate.py            writes it (root, and the packages libuv1-dev and libevent-dev)
    docs/errors/generate.py --check    runs oyez alone, and compares with what the file shows

The faults are in faults.py, where they happen is in world.py, and the programs are main.c with one of plain.c, libuv.c,
libevent.c and oyez.c.
"""

import argparse
import difflib
import os
import re
import subprocess
import sys
import textwrap

sys.dont_write_bytecode = True

import world
from faults import GROUPS
from world import NotHere, World

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PAGE = os.path.join(ROOT, "docs", "errors.md")
WARNINGS = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
PEERS = {"plain": "perror", "libuv": "libuv", "libevent": "libevent"}
PACKAGES = {"libuv": ("uv.h", "libuv1-dev"), "libevent": ("event2/listener.h", "libevent-dev")}

INTRODUCTION = (
    "Each fault below was made for real, in a network namespace of its own, and met by four small programs that listen "
    "at one address: with oyez (`oyez_listen`, `oyez_perror`), with the system's calls and `perror`, with libuv "
    "(`uv_strerror`) and with libevent (`evutil_socket_error_to_string`). What they printed is shown as it was, but "
    "for what no two runs have alike (the seconds left of a TIME_WAIT, which of several clients is named). oyez's "
    "program calls itself `server`; the others name the function that failed. One that printed `listening` did not "
    "meet the fault, or did not notice it. An option such as `?reuse_address=off` is in the address for oyez alone; "
    "the others set it their way.",
    "Made with {versions}. `make errors-table` makes it again, from the programs and scripts in `docs/errors/`; `make "
    "test` compares what oyez says with what is shown here.")
TRIES = 3       # on a busy machine oyez may run out of the time that it has to look for a cause


def build(names, library):
    """Compiles the programs, to where every user can run them."""
    compiler = os.environ.get("CC", "cc")
    for name in names:
        if name in PACKAGES:
            header, package = PACKAGES[name]
            tried = subprocess.run([compiler, "-E", "-x", "c", "-"], input=f"#include <{header}>\n", text=True,
                                   capture_output=True)
            if tried.returncode != 0:
                raise NotHere(f"{name} is missing: install the package {package}")
        os.makedirs(f"/run/programs/{name}")
        libraries = {"oyez": [os.path.join(library, "liboyez.a"), "-lpthread", "-ldl", "-lm"], "plain": [],
                     "libuv": ["-luv"], "libevent": ["-levent_core"]}[name]
        done = subprocess.run([compiler, *WARNINGS, "-I" + os.path.join(ROOT, "include"), os.path.join(HERE, "main.c"),
                               os.path.join(HERE, name + ".c"), "-o", program(name), *libraries])
        if done.returncode != 0:
            sys.exit(f"generate.py: {name}.c was not built (`make library` makes liboyez.a)")


def program(name):
    return f"/run/programs/{name}/server"


def version(name):
    return subprocess.run([program(name), "-V"], capture_output=True, text=True, check=True).stdout.strip()


def said(fault, name):
    """What one program says about one fault."""
    with World() as here:
        fault.make(here)
        address = fault.address + (fault.oyez_options if name == "oyez" else "")
        flags = [*fault.flags, *([] if name == "oyez" else fault.other_flags)]
        text = steady(here.run([program(name), *flags, address], fault.user))
    if text == "listening" and name in fault.notes:
        text += f" ({fault.notes[name]})"
    return text


def steady(text):
    """The same text each time: what is left of a TIME_WAIT, the time of day, and which of three clients is named."""
    text = re.sub(r"\b(5[5-9](\.\d+)?|60)(?= ?s\b| (more )?seconds)", "60", text)
    text = re.sub(r"\b\d\d:\d\d:\d\d\b", "12:00:00", text)
    return re.sub(r"\b127\.0\.0\.1:5000[123]\b", "127.0.0.1:50001", text)


def block(name, text):
    return f"{name}\n" + "".join(f"    {line}\n" for line in text.split("\n"))


def paragraph(text):
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def section(fault):
    told = paragraph(f"Address: `{fault.address}{fault.oyez_options}`. {fault.told}")
    head = f"### {fault.title}\n\n{told}\n"
    try:
        shown = [block("oyez", said(fault, "oyez"))]
        if not fault.alone:
            shown += [block(shown_as, said(fault, name)) for name, shown_as in PEERS.items()]
    except NotHere as reason:
        return f"{head}Not run here: {reason}.\n"
    after = "\n" + paragraph(fault.alone) if fault.alone else ""
    return head + "```text\n" + "\n".join(shown) + "```\n" + after


def write(library):
    build(["oyez", *PEERS], library)
    kernel = ".".join(os.uname().release.split(".")[:2])
    versions = (f"oyez {version('oyez')}, Linux {kernel}, glibc {version('plain')}, libuv {version('libuv')} and "
                f"libevent {version('libevent')}")
    parts = ["# What a user sees when it fails\n"]
    parts += [paragraph(text.format(versions=versions)) for text in INTRODUCTION]
    for group, faults in GROUPS.items():
        parts.append(f"## {group}\n")
        parts += [section(fault) for fault in faults]
    page = "\n".join(parts)
    with open(PAGE + ".new", "w") as file:
        file.write(page)
    os.replace(PAGE + ".new", PAGE)
    left_out = page.count("\nNot run here: ")
    print(f"docs/errors.md: {page.count(chr(10) + '### ')} faults, {left_out} of them not run here")


def check(library):
    """Whether the page still shows what oyez says."""
    build(["oyez"], library)
    if not os.path.exists(PAGE):
        sys.exit("docs/errors.md is missing: `make errors-table` writes it")
    with open(PAGE) as file:
        sections = {part.split("\n", 1)[0]: part for part in re.split(r"(?m)^### ", file.read())[1:]}
    passed = failed = skipped = 0
    for fault in (each for faults in GROUPS.values() for each in faults):
        shown = sections.pop(fault.title, None)
        try:
            for _ in range(TRIES):
                now = block("oyez", said(fault, "oyez"))
                if "\n" + now in (shown or ""):
                    break
        except NotHere as reason:
            now = None
            print(f"skipped: {fault.title}: {reason}")
        if shown is not None and now is None:
            skipped += 1
        elif shown is not None and "\n" + now in shown:
            passed += 1
        else:
            failed += 1
            before = re.search(r"(?ms)^oyez\n(?: {4}.*?\n|\n(?= {4}))*", shown or "")
            print(f"docs/errors.md is out of date: {fault.title}")
            print("".join(difflib.unified_diff((before.group() if before else "").splitlines(True),
                                               (now or "").splitlines(True), "docs/errors.md", "now")), end="")
    for title in sections:
        failed += 1
        print(f"docs/errors.md shows a fault that is not in docs/errors/faults.py: {title}")
    if failed:
        print("`make errors-table` writes it again")
    print(f"documentation: {passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description="Writes docs/errors.md, or compares it with what oyez says.")
    parser.add_argument("--check", action="store_true", help="compare only, and only what oyez says")
    parser.add_argument("--library", default="target/release", help="the folder with liboyez.a (target/release)")
    arguments = parser.parse_args()
    library = os.path.abspath(arguments.library)
    try:
        world.enter()
        return check(library) if arguments.check else write(library)
    except NotHere as reason:
        if arguments.check:
            print(f"skipped: {reason}")
            print("documentation: 0 passed, 0 failed, 1 skipped")
            return 0
        print(f"generate.py: {reason}", file=sys.stderr)
        return 1


sys.exit(main())
