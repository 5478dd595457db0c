"""Line charts as SVG, written by hand: a white page, two axes, a legend in the order of the lines' last points."""

import math
from html import escape

WIDTH, HEIGHT = 890, 460
LEFT, RIGHT, TOP, BOTTOM = 78, 230, 46, 60      # margins around the lines
FONT = 'font-family="DejaVu Sans, Verdana, sans-serif"'
SHAPES = ("circle", "square", "diamond", "triangle")
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d31", "#7b61a8", "#7f7f7f")


class Line:
    """A name, its points, and how it is drawn; one that is strong stands out."""

    def __init__(self, name, points, colour, shape="circle", dashed=False, strong=False):
        self.name, self.points, self.colour, self.shape = name, sorted(points), colour, shape
        self.dashed, self.width = dashed, 3 if strong else 1.6


class Axis:
    """From values to pixels. A logarithmic one ends at 1, 2 or 5 of a power of ten, a linear one begins at 0."""

    def __init__(self, values, first, last, logarithmic):
        self.first, self.last, self.logarithmic = first, last, logarithmic
        if logarithmic:
            self.low, self.high = rounded(min(values), below=True), rounded(max(values), below=False)
            if self.low == self.high:
                self.high = self.low * 10
            self.ticks = [step * 10.0 ** power for power in range(-3, 13) for step in (1, 2, 5)
                          if self.low <= step * 10.0 ** power * 1.0001 and step * 10.0 ** power <= self.high * 1.0001]
            if len(self.ticks) > 9:
                self.ticks = [tick for tick in self.ticks if math.log10(tick) % 1 < 1e-9 or tick in (self.low, self.high)]
        else:
            step = rounded(max(values) / 6, below=False) or 1
            self.low, self.high = 0, step * math.ceil(max(values) / step)
            self.ticks = [step * number for number in range(round(self.high / step) + 1)]

    def place(self, value):
        if self.logarithmic:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = value / self.high
        return self.first + part * (self.last - self.first)


def rounded(value, below):
    """The next of 1, 2, 5, 10, 20 ..."""
    if value <= 0:
        return 1 if below else 0
    power = 10.0 ** math.floor(math.log10(value))
    steps = [step * power for step in (1, 2, 5, 10)]
    if below:
        return max(step for step in steps if step <= value * 1.0001)
    return min(step for step in steps if step >= value * 0.9999)


def short(number):
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def text(x, y, content, size=13, anchor="middle", more=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#222" {FONT} {more}>'
            f"{escape(content)}</text>")


def stroke(x1, y1, x2, y2, colour, width=1.0, more=""):
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width}" {more}/>')


def mark(shape, x, y, colour, size):
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}"/>'
    corners = {"square": ((-1, -1), (1, -1), (1, 1), (-1, 1)), "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
               "triangle": ((0, -1.3), (1.2, 1), (-1.2, 1))}[shape]
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" fill="{colour}"/>'


def drawn(line, across, up):
    places = [(across.place(x), up.place(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = 'stroke-dasharray="6 4"' if line.dashed else ""
    return [f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="{line.width}" {dashes}/>',
            *(mark(line.shape, x, y, line.colour, line.width + 1.8) for x, y in places)]


def legend(lines):
    """The last point that a line has decides its place, so that the names stand as the lines end."""
    x, parts = WIDTH - RIGHT + 20, []
    for number, line in enumerate(sorted(lines, key=lambda of: of.points[-1][1], reverse=True)):
        y = TOP + 14 + number * 22
        dashes = 'stroke-dasharray="6 4"' if line.dashed else ""
        weight = 'font-weight="bold"' if line.width > 2 else ""
        parts += [stroke(x, y, x + 28, y, line.colour, line.width, dashes), mark(line.shape, x + 14, y, line.colour, 4),
                  text(x + 36, y + 4.5, line.name, anchor="start", more=weight)]
    return parts


def chart(title, x_title, y_title, lines, log_y=False, bound=None):
    """The whole file. Numbers across are logarithmic. `bound` is (value, name) of a line from side to side."""
    lines = [line for line in lines if line.points]
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    values = [y for line in lines for _, y in line.points] + ([bound[0]] if bound else [])
    across = Axis([x for line in lines for x, _ in line.points], LEFT, right, True)
    up = Axis(values, bottom, TOP, log_y)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', text(LEFT, 26, title, 16, "start")]
    for tick in up.ticks:
        y = up.place(tick)
        parts += [stroke(LEFT, y, right, y, "#e3e3e3"), text(LEFT - 8, y + 4.5, short(tick), anchor="end")]
    for tick in across.ticks:
        x = across.place(tick)
        parts += [stroke(x, TOP, x, bottom, "#f0f0f0"), text(x, bottom + 20, f"{tick:,.0f}")]
    parts += [stroke(LEFT, bottom, right, bottom, "#444"), stroke(LEFT, TOP, LEFT, bottom, "#444"),
              text((LEFT + right) / 2, HEIGHT - 14, x_title),
              text(20, (TOP + bottom) / 2, y_title, more=f'transform="rotate(-90 20 {(TOP + bottom) / 2:.1f})"')]
    if bound:
        y = up.place(bound[0])
        parts += [stroke(LEFT, y, right, y, "#c00", 1, 'stroke-dasharray="2 3"'),
                  text(right - 4, y - 6, bound[1], 12, "end")]
    for line in lines:
        parts += drawn(line, across, up)
    parts += legend(lines)
    return "\n".join([*parts, "</svg>"]) + "\n"
