#!/usr/bin/env python3
"""Does to oyez and to its peers what goes wrong on a busy day, and writes FAULTS.md.

    bench/faults/run.py            everything, with every peer that is installed; a quarter of an hour, as root
    bench/faults/run.py --quick    fewer times and shorter; three minutes
    bench/faults/run.py --servers libuv,nginx --scenes stop,idle
    bench/faults/run.py --again    only writes again, from what the last run saved

As root it runs in a network namespace of its own; otherwise on the host's loopback, and what needs root is left out and
named. Only a run of everything writes over FAULTS.md, unless --output says so.
"""

import argparse
import ctypes
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

sys.dont_write_bytecode = True
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from build import versions
from peers import ROOT
from running import Clients, Wrong
from scenes import SCENES
from subjects import PLAIN, build, subjects
from tables import page

CLONE_NEWNET = 0x40000000
DESCRIPTORS = 20000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer times, shorter")
    parser.add_argument("--library", default=os.path.join(ROOT, "target", "release"), help="where liboyez.a is")
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "faults"), help="where programs are made")
    parser.add_argument("--output", help="the page that is written")
    parser.add_argument("--servers", help="only those whose names have one of these texts, separated by commas")
    parser.add_argument("--scenes", help=f"only these: {','.join(scene.name for scene in SCENES)}")
    parser.add_argument("--again", action="store_true", help="measure nothing, write the last run's page again")
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def own_network():
    """True where this process got a network of its own."""
    if os.geteuid() != 0 or not shutil.which("ip") or ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return True


def descriptors_allowed():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def lacking(scene):
    """What a scene needs and is not here, or None."""
    if scene.needs == "root":
        return None if os.geteuid() == 0 else "root"
    return None if scene.needs is None or shutil.which(scene.needs) else f"the package {scene.needs}"


def command(asked):
    given = ["--quick"] * asked.quick + [f"--{name} {shlex.quote(value)}" for name in ("servers", "scenes")
                                         for value in [getattr(asked, name)] if value]
    return " ".join(["bench/faults/run.py", *given])


def for_everybody(there, clients, folder):
    """The programs where a user without privileges can run them."""
    os.chmod(folder, 0o755)
    for subject in there:
        if subject.source:
            subject.program = shutil.copy(subject.program, folder)
    return shutil.copy(clients, folder)


def measured(asked, folder):
    """Everything that the page is made of, as plain dictionaries."""
    left_out, wanted = [], subjects(os.path.abspath(asked.library))
    private, allowed = own_network(), descriptors_allowed()
    there, missing, clients = build(wanted, os.path.abspath(asked.build))
    Clients.program = for_everybody(there, clients, folder)
    how = SimpleNamespace(quick=asked.quick, folder=folder, plain=next(one for one in there if one.name == PLAIN))
    if asked.servers:
        there = [one for one in there if any(part.strip() in one.name for part in asked.servers.split(","))]
    left_out += missing
    results, load_before = {}, os.getloadavg()[0]
    for scene in SCENES:
        if asked.scenes and scene.name not in asked.scenes.split(","):
            continue
        if lacking(scene):
            left_out.append(f"`{scene.name}` needs {lacking(scene)}")
            continue
        began = time.monotonic()
        for subject in filter(scene.is_for, there):
            try:
                results.setdefault(scene.name, {})[subject.name] = scene.measure(subject, how)
            except Wrong as wrong:
                left_out.append(f"`{scene.name}`, {wrong}")
        say(f"{scene.name}: {time.monotonic() - began:.0f} s")
    head = {"command": command(asked), "kernel": os.uname().release, "cores": len(os.sched_getaffinity(0)),
            "versions": ", ".join(versions(there, asked.library)), "descriptors": allowed,
            "network": "in a network namespace of its own" if private else "on the host's loopback",
            "load_before": f"{load_before:.1f}", "load_after": f"{os.getloadavg()[0]:.1f}"}
    return {"head": head, "names": [one.name for one in there], "results": results, "left_out": left_out}


def main():
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))     # what runs is ended
    began, saved = time.monotonic(), os.path.join(asked.build, "results.json")
    if asked.again:
        with open(saved) as file:
            found = json.load(file)
    else:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            found = measured(asked, folder)
        with open(saved, "w") as file:
            json.dump(found, file)
    everything = not (asked.quick or asked.servers or asked.scenes)
    output = asked.output or os.path.join(ROOT if everything else asked.build, "FAULTS.md")
    text, misses = page(found)
    with open(output, "w") as file:
        file.write(text)
    for line in [*misses, *("left out: " + line for line in found["left_out"])]:
        print(line)
    say(f"{output} is written, after {time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
