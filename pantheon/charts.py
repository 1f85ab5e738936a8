"""Small charts as SVG text: lines with bands, stacked steps, bars, intervals, a heatmap, a two-by-two matrix. Pure.

Values in, markup out, the same bytes for the same values. Colours are classes (`s0` a stroke, `f0` a fill) that the
page's stylesheet gives a light and a dark form; a series is told apart by its dash and its mark as well. Of no values
there is no chart: the empty text. Decides nothing about what is worth drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from pantheon.plan import printable

WIDTH, HEIGHT = 360, 216  # units of the view box; on a page one of them is about a pixel
LEFT, RIGHT, BOTTOM = 42, 20, 38
ROW = 24  # of bars, intervals and heatmaps
CHAR = 6.1  # the width of a character of 11 units, on average
MOST_POINTS = 240
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4")


@dataclass(frozen=True)
class Series:
    """One line: its points (x, y), and for each of them a band (low, high), or none at all. `apart`: no line and no
    band but marks, each with its interval, as of what was measured beside what was fitted."""

    name: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float], ...] = ()
    apart: bool = False


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high` inclusive, about `most` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 1e-300 else 1e-300
    step = next((power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999), power * 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)][: most * 3]


def number(value: float) -> str:
    """A number short enough for an axis: 0.25, 40, 1.2k, 3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.4g}"


def line(
    key: str,
    title: str,
    desc: str,
    series: Sequence[Series],
    *,
    x_name: str,
    y_name: str,
    top: float | None = None,
    marks: Sequence[tuple[float, str]] = (),
) -> Markup:
    """Lines over a common x axis, y from 0. `top`: the end of the y axis, else the largest value; 1.0 means a share,
    shown in per cent. `marks`: x positions with a text in place of round numbers."""
    clean = [one for one in map(_clean, series) if one.points]
    if not clean:
        return Markup("")
    plot = _Plot(clean, [s.name for s in clean], top, x_name, y_name, marks)
    body: list[str] = []
    for index, one in enumerate(clean):
        if one.band and len(one.points) > 1 and not one.apart:
            highs = [plot.at(x, high) for (x, _), (_, high) in zip(one.points, one.band, strict=True)]
            lows = [plot.at(x, low) for (x, _), (low, _) in zip(one.points, one.band, strict=True)]
            body.append(f'<polygon class="f{index % 6} band" points="{" ".join([*highs, *reversed(lows)])}"/>')
        else:
            for (x, _), (low, high) in zip(one.points, one.band, strict=False):
                body.append(f'<path class="s{index % 6} whisker" d="M{plot.at(x, low)}L{plot.at(x, high)}"/>')
    for index, one in enumerate(clean):
        dash = f' stroke-dasharray="{DASHES[index % 6]}"' if index % 6 else ""
        if len(one.points) > 1 and not one.apart:
            path = " ".join(plot.at(x, y) for x, y in one.points)
            body.append(f'<polyline class="s{index % 6} line" points="{path}"{dash}/>')
        if len(one.points) <= 40:
            body += [_mark(index, *plot.xy(x, y)) for x, y in one.points]
    return _svg(key, title, desc, plot.height, plot.frame() + "".join(body))


def area(
    key: str, title: str, desc: str, series: Sequence[Series], *, x_name: str, y_name: str, steps: bool = True
) -> Markup:
    """Stacked areas over the same x positions, the first at the bottom; with `steps` a value holds until the next."""
    clean = [_clean(one) for one in series]
    count = min((len(one.points) for one in clean), default=0)
    if not count:
        return Markup("")
    xs = [x for x, _ in clean[0].points[:count]]
    floors = [[0.0] * count]
    for one in clean:
        floors.append([below + max(0.0, y) for below, (_, y) in zip(floors[-1], one.points[:count], strict=True)])
    outline = Series("", tuple(zip(xs, floors[-1], strict=True)))
    plot = _Plot([outline], [s.name for s in clean], None, x_name, y_name, (), boxes=True)
    body = []
    for index in reversed(range(len(clean))):
        upper, lower = _walk(xs, floors[index + 1], steps), _walk(xs, floors[index], steps)
        if count == 1:
            body.append(_mark(index, *plot.xy(*upper[0])))
            continue
        path = " ".join(plot.at(x, y) for x, y in [*upper, *reversed(lower)])
        body.append(f'<polygon class="f{index % 6} area" points="{path}"/>')
        edge = " ".join(plot.at(x, y) for x, y in upper)
        body.append(f'<polyline class="s{index % 6} edge" points="{edge}"/>')
    return _svg(key, title, desc, plot.height, plot.frame() + "".join(body))


def _walk(xs: Sequence[float], ys: Sequence[float], steps: bool) -> list[tuple[float, float]]:
    if not steps:
        return list(zip(xs, ys, strict=True))
    found = [(xs[0], ys[0])]
    for (x, y), before in zip(zip(xs[1:], ys[1:], strict=True), ys, strict=False):
        found += [(x, before), (x, y)]
    return found


def bars(
    key: str, title: str, desc: str, rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], unit: str = ""
) -> Markup:
    """One horizontal stacked bar per row; `names` of its parts, the same for all rows."""
    kept = [(name, [_finite(v) for v in parts]) for name, parts in rows]
    most = max((sum(parts) for _, parts in kept), default=0.0)
    if not kept or most <= 0:
        return Markup("")
    left, room = _label_room([name for name, _ in kept]), 52
    legend, top = _legend(names, boxes=True)
    width = WIDTH - left - room
    body = [legend]
    for index, (name, parts) in enumerate(kept):
        y, x = top + index * ROW, float(left)
        body.append(_text(left - 8, y + 14, name, "end", left))
        for part, value in enumerate(parts):
            size = width * value / most
            if size > 0:
                body.append(
                    f'<rect class="f{part % 6}" x="{x:.1f}" y="{y + 3}" width="{size:.1f}" height="{ROW - 8}"/>'
                )
            x += size
        body.append(_text(x + 6, y + 14, f"{sum(parts):.{0 if sum(parts) >= 100 else 1}f}{unit}", "start"))
    return _svg(key, title, desc, top + len(kept) * ROW + 4, "".join(body))


def intervals(
    key: str, title: str, desc: str, rows: Sequence[tuple[str, float | None, float, float]], *, low: float = 0.0
) -> Markup:
    """A dot with its interval per row: (name, value, low, high) on a scale from `low` to 1. Where the value is None
    only the interval is drawn, faint: nothing is known."""
    if not rows:
        return Markup("")
    left, room, top = _label_room([row[0] for row in rows]), 24, 6
    width = WIDTH - left - room
    end = top + len(rows) * ROW

    def at(value: float) -> float:
        return left + width * (min(1.0, max(low, value)) - low) / (1 - low)

    body = []
    for tick in (low, (low + 1) / 2, 1.0):
        body.append(f'<path class="grid" d="M{at(tick):.1f} {top}V{end}"/>')
        label = f"{100 * tick:.0f} %" if low >= 0 else number(tick)
        body.append(_text(at(tick), end + 15, label, "middle"))
    for index, (name, value, lower, upper) in enumerate(rows):
        y = top + index * ROW + ROW / 2
        faint = "" if value is not None and math.isfinite(value) else " faint"
        body.append(_text(left - 8, y + 4, name, "end", left))
        body.append(f'<path class="s0 whisker{faint}" d="M{at(lower):.1f} {y}H{at(upper):.1f}"/>')
        body += [f'<path class="s0 whisker{faint}" d="M{at(edge):.1f} {y - 4}V{y + 4}"/>' for edge in (lower, upper)]
        if not faint and value is not None:
            body.append(f'<circle class="f0" cx="{at(value):.1f}" cy="{y}" r="4.5"/>')
    return _svg(key, title, desc, end + 22, "".join(body))


def heatmap(
    key: str, title: str, desc: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[int]]
) -> Markup:
    """Counts by row and column, each in its cell as a number on a shade: the number carries the meaning."""
    most = max((value for row in cells for value in row), default=0)
    if not rows or not columns or most <= 0:
        return Markup("")
    left = _label_room(rows)
    slanted = any(len(name) * CHAR > (WIDTH - left - RIGHT) / len(columns) - 4 for name in columns)
    top = 14 + (min(max(map(len, columns)), 22) * CHAR * 0.64 if slanted else 8)
    room = WIDTH - left - (60 if slanted else RIGHT)
    width = min(72.0, room / len(columns))
    body = []
    for index, name in enumerate(columns):
        x = left + (index + 0.5) * width
        turn = f' transform="rotate(-40 {x:.1f} {top - 6:.1f})"' if slanted else ""
        text = _clip(name, 22) if slanted else name
        anchor = "start" if slanted else "middle"
        body.append(f'<text x="{x:.1f}" y="{top - 6:.1f}" text-anchor="{anchor}"{turn}>{_shown(text)}</text>')
    for down, (name, row) in enumerate(zip(rows, cells, strict=True)):
        y = top + down * ROW
        body.append(_text(left - 8, y + 15, name, "end", left))
        for across, value in enumerate(row):
            x = left + across * width
            shade = 0 if value <= 0 else 1 + round(4 * math.log1p(value) / math.log1p(most))
            body.append(
                f'<rect class="h{shade}" x="{x + 1:.1f}" y="{y + 1:.1f}" width="{width - 2:.1f}" height="{ROW - 2}"/>'
            )
            body.append(
                f'<text class="n{shade}" x="{x + width / 2:.1f}" y="{y + 16:.1f}" text-anchor="middle">'
                f"{number(value) if value else '·'}</text>"
            )
    return _svg(key, title, desc, math.ceil(top + len(rows) * ROW + 6), "".join(body))


def matrix(key: str, title: str, desc: str, names: tuple[str, str], table: tuple[int, int, int, int]) -> Markup:
    """Two judges: how often both passed, only the first, only the second, neither. Where they disagree stands out by
    its hatched frame."""
    total = sum(table)
    if total <= 0:
        return Markup("")
    left, top, width, height = 112, 46, 120, 58
    body = [
        _text(left + width, 14, names[1], "middle", 300),
        _text(left + width / 2, 34, "pass", "middle"),
        _text(left + 1.5 * width, 34, "fail", "middle"),
        _text(left - 10, top + height + 4, names[0], "end", left - 10),
        _text(left - 10, top + height / 2 - 8, "pass", "end"),
        _text(left - 10, top + 1.5 * height + 20, "fail", "end"),
    ]
    both, first, second, neither = table
    for down, row in enumerate(((both, first), (second, neither))):
        for across, value in enumerate(row):
            x, y = left + across * width, top + down * height
            apart = down != across
            kind = "apart" if apart else "agree"
            body.append(f'<rect class="{kind}" x="{x + 2}" y="{y + 2}" width="{width - 4}" height="{height - 4}"/>')
            body.append(f'<text class="big" x="{x + width / 2}" y="{y + 29}" text-anchor="middle">{value}</text>')
            share = f"{100 * value / total:.0f} %, {'they differ' if apart else 'they agree'}"
            body.append(_text(x + width / 2, y + 45, share, "middle"))
    return _svg(key, title, desc, top + 2 * height + 6, "".join(body))


def spark(key: str, title: str, values: Sequence[float]) -> Markup:
    """A line of one word's size: only the shape, the last value marked. The values stand elsewhere."""
    kept = [_finite(value) for value in values]
    if len(kept) < 2:
        return Markup("")
    low, high = min(kept), max(kept)
    reach = (high - low) or 1.0
    spots = [(4 + 92 * n / (len(kept) - 1), 20 - 16 * (value - low) / reach) for n, value in enumerate(kept)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    x, y = spots[-1]
    return Markup(
        f'<svg class="spark" viewBox="0 0 100 24" role="img" aria-labelledby="{key}-t" focusable="false">'
        f'<title id="{key}-t">{_shown(title)}</title><polyline class="s0 line" points="{path}"/>'
        f'<circle class="f0" cx="{x:.1f}" cy="{y:.1f}" r="3"/></svg>'
    )  # every text in it went through _shown


# --- the parts of a chart --------------------------------------------------------------------------------------------


class _Plot:
    """Where things stand in a chart with two axes."""

    def __init__(
        self,
        series: Sequence[Series],
        names: Sequence[str],
        top: float | None,
        x_name: str,
        y_name: str,
        marks: Sequence[tuple[float, str]],
        boxes: bool = False,
    ) -> None:
        xs = [x for one in series for x, _ in one.points] + [x for x, _ in marks]
        highs = [y for one in series for _, y in one.points] + [high for one in series for _, high in one.band]
        self.low_x, self.high_x = min(xs), max(xs)
        if self.low_x == self.high_x:
            self.low_x, self.high_x = self.low_x - 0.5, self.high_x + 0.5
        self.share = top == 1.0
        self.high_y = top if top is not None else _ceiling(max(highs))
        self.legend, start = _legend(names if len(names) > 1 else (), boxes)
        self.start, self.height = start + 22, HEIGHT + start
        self.end = self.height - BOTTOM
        self.x_name, self.y_name = x_name, y_name
        self.marks = list(marks) or [(x, number(x)) for x in ticks(min(xs), max(xs))]

    def xy(self, x: float, y: float) -> tuple[float, float]:
        width, height = WIDTH - LEFT - RIGHT, self.end - self.start
        across = LEFT + 6 + (width - 12) * (x - self.low_x) / (self.high_x - self.low_x)
        return across, self.end - height * min(self.high_y, max(0.0, y)) / self.high_y

    def at(self, x: float, y: float) -> str:
        across, down = self.xy(x, y)
        return f"{across:.1f},{down:.1f}"

    def frame(self) -> str:
        parts = [
            self.legend,
            _text(LEFT - 6, self.start - 13, self.y_name, "end" if len(self.y_name) < 7 else "middle"),
        ]
        for value in (0.0, 0.25, 0.5, 0.75, 1.0) if self.share else ticks(0.0, self.high_y):
            y = self.xy(self.low_x, value)[1]
            parts.append(f'<path class="{"axis" if not value else "grid"}" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            label = f"{100 * value:.0f} %" if self.share else number(value)
            parts.append(_text(LEFT - 6, y + 4, label, "end"))
        every = math.ceil(len(self.marks) / 7)
        for index, (x, label) in enumerate(self.marks):
            if (len(self.marks) - 1 - index) % every == 0:
                across = self.xy(x, 0)[0]
                parts.append(f'<path class="axis" d="M{across:.1f} {self.end:.1f}v4"/>')
                parts.append(_text(across, self.end + 16, label, "middle"))
        parts.append(_text(WIDTH - RIGHT, self.end + 32, self.x_name, "end"))
        return "".join(parts)


def _ceiling(value: float) -> float:
    """The end of an axis that fits `value`: the next round number."""
    if value < 1e-9:
        return 1.0
    found = ticks(0.0, value)
    step = found[1] - found[0] if len(found) > 1 else value
    return math.ceil(value / step - 1e-9) * step


def _legend(names: Sequence[str], boxes: bool = False) -> tuple[str, int]:
    """The legend's rows and where the chart may begin below them."""
    parts, x, y = [], 2.0, 10
    for index, name in enumerate(names):
        text = _clip(name, 32)
        size = 22 + len(text) * CHAR + 12
        if x + size > WIDTH and x > 2:
            x, y = 2.0, y + 16
        if boxes:
            parts.append(f'<rect class="f{index % 6}" x="{x:.1f}" y="{y - 6}" width="12" height="10"/>')
        else:
            dash = f' stroke-dasharray="{DASHES[index % 6]}"' if index % 6 else ""
            parts.append(f'<path class="s{index % 6} line" d="M{x:.1f} {y}h16"{dash}/>{_mark(index, x + 8, y)}')
        parts.append(_text(x + 20, y + 4, text, "start"))
        x += size
    return "".join(parts), (y + 12 if names else 4)


def _mark(index: int, x: float, y: float) -> str:
    """A dot, a square, a diamond, a triangle: the shape tells the series, too."""
    match index % 4:
        case 0:
            return f'<circle class="f{index % 6}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'
        case 1:
            return f'<rect class="f{index % 6}" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>'
        case 2:
            return f'<path class="f{index % 6}" d="M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z"/>'
        case _:
            return f'<path class="f{index % 6}" d="M{x:.1f} {y - 4:.1f}l4 7h-8z"/>'


def _svg(key: str, title: str, desc: str, height: float, body: str) -> Markup:
    names = f'<title id="{key}-t">{_shown(title)}</title><desc id="{key}-d">{_shown(desc)}</desc>'
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{key}-t" '
        f'aria-describedby="{key}-d" focusable="false">{names}{body}</svg>'
    )  # every text in it went through _shown


def _text(x: float, y: float, text: str, anchor: str, room: float = 0) -> str:
    """A label; `room`: the width it may take, before it is cut."""
    if room:
        text = _clip(text, max(4, int((room - 8) / CHAR)))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_shown(text)}</text>'


def _shown(text: str) -> str:
    return str(escape(printable(text)))


def _clip(text: str, most: int) -> str:
    """The end of a name says most: `…ontmatter@3` rather than `doc.frontm…`."""
    return text if len(text) <= most else f"…{text[-most + 1 :]}"


def _label_room(names: Sequence[str]) -> int:
    return min(146, round(max(len(name) for name in names) * CHAR) + 14)


def _finite(value: float) -> float:
    try:
        number_ = float(value)
    except OverflowError:
        return 0.0
    return number_ if math.isfinite(number_) and 0 <= number_ < 1e15 else 0.0


def _clean(series: Series) -> Series:
    """The series without what cannot be drawn, and with no more points than the eye can tell apart."""
    whole = [n for n, (x, y) in enumerate(series.points) if math.isfinite(x) and math.isfinite(y) and abs(y) < 1e15]
    if len(whole) > MOST_POINTS:
        step = (len(whole) - 1) / (MOST_POINTS - 1)
        whole = [whole[round(n * step)] for n in range(MOST_POINTS)]
    band = tuple(series.band[n] for n in whole) if len(series.band) == len(series.points) else ()
    return Series(series.name, tuple(series.points[n] for n in whole), band, series.apart)
