"""Charts: the same bytes for the same values, nothing outside their box, whatever the numbers and names are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from pantheon import charts
from pantheon.charts import Series

HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m\"'&"
SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(0, 10**6).map(float)
NAMES = st.text(max_size=60)

Draw = Callable[[int], Markup]


def points(count: int) -> tuple[tuple[float, float], ...]:
    return tuple((float(n), float(n * n % 7)) for n in range(count))


def line(count: int) -> Markup:
    one = Series("a", points(count), tuple((y / 2, y + 1) for _, y in points(count)))
    return charts.line("k", "T", "D", [one, Series("b", points(count))], x_name="x", y_name="y")


def area(count: int) -> Markup:
    return charts.area("k", "T", "D", [Series("a", points(count)), Series("b", points(count))], x_name="x", y_name="y")


def bars(count: int) -> Markup:
    return charts.bars("k", "T", "D", [(f"n{n}", (1.0, n + 0.5)) for n in range(count)], ("p", "q"), " s")


def intervals(count: int) -> Markup:
    return charts.intervals("k", "T", "D", [(f"n{n}", 0.5, 0.2, 0.9) for n in range(count)])


def heatmap(count: int) -> Markup:
    names = [f"n{n}" for n in range(count)]
    return charts.heatmap("k", "T", "D", names, names, [[r * c + 1 for c in range(count)] for r in range(count)])


DRAWN = (line, area, bars, intervals, heatmap)


def parse(svg: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def inside(svg: Markup) -> None:
    """Every coordinate is a number within the box, with some room for text that hangs over."""
    root = parse(svg)
    width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
    for element in root.iter():
        for name in ("x", "cx", "y", "cy", "width", "height"):
            value = element.attrib.get(name)
            if value is not None and element is not root:
                assert math.isfinite(float(value)), (element.tag, name, value)
                assert -1 <= float(value) <= max(width, height) + 1, (element.tag, name, value)
        for pair in element.attrib.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert -1 <= x <= width + 1
            assert -1 <= y <= height + 1


@pytest.mark.parametrize("draw", DRAWN)
def test_of_nothing_there_is_no_chart(draw: Draw) -> None:
    assert draw(0) == ""


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("draw", DRAWN)
def test_few_values_are_drawn_too_and_named_for_who_cannot_see_them(draw: Draw, count: int) -> None:
    svg = draw(count)
    inside(svg)
    root = parse(svg)
    assert root.attrib["role"] == "img"
    for tag, by in (("title", "aria-labelledby"), ("desc", "aria-describedby")):
        assert root.find(f"{SVG}{tag}[@id='{root.attrib[by]}']") is not None
    assert draw(count) == svg


def test_one_point_is_a_dot_with_its_interval_and_two_make_a_line() -> None:
    assert "<polyline" not in line(1)
    assert "whisker" in line(1)
    assert line(2).count("<polyline") == 2
    assert line(2).count("<polygon") == 1


def test_what_was_measured_stands_apart_from_the_line_through_it() -> None:
    band = tuple((y / 2, y + 1) for _, y in points(3))
    svg = charts.line("k", "T", "D", [Series("a", points(3), band, apart=True)], x_name="x", y_name="y")
    assert "<polyline" not in svg and "<polygon" not in svg
    assert svg.count("whisker") == 3 and svg.count("<circle") == 3
    inside(svg)


def test_series_differ_in_more_than_their_colour() -> None:
    svg = charts.line("k", "T", "D", [Series(n, points(3)) for n in "abcd"], x_name="x", y_name="y")
    assert len(set(re.findall(r'stroke-dasharray="([^"]+)"', svg))) == 3
    assert "<circle" in svg and "<rect" in svg and "l4 4l-4 4" in svg and "l4 7h-8z" in svg


def test_a_matrix_says_how_often_two_judges_differ() -> None:
    svg = charts.matrix("k", "T", "D", ("one", "other"), (6, 1, 2, 1))
    assert svg.count("they differ") == 2
    assert "60 %, they agree" in svg
    assert charts.matrix("k", "T", "D", ("one", "other"), (0, 0, 0, 0)) == ""


def test_a_spark_needs_two_values() -> None:
    assert charts.spark("k", "T", [1.0]) == ""
    inside(charts.spark("k", "T", [1.0, 1.0, math.inf]))


def test_an_interval_without_a_value_is_faint_and_has_no_dot() -> None:
    svg = charts.intervals("k", "T", "D", [("n", None, 0.0, 1.0)])
    assert "faint" in svg
    assert "<circle" not in svg


def test_what_names_hold_is_shown_and_never_obeyed() -> None:
    names = [HOSTILE, "b"]
    drawn = [
        charts.line("k", HOSTILE, HOSTILE, [Series(n, points(2)) for n in names], x_name=HOSTILE, y_name=HOSTILE),
        charts.bars("k", HOSTILE, HOSTILE, [(n, (1.0,)) for n in names], [HOSTILE], HOSTILE),
        charts.intervals("k", HOSTILE, HOSTILE, [(n, 0.5, 0.1, 0.9) for n in names]),
        charts.heatmap("k", HOSTILE, HOSTILE, names, names, [[1, 2], [3, 4]]),
        charts.matrix("k", HOSTILE, HOSTILE, (HOSTILE, "b"), (1, 2, 3, 4)),
        charts.spark("k", HOSTILE, [1.0, 2.0]),
    ]
    for svg in drawn:
        assert "<script" not in svg
        assert "\u202e" not in svg and "\x1b" not in svg
        parse(svg)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12), NAMES)
def test_lines_stay_in_their_box_for_any_numbers(values: list[tuple[float, float]], name: str) -> None:
    clean = [(x, y) for x, y in values if abs(x) < 1e12]
    series = Series(name, tuple(clean), tuple((0.0, y) for _, y in clean))
    svg = charts.line("k", name, name, [series], x_name=name, y_name="y")
    if svg:
        inside(svg)


@given(st.lists(st.tuples(NAMES, st.lists(NUMBERS, min_size=2, max_size=2)), max_size=8))
def test_bars_stay_in_their_box_for_any_numbers(rows: list[tuple[str, list[float]]]) -> None:
    svg = charts.bars("k", "T", "D", rows, ("a", "b"))
    if svg:
        inside(svg)


@given(st.floats(-1e5, 1e5), st.floats(1e-2, 1e9))
def test_ticks_are_round_ascending_and_within(low: float, size: float) -> None:
    found = charts.ticks(low, low + size)
    assert found == sorted(found)
    assert len(found) <= 15
    assert all(low - size * 0.01 <= tick <= low + size * 1.01 for tick in found)


def test_ten_thousand_points_are_thinned_to_what_an_eye_can_tell_apart() -> None:
    assert len(line(10_000)) < 40_000
