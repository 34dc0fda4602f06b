"""The dashboard and the alert rules: they ask only for what the node tells, in states that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from db.states import DeliveryState, InstanceState, JobState, PerformanceState
from node.settings import Peer, Settings
from node.web.app import create_app
from node.web.figures import QUANTILES, STAGES
from tests.support.web import site

MONITORING = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
STATES = {
    "radnode_jobs": JobState,
    "radnode_deliveries": DeliveryState,
    "radnode_instances": InstanceState,
    "radnode_ups_performed": PerformanceState,
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all metrics of a node with a peer."""
    with site(tmp_path_factory.mktemp("site")) as made:
        peers = {"pacs": Peer(ae_title="PACS", host="127.0.0.1", silent_after_min=5)}
        made.settings = Settings(data_dir=made.settings.data_dir, peers=peers)
        made.app = create_app(made.settings, made.record)
        text = made.browser().get("/metrics").text
    return {family.name for family in text_string_to_metric_families(text)}


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((MONITORING / "radnode.rules.yaml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((MONITORING / "radnode.grafana.json").read_text(encoding="utf-8"))
    return document


def expressions() -> list[str]:
    shown = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    asked = [str(one["query"]) for one in dashboard()["templating"]["list"]]
    return [*shown, *asked, *(rule["expr"] for rule in rules())]


def test_only_metrics_that_exist_are_asked_for(told: set[str]) -> None:
    asked = {name for text in expressions() for name in re.findall(r"radnode_[a-z0-9_]+", text)}
    assert len(asked) > 8
    assert asked - told == set()


def test_states_stages_and_quantiles_that_are_asked_for_exist() -> None:
    for text in expressions():
        for name, labels in re.findall(r"(radnode_[a-z0-9_]+)\{([^}]*)\}", text):
            for label, values in re.findall(r'(\w+)=~?"([^"]*)"', labels):
                if label == "state":
                    assert set(values.split("|")) <= {state.value for state in STATES[name]}, text
                if label == "stage":
                    assert values in STAGES
                if label == "quantile":
                    assert float(values) in QUANTILES


def test_every_alert_says_what_to_do_and_how_grave_it_is() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) > 8
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
        assert re.fullmatch(r"\d+m", rule["for"])


def test_no_two_panels_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
