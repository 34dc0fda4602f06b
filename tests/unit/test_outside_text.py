"""What a peer may write reaches paths, queries, log lines and metrics as data only."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

from db import audit, circuits, schema
from db.audit import Wanted
from db.session import Record
from db.worklist import Filter
from node import storage
from node.settings import Settings
from node.uids import valid_uid
from node.web import wording
from node.web.identity import Principal
from node.web.metrics import render
from node.web.pages import Pages
from node.web.permissions import Permission
from node.web.rows import Line
from node.web.worklist import Wanted as Wish

ROOT = Path(__file__).parents[2]
HOSTILE = st.text(
    alphabet=st.one_of(
        st.sampled_from("\r\n\t\0\x1b\x85\"'`\\;%_-*]<>&[]{}$/.:=\u2028\u202e\ufeff\ud800\udfff"), st.characters()
    ),
    max_size=80,
)
_PROCESS = """
import json, logging, sys
import structlog
from node import logs
from node.settings import Settings

logs.configure(Settings(log_format=sys.argv[1]))
for text in json.load(sys.stdin):
    structlog.get_logger("node.example").info("told", calling_ae=text, names=[text], sop_instance_uid=text)
    logging.getLogger("library").warning("from outside: %s", text)
    structlog.get_logger("node.example").info("told " + text)
"""


@settings(max_examples=300, deadline=None)
@given(identity=HOSTILE)
def test_no_path_is_made_of_it(identity: str) -> None:
    for kind in (storage.INSTANCES, storage.RESULTS):
        path = storage.derived_path(kind, identity)
        assert not path.is_absolute()
        assert path.parts[0] == kind
        assert len(path.parts) == 3
        assert set("".join(path.parts[1:])) <= set("0123456789abcdef.dcm")


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(HOSTILE, st.from_regex(r"[0-9.]{0,70}", fullmatch=True)))
def test_what_counts_as_a_uid_is_nothing_but_digits_and_dots(text: str) -> None:
    if valid_uid(text):
        assert 0 < len(text) <= 64
        assert text.isascii()
        assert set(text) <= set("0123456789.")
        assert ".." not in text


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(HOSTILE, min_size=20, max_size=40))
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_one_event_is_one_line_of_the_log(log_format: str, texts: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS, log_format],
        cwd=ROOT,
        input=json.dumps(texts).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.decode("utf-8").splitlines()
    assert len(lines) == 3 * len(texts), "no text of a peer begins a line of its own"
    assert "\x1b" not in done.stderr.decode()
    if log_format == "json":
        for line in lines:
            assert json.loads(line)["level"] in {"info", "warning"}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    made = Record(f"sqlite:///{tmp_path_factory.mktemp('record') / 'record.db'}")
    schema.upgrade(made)
    return made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actor=HOSTILE, subject=HOSTILE)
def test_a_query_takes_it_as_a_value(record: Record, actor: str, subject: str) -> None:
    with record.write() as session:
        audit.note(session, "login", actor=actor, subject=subject)
    asked = Wanted(actor=audit.clean(actor, 128), subject=audit.clean(subject, 128))
    with record.read() as session:
        found = list(audit.entries(session, asked))
        total = sum(1 for _ in audit.entries(session, Wanted()))
    assert found
    assert all((one.actor, one.subject) == (asked.actor or one.actor, asked.subject or one.subject) for one in found)
    assert total >= len(found)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=HOSTILE)
def test_a_metric_takes_it_as_a_label(record: Record, tmp_path: Path, name: str) -> None:
    """Labels are states and names of the settings, which allow less; the format holds even for more."""
    wanted = audit.clean(name, 64)
    with record.write() as session:
        circuits.note_failure(session, wanted, threshold=1, open_s=60)
    told = render(Settings(data_dir=tmp_path), record).decode()
    families = {family.name: family for family in text_string_to_metric_families(told)}
    assert wanted in {sample.labels["destination"] for sample in families["radnode_circuit_open"].samples}
    assert all(family.startswith("radnode_") for family in families)
    with record.write() as session:
        circuits.note_success(session, wanted)


class Read(HTMLParser):
    """A page's elements in order with the names of their attributes, and the text of each `bdi`, which hold what peers
    wrote."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.outside: list[str] = []
        self._within = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        self._within = tag == "bdi"
        if self._within:
            self.outside.append("")

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(("/", tag))
        self._within = False

    def handle_data(self, data: str) -> None:
        if self._within:
            self.outside[-1] += data


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages()


# A response is UTF-8, which has no half of a surrogate pair; the record has none either.
@settings(max_examples=50, deadline=None)
@given(text=HOSTILE.map(lambda text: text.encode(errors="ignore").decode()).filter(bool))
def test_a_page_shows_it_as_text(pages: Pages, text: str) -> None:
    read = Read(worklist_of(pages, text))
    assert read.outside == [wording.person_name(text), text, text, text]
    assert read.elements == Read(worklist_of(pages, "harmless")).elements


def worklist_of(pages: Pages, text: str) -> str:
    """The worklist with one study, in which everything is this text that a peer may write."""
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    line = Line(
        uid="1.2.840.99",
        patient=text,
        patient_id=text,
        accession=text,
        masked=False,
        description=text,
        modalities=(text,),
        body_parts=(text,),
        priority="stat",
        age_s=1.0,
        target_s=60.0,
        late=False,
        state="not-analysed",
        state_text="not analysed",
        reason=text,
        finding=None,
        models="",
        deliveries=(),
        images=1,
        received_at=at,
    )
    answer = pages.render(
        "worklist.html",
        Request({"type": "http", "method": "GET", "path": "/", "headers": [], "server": ("127.0.0.1", 80)}),
        principal=Principal("ada", frozenset(Permission), "csrf"),
        lines=[line],
        wish=Wish(Filter(text=text), None, show=True, limit=50),
        **dict.fromkeys(("next", "newest", "shown", "view"), ""),
        **dict.fromkeys(("maskable", "filtered", "blinded"), False),
        **dict.fromkeys(("states", "priorities", "deliveries", "views"), ()),
        most_views=1,
        now=at,
    )
    return bytes(answer.body).decode()
