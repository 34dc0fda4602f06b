"""Writes what the documents say about settings, commands, statuses and syntaxes from the code that decides it.

``python docs/generate.py`` renews `deploy/radnode.toml` and the marked parts of the documents;
``python docs/generate.py --check`` says which of them are out of date and exits 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from db.session import Record
from db.states import TRANSITIONS
from docs import conformance_tables
from models.registry import SHIPPED
from node.cli.main import GROUP, SUMMARIES
from node.rules import Match, Route
from node.settings import Peer, Settings
from node.settings_fhir import FhirDestination
from node.settings_hl7 import Hl7Destination
from node.settings_ups import UpsManager
from node.statuses import Status
from node.syntaxes import readable_sop_classes
from node.web.app import create_app
from node.web.permissions import ROLE_PERMISSIONS, Permission, Role

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- generated: {} -->", "<!-- end of {} -->"

# Shown in deploy/radnode.toml for settings whose default is "none": TOML has no word for it.
EXAMPLES: dict[str, Any] = {
    "tls.certificate": "/etc/radnode/tls/node.pem",
    "tls.private_key": "/etc/radnode/tls/node.key",
    "tls.ca": "/etc/radnode/tls/peers.pem",
    "audit.ca": "/etc/radnode/tls/collector-ca.pem",
    "audit.certificate": "/etc/radnode/tls/node.pem",
    "audit.private_key": "/etc/radnode/tls/node.key",
    "audit.anchor_file": "/mnt/append-only/radnode-anchors.jsonl",
    "web.certificate": "/etc/radnode/tls/web.pem",
    "web.private_key": "/etc/radnode/tls/web.key",
    "web.oidc.client_secret_file": "/etc/radnode/oidc-secret",
    "web.oidc.ca": "/etc/radnode/tls/identity-provider.pem",
}
PEER_EXAMPLE: dict[str, Any] = {"ae_title": "PACS", "host": "pacs.example.org", "silent_after_min": 120.0}
UPS_EXAMPLE: dict[str, Any] = {"peer": "pacs", "station": "RADNODE"}
FHIR_EXAMPLE: dict[str, Any] = {
    "url": "https://fhir.example.org/R4",
    "token_file": "/etc/radnode/fhir-token",
    "ca": "/etc/radnode/tls/fhir-ca.pem",
}
HL7_EXAMPLE: dict[str, Any] = {"host": "ris.example.org", "tls": True}
MATCH_EXAMPLE: dict[str, Any] = {
    "modality": ["CR", "DX"],
    "body_part": ["CHEST", "THORAX", ""],
    "study_description": "chest|thorax",
    "series_description": "pa|ap",
    "protocol_name": "chest",
    "min_age_years": 0.0,
    "max_age_years": 120.0,
}
ROUTE_EXAMPLE: dict[str, Any] = {
    "name": "chest-radiographs",
    "models": ["cxr-pneumonia"],
    "destinations": ["pacs"],
    "mode": "instance",
    "quiet_period_s": 60.0,
    "deadline_s": 1800.0,
}

FIGURES = {"auroc": "AUROC", "sensitivity": "sensitivity", "specificity": "specificity", "brier": "Brier score"}

STATUS_MEANINGS = {
    Status.SUCCESS: (
        "all",
        (
            "Durable and recorded. Of C-STORE also for an object already held, and for another one under its UID, "
            "which is set aside."
        ),
    ),
    Status.INVALID_VALUE: ("N-CREATE, N-SET, N-ACTION", "A UID is none, or a procedure step does not begin as such."),
    Status.PROCESSING_FAILURE: (
        "N-EVENT-REPORT, N-CREATE, N-SET, N-ACTION",
        "It could not be read, or not be written down now; an N-SET also where the procedure step has ended.",
    ),
    Status.DUPLICATE_INSTANCE: ("N-CREATE", "A notice of that UID is known already."),
    Status.NO_SUCH_INSTANCE: (
        "N-EVENT-REPORT, N-SET, N-ACTION",
        (
            "A report on a transaction this node never asked for; a procedure step that was not begun here. As Failure "
            "Reason: the instance is not held, or is in quarantine."
        ),
    ),
    Status.INVALID_INSTANCE: ("C-STORE, N-CREATE, N-SET, N-ACTION", "The SOP Instance UID is empty or no UID."),
    Status.INVALID_ARGUMENT: (
        "N-ACTION of work items",
        "The state asked for is none, or the AE title to tell is missing.",
    ),
    Status.NO_SUCH_CLASS: ("of work items", "Every work item is of the class UPS Push."),
    Status.MISSING_VALUE: ("of work items", "An attribute that must have a value has none."),
    Status.RESOURCE_LIMITATION: (
        "of work items",
        "The data set is longer than 512 KiB, the worklist is full (`ups.most_open`), or the disk is: try again later.",
    ),
    Status.CLASS_INSTANCE_CONFLICT: ("none", "Failure Reason in commitment reports: the instance is of another class."),
    Status.MISSING_ATTRIBUTE: (
        "N-CREATE, N-ACTION",
        "A UID, the step's status or its scheduled attributes are missing.",
    ),
    Status.CLASS_NOT_SUPPORTED: (
        "C-STORE",
        "The command's SOP class is not the one negotiated for its presentation context.",
    ),
    Status.NO_SUCH_ACTION: ("N-ACTION", "Storage commitment knows action type 1 only."),
    Status.NOT_AUTHORISED: (
        "N-ACTION",
        (
            "No peer entry names the AE that asks for commitment, so that it could not be told. Who may not send gets "
            "no association."
        ),
    ),
    Status.UNRECOGNISED_OPERATION: ("any other request", "The node serves the operations of this table only."),
    Status.OUT_OF_RESOURCES: (
        "C-STORE",
        "Disk below `limits.min_free_bytes`, or no record: try again.",
    ),
    Status.MISMATCH: ("C-STORE", "The data set is not of the class or instance that the command names."),
    Status.CANNOT_UNDERSTAND: ("C-STORE", "No readable data set, too large, cut short, or UIDs are missing."),
}


def sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, FieldInfo]]:
    """(section, name, field) of every plain setting, a section's own settings before its sub-sections."""
    nested = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.append((f"{prefix}{name}", field.annotation))
        elif name not in {"peers", "routes", "destinations", "managers"}:
            yield prefix.rstrip("."), name, field
    for name, section in nested:
        yield from sections(section, f"{name}.")


def default_of(field: FieldInfo) -> Any:
    """A field's default as TOML could hold it; None where it has none or it is "none"."""
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True, validated_data={})
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def toml_value(value: Any) -> str:
    """A value in TOML. Raises TypeError for what it cannot hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"no TOML for {type(value).__name__}")


def settings_toml() -> str:
    """`deploy/radnode.toml`: every setting with its default, commented out by a # without a space after it.

    Headings of sections stand as they are: an uncommented setting must not slip into the section before.
    """
    lines = [
        "# Settings of radnode. What is commented out shows the default, or an example where there is none.",
        "# RADNODE_… environment variables outweigh this file: RADNODE_DICOM_PORT, RADNODE_LIMITS__MAX_ASSOCIATIONS.",
        "# `radnode config check --config FILE` reads it as `radnode serve` would.",
        "# Written by docs/generate.py from node/settings.py.",
    ]
    current = ""
    for section, name, field in sections(Settings):
        if section != current:
            current = section
            lines += ["", f"[{section}]"]
        key = f"{section}.{name}" if section else name
        lines += ["", *_setting(name, field, EXAMPLES.get(key))]
    lines += [
        "",
        "",
        "# A DICOM peer: a PACS, an archive, a workstation. Its name is for routes and commands.",
        "#[peers.pacs]",
    ]
    for name, field in Peer.model_fields.items():
        lines += ["", *_setting(name, field, PEER_EXAMPLE.get(name))]
    lines += [
        "",
        "",
        "# A system that gets results as HL7 v2 messages. Its name is for routes and commands.",
        "#[hl7.destinations.ris]",
    ]
    for name, field in Hl7Destination.model_fields.items():
        lines += ["", *_setting(name, field, HL7_EXAMPLE.get(name))]
    lines += [
        "",
        "",
        "# A FHIR R4 server that gets results as transactions. Its name is for routes and commands.",
        "#[fhir.destinations.repository]",
    ]
    for name, field in FhirDestination.model_fields.items():
        lines += ["", *_setting(name, field, FHIR_EXAMPLE.get(name))]
    lines += [
        "",
        "",
        "# A worklist manager whose work items (UPS) this node performs.",
        "#[ups.managers.ris]",
    ]
    for name, field in UpsManager.model_fields.items():
        lines += ["", *_setting(name, field, UPS_EXAMPLE.get(name))]
    lines += [
        "",
        "",
        "# A routing rule. The first that matches an image takes it, unless route_match is all.",
        "#[[routes]]",
    ]
    for name, field in Route.model_fields.items():
        if name != "match":
            lines += ["", *_setting(name, field, ROUTE_EXAMPLE.get(name))]
    lines += [
        "",
        '# All conditions that are given must hold. Lists hold alternatives, * any ending, "" an absent value.',
    ]
    lines.append("#[routes.match]")
    for name, field in Match.model_fields.items():
        lines += ["", *_setting(name, field, MATCH_EXAMPLE.get(name))]
    return "\n".join(lines) + "\n"


def _setting(name: str, field: FieldInfo, example: Any) -> list[str]:
    value = default_of(field) if example is None else example
    allowed = allowed_values(field)
    comment = f"# {field.description}{f' {allowed}.' if allowed else ''}"
    if example is not None and not field.is_required() and default_of(field) != example:
        default = default_of(field)
        comment += f" Default: {'none' if default is None else toml_value(default)}."
    return [comment, f"#{name} = {toml_value(value)}"]


def allowed_values(field: FieldInfo) -> str:
    """A field's bounds or choices, in words; "" where anything goes."""
    choices = [value for part in _parts(field.annotation) if get_origin(part) is Literal for value in get_args(part)]
    if choices:
        return "One of " + ", ".join(str(choice) for choice in choices)
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    bounds = [
        f"{word} {getattr(rule, bound)}"
        for rule in field.metadata
        for bound, word in words.items()
        if getattr(rule, bound, None) is not None
    ]
    return ", ".join(bounds)[:1].upper() + ", ".join(bounds)[1:]


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


def settings_tables() -> str:
    """Every setting as Markdown, one table a section."""
    rows: dict[str, list[tuple[str, str, str, str]]] = {}
    for section, name, field in sections(Settings):
        variable = "RADNODE_" + (f"{section}__{name}" if section else name).upper()
        rows.setdefault(section, []).append((f"`{name}`", _shown(field), f"`{variable}`", _meaning(field)))
    parts = []
    for section, entries in rows.items():
        parts.append(f"### {f'`[{section}]`' if section else 'At the top'}\n")
        parts.append(
            _table(
                ("setting", "default", "environment", "meaning"), [(f"`{a}`", b, f"`{c}`", d) for a, b, c, d in entries]
            )
        )
    for title, model in (
        ("`[peers.NAME]`", Peer),
        ("`[hl7.destinations.NAME]`", Hl7Destination),
        ("`[fhir.destinations.NAME]`", FhirDestination),
        ("`[ups.managers.NAME]`", UpsManager),
        ("`[[routes]]`", Route),
        ("`[routes.match]`", Match),
    ):
        parts.append(f"### {title}\n")
        fields = [(n, f) for n, f in model.model_fields.items() if n != "match"]
        parts.append(_table(("setting", "default", "meaning"), [(f"`{n}`", _shown(f), _meaning(f)) for n, f in fields]))
    return "\n".join(parts)


def _shown(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = default_of(field)
    return "none" if value is None else f"`{toml_value(value)}`"


def _meaning(field: FieldInfo) -> str:
    allowed = allowed_values(field)
    return f"{field.description}{f' {allowed}.' if allowed else ''}".replace("|", "\\|")


def commands() -> str:
    """Every command with its arguments and options, as Markdown."""
    parts: list[str] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        app: typer.Typer = entry.load()
        command = typer.main.get_command(app)
        parts.extend(_command(f"radnode {entry.name}", command, SUMMARIES.get(entry.name, "")))
    return "\n".join(parts)


def _command(path: str, command: Any, summary: str = "") -> Iterator[str]:
    text = (command.help or summary or "").strip().split("\n\n")[0].replace("\n", " ")
    yield f"### `{path}`\n\n{text}\n"
    rows = [_parameter(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    rows = [row for row in rows if row[0] not in {"`--install-completion`", "`--show-completion`"}]
    if rows:
        yield _table(("argument or option", "default", "meaning"), rows)
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _command(f"{path} {name}", child)


def _parameter(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        name = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
    default = parameter.default
    if parameter.required:
        shown = "must be given"
    elif default in (None, False, "", ()) or callable(default):
        shown = ""
    else:
        shown = f"`{default}`"
    return name, shown, (getattr(parameter, "help", "") or "").replace("|", "\\|")


def transitions() -> str:
    """The legal changes of state, as lists."""
    parts = []
    for kind, pairs in TRANSITIONS.items():
        targets: dict[str, list[str]] = {}
        for state in kind:
            targets[state.value] = [other.value for other in kind if (state, other) in pairs]
        rows = [(f"`{state}`", ", ".join(f"`{t}`" for t in to) or "stays") for state, to in targets.items()]
        parts.append(f"**{kind.__name__.removesuffix('State')}**\n\n" + _table(("from", "to"), rows))
    return "\n".join(parts)


def figures() -> str:
    """The shipped bundle's own figures on its test part, by source, with 95 % intervals."""
    manifest = json.loads((SHIPPED / "cxr-pneumonia/model.json").read_text(encoding="utf-8"))
    test = manifest["evaluation"]["test"]
    rows = [
        (f"`{source}`", str(found["images"]), str(found["patients"]), *(_figure(found[name]) for name in FIGURES))
        for source, found in test["sources"].items()
    ]
    head = ("source", "images", "patients", *FIGURES.values())
    told = f"Version {manifest['version']}, threshold {test['threshold']:g}; intervals: {test['interval']}.\n\n"
    return told + _table(head, rows)


def _figure(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def permissions() -> str:
    """The rights of each role."""
    rows = [
        (f"`{one.value}`", *("yes" if one in ROLE_PERMISSIONS[role] else "" for role in Role)) for one in Permission
    ]
    return _table(("right", *(role.value for role in Role)), rows)


def openapi() -> str:
    """The description of the API."""
    # Nothing is asked of the record, so it need not be there.
    app = create_app(Settings(), Record("postgresql://nowhere"))
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "docs/configuration.md": {"settings": settings_tables},
    "docs/cli.md": {"commands": commands},
    "docs/conformance.md": conformance_tables.parts(STATUS_MEANINGS, readable_sop_classes()),
    "docs/models.md": {"figures": figures},
    "docs/architecture.md": {"transitions": transitions},
    "docs/web.md": {"permissions": permissions},
}


def renewed(text: str, name: str, content: str) -> str:
    """A document with the marked part `name` replaced. Raises ValueError where it has no such part."""
    begin, end = BEGIN.format(name), END.format(name)
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"there is no part between {begin} and {end}")
    return f"{before}{begin}\n\n{content}\n{end}{after}"


def generate() -> dict[Path, str]:
    """Every generated file as it should be."""
    files = {ROOT / "deploy/radnode.toml": settings_toml(), ROOT / "docs/openapi.json": openapi()}
    for document, parts in PARTS.items():
        path = ROOT / document
        text = path.read_text(encoding="utf-8")
        for name, make in parts.items():
            text = renewed(text, name, make())
        files[path] = text
    return files


def main() -> int:
    """Write, or with --check only compare."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [
        path for path, text in generate().items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if not check:
            path.write_text(generate()[path], encoding="utf-8")
        sys.stderr.write(f"{path.relative_to(ROOT)} {'is out of date' if check else 'renewed'}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
