#!/usr/bin/env python3
"""Measures oyez beside what a C programmer would take instead, and writes BENCHMARKS.md.

    bench/run.py            every mode; under ten minutes
    bench/run.py --quick    some modes, short; under two minutes

The load generator is load.c, the servers are in servers/. Everything is a ratio within this run: no time of a machine
is compared with another's.
"""

import argparse
import os
import resource
import shlex
import shutil
import sys
import time

sys.dont_write_bytecode = True

import measure
from measure import ECHO, EACH, LINE, MODES, ONE, Wrong
from peers import HERE, PLAIN, ROOT, build, compile_program, peers, versions
from report import Report, markdown

HEAD = """# Benchmarks

Written by `{command}`; `bench/` has the programs. Each figure is the median over {rounds} interleaved rounds of a ratio to the
plain epoll server of the same round, ± half of what lies between the quartiles. So figures of other machines, or of other
runs, are not to be compared with these, and a difference within the spread is none.

{versions}. Linux {kernel}, {processor}, {cores} processors, congestion control {congestion}. The load
average was {load_before} before and {load_after} after; the threads of the servers are in the latter.

Every byte that comes back is checked, in every run. Each server was first given messages of 4 MiB, so that one that
loses what a send has not taken would not be here. Server and generator are pinned. Each run has a
new server, and takes {seconds} seconds after {warm} to warm up.

- **plain epoll**: by hand, level-triggered, a `recv` into 64 KiB and a `send`. **plain threads**: by hand, a thread for each
  connection. Both, as libuv's and libevent's, have neither timeouts nor limits nor statistics.
- **oyez events**: one worker. **oyez threads**: `OYEZ_THREADS`, with as many workers as there are connections. Both as their
  defaults are, which turns `SO_KEEPALIVE` on; the others leave it off.
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="some modes, short runs")
    parser.add_argument("--library", default=os.path.join(ROOT, "target", "release"), help="where liboyez.so is")
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "bench"), help="where programs are made")
    parser.add_argument("--output", default=os.path.join(ROOT, "BENCHMARKS.md"), help="what is written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="of each run")
    parser.add_argument("--modes", help="only those whose name has this text")
    parser.add_argument("--peers", help="only these, with plain epoll; names separated by commas")
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def load_average():
    return f"{os.getloadavg()[0]:.1f}"


def processor():
    with open("/proc/cpuinfo") as text:
        return next((line.split(":")[1].strip() for line in text if line.startswith("model name")), "processor unknown")


def chosen_modes(asked, descriptors, left_out):
    modes = []
    for mode in MODES:
        if (asked.quick and not mode.quick) or (asked.modes and asked.modes not in mode.name):
            continue
        if mode.connections + measure.DESCRIPTORS > descriptors:
            left_out.append(f"{mode.name}: a process may have only {descriptors} descriptors")
            continue
        modes.append(mode)
    return modes


def counted(load, there, once, tool, few, many, left_out):
    """By (server, mode): what a message costs, told by a tool that may be missing."""
    if not shutil.which(tool):
        left_out.append(f"what {tool} tells: install the package {tool}")
        return {}
    found = {}
    for peer in there:
        for mode, scale in ((ECHO, 1), (LINE, 4)):
            found[peer.name, mode.name] = measure.difference(once, load, peer, mode, few // scale, many // scale)
    say(f"{tool} is done")
    return found


def memory_of(load, there, descriptors):
    """By server: bytes of a connection among the first thousand, and among nine thousand more."""
    most = 10000 if descriptors >= 10000 + measure.DESCRIPTORS else None
    found = {}
    for peer in there:
        one, thousand = (measure.memory(load, peer, count) for count in (1, 1000))
        further = None
        if most and not peer.threaded():
            further = (measure.memory(load, peer, most) - thousand) // (most - 1000)
        found[peer.name] = [(thousand - one) // 999, further]
    say("memory is done")
    return found


def page(report, head, left_out, targets):
    parts = [head]
    if left_out:
        parts.append("Left out: " + "; ".join(left_out) + ".\n")
    met, near, missed = (sum(part in verdict for _, _, verdict in targets) for part in ("met", "within", "too"))
    parts += ["## Against the targets\n", f"{met} are met, {near} are missed by less than the spread, {missed} by more.\n",
              markdown(["target", "measured", ""], targets) + "\n"]
    reasons = report.reasons()
    if reasons:
        parts += ["What the tools show of the reasons:\n", "\n".join("- " + reason for reason in reasons) + "\n"]
    parts += ["## The server's CPU time per message, server and generator on one core\n",
              "Lower is better. The figure that noise disturbs least: the server always has work.\n",
              report.ratios(ONE, "cpu_ns") + "\n"]
    parts += ["## With a core each\n"]
    for title, figure in (("Throughput: higher is better.", "rate"), ("CPU time per message: lower is better.", "cpu_ns"),
                          ("50th percentile of the round trip: lower is better.", "p50"),
                          ("99th percentile.", "p99"), ("99.9th percentile.", "p999")):
        parts += [title + "\n", report.ratios(EACH, figure) + "\n"]
    parts += ["How much of its core each side used. Where the generator is the busier one, throughput is the generator's "
              "more than the server's, and a server that were faster would not show it there; its CPU time per message "
              "does.\n", report.busy() + "\n"]
    for mode in (ECHO, LINE):
        if report.calls:
            parts += [f"## System calls per message: {mode.name}\n", report.calls_table(mode) + "\n"]
    if report.instructions:
        parts += ["## Instructions per message in the server's own process, without the kernel's\n",
                  "Counted by callgrind, the difference of two runs.\n", report.instructions_table() + "\n"]
    if report.memory:
        parts += ["## Bytes of process memory per idle connection\n",
                  "The proportional set size with so many connections open, each served once; the kernel's own memory for "
                  "a socket, some kilobytes, is not in it. A row of threads has no second figure.\n",
                  report.memory_table() + "\n"]
    return "\n".join(parts)


def main():
    asked = arguments()
    began = time.monotonic()
    budget = 80 if asked.quick else 450    # for the rounds; what follows them is short
    warm, seconds = (0.04, asked.seconds or 0.15) if asked.quick else (0.1, asked.seconds or 0.5)
    cores = sorted(os.sched_getaffinity(0))
    left_out = []
    if len(cores) < 2:
        sys.exit("bench: two processors are needed, one for the server and one for the generator")
    soft, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    wanted = [peer for peer in peers(os.path.abspath(asked.library))
              if not asked.peers or peer.name in [PLAIN, *asked.peers.split(",")]]
    there, missing = build(wanted, asked.build)
    left_out += missing
    load = compile_program(os.path.join(HERE, "load"), [], asked.build)
    modes = chosen_modes(asked, descriptors, left_out)
    before = load_average()
    try:
        for peer in there:
            measure.check(load, peer)
        results = measure.rounds(load, there, modes, cores, asked.rounds, warm, seconds,
                                 lambda: budget - (time.monotonic() - began), say)
        after = load_average()
        calls = counted(load, there, measure.system_calls, "strace", 400, 2000, left_out)
        instructions = {key: value["instructions"] for key, value in counted(
            load, there, measure.instructions, "valgrind", 2000, 10000, left_out).items()}
        memory = memory_of(load, there, descriptors)
    except Wrong as wrong:
        sys.exit(f"bench: {wrong}")

    with open("/proc/sys/net/ipv4/tcp_congestion_control") as text:
        congestion = text.read().strip()
    report = Report(results, modes, [peer.name for peer in there], calls, instructions, memory)
    rounds = min(len(runs) for table in results.values() for mode in table.values() for runs in mode.values())
    options = ["--quick"] * asked.quick + [f"--{name} {shlex.quote(str(value))}" for name in ("seconds", "modes", "peers")
                                           for value in [getattr(asked, name)] if value]
    head = HEAD.format(command=" ".join(["bench/run.py", *options]), rounds=rounds,
                       versions=", ".join(versions(there, asked.library)), kernel=os.uname().release,
                       processor=processor(), cores=len(cores), congestion=congestion, load_before=before,
                       load_after=after, seconds=seconds, warm=warm)
    targets = report.targets()
    with open(asked.output, "w") as output:
        output.write(page(report, head, left_out, targets))
    width = max(len(what) for what, _, _ in targets)
    for what, found, verdict in targets:
        print(f"{what:{width}}  {found:12}  {verdict}")
    for reason in report.reasons():
        print(reason)
    for line in left_out:
        print("left out: " + line)
    say(f"{asked.output} is written, after {time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
