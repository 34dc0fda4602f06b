"""The version that results and logs name."""

from __future__ import annotations

from node.version import VERSION

__all__ = ["VERSION"]
