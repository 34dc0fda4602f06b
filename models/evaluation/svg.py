"""Small plots as SVG text: built as a tree, so that every name in them is escaped; coloured by the page's style sheet.

Every plot carries its description as its accessible name, and lines differ in dash as well as in colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Tree

Point = tuple[float, float]

STYLES = 6
"""Distinct line styles, classes s0 to s5 of the style sheet."""

_WIDTH, _PLOT = 360, 270
_LEFT, _TOP = 52, 12
_LEGEND_LINE = 18
_LONGEST_NAME = 40
_FOREST_NAMES, _FOREST_PLOT, _FOREST_ROW = 176, 214, 24


@dataclass(frozen=True)
class Line:
    """points: joined by a line. marks: (x, y, low, high), drawn as dots with the interval of y. spots: single points on
    the line to be seen."""

    name: str
    points: Sequence[Point] = ()
    marks: Sequence[tuple[float, float, float, float]] = ()
    spots: Sequence[Point] = ()


def plain(text: str) -> str:
    """Foreign text of bounded length without control characters."""
    cut = text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def curves(described: str, x_label: str, y_label: str, lines: Sequence[Line], *, diagonal: bool) -> str:
    """A square of [0, 1] by [0, 1] with lines, and their names below. diagonal: the line of equal x and y."""
    height = _TOP + _PLOT + 48 + _LEGEND_LINE * len(lines)
    root = _root(described, _WIDTH, height)
    _axes(root, x_label, y_label)
    if diagonal:
        (x0, y0), (x1, y1) = _at((0, 0)), _at((1, 1))
        _line(root, (x0, y0), (x1, y1), "reference")
    for number, line in enumerate(lines):
        style = f"s{number % STYLES}"
        if line.points:
            places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(_at, line.points))
            Tree.SubElement(root, "polyline", {"points": places, "class": f"line {style}"})
        for x, y, low, high in line.marks:
            (left, upper), (_, lower) = _at((x, high)), _at((x, low))
            _line(root, (left, upper), (left, lower), f"whisker {style}")
            _circle(root, _at((x, y)), 3.5, f"dot {style}")
        for spot in line.spots:
            _circle(root, _at(spot), 5, f"spot {style}")
        level = _TOP + _PLOT + 50 + _LEGEND_LINE * number
        _line(root, (_LEFT, level), (_LEFT + 30, level), f"line {style}")
        _text(root, _LEFT + 38, level + 4, plain(line.name))
    return _written(root)


def forest(described: str, rows: Sequence[tuple[str, float, float, float]], x_label: str) -> str:
    """Values (name, value, low, high) in [0, 1] with their intervals, one below the other."""
    width, height = _FOREST_NAMES + _FOREST_PLOT, 14 + _FOREST_ROW * len(rows) + 44
    root, left, right = _root(described, width, height), _FOREST_NAMES, width - 14
    bottom = 14 + _FOREST_ROW * len(rows)

    def across(value: float) -> float:
        return left + value * (right - left)

    for tick in range(0, 11, 2):
        x = across(tick / 10)
        _line(root, (x, 10), (x, bottom), "reference" if tick == 5 else "grid")
        _text(root, x, bottom + 16, f"{tick / 10:g}", anchor="middle")
    for number, (name, value, low, high) in enumerate(rows):
        y = 14 + _FOREST_ROW * (number + 0.5)
        _text(root, left - 8, y + 4, plain(name), anchor="end")
        _line(root, (across(low), y), (across(high), y), "whisker s0")
        _circle(root, (across(value), y), 4, "dot s0")
    _text(root, (left + right) / 2, bottom + 36, x_label, anchor="middle")
    return _written(root)


def matrix(described: str, names: Sequence[str], table: Sequence[Sequence[int]]) -> str:
    """Counts, true class by row; a cell's shade is its share of the row."""
    cell = max(34, min(70, 340 // len(names)))
    left, top = 130, 96
    root = _root(described, left + cell * len(names) + 8, top + cell * len(names) + 10)
    for row, counts in enumerate(table):
        total = sum(counts)
        y = float(top + row * cell)
        _text(root, left - 8, y + cell / 2 + 4, plain(names[row])[:18], anchor="end")
        for column, count in enumerate(counts):
            x, share = left + column * cell, count / total if total else 0
            place = {"x": f"{x}", "y": f"{y}", "width": f"{cell}", "height": f"{cell}"}
            Tree.SubElement(root, "rect", {**place, "class": "cell", "fill-opacity": f"{0.85 * share:.3f}"})
            style = "strong" if share > 0.55 else ""
            _text(root, x + cell / 2, y + cell / 2 + 4, str(count), anchor="middle", style=style)
    for column, name in enumerate(names):
        middle = left + (column + 0.5) * cell
        turned = _text(root, middle, top - 8, plain(name)[:16])
        turned.set("transform", f"rotate(-40 {middle:.1f} {top - 8})")
    return _written(root)


def _root(described: str, width: float, height: float) -> Tree.Element:
    box = f"0 0 {width:g} {height:g}"
    # Its own width: a style sheet shrinks it on narrow screens, and never blows it up.
    return Tree.Element(
        "svg", {"viewBox": box, "role": "img", "aria-label": described, "width": f"{width:g}", "height": f"{height:g}"}
    )


def _written(root: Tree.Element) -> str:
    return Tree.tostring(root, encoding="unicode", short_empty_elements=False)


def _at(point: Point) -> Point:
    side = _WIDTH - _LEFT - 14
    return _LEFT + point[0] * side, _TOP + (1 - point[1]) * _PLOT


def _axes(root: Tree.Element, x_label: str, y_label: str) -> None:
    for tick in range(0, 11, 2):
        value = tick / 10
        (x, bottom), (left, y) = _at((value, 0)), _at((0, value))
        _line(root, (x, bottom), (x, _TOP), "grid")
        _line(root, (left, y), (_at((1, value))[0], y), "grid")
        _text(root, x, bottom + 15, f"{value:g}", anchor="middle")
        _text(root, left - 6, y + 4, f"{value:g}", anchor="end")
    _text(root, (_LEFT + _WIDTH - 14) / 2, _TOP + _PLOT + 32, x_label, anchor="middle")
    middle = _TOP + _PLOT / 2
    turned = _text(root, 14, middle, y_label, anchor="middle")
    turned.set("transform", f"rotate(-90 14 {middle:g})")


def _line(root: Tree.Element, start: Point, end: Point, style: str) -> None:
    (x1, y1), (x2, y2) = start, end
    places = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    Tree.SubElement(root, "line", {**places, "class": style})


def _circle(root: Tree.Element, at: Point, radius: float, style: str) -> None:
    Tree.SubElement(root, "circle", {"cx": f"{at[0]:.1f}", "cy": f"{at[1]:.1f}", "r": f"{radius:g}", "class": style})


def _text(
    root: Tree.Element, x: float, y: float, content: str, *, anchor: str = "start", style: str = ""
) -> Tree.Element:
    given = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor} | ({"class": style} if style else {})
    element = Tree.SubElement(root, "text", given)
    element.text = content
    return element
