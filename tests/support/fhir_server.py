"""A FHIR server at the wire: takes transactions over HTTP, keeps what they put, answers as it is told."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from types import TracebackType
from typing import Any

from node.settings_fhir import FhirDestination

HANG_UP = "hang up"
TAKE = "take"


@dataclass(frozen=True)
class Say:
    """An answer of its own: status, headers, body; None is a body without content."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


class FhirServer:
    """Takes transactions until the block ends. answers: one for each in turn; what is beyond them is taken.

    `sent` is a queue of (headers, transaction) in the order of their coming, `held` what was put, by "Type/id".
    """

    def __init__(
        self,
        answers: Sequence[Say | str] = (),
        *,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        version: str = "4.0.1",
    ) -> None:
        self.sent: Queue[tuple[dict[str, str], Any]] = Queue()
        self.held: dict[str, Any] = {}
        self.answers = list(answers)
        self.version = version
        self._tls = tls
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._server.server_address[1]}/R4"

    def destination(self, **changes: Any) -> FhirDestination:
        """How the settings name it."""
        return FhirDestination(**{"url": self.url, "response_timeout_s": 5.0, **changes})

    def take(self) -> Any:
        """The next transaction that came."""
        return self.sent.get(timeout=20)[1]

    def __enter__(self) -> FhirServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _put(self, bundle: Any) -> Say:
        entries = []
        for one in bundle["entry"]:
            place = one["request"]["url"]
            assert one["request"]["method"] == "PUT"
            entries.append({"response": {"status": "200 OK" if place in self.held else "201 Created"}})
            self.held[place] = one["resource"]
        return Say(200, body={"resourceType": "Bundle", "type": "transaction-response", "entry": entries})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._say(Say(200, body={"resourceType": "CapabilityStatement", "fhirVersion": peer.version}))

            def do_POST(self) -> None:
                bundle = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                peer.sent.put(({name.lower(): value for name, value in self.headers.items()}, bundle))
                answer = peer.answers.pop(0) if peer.answers else TAKE
                if answer == HANG_UP:
                    self.close_connection = True
                    return
                self._say(peer._put(bundle) if isinstance(answer, str) else answer)

            def _say(self, answer: Say) -> None:
                body = b"" if answer.body is None else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/fhir+json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Tests read what came, not a log."""

        return Handler
