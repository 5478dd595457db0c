"""What is asked of the servers."""

ONE, EACH = "one core", "a core each"
TABLES = (ONE, EACH)


class Mode:
    def __init__(self, name, connections, size=64, window=1, line=False, unix=False, quick=False):
        self.name, self.connections, self.size, self.window = name, connections, size, window
        self.line, self.unix, self.quick = line, unix, quick

    def arguments(self):
        return ["--connections", str(self.connections), "--size", str(self.size), "--window", str(self.window),
                *(["--line"] if self.line else [])]

    def is_small_echo(self):
        """Of those that are shown against the number of connections."""
        return self.size == 64 and self.window == 1 and not self.line and not self.unix


def echoes(name, size, quick=()):
    return [Mode(f"{name}, {count:,}", count, size, quick=count in quick) for count in (1, 100, 1000, 10000)]


MODES = [
    *echoes("64 B", 64, quick=(100, 1000)),
    *echoes("1 KiB", 1024),
    *echoes("16 KiB", 16384),
    Mode("pipelined 16 × 64 B, 100", 100, window=16, quick=True),
    Mode("bulk 4 × 256 KiB, 4", 4, size=256 * 1024, window=4),
    Mode("Unix 64 B, 100", 100, unix=True),
    Mode("connect, line, close", 32, line=True, quick=True),
]
ECHO, LINE = next(mode for mode in MODES if mode.name == "64 B, 100"), MODES[-1]
