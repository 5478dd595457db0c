"""From what was measured to ratios, and to the tables that show them."""

import statistics

from modes import EACH, ECHO, LINE, MODES
from peers import OYEZ_EPOLL, OYEZ_EVENTS, OYEZ_THREADS, OYEZ_URING, PLAIN, THREADS, URING

COLUMNS = 8     # of figures, that a table can be read
HIGHER_IS_BETTER = ("rate",)


class Ratio:
    """The median over rounds of this server's figure to another's in the same round, and half its middle spread."""

    def __init__(self, values):
        self.median = statistics.median(values)
        quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        self.spread = (quarters[2] - quarters[0]) / 2

    def __str__(self):
        return f"{self.median:.2f} ±{self.spread:.2f}"


class Report:
    """`measured` is what run.py gathers: plain dictionaries, as they are saved."""

    def __init__(self, measured):
        self.results, self.calls, self.instructions, self.memory, self.rest = (
            measured[part] for part in ("results", "calls", "instructions", "memory", "rest"))
        self.names = measured["names"]
        named = {name for table in self.results.values() for name in table}
        self.modes = [mode for mode in MODES if mode.name in named]

    def runs(self, table, mode, name):
        return self.results.get(table, {}).get(mode.name, {}).get(name)

    def ratio(self, table, mode, figure, name, against=(PLAIN,)):
        """To the better of those that it is held against, round by round."""
        mine = self.runs(table, mode, name)
        others = [runs for runs in (self.runs(table, mode, other) for other in against) if runs]
        if not mine or not others:
            return None
        better = max if figure in HIGHER_IS_BETTER else min
        return Ratio([run[figure] / better(other[figure] for other in beside)
                      for run, *beside in zip(mine, *others)])

    def median(self, table, mode, figure, name):
        runs = self.runs(table, mode, name)
        return runs and statistics.median(run[figure] for run in runs)

    def ratios(self, table, figure):
        """In tables that are not too wide."""
        modes = [mode for mode in self.modes if mode.name in self.results.get(table, {})]
        return "\n\n".join(self.ratios_of(table, figure, modes[first:first + COLUMNS])
                           for first in range(0, len(modes), COLUMNS))

    def ratios_of(self, table, figure, modes):
        rows = [[name, *(str(self.ratio(table, mode, figure, name) or "") for mode in modes)] for name in self.names]
        return markdown(["server", *(mode.name for mode in modes)], [row for row in rows if any(row[1:])])

    def busy(self):
        """How much of its core each side had, and what a message costs the generator beside the server."""
        rows = []
        for mode in self.modes:
            for name in (PLAIN, URING, *OYEZ_EVENTS):
                shares = [self.median(EACH, mode, share, name) for share in ("server_share", "load_share")]
                if all(shares):
                    server, load = shares
                    cost = self.generator_cost(mode, name)
                    rows.append([mode.name, name, f"{server:.2f}", f"{load:.2f}", str(cost),
                                 "server" if cost.median < 1 else "generator"])
        return markdown(["mode", "server", "server's share", "generator's share", "generator's CPU per message",
                         "the busier one"], rows)

    def generator_cost(self, mode, name):
        """Its CPU time per message to the server's: at 1 or more it is the generator that bounds throughput."""
        runs = self.runs(EACH, mode, name)
        return runs and Ratio([run["load_ns"] / run["cpu_ns"] for run in runs])

    def calls_table(self, mode):
        rows = []
        for name in self.names:
            calls = self.calls.get(name, {}).get(mode.name)
            if calls:
                seen = sorted(((call, count) for call, count in calls.items() if count >= 0.005), key=lambda of: -of[1])
                rows.append([name, f"{sum(calls.values()):.2f}", ", ".join(f"{call} {count:.2f}" for call, count in seen)])
        return markdown(["server", "in all", "by name"], rows)

    def calls_of(self, name, mode):
        calls = self.calls.get(name, {}).get(mode.name)
        return sum(calls.values()) if calls else None

    def instructions_of(self, name, mode):
        return self.instructions.get(name, {}).get(mode.name)

    def instructions_table(self):
        rows = []
        for name in self.names:
            counts = [self.instructions_of(name, mode) for mode in (ECHO, LINE)]
            if any(counts):
                rows.append([name, *(f"{count:.0f}" if count else "" for count in counts)])
        return markdown(["server", ECHO.name, LINE.name], rows)

    def memory_table(self):
        counts = sorted({int(count) for found in self.memory.values() for count in found})
        rows = [[name, *(str(self.memory[name].get(str(count), "")) for count in counts)]
                for name in self.names if name in self.memory]
        return markdown(["server", *(f"{count:,}" for count in counts)], rows)

    def rest_table(self):
        rows = [[name, f"{found['connections']:,}", f"{found['part'] * 100:.3f} %"] for name, found in self.rest.items()]
        return markdown(["server", "connections", "of a core"], rows)

    def reasons(self):
        """What oyez does more than its counterpart, for each message."""
        told = []
        for mine, others in ((OYEZ_EPOLL, PLAIN), (OYEZ_URING, URING), (OYEZ_THREADS, THREADS)):
            for mode in (ECHO, LINE):
                parts = []
                calls, against = (self.calls.get(name, {}).get(mode.name) for name in (mine, others))
                if calls and against:
                    more = {call: calls.get(call, 0) - against.get(call, 0) for call in sorted({*calls, *against})}
                    named = [f"{call} {count:+.2f}" for call, count in more.items() if abs(count) >= 0.05]
                    parts.append("system calls " + (", ".join(named) or "as many"))
                counts = [self.instructions_of(name, mode) for name in (mine, others)]
                if all(counts):
                    parts.append(f"{counts[0]:.0f} instructions in place of {counts[1]:.0f}")
                if parts:
                    told.append(f"{mode.name}, {mine} beside {others}: " + "; ".join(parts) + ".")
        return told


def fraction(mine, others):
    return Ratio([mine / others]) if mine and others else None


def markdown(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
