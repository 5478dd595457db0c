#!/usr/bin/env python3
"""Measures oyez beside what a C programmer would take instead, and writes BENCHMARKS.md.

    bench/run.py            every mode and every peer that is installed; some forty minutes
    bench/run.py --quick    some modes, short; two or three minutes
    bench/run.py --peers libuv,tokio --modes '64 B' --rounds 3
    bench/run.py --again    only writes again, from what the last run saved

The load generator is in load/, the servers are in servers/. Everything is a ratio within this run: no time of a machine
is compared with another's. Only a run of everything writes over BENCHMARKS.md and bench/plots, unless --output says so.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import sys
import time

sys.dont_write_bytecode = True

import measure
import rest
from build import build, build_load, versions
from modes import ECHO, LINE, MODES
from page import page
from peers import HERE, OYEZ_EVENTS, PLAIN, ROOT, peers
from pictures import draw
from report import Report
from server import Wrong
from targets import as_rows, event_targets, thread_targets

PARTS = ("rounds", "calls", "instructions", "memory", "rest")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some modes, short runs")
    parser.add_argument("--library", default=os.path.join(ROOT, "target", "release"), help="where liboyez.so is")
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "bench"), help="where programs are made")
    parser.add_argument("--output", help="the page that is written; plots/ goes beside it")
    parser.add_argument("--rounds", type=int, help="5, or 3 if quick")
    parser.add_argument("--seconds", type=float, help="of each run")
    parser.add_argument("--budget", type=float, help="seconds after which no round begins")
    parser.add_argument("--modes", help="only those whose names have one of these texts, separated by semicolons")
    parser.add_argument("--peers", help="only these, with plain epoll; names separated by commas")
    parser.add_argument("--parts", help=f"only these: {','.join(PARTS)}")
    parser.add_argument("--again", action="store_true", help="measure nothing, write the last run's page again")
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def load_average():
    return f"{os.getloadavg()[0]:.1f}"


def processor():
    with open("/proc/cpuinfo") as text:
        return next((line.split(":")[1].strip() for line in text if line.startswith("model name")), "processor unknown")


def congestion():
    with open("/proc/sys/net/ipv4/tcp_congestion_control") as text:
        return text.read().strip()


def all_descriptors():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def chosen_modes(asked, descriptors, left_out):
    modes = []
    for mode in MODES:
        if (asked.quick and not mode.quick) or (asked.modes and
                                                not any(part in mode.name for part in asked.modes.split(";"))):
            continue
        if mode.connections + measure.DESCRIPTORS > descriptors:
            left_out.append(f"{mode.name}: a process may have only {descriptors} descriptors")
            continue
        modes.append(mode)
    return modes


def counted(load, there, once, tool, few, many, left_out):
    """By server and mode: what a message costs, told by a tool that may be missing, or not know what a server does."""
    if not shutil.which(tool):
        left_out.append(f"what {tool} tells: install the package {tool}")
        return {}
    found = {}
    for peer in there:
        for mode, scale in ((ECHO, 1), (LINE, 4)):
            try:
                found.setdefault(peer.name, {})[mode.name] = measure.difference(
                    once, load, peer, mode, few // scale, many // scale)
            except Wrong as wrong:
                left_out.append(f"what {tool} tells: {wrong}")
                break
    say(f"{tool} is done")
    return found


def memory_of(load, there, counts):
    found = {}
    for peer in there:
        found[peer.name] = rest.memory(load, peer, [count for count in counts
                                                    if not peer.threaded() or count <= measure.MOST_THREADS])
    say("memory is done")
    return found


def rest_of(load, there, count, seconds):
    found = {}
    for peer in there:
        if peer.name in (PLAIN, *OYEZ_EVENTS):
            found[peer.name] = {"connections": count, "part": rest.at_rest(load, peer, count, seconds)}
    say("rest is done")
    return found


def command(asked):
    given = ["--quick"] * asked.quick + [f"--{name} {shlex.quote(str(value))}"
                                         for name in ("rounds", "seconds", "modes", "peers", "parts")
                                         for value in [getattr(asked, name)] if value]
    return " ".join(["bench/run.py", *given])


def measured(asked):
    """Everything that the page is made of, as plain dictionaries."""
    began = time.monotonic()
    budget = asked.budget or (75 if asked.quick else 2100)      # for the rounds; what follows them is short
    warm, seconds = (0.04, asked.seconds or 0.12) if asked.quick else (0.1, asked.seconds or 0.5)
    cores = sorted(os.sched_getaffinity(0))
    parts = asked.parts.split(",") if asked.parts else PARTS
    left_out, descriptors = [], all_descriptors()
    if len(cores) < 2:
        sys.exit("bench: two processors are needed, one for the server and one for the generator")

    wanted = [peer for peer in peers(os.path.abspath(asked.library))
              if not asked.peers or peer.name in [PLAIN, *asked.peers.split(",")]]
    there, missing = build(wanted, asked.build)
    program, uring = build_load(asked.build)
    load, without = measure.working_load(program, uring, there[0])
    there, refused = measure.checked(load, there)
    left_out += missing + without + refused
    modes = chosen_modes(asked, descriptors, left_out)
    counts = [count for count in rest.points(descriptors) if not asked.quick or count <= 1000]
    if not asked.quick and counts[-1] < rest.WANTED:
        left_out.append(f"{rest.WANTED:,} connections: a process may have only {descriptors} descriptors")

    found = {"names": [peer.name for peer in there], "results": {}, "calls": {}, "instructions": {}, "memory": {},
             "rest": {}}
    before = load_average()
    if "rounds" in parts:
        say(f"measuring {', '.join(found['names'])}")
        found["results"] = measure.rounds(load, there, modes, cores, asked.rounds or (3 if asked.quick else 5), warm,
                                          seconds, lambda: budget - (time.monotonic() - began), say)
    after = load_average()
    if "calls" in parts:
        found["calls"] = counted(load, there, measure.system_calls, "strace", 400, 2000, left_out)
    if "instructions" in parts:
        simple = [peer for peer in there if peer.counted_by_callgrind()]
        counts_of = counted(load, simple, measure.instructions, "valgrind", 2000, 10000, left_out)
        found["instructions"] = {name: {mode: told["instructions"] for mode, told in by_mode.items()}
                                 for name, by_mode in counts_of.items()}
    if "memory" in parts:
        found["memory"] = memory_of(load, there, counts)
    if "rest" in parts:
        found["rest"] = rest_of(load, there, counts[-1], 2 if asked.quick else 10)
    rounds = [len(runs) for table in found["results"].values() for mode in table.values() for runs in mode.values()]
    found["head"] = {
        "command": command(asked), "rounds": min(rounds, default=0), "seconds": seconds, "warm": warm,
        "versions": ", ".join(versions(there, asked.library)), "kernel": os.uname().release, "processor": processor(),
        "cores": len(cores), "congestion": congestion(), "load_before": before, "load_after": after,
        "engine": "epoll" if without else "io_uring"}
    found["left_out"] = left_out
    return found


def written(asked, found):
    """The page and its plots, where they belong."""
    everything = not (asked.quick or asked.modes or asked.peers or asked.parts)
    output = asked.output or os.path.join(ROOT if everything else asked.build, "BENCHMARKS.md")
    plots = os.path.join(HERE if output == os.path.join(ROOT, "BENCHMARKS.md") else os.path.dirname(output), "plots")
    report = Report(found)
    pictures = [(title, os.path.relpath(path, os.path.dirname(output) or ".")) for title, path in draw(report, plots)]
    with open(output, "w") as file:
        file.write(page(report, found["head"], found["left_out"], pictures))
    for heads, rows in ((OYEZ_EVENTS, event_targets(report)), (("oyez threads",), thread_targets(report))):
        width = max((len(what) for what, _ in rows), default=0)
        for what, *cells in as_rows(rows):
            print(f"{what:{width}}  " + "  ".join(f"{cell:44}" for cell in cells if cell))
    for line in [*report.reasons(), *("left out: " + line for line in found["left_out"])]:
        print(line)
    return output


def main():
    asked = arguments()
    began, saved = time.monotonic(), os.path.join(asked.build, "results.json")
    if asked.again:
        with open(saved) as file:
            found = json.load(file)
    else:
        try:
            found = measured(asked)
        except Wrong as wrong:
            sys.exit(f"bench: {wrong}")
        with open(saved, "w") as file:
            json.dump(found, file)
    say(f"{written(asked, found)} is written, after {time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
