"""The version that results and logs name."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("radnode")
    except PackageNotFoundError:
        return "0+unknown"


VERSION = _installed()
