"""What is asked of oyez: met, or how far away. A column for each backend of the event server."""

from modes import EACH, ECHO, LINE, ONE
from peers import OYEZ_EPOLL, OYEZ_EVENTS, OYEZ_THREADS, OYEZ_URING, PLAIN, THREADS, URING
from report import fraction
from rest import WANTED

MET, NEAR, MISSED, NONE = "met", "within the spread", "missed", "not measured"
BY_HAND = (PLAIN, URING)
IDLE_BYTES, REST_PART = 300, 0.01


class Cell:
    """One thing found: a text, and whether it is enough."""

    def __init__(self, text, verdict, far=""):
        self.text, self.verdict, self.far = text, verdict, far

    def __str__(self):
        if self.verdict == NONE:
            return NONE
        return f"{self.text}: {self.far or self.verdict}"


def at_most(found, bound, note=""):
    if found is None:
        return Cell("", NONE)
    text = str(found) + note
    if found.median <= bound:
        return Cell(text, MET)
    if found.median - found.spread <= bound:
        return Cell(text, NEAR)
    return Cell(text, MISSED, f"{found.median - bound:.2f} too much")


def at_least(found, bound, note=""):
    if found is None:
        return Cell("", NONE)
    text = str(found) + note
    if found.median >= bound:
        return Cell(text, MET)
    if found.median + found.spread >= bound:
        return Cell(text, NEAR)
    return Cell(text, MISSED, f"{bound - found.median:.2f} too little")


def event_targets(report):
    """Rows: what is asked, and a cell for each of OYEZ_EVENTS, or None where it is asked of the other one only."""
    rows = []

    def both(what, cell):
        rows.append((what, [cell(name) for name in OYEZ_EVENTS]))

    echoes = [mode for mode in report.modes if not mode.line]
    for mode in echoes:
        both(f"{mode.name}: CPU per message ≤ 1.02 of the better by hand",
             lambda name, mode=mode: at_most(report.ratio(ONE, mode, "cpu_ns", name, BY_HAND), 1.02))
    for mode in echoes:
        both(f"{mode.name}: throughput ≥ 0.98 of the better by hand",
             lambda name, mode=mode: at_least(report.ratio(EACH, mode, "rate", name, BY_HAND), 0.98,
                                              bound_by_generator(report, mode, name)))
    for mode in echoes:
        if mode.is_small_echo() and mode.connections >= 100:
            rows.append((f"{mode.name}: throughput ≥ 1.05 of plain epoll", [None, at_least(
                report.ratio(EACH, mode, "rate", OYEZ_URING), 1.05, bound_by_generator(report, mode, OYEZ_URING))]))
            for title, figure, bound in (("p99", "p99", 1), ("p99.9", "p999", 1.05)):
                both(f"{mode.name}: {title} ≤ {bound:.2f} of plain epoll",
                     lambda name, mode=mode, figure=figure, bound=bound: at_most(
                         report.ratio(EACH, mode, figure, name), bound))
    for mode in report.modes:
        both(f"{mode.name}: no peer is ahead in CPU",
             lambda name, mode=mode: not_behind(report, mode, name))
    both(f"{LINE.name}: CPU ≤ 1.00 of plain epoll",
         lambda name: at_most(report.ratio(ONE, LINE, "cpu_ns", name), 1))
    rows.append((f"{LINE.name}: no system call more than plain epoll", [at_most(
        fraction(report.calls_of(OYEZ_EPOLL, LINE), report.calls_of(PLAIN, LINE)), 1.01), None]))
    rows.append((f"{ECHO.name}: no system call more than plain epoll", [at_most(
        fraction(report.calls_of(OYEZ_EPOLL, ECHO), report.calls_of(PLAIN, ECHO)), 1.01), None]))
    rows.append((f"{ECHO.name}: under a system call for four messages",
                 [None, at_most(fraction(report.calls_of(OYEZ_URING, ECHO), 1), 0.25)]))
    for against, bound in ((PLAIN, 1.5), ("libuv", 1)):
        rows.append((f"{ECHO.name}: instructions ≤ {bound:.1f} of {against}'s", [at_most(fraction(
            report.instructions_of(OYEZ_EPOLL, ECHO), report.instructions_of(against, ECHO)), bound), None]))
    both(f"an idle connection, timeouts included: ≤ {IDLE_BYTES} bytes", lambda name: idle_bytes(report, name))
    both(f"{WANTED:,} idle connections with timeouts: ≤ {REST_PART:.0%} of a core", lambda name: idle_part(report, name))
    return rows


def bound_by_generator(report, mode, name):
    cost = report.generator_cost(mode, name)
    return " (the generator bounds it)" if cost and cost.median >= 1 else ""


def not_behind(report, mode, name):
    """Held against the one library that takes least."""
    peers = [peer for peer in report.names
             if peer not in (*BY_HAND, THREADS, OYEZ_THREADS, *OYEZ_EVENTS) and report.runs(ONE, mode, peer)]
    if not peers or not report.runs(ONE, mode, name):
        return Cell("", NONE)
    best = min(peers, key=lambda peer: report.median(ONE, mode, "cpu_ns", peer))
    return at_most(report.ratio(ONE, mode, "cpu_ns", name, [best]), 1, f" of {best}'s")


def idle_bytes(report, name):
    found = report.memory.get(name)
    if not found:
        return Cell("", NONE)
    count = max(found, key=int)
    text = f"{found[count]} bytes, of {int(count):,}"
    return Cell(text, MET) if found[count] <= IDLE_BYTES else Cell(text, MISSED, f"{found[count] - IDLE_BYTES} too much")


def idle_part(report, name):
    """Fewer than are asked for are scaled up."""
    found = report.rest.get(name)
    if not found:
        return Cell("", NONE)
    count, part = found["connections"], found["part"]
    scaled = part * max(1, WANTED / count)
    text = f"{part:.3%} with {count:,}" + (f", so {scaled:.3%}" if count < WANTED else "")
    return Cell(text, MET) if scaled <= REST_PART else Cell(text, MISSED, f"{scaled - REST_PART:.2%} too much")


def thread_targets(report):
    rows = [(f"{mode.name}: CPU per message ≤ 1.00 of plain threads",
             [at_most(report.ratio(ONE, mode, "cpu_ns", OYEZ_THREADS, [THREADS]), 1)])
            for mode in report.modes if report.runs(ONE, mode, THREADS) or report.runs(ONE, mode, OYEZ_THREADS)]
    for mode in (ECHO, LINE) if OYEZ_THREADS in report.names else ():
        rows.append((f"{mode.name}: no system call more than plain threads", [at_most(
            fraction(report.calls_of(OYEZ_THREADS, mode), report.calls_of(THREADS, mode)), 1.01)]))
    return rows


def tally(*tables):
    cells = [cell for rows in tables for _, cells in rows for cell in cells if cell]
    return [sum(cell.verdict == verdict for cell in cells) for verdict in (MET, NEAR, MISSED, NONE)]


def as_rows(rows):
    return [[what, *(str(cell) if cell else "" for cell in cells)] for what, cells in rows]
