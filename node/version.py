"""The version that results, logs and audit messages name."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("radnode")
    except PackageNotFoundError:
        return "0+unknown"


VERSION = _installed()
