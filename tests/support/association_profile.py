"""A DCMTK configuration file that offers exactly what some files need, compressed transfer syntaxes included.

Without one `storescu` offers uncompressed transfer syntaxes and gives up on every compressed file.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

PROFILE = "Everything"
_MOST_CONTEXTS = 128
_IMPLICIT_LE = "1.2.840.10008.1.2"


def kinds(files: Iterable[Path]) -> list[tuple[str, str]]:
    """(SOP Class UID, Transfer Syntax UID) pairs of the files that a lenient reader can open."""
    found: dict[tuple[str, str], None] = {}
    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                header = dcmread(path, stop_before_pixels=True, force=True, specific_tags=["SOPClassUID"])
                sop_class = str(header.get("SOPClassUID", ""))
                syntax = str(header.file_meta.get("TransferSyntaxUID", _IMPLICIT_LE)) or _IMPLICIT_LE
            except (InvalidDicomError, AttributeError, ValueError, TypeError, KeyError, OSError, NotImplementedError):
                continue
        if sop_class:
            found[(sop_class, syntax)] = None
    return list(found)


def write_profile(path: Path, pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Write the file; returns the options for `storescu`."""
    chosen = list(pairs)[:_MOST_CONTEXTS]
    syntaxes = list(dict.fromkeys(syntax for _, syntax in chosen))
    lines = ["[[TransferSyntaxes]]"]
    for syntax in syntaxes:
        lines += [f"[Syntax{syntaxes.index(syntax)}]", f"TransferSyntax1 = {syntax}"]
    lines += ["[[PresentationContexts]]", "[Contexts]"]
    lines += [
        f"PresentationContext{number} = {sop_class}\\Syntax{syntaxes.index(syntax)}"
        for number, (sop_class, syntax) in enumerate(chosen, 1)
    ]
    lines += ["[[Profiles]]", f"[{PROFILE}]", "PresentationContexts = Contexts"]
    path.write_text("\n".join(lines) + "\n")
    return ("-xf", str(path), PROFILE)
