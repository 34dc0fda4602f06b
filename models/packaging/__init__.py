"""Bundles on their way: packed into one zip, signed, and unpacked only after both have been judged.

`keys` are Ed25519 keys in files; `signature` says who vouches for which bytes; `archive` writes a zip and takes only
zips it could have written; `arrays` looks into npz files without believing them; `install` puts them together.
"""

from __future__ import annotations

from models.packaging.archive import Limits
from models.packaging.install import Packed, Unpacked, pack, unpack

__all__ = ["Limits", "Packed", "Unpacked", "pack", "unpack"]
