"""Deployment files, as far as they can be checked without Docker and a hospital."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml

from db.errors import ConfigError
from node.settings import Settings, load

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.*"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMMANDS = {entry.name for entry in entry_points(group="radnode.commands")}
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "ORTHANC_PASSWORD")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("RADNODE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return document


def uncommented(text: str) -> str:
    """Settings are commented out by a # without a space."""
    return re.sub(r"^#(?=[\[a-z])", "", text, flags=re.MULTILINE)


# --- settings -----------------------------------------------------------------------------------------------------


def test_the_settings_file_changes_nothing_as_it_is() -> None:
    assert load(DEPLOY / "radnode.toml") == load(None)


def test_the_settings_file_loads_with_everything_uncommented(tmp_path: Path) -> None:
    file = tmp_path / "radnode.toml"
    file.write_text(uncommented((DEPLOY / "radnode.toml").read_text(encoding="utf-8")), encoding="utf-8")
    settings = load(file)
    assert [route.destinations for route in settings.routes] == [("pacs",)]
    plain = load(None)
    for section in ("limits", "access", "completeness", "delivery", "work"):
        assert getattr(settings, section) == getattr(plain, section)


def test_the_settings_file_lists_every_setting() -> None:
    document = tomllib.loads(uncommented((DEPLOY / "radnode.toml").read_text(encoding="utf-8")))

    def missing(model: Any, found: dict[str, Any], prefix: str = "") -> list[str]:
        names = []
        for name, field in model.model_fields.items():
            if name not in found:
                names.append(prefix + name)
            elif isinstance(found[name], dict) and hasattr(field.annotation, "model_fields"):
                names += missing(field.annotation, found[name], f"{prefix}{name}.")
        return names

    assert missing(Settings, document) == []


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "radnode.toml"
    file.write_text("[limits]\nmax_asociations = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="max_asociations"):
        load(file)


def test_the_compose_nodes_settings_let_in_known_peers_only() -> None:
    settings = load(DEPLOY / "compose" / "radnode.toml")
    assert settings.access.known_peers_only
    assert settings.peers["pacs"].ae_title == "ORTHANC"


# --- images -------------------------------------------------------------------------------------------------------


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    joined = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_there_is_an_image_for_node_workers_and_gpu_workers() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile.node", "Dockerfile.worker", "Dockerfile.worker-gpu"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_every_copied_file_exists(dockerfile: Path) -> None:
    sources = [
        source
        for word, rest in instructions(dockerfile)
        if word == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    ]
    assert {"pyproject.toml", "db", "models", "node", "workers"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_without_root_are_checked_and_hold_no_secret(dockerfile: Path) -> None:
    found = instructions(dockerfile)
    words = [word for word, _ in found]
    users = [rest for word, rest in found if word == "USER"]
    assert users == ["10001:10001"]
    assert words.index("USER") > len(words) - 1 - words[::-1].index("RUN")
    assert "HEALTHCHECK" in words
    assert any("--require-hashes" in rest for word, rest in found if word == "RUN")
    text = dockerfile.read_text(encoding="utf-8")
    assert not re.search(r"(?i)password|secret|token", text)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_image_commands_exist(dockerfile: Path) -> None:
    used = re.findall(r'"radnode", "([a-z]+)"|bin/radnode ([a-z]+)', dockerfile.read_text(encoding="utf-8"))
    assert used
    assert {first or second for first, second in used} <= COMMANDS


# --- compose ------------------------------------------------------------------------------------------------------


def test_every_service_runs_a_command_that_exists(compose: dict[str, Any]) -> None:
    ours = [service for service in compose["services"].values() if "radnode" in service["image"]]
    assert {service["command"][1] for service in ours} >= {"listener", "keeper", "web", "worker", "db"}
    for service in ours:
        assert service["command"][0] == "radnode"
        assert service["command"][1] in COMMANDS


def test_each_service_starts_with_the_settings_of_its_environment(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = {}
    for name, service in compose["services"].items():
        if "radnode" not in service["image"]:
            continue
        with monkeypatch.context() as environment:
            for variable, value in service["environment"].items():
                environment.setenv(variable, re.sub(r"\$\{\w+:\?[^}]*\}", "secret", value))
            loaded[name] = load(DEPLOY / "compose" / "radnode.toml")
    assert {name for name, settings in loaded.items() if settings.hl7.listener.enabled} == {"hl7"}
    listener = loaded["hl7"].hl7.listener
    (published,) = compose["services"]["hl7"]["ports"]
    assert published.endswith(f":{listener.port}")
    assert (listener.host, compose["services"]["hl7"]["profiles"]) == ("0.0.0.0", ["hl7"])
    assert loaded["worker-gpu"].work.accelerator == "gpu"
    assert "secret@postgres" in loaded["listener"].record_url


def test_nothing_is_published_beyond_loopback(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_no_password_has_a_default(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    for name in SECRETS:
        assert re.findall(rf"\$\{{{name}\}}|\$\{{{name}:-", text) == []
        assert f"${{{name}:?" in text
    example = (DEPLOY / "compose" / "env.example").read_text(encoding="utf-8")
    assert re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE) == [(name, "") for name in SECRETS]


def test_our_containers_are_confined(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert not service.get("privileged"), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"cap_add", "devices", "pid", "ipc", "network_mode"} & set(service), name
        if "radnode" not in service["image"]:
            continue
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["user"] == "10001:10001", name
        # What is written goes to the data volume or to memory.
        assert service["tmpfs"] == ["/tmp"], name
        assert [v for v in service["volumes"] if not v.endswith(":ro")] == ["data:/var/lib/radnode"], name


def test_the_parts_of_the_compose_file_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        if "build" in service:
            context = (DEPLOY / service["build"]["context"]).resolve()
            assert context == ROOT
            assert (context / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"]
        for other in service.get("depends_on", {}):
            assert other in compose["services"]


def test_record_and_broker_outlive_their_containers_and_are_waited_for(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert "--appendonly yes" in services["redis"]["command"][-1]
    for name in ("postgres", "redis"):
        assert services[name]["healthcheck"]["test"]
        assert services[name]["volumes"]
    assert services["listener"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize("path", sorted(p for p in DEPLOY.rglob("*") if p.is_file()), ids=lambda path: path.name)
def test_no_registry_host_is_named(path: Path) -> None:
    assert not re.search(r"(?i)\b[\w.-]+\.(?:io|com|org|dev)/[\w./-]+:[\w.]+", path.read_text(encoding="utf-8"))


# --- systemd ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_start_commands_that_exist_and_confine_them(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    started = re.search(r"^ExecStart=\S+/radnode ([a-z]+) ", text, re.MULTILINE)
    assert started is not None
    assert started.group(1) in COMMANDS
    for line in ("User=radnode", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=", "UMask=0077"):
        assert line in text.splitlines()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_understands_the_units(unit: Path, tmp_path: Path) -> None:
    # What is started is not installed here; everything else of the unit is judged as it stands.
    copy = tmp_path / unit.name
    text = unit.read_text(encoding="utf-8")
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
