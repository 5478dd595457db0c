"""FAULTS.md: tables of what was measured, and what follows from the numbers."""

import textwrap

from subjects import HAPROXY, NGINX, OYEZ, PROCESSES

HEAD = """# Faults

Written by `{command}`; `bench/faults/` has the programs and what is done to them. Each number is of that run: none
is copied from elsewhere, and none of another machine or another run is to be compared with it.

{versions}. Linux {kernel}, {cores} processors, which server and clients share, {network}; {descriptors} descriptors
for a process. The load average was {load_before} before and {load_after} after, the run itself in the latter.

- **oyez**: each model, and events on both backends, with `stop_on_signals`, a log function that prints, and else as
  its defaults are unless a table says so. Sequential serves one client at a time, and is where that means
  something.
- **plain loop**: `socket`, `bind`, `listen`, and a loop of `accept` with a thread for each client; it goes on where
  accept fails.
- **libuv**: `uv_listen`, errors of its callback printed. **libevent**: `evconnlistener` and `bufferevent`, with no
  error callback, as is the default.
- **nginx** (one worker) and **HAProxy** (one thread) are whole servers, with tables of connections sized
  beforehand.
- They are asked to stop as their guides say: oyez, the plain loop, libuv and libevent by SIGTERM, upon which they
  close the listener and let connections finish for a drain time; nginx by SIGQUIT, HAProxy by SIGUSR1.
- SIGPIPE is ignored where the program has to care for that, but for one table. All speak the same little HTTP.
"""


def markdown(header, rows):
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def paragraph(text):
    return textwrap.fill(" ".join(text.split()), 116, break_on_hyphens=False, break_long_words=False)


def number(value):
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def milliseconds(us):
    return "-" if us is None else f"{us / 1000:.2f}"


def yes(value):
    return "yes" if value else "**no**"


def counts(values):
    """What is said of each name, the same together."""
    groups = {}
    for name, text in values.items():
        groups.setdefault(text, []).append(name)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in groups.items())


class Table:
    """`row(cell)` makes a row; `conclusion(cells)` sentences; `targets(cell)` yields (what, value, met)."""

    def __init__(self, scene, title, text, header, row, conclusion, targets):
        self.scene, self.title, self.text, self.header = scene, title, text, ["server", *header]
        self.row, self.conclusion, self.targets = row, conclusion, targets

    def render(self, cells):
        rows = [[name, *self.row(cell)] for name, cell in cells.items()]
        table = markdown(self.header, rows)
        return "\n".join([f"## {self.title}\n", paragraph(self.text), f"\n{table}\n",
                          *(paragraph(line) for line in self.conclusion(cells).splitlines()), ""])


# Stops.

def stop_row(cell):
    return [number(cell[what]) for what in ("answered", "lost", "lost_held", "reset", "cut", "silent", "kept_running")]


def stop_conclusion(cells):
    lossless = [name for name, cell in cells.items() if cell["lost"] == 0]
    others = {name: f"{cell['lost']} of {number(cell['answered'] + cell['lost'])}" for name, cell in cells.items()
              if cell["lost"]}
    text = f"No client lost: {', '.join(lossless) or 'by none'}."
    return text + (f" Lost, of those connected: {counts(others)}.\n" if others else "\n")


def stop_targets(cell):
    yield "stop under load: clients lost", str(cell["lost"]), cell["lost"] == 0


def stop_table(scene, how, more):
    return Table(scene, f"Stop under load, {how}",
                 f"""Starts and stops while 16 clients, four connections each, connect, ask, read to the end and close,
                 as fast as they can. In each second stop the server is held for 20 ms (SIGSTOP) when it is asked to
                 stop, so that somebody is in its queue for certain. {more} Lost is who was connected and got less than
                 the whole answer: a reset, an end too early, or silence for 10 s.""",
                 ["answered", "lost", "where held", "by reset", "by an early end", "by silence", "did not end in 8 s"],
                 stop_row, stop_conclusion,
                 lambda cell: ((f"{what}, {how}", value, met) for what, value, met in stop_targets(cell)))


# A lack of descriptors.

def descriptors_row(cell):
    pings = cell["pings"]
    first = "-" if cell["first_ms"] is None else f"{cell['first_ms']:.0f}"
    return [f"{cell['cpu']:.1f} ({cell['calm_cpu']:.1f})", number(cell["log_bytes"]), number(cell["log_lines"]),
            milliseconds(pings.get("median_us")), milliseconds(pings.get("max_us")), pings["lost"], cell["closed"],
            cell["served"], first]


def descriptors_conclusion(cells):
    spin = {name: f"{cell['cpu']:.0f} %" for name, cell in cells.items() if cell["cpu"] >= 10}
    closes = {name: str(cell["closed"]) for name, cell in cells.items() if cell["closed"]}
    calm = [name for name, cell in cells.items() if cell["cpu"] < 1 and not cell["closed"] and cell["log_lines"] <= 50]
    parts = [f"Quiet, and nobody turned away: {', '.join(calm) or 'none'}."]
    if spin:
        parts.append(f"A processor is burnt by {counts(spin)}.")
    if closes:
        parts.append(f"Of the 200, closed: {counts(closes)}.")
    return " ".join(parts) + "\n"


def descriptors_targets(cell):
    yield "no descriptors: CPU under 1 %", f"{cell['cpu']:.1f} %", cell["cpu"] < 1
    yield "no descriptors: one line in the log", str(cell["log_lines"]), cell["log_lines"] == 1
    yield "no descriptors: none of those who wait closed", str(cell["closed"]), cell["closed"] == 0
    first = cell["first_ms"]
    yield ("no descriptors: the first served within 100 ms of the limit's rise",
           "none" if first is None else f"{first:.0f} ms", first is not None and first <= 100)


# Accepts that fail.

def injected_row(cell):
    pings = cell["pings"]
    return [number(cell["rate"]), number(cell["log_bytes"]), number(cell["log_lines"]), pings["pings"], pings["lost"],
            milliseconds(pings.get("median_us")), cell["closed"]]


def injected_conclusion(cells):
    spin = {name: f"{number(cell['rate'])} a second" for name, cell in cells.items() if cell["rate"] > 100}
    rests = [name for name, cell in cells.items() if cell["rate"] <= 20]
    starved = [name for name, cell in cells.items() if cell["pings"]["lost"]]
    return " ".join([f"At most 20 accepts a second: {', '.join(rests) or 'none'}.",
                     *([f"Spinning, slowed by strace: {counts(spin)}."] if spin else []),
                     *([f"Not answered any more, though connected: the client of {', '.join(starved)}."]
                       if starved else [])]) + "\n"


def injected_targets(errno):
    def targets(cell):
        yield f"{errno} on accept: at most 20 accepts a second", number(cell["rate"]), cell["rate"] <= 20
        yield f"{errno} on accept: one line in the log", str(cell["log_lines"]), cell["log_lines"] == 1
        answered = not cell["pings"]["lost"]
        yield f"{errno} on accept: who is connected is answered", yes(answered), answered
    return targets


def injected_table(scene):
    return Table(scene, f"{scene} from every accept",
                 """By strace, from the tenth accept of each thread on, until the end. A client from before pings each
                 50 ms; five wait. The log is counted from the first failure.""",
                 ["accepts a second", "log, bytes", "lines", "pings answered", "not", "median, ms", "waiting, closed"],
                 injected_row, injected_conclusion, injected_targets(scene))


# Transfers.

def transfers_row(cell):
    endings = ", ".join(f"{count} {ending}" for ending, count in sorted(cell["endings"].items()))
    status = "still running" if cell["status"] is None else cell["status"]
    part = cell["lost"] / (20 * 32 * 1024 * 1024) * 100
    return [number(cell["lost"]), f"{part:.1f} %", endings, f"{cell['took']:.2f}", status]


def transfers_conclusion(cells):
    whole = [name for name, cell in cells.items() if cell["lost"] == 0]
    seen = {name: ", ".join(sorted(set(cell["endings"]) - {"whole"})) for name, cell in cells.items() if cell["lost"]}
    return " ".join([*([f"Nothing lost: {', '.join(whole)}."] if whole else []),
                     *([f"How the end looks where bytes are lost: {counts(seen)}."] if seen else [])]) + "\n"


def drained_targets(cell):
    yield "bytes lost within the drain time", number(cell["lost"]), cell["lost"] == 0


def cut_targets(cell):
    ends = {ending for ending in cell["endings"] if ending != "whole"}
    yield "after the drain time: a reset", ", ".join(sorted(ends)) or "none was cut", ends == {"RST"}


# Company.

def reset_row(cell):
    pings = cell["pings"]
    return [yes(cell["alive"]), cell["resets"], *(("-", "-") if pings is None else (yes(not pings["lost"]),
                                                                                    milliseconds(pings.get("max_us")))),
            yes(cell["next"]), cell["log_lines"]]


def reset_conclusion(cells):
    dead = [name for name, cell in cells.items() if not cell["alive"]]
    return (f"Ended by SIGPIPE: {', '.join(dead)}.\n" if dead else "All survive.\n")


def reset_targets(cell):
    yield "reset in mid-write: the server lives", yes(cell["alive"]), cell["alive"]
    if cell["pings"]:
        yield "reset in mid-write: the others are served", yes(not cell["pings"]["lost"]), not cell["pings"]["lost"]


def slow_row(cell):
    figures = [cell.get(when, {}).get(what) for what in ("median_us", "p99_us")
               for when in ("calm", "again", "slow", "flood")]
    return [number(cell["connected"]), number(cell["lost"]), *map(milliseconds, figures),
            number(round(cell["flooded"]["answered"] / cell["seconds"])), f"{cell['cpu']:.1f}",
            f"{cell['memory'] / 1024:.1f}"]


def times(cell, when, what="median_us"):
    """To the greater of what it was before and afterwards: on a machine that others use it comes and goes."""
    value, alone = cell[when].get(what), [cell[calm][what] for calm in ("calm", "again") if what in cell.get(calm, {})]
    return value / max(alone) if value and alone else None


def slow_conclusion(cells):
    slower = {name: f"{times(cell, 'flood'):.1f}" for name, cell in cells.items() if (times(cell, "flood") or 0) > 2}
    memory = {name: cell["memory"] * 1024 / cell["connected"] for name, cell in cells.items() if cell["connected"]}
    text = (f"With the flood the calm client's median is more than twice its own: {counts(slower)} times.\n" if slower
            else "The calm client's median stays within twice its own with every server.\n")
    each = counts({name: f"{size / 1024:.1f} kB" for name, size in memory.items()})
    return text + f"Memory of the process for each of them: {each}.\n"


def slow_targets(cell):
    for when, what in (("slow", "slow clients"), ("flood", "slow clients and a flood")):
        ratio = times(cell, when)
        yield (f"{what}: the median of a calm one within twice", "no answers" if ratio is None else f"{ratio:.2f}",
               ratio is not None and ratio <= 2 and not cell[when]["lost"])


def idle_row(cell):
    after = "-" if cell["after_ms"] is None else f"{cell['after_ms']:.0f}"
    answered = {"answered": "yes", None: "**no**"}.get(cell["over"], f"**no**, {cell['over']}")
    return [answered, after, f"{cell['cpu']:.1f}",
            cell["closed"], number(cell["log_bytes"])]


def idle_conclusion(cells):
    answered = [name for name, cell in cells.items() if cell["over"] == "answered"]
    burnt = {name: f"{cell['cpu']:.0f} %" for name, cell in cells.items() if cell["cpu"] >= 10}
    return " ".join([f"Answered within three and a half times that: {', '.join(answered) or 'by none'}.",
                     *([f"A processor is burnt meanwhile by {counts(burnt)}."] if burnt else [])]) + "\n"


def idle_targets(cell):
    answered = cell["over"] == "answered"
    yield "idle connections take all: a new client is answered", yes(answered), answered
    yield "idle connections take all: CPU under 1 %", f"{cell['cpu']:.1f} %", cell["cpu"] < 1


TABLES = [
    stop_table("stop", "as root", "oyez may attach a socket filter (CAP_NET_ADMIN)."),
    stop_table("stop unprivileged", "without privileges", "As user 65534 with no capability."),
    Table("descriptors", "No descriptor left",
          """The limit of the living process is lowered to what it has open (prlimit), with 10 clients that ping ten
          times a second and 200 that connect, ask and wait; then it rises again. CPU in % of a core over that time, in
          brackets before it.""",
          ["CPU", "log, bytes", "lines", "ping, median ms", "max ms", "pingers lost", "of 200 closed", "served after",
           "first, ms"],
          descriptors_row, descriptors_conclusion, descriptors_targets),
    injected_table("ENOMEM"),
    injected_table("EPROTO"),
    Table("drained", "SIGTERM with 20 transfers under way, time enough",
          "32 MB each, to clients that read slowly and are a tenth through at least; a drain time of 10 s.",
          ["bytes lost", "of all", "how the clients end", "ended after, s", "status"],
          transfers_row, transfers_conclusion, drained_targets),
    Table("cut", "SIGTERM with 20 transfers under way, too little time",
          """The same with a drain time of 300 ms. After a FIN a client that does not count takes the part for the
          whole.""",
          ["bytes lost", "of all", "how the clients end", "ended after, s", "status"],
          transfers_row, transfers_conclusion, cut_targets),
    Table("reset", "Clients that reset in the middle of an answer, SIGPIPE at its default",
          f"""One after another takes 128 kB of 32 MB and resets, each second one after it has ended its own side;
          another client pings each 10 ms. No program here ignores SIGPIPE; {NGINX} and {HAPROXY} do so by
          themselves.""",
          ["alive", "resets", "other client answered", "at most, ms", "next client answered", "log lines"],
          reset_row, reset_conclusion, reset_targets),
    Table("slow", "Slow clients, and a flood",
          f"""10,000 that send a byte each 5 s ({PROCESSES}: 1,000; {HAPROXY}, which counts two descriptors for each:
          8,000; quick: a tenth), from four programs, and a calm one that pings each 2 ms: its times before, afterwards,
          beside them, and with 2,000 connects a second on top, each of them served. oyez threads and processes with as
          many workers as clients. CPU in % of a core without the flood; memory is the proportional set size that the
          slow ones add.""",
          ["slow clients", "lost", "median before, ms", "afterwards", "slow", "flood", "p99 before, ms", "afterwards",
           "slow", "flood", "flood served, a second", "CPU", "memory, MB"],
          slow_row, slow_conclusion, slow_targets),
    Table("idle", "500 idle connections, 256 descriptors, and one client more",
          f"""oyez with an `idle_timeout_ms`, {NGINX} and {HAPROXY} with a header timeout, of 2 s (quick: 1 s), and
          these two with tables of 240; the others have no timeout of their own. CPU in % of a core before any
          timeout.""",
          ["new client answered", "after, ms", "CPU", "idle ones closed", "log, bytes"],
          idle_row, idle_conclusion, idle_targets),
]


def against_the_targets(found):
    """Rows of the targets, and a line for each that oyez misses."""
    names = [name for name in OYEZ if name in found["names"]]
    rows, misses = {}, []
    for table in TABLES:
        for name in names:
            cell = found["results"].get(table.scene, {}).get(name)
            for what, value, met in table.targets(cell) if cell else ():
                rows.setdefault(what, dict.fromkeys(names, ""))[name] = value if met else f"**{value}**"
                misses += [] if met else [f"missed: {name}, {what}: {value}"]
    return names, [[what, *by_name.values()] for what, by_name in rows.items()], misses


def page(found):
    """The text, and the targets that oyez misses."""
    names, rows, misses = against_the_targets(found)
    blocks = HEAD.format(**found["head"]).split("\n\n")
    parts = ["\n\n".join(block if block.startswith(("#", "-")) else paragraph(block) for block in blocks)]
    if found["left_out"]:
        parts.append(paragraph("Left out: " + "; ".join(found["left_out"]) + ".") + "\n")
    if rows:
        cells = sum(1 for row in rows for cell in row[1:] if cell)
        parts += ["## oyez against its targets\n",
                  f"Of {cells} figures {cells - len(misses)} meet their target; the others are bold.\n",
                  markdown(["target", *names], rows) + "\n"]
    for table in TABLES:
        cells = found["results"].get(table.scene)
        if cells:
            parts.append(table.render(cells))
    return "\n".join(parts), misses
