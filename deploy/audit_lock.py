"""Asks the database of known vulnerabilities about each package of a lock file, by pip-audit. See docs/security.md.

``python deploy/audit_lock.py [requirements.lock]``. Exit status 0: all of them were looked up, none has a known
vulnerability. 1: some have. 2: some, or all, could not be looked up; that is no clean bill.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 2
_TIMEOUT_S = 300
_MOST_NAMED = 5


def main(arguments: list[str]) -> int:
    """Audit one lock; what was found goes to standard output."""
    lock = arguments[0] if arguments else "requirements.lock"
    command = [sys.executable, "-m", "pip_audit", "--requirement", lock, "--require-hashes", "--disable-pip"]
    options = ["--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        dependencies = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        dependencies, why = [], f"no answer within {_TIMEOUT_S} s"
    except (ValueError, KeyError):
        # It names the cause in its last line.
        dependencies, why = [], (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1][:120]
    else:
        why = ""
    status, text = verdict(dependencies, why)
    sys.stdout.write(f"{lock}: {text}\n")
    return status


def verdict(dependencies: list[dict[str, Any]], why: str = "") -> tuple[int, str]:
    """Exit status and what to tell people, from what pip-audit says of each package."""
    if not dependencies:
        return NOT_AUDITED, f"not audited, the database of vulnerabilities cannot be reached: {why}"
    found = [
        f"{one['name']} {one['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'no release'}"
        for one in dependencies
        for known in one.get("vulns", [])
    ]
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    looked_up = f"{len(dependencies) - len(skipped)} of {len(dependencies)} packages were looked up"
    if found:
        return VULNERABLE, "\n  ".join([f"known vulnerabilities; {looked_up}", *found])
    if skipped:
        named = ", ".join(skipped[:_MOST_NAMED]) + (" …" if len(skipped) > _MOST_NAMED else "")
        return NOT_AUDITED, f"not audited in full: {looked_up}; the database does not know {named}"
    return CLEAN, f"no known vulnerability; {looked_up}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
