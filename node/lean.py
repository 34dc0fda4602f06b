"""Keeping decoders out of a process that decodes nothing.

pydicom looks for NumPy and for every decoder as soon as it is imported, and keeps what it finds: 40 MB and a quarter of
a second, in a listener that never looks at a pixel.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# `requests` is there for pydicom's own test files.
_UNUSED = ("PIL", "gdcm", "jpeg_ls", "numpy", "openjpeg", "pylibjpeg", "requests", "rle")
# What decodes a transfer syntax, any one of a row; those that are not here need NumPy alone, or nothing.
_DECODED_BY: dict[str, tuple[str, ...]] = {
    "1.2.840.10008.1.2.4.50": ("gdcm", "PIL"),
    "1.2.840.10008.1.2.4.51": ("gdcm", "PIL"),
    "1.2.840.10008.1.2.4.57": ("gdcm",),
    "1.2.840.10008.1.2.4.70": ("gdcm",),
    "1.2.840.10008.1.2.4.80": ("gdcm", "jpeg_ls"),
    "1.2.840.10008.1.2.4.81": ("gdcm", "jpeg_ls"),
    "1.2.840.10008.1.2.4.90": ("gdcm", "openjpeg", "PIL"),
    "1.2.840.10008.1.2.4.91": ("gdcm", "openjpeg", "PIL"),
    "1.2.840.10008.1.2.4.201": ("openjpeg",),
    "1.2.840.10008.1.2.4.202": ("openjpeg",),
    "1.2.840.10008.1.2.4.203": ("openjpeg",),
}


class _NotInstalled(MetaPathFinder):
    """Says of the unused that there are none.

    None in `sys.modules` would say so, too, but psycopg looks NumPy up there and takes what it finds for the module.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in _UNUSED:
            raise ModuleNotFoundError(f"{fullname} is of no use in this process", name=fullname)
        return None


def keep_decoders_out() -> None:
    """For this process, before anything imports pydicom: to all that asks, they are not installed.

    Every one of pydicom's attempts to import them allows for that.
    """
    sys.meta_path.insert(0, _NotInstalled())


def is_decodable(transfer_syntax_uid: str) -> bool:
    """Whether a decoder for it is installed, without loading one."""
    decoders = _DECODED_BY.get(transfer_syntax_uid)
    return decoders is None or any(PathFinder.find_spec(name) is not None for name in decoders)
