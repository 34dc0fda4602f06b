"""Where a model looked, as an outline in source pixels.

An attention region, not a segmentation: it says which pixels moved the model most, on the network's own coarse grid,
and nothing of a lesion's edge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.contracts import Explanation, FloatArray
from models.explain import map_to_source

Outline = NDArray[np.float32]

# Finer than any network's grid, coarse enough that an outline stays a few hundred points.
_LONGEST_SIDE = 128

# Marching squares. Corners of a cell: 1 top left, 2 top right, 4 bottom right, 8 bottom left; set where inside.
# Each step enters and leaves by an edge and keeps the inside on its left, so that every crossing has one way on.
_TOP, _RIGHT, _BOTTOM, _LEFT = range(4)
_STEPS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((_LEFT, _TOP),),
    2: ((_TOP, _RIGHT),),
    3: ((_LEFT, _RIGHT),),
    4: ((_RIGHT, _BOTTOM),),
    5: ((_LEFT, _TOP), (_RIGHT, _BOTTOM)),
    6: ((_TOP, _BOTTOM),),
    7: ((_LEFT, _BOTTOM),),
    8: ((_BOTTOM, _LEFT),),
    9: ((_BOTTOM, _TOP),),
    10: ((_TOP, _RIGHT), (_BOTTOM, _LEFT)),
    11: ((_BOTTOM, _RIGHT),),
    12: ((_RIGHT, _LEFT),),
    13: ((_RIGHT, _TOP),),
    14: ((_TOP, _LEFT),),
}
# An edge is known by its orientation (0 runs along a row, 1 down a column) and its first corner.
_EDGES = {_TOP: (0, 0, 0), _RIGHT: (1, 0, 1), _BOTTOM: (0, 1, 0), _LEFT: (1, 0, 0)}
_Edge = tuple[int, int, int]


def attention_outline(found: Explanation, rows: int, columns: int) -> Outline | None:
    """The largest region where the map is at least half its maximum.

    Returns float32 (points, 2) of (column, row) in source pixels, the image's top left corner being (0, 0) (PS3.3
    C.18.6.1.2), closed and within the image; None where the map is empty.
    """
    scale = min(1.0, _LONGEST_SIDE / max(rows, columns))
    shape = max(2, round(rows * scale)), max(2, round(columns * scale))
    drawn = map_to_source(found, *shape)
    peak = float(drawn.max())
    if peak <= 0:
        return None
    loops = _loops(np.pad(drawn, 1), peak / 2)
    loop = max(loops, key=lambda points: abs(_area(points)))
    # Padding moved everything by one cell; a cell's value stands for its middle.
    loop = (loop - 0.5) * np.array([columns / shape[1], rows / shape[0]])
    clipped = np.clip(np.round(loop, 2), 0, [columns, rows])
    moved = np.append(True, np.any(np.diff(clipped, axis=0) != 0, axis=1))
    open_line = clipped[moved].astype(np.float32)
    return np.concatenate([open_line, open_line[:1]]) if not np.array_equal(open_line[0], open_line[-1]) else open_line


def whole_image(rows: int, columns: int) -> Outline:
    """The image's border, closed: a finding that is known no closer than "in this image"."""
    return np.array([[0, 0], [columns, 0], [columns, rows], [0, rows], [0, 0]], np.float32)


def _loops(values: FloatArray, level: float) -> list[NDArray[np.float64]]:
    """All closed contours of a map that is below the level along its whole border."""
    inside = values >= level
    cases = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, 1:] + 8 * inside[1:, :-1]
    onward: dict[_Edge, _Edge] = {}
    for row, column in np.argwhere((cases != 0) & (cases != 15)).tolist():
        for entry, leave in _STEPS[int(cases[row, column])]:
            onward[_edge(entry, row, column)] = _edge(leave, row, column)
    loops = []
    while onward:
        start, edge = onward.popitem()
        edges = [start]
        while edge != start:
            edges.append(edge)
            edge = onward.pop(edge)
        loops.append(_crossings(values, level, np.array(edges)))
    return loops


def _edge(side: int, row: int, column: int) -> _Edge:
    orientation, down, across = _EDGES[side]
    return orientation, row + down, column + across


def _crossings(values: FloatArray, level: float, edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where the map passes the level on each edge: (edges, 2) of (column, row)."""
    along_column, row, column = edges.T
    here = values[row, column].astype(np.float64)
    there = values[row + along_column, column + 1 - along_column].astype(np.float64)
    share = (level - here) / (there - here)
    return np.stack([column + share * (1 - along_column), row + share * along_column], axis=1)


def _area(points: NDArray[np.float64]) -> float:
    x, y = points[:, 0], points[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
