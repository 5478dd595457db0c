"""BENCHMARKS.md."""

from modes import EACH, ECHO, LINE, ONE
from peers import OYEZ_EVENTS, OYEZ_THREADS
from report import markdown
from targets import as_rows, event_targets, tally, thread_targets

HEAD = """# Benchmarks

Written by `{command}`; `bench/` has the programs. Each figure is the median over {rounds} interleaved rounds of a ratio to the
plain epoll server of the same round, ± half of what lies between the quartiles. So figures of other machines, or of other
runs, are not to be compared with these, and a difference within the spread is none.

{versions}. Linux {kernel}, {processor}, {cores} processors, congestion control {congestion}. The load
average was {load_before} before and {load_after} after; the threads of the servers are in the latter.

Every byte that comes back is checked, in every run. Each server was first given messages of 4 MiB, so that one that
loses what a send has not taken would not be here. Server and generator are pinned. Each run has a
new server, and takes {seconds} seconds after {warm} to warm up. The generator is on {engine}.

- **plain epoll**: by hand, level-triggered, a `recv` into 64 KiB and a `send`. **plain io_uring**: by hand, accept and receive
  that go on (multishot), a ring of buffers that all share, single issuer, task running deferred. **plain threads**: by hand, a
  thread for each connection. These, and the libraries' servers, have neither timeouts nor limits nor statistics.
- **oyez events**: one worker, with `OYEZ_BACKEND` set. **oyez threads**: `OYEZ_THREADS`, with as many workers as there are
  connections. Both as their defaults are, which turns `SO_KEEPALIVE` on; the others leave it off.
- **tokio** and **Go** have a buffer for each connection, as their programs do; the other event servers share one.
- The modes: messages of so many bytes, by number of connections, each with one under way; **pipelined**: 16 at once on each;
  **bulk**: as much as goes in both directions at once, in messages of 256 KiB; **Unix**: over a Unix socket; **connect, line,
  close**: one line on each connection, then the end, 32 at once.
"""

FIGURES = (("Throughput: higher is better.", "rate"), ("CPU time per message: lower is better.", "cpu_ns"),
           ("50th percentile of the round trip: lower is better.", "p50"), ("99th percentile.", "p99"),
           ("99.9th percentile.", "p999"))

BUSY = """How much of its core each side used, and the generator's CPU time per message as a part of the server's. Both ends do
the same work in the kernel's TCP, so with a core each the generator can be less busy than the server by no more than what
it saves in system calls. Where that part is 1 or more, throughput is the generator's more than the server's, and a server
that were faster would not show it there; its CPU time per message does.
"""

MEMORY = """The proportional set size with so many connections open, each served once, less that with one, for each
connection; oyez with its timeouts on. The kernel's own memory for a socket, some kilobytes, is not in it.
"""

CALLS = """Counted by strace, which slows the server: where many completions are taken in one call, more of them come together
than would without it.
"""


def page(report, head, left_out, plots):
    parts = [HEAD.format(**head)]
    if left_out:
        parts.append("Left out: " + "; ".join(left_out) + ".\n")
    events, threads = event_targets(report), thread_targets(report)
    met, near, missed, none = tally(events, threads)
    parts += ["## Against the targets\n",
              f"{met} are met, {near} are missed by less than the spread, {missed} by more"
              + (f"; {none} were not measured" if none else "") + ".\n",
              markdown(["target", *OYEZ_EVENTS], as_rows(events)) + "\n"]
    if threads:
        parts.append(markdown(["target", OYEZ_THREADS], as_rows(threads)) + "\n")
    reasons = report.reasons()
    if reasons:
        parts += ["What the tools show of the reasons:\n", "\n".join("- " + reason for reason in reasons) + "\n"]
    if plots:
        parts += ["## In pictures\n", "Figures of this run, messages of 64 bytes, with a core each; memory as below.\n",
                  "\n".join(f"![{title}]({path})" for title, path in plots) + "\n"]
    parts += ["## The server's CPU time per message, server and generator on one core\n",
              "Lower is better. The figure that noise disturbs least: the server always has work.\n",
              report.ratios(ONE, "cpu_ns") + "\n", "## With a core each\n"]
    for title, figure in FIGURES:
        parts += [title + "\n", report.ratios(EACH, figure) + "\n"]
    parts += [BUSY, report.busy() + "\n"]
    if report.calls:
        parts += ["## System calls per message\n", CALLS]
        for mode in (ECHO, LINE):
            parts += [f"{mode.name}:\n", report.calls_table(mode) + "\n"]
    if report.instructions:
        parts += ["## Instructions per message in the server's own process, without the kernel's\n",
                  "Counted by callgrind, the difference of two runs; not of Go, and not of io_uring, in which valgrind does not "
                  "end a program.\n", report.instructions_table() + "\n"]
    if report.memory:
        parts += ["## Bytes of process memory per idle connection\n", MEMORY, report.memory_table() + "\n"]
    if report.rest:
        parts += ["## CPU time at rest\n", "With connections that were served once and then wait; oyez's watched by an idle "
                  "timeout of 60 seconds and a read timeout of 30.\n", report.rest_table() + "\n"]
    return "\n".join(parts)
