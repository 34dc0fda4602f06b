"""`radnode serve`, and its parts for a service manager: `listener`, `web`."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import typer
import uvicorn

from node import listener as node_listener
from node import logs, supervisor
from node.cli.common import Config, open_record
from node.processes import report_ready
from node.settings import load
from node.web.app import create_app

serve_app = typer.Typer()
listener_app = typer.Typer()
web_app = typer.Typer()


@serve_app.command()
def serve(config: Config = None) -> None:
    """Run the node: listener, sweeper, relay and web; without a broker of yours also broker and worker."""
    settings = load(config)
    logs.configure(settings)
    supervisor.serve(settings, config)


@listener_app.command()
def listener(config: Config = None) -> None:
    """Receive studies."""
    with open_record(config) as (settings, record):
        logs.configure(settings)
        node_listener.run_listener(settings, record, stop_event(), report_ready)


@web_app.command()
def web(config: Config = None) -> None:
    """Health and metrics over HTTP."""
    with open_record(config) as (settings, record):
        logs.configure(settings)
        server = _Server(
            uvicorn.Config(
                create_app(settings, record),
                host=settings.web_host,
                port=settings.web_port,
                log_config=None,
                access_log=False,
            )
        )
        server.run()


class _Server(uvicorn.Server):
    """Says when it listens."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            report_ready()


def stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    event = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        event.set()

    signal.signal(signal.SIGTERM, on_signal)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, on_signal)
    return event
