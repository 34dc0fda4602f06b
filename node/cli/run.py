"""`radnode serve`, and its part for a service manager that receives: `listener`."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import typer

from node import lean, logs, supervisor
from node.audit import activity
from node.cli.common import Config, open_record
from node.processes import report_ready
from node.settings import load

serve_app = typer.Typer()
listener_app = typer.Typer()


@serve_app.command()
def serve(config: Config = None) -> None:
    """Run the node: listener, sweeper, relay and web; without a broker of yours also broker and worker."""
    settings = load(config)
    logs.configure(settings)
    supervisor.serve(settings, config)


@listener_app.command()
def listener(config: Config = None) -> None:
    """Receive studies."""
    lean.keep_decoders_out()
    from node import listener as node_listener  # noqa: PLC0415 - after that; `serve` is quicker without

    with open_record(config) as (settings, record):
        logs.configure(settings)
        with activity.on_record(settings, "listener"):
            node_listener.run_listener(settings, record, stop_event(), report_ready)


def stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    event = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        event.set()

    signal.signal(signal.SIGTERM, on_signal)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, on_signal)
    return event
