"""From the measurements to tables, and to the targets: met, or how far away."""

import statistics

from measure import EACH, ECHO, LINE, ONE
from peers import EVENTS, OYEZ_THREADS, PLAIN, THREADS


class Ratio:
    """The median over rounds of this server's figure to another's in the same round, and half its middle spread."""

    def __init__(self, values):
        self.median = statistics.median(values)
        quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        self.spread = (quarters[2] - quarters[0]) / 2

    def __str__(self):
        return f"{self.median:.2f} ±{self.spread:.2f}"


class Report:
    def __init__(self, results, modes, names, calls, instructions, memory):
        self.results, self.modes, self.names = results, modes, names
        self.calls, self.instructions, self.memory = calls, instructions, memory

    def ratio(self, table, mode, figure, name, against=PLAIN):
        runs = self.results.get(table, {}).get(mode.name, {})
        if name not in runs or against not in runs:
            return None
        return Ratio([mine[figure] / others[figure] for mine, others in zip(runs[name], runs[against])])

    def ratios(self, table, figure):
        modes = [mode for mode in self.modes if mode.name in self.results.get(table, {})]
        rows = [[name, *(str(self.ratio(table, mode, figure, name) or "") for mode in modes)] for name in self.names]
        return markdown(["server", *(mode.name for mode in modes)], rows)

    def shares(self, mode, name):
        """The server's and the generator's share of their cores."""
        runs = self.results.get(EACH, {}).get(mode.name, {}).get(name)
        return runs and [statistics.median(run[share] for run in runs) for share in ("server_share", "load_share")]

    def bound_by_generator(self, mode):
        """Of either server: then the ratio of throughputs may be nearer to 1 than that of the servers is."""
        both = [shares for shares in (self.shares(mode, PLAIN), self.shares(mode, EVENTS)) if shares]
        return any(server < load and load > 0.9 for server, load in both)

    def busy(self):
        """How much of its core each side had, in the table of a core each."""
        rows = []
        for mode in self.modes:
            for name in (PLAIN, EVENTS):
                shares = self.shares(mode, name)
                if shares:
                    server, load = shares
                    rows.append([mode.name, name, f"{server:.2f}", f"{load:.2f}",
                                 "server" if server > load else "generator"])
        return markdown(["mode", "server", "server's share", "generator's share", "the busier one"], rows)

    def calls_table(self, mode):
        names = [name for name in self.names if (name, mode.name) in self.calls]
        rows = []
        for name in names:
            calls = {call: count for call, count in self.calls[name, mode.name].items() if count >= 0.005}
            by_name = ", ".join(f"{call} {count:.2f}" for call, count in sorted(calls.items(), key=lambda of: -of[1]))
            rows.append([name, f"{sum(self.calls[name, mode.name].values()):.2f}", by_name])
        return markdown(["server", "in all", "by name"], rows)

    def instructions_table(self):
        modes = (ECHO, LINE)
        rows = []
        for name in self.names:
            counts = [self.instructions.get((name, mode.name)) for mode in modes]
            if any(counts):
                rows.append([name, *(f"{count:.0f}" if count else "" for count in counts)])
        return markdown(["server", *(mode.name for mode in modes)], rows)

    def memory_table(self):
        rows = [[name, *(str(figure) if figure is not None else "" for figure in self.memory[name])]
                for name in self.names if name in self.memory]
        return markdown(["server", "the first 1,000", "those from 1,000 to 10,000"], rows)

    def targets(self):
        """Rows: what is asked, what there is, and whether that is enough."""
        rows = []

        def at_most(what, found, bound):
            if found is None:
                rows.append([what, "not measured", ""])
            elif found.median <= bound:
                rows.append([what, str(found), "met"])
            elif found.median - found.spread <= bound:
                rows.append([what, str(found), "within the spread"])
            else:
                rows.append([what, str(found), f"{found.median - bound:.2f} too much"])

        def at_least(what, found, bound):
            if found is None:
                rows.append([what, "not measured", ""])
            elif found.median >= bound:
                rows.append([what, str(found), "met"])
            elif found.median + found.spread >= bound:
                rows.append([what, str(found), "within the spread"])
            else:
                rows.append([what, str(found), f"{bound - found.median:.2f} too little"])

        echoes = [mode for mode in self.modes if not mode.line]
        for mode in echoes:
            if ONE in mode.tables:
                at_most(f"{mode.name}: CPU per message ≤ 1.02 of plain epoll", self.ratio(ONE, mode, "cpu_ns", EVENTS),
                        1.02)
        for mode in echoes:
            bound = " (bound by the generator)" if self.bound_by_generator(mode) else ""
            at_least(f"{mode.name}: throughput ≥ 0.98 of plain epoll{bound}", self.ratio(EACH, mode, "rate", EVENTS),
                     0.98)
        for mode in echoes:
            if mode.connections >= 100 and mode.size == 64 and mode.window == 1:
                at_most(f"{mode.name}: p99 ≤ 1.00 of plain epoll", self.ratio(EACH, mode, "p99", EVENTS), 1)
                at_most(f"{mode.name}: p99.9 ≤ 1.05 of plain epoll", self.ratio(EACH, mode, "p999", EVENTS), 1.05)
        for peer in self.names:
            if peer not in (PLAIN, THREADS, EVENTS, OYEZ_THREADS):
                for mode in self.modes:
                    if ONE in mode.tables:
                        at_most(f"{mode.name}: {peer} is not ahead in CPU",
                                self.ratio(ONE, mode, "cpu_ns", EVENTS, peer), 1)
        at_most("a line for each connection: CPU ≤ 1.00 of plain epoll", self.ratio(ONE, LINE, "cpu_ns", EVENTS), 1)
        for mode in self.modes:
            if ONE in mode.tables:
                at_most(f"{mode.name}: oyez threads' CPU ≤ 1.00 of plain threads",
                        self.ratio(ONE, mode, "cpu_ns", OYEZ_THREADS, THREADS), 1)
        for name, against in ((EVENTS, PLAIN), (OYEZ_THREADS, THREADS)):
            for mode in (ECHO, LINE):
                at_most(f"{mode.name}: system calls of {name} ≤ those of {against}",
                        fraction(self.calls_of(name, mode), self.calls_of(against, mode)), 1.01)
        mine = self.instructions.get((EVENTS, ECHO.name))
        at_most("instructions per 64 B message ≤ 1.5 of plain epoll",
                fraction(mine, self.instructions.get((PLAIN, ECHO.name))), 1.5)
        at_most("instructions per 64 B message under libuv's",
                fraction(mine, self.instructions.get(("libuv", ECHO.name))), 1)
        for figure in self.memory.get(EVENTS, ())[-1:]:
            if figure is not None:
                far = "met" if figure <= 300 else f"{figure - 300} too much"
                rows.append(["an idle connection ≤ 300 bytes", f"{figure} bytes", far])
        return rows

    def reasons(self):
        """What oyez does more than its counterpart, for each message."""
        told = []
        for mine, others in ((EVENTS, PLAIN), (OYEZ_THREADS, THREADS)):
            for mode in (ECHO, LINE):
                parts = []
                if self.calls_of(mine, mode) and self.calls_of(others, mode):
                    calls, against = self.calls[mine, mode.name], self.calls[others, mode.name]
                    more = {call: calls.get(call, 0) - against.get(call, 0) for call in sorted({*calls, *against})}
                    named = [f"{call} {count:+.2f}" for call, count in more.items() if abs(count) >= 0.05]
                    parts.append("system calls " + (", ".join(named) or "as many"))
                counts = [self.instructions.get((name, mode.name)) for name in (mine, others)]
                if all(counts):
                    parts.append(f"{counts[0]:.0f} instructions in place of {counts[1]:.0f}")
                if parts:
                    told.append(f"{mode.name}, {mine} beside {others}: " + "; ".join(parts) + ".")
        return told

    def calls_of(self, name, mode):
        calls = self.calls.get((name, mode.name))
        return sum(calls.values()) if calls else None


def fraction(mine, others):
    return Ratio([mine / others]) if mine and others else None


def markdown(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
