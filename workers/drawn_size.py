"""How large a source is drawn in a picture with a map: for who draws it, and for who takes the anatomy out again."""

from __future__ import annotations

WIDTH = 1024
"""Pixels of every picture with a map, whatever lies beside the anatomy."""

_TALLEST = 1536


def drawn_size(rows: int, columns: int) -> tuple[int, int]:
    """(width, height) in pixels of a source of that many rows and columns, its proportions kept."""
    scale = min(WIDTH / columns, _TALLEST / rows)
    return max(1, round(columns * scale)), max(1, round(rows * scale))
