"""The demo's node: `radnode serve` as a child, with settings and data in a temporary folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from node.settings import Settings, broker_socket, load
from workers.demo.pacs import Address, DemoError
from workers.demo.process import Process

START_TIMEOUT_S = 90.0
STOP_GRACE_S = 60.0
MODEL_CACHE = "RADNODE_MODEL_CACHE"

_SETTINGS = """\
# Written by `radnode demo`.
data_dir = {data_dir}
ae_title = {ae_title}
dicom_port = {dicom_port}
web_port = {web_port}
log_format = "json"

[limits]
min_free_bytes = 100000000

[completeness]
sweep_interval_s = 0.2

[peers.pacs]
ae_title = {pacs_ae_title}
host = {pacs_host}
port = {pacs_port}

[[routes]]
name = "chest-radiographs"
models = [{model}]
mode = "instance"
destinations = ["pacs"]
[routes.match]
modality = ["CR", "DX"]
body_part = ["CHEST"]
"""


class Node:
    """A node of its own in `folder`: nothing of the user's settings, data or ports is touched."""

    def __init__(self, folder: Path, address: Address, web_port: int, pacs: Address, model: str) -> None:
        self.folder = folder
        self.address = address
        self.settings_file = folder / "radnode.toml"
        values = {
            "data_dir": str(folder / "data"),
            "ae_title": address.ae_title,
            "dicom_port": address.port,
            "web_port": web_port,
            "pacs_ae_title": pacs.ae_title,
            "pacs_host": pacs.host,
            "pacs_port": pacs.port,
            "model": model,
        }
        # A JSON string or number is a TOML one too.
        text = _SETTINGS.format(**{key: json.dumps(value) for key, value in values.items()})
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.settings_file.write_text(text, encoding="utf-8")
        self.settings: Settings = load(self.settings_file)
        argv = [sys.executable, "-P", "-m", "node.cli.main", "serve", "--config", str(self.settings_file)]
        self.process = Process("node", argv, folder / "node.log")

    def start(self) -> None:
        """Start it and wait for its line `ready`. Raises DemoError."""
        self.process.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._ready():
                return
            if self.process.wait(0.1) is not None:
                break
        raise DemoError(f"the node did not start. The end of its log:\n{self.process.log_tail()}")

    def stop(self) -> None:
        self.process.stop(STOP_GRACE_S)
        # Below a deep folder the broker's socket lies elsewhere: its path may have some 100 characters.
        shutil.rmtree(broker_socket(self.settings.data_dir).parent, ignore_errors=True)

    def _ready(self) -> bool:
        for line in self.process.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(event, dict) and event.get("event") == "ready" and "dicom" in event:
                return True
        return False


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def forget_user_settings() -> None:
    """Take `RADNODE_…` out of this process's environment, and so out of its children's: the demo stands alone."""
    for name in list(os.environ):
        if name.upper().startswith("RADNODE_") and name != MODEL_CACHE:
            del os.environ[name]
