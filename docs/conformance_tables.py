"""The tables of docs/conformance.md, taken from the code that negotiates, answers and builds objects.

Objects are described by building them: over samples of every kind of outcome it is looked up which attributes are
there, which are empty, and which hold what the image had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.datadict import dictionary_description
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION, build_context
from pynetdicom.presentation import PresentationContext

from db.domain import ResultRef
from db.identities import Correction, Identity
from db.workitem_rules import UpsStatus
from node import access
from node.services import Service, everything_accepted, provided, used
from node.settings import Delivery, Limits, Settings
from node.statuses import Status
from node.syntaxes import decodable_transfer_syntaxes, storage_sop_classes
from node.upper_layer.association import LIMIT_EXCEEDED
from node.upper_layer.negotiation import APPLICATION_CONTEXT
from tests.support import result_samples as samples
from workers.offers import COMPREHENSIVE_3D_SR, EXPLICIT_LE, KEY_OBJECTS, SR_CLASSES, offers
from workers.results import ResultObject, build_results, codes

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_CONDITIONS = dict.fromkeys(SR_CLASSES["auto"], ", as `sr_sop_class` says") | {
    KEY_OBJECTS: ", `key_objects` of the peer"
}
CORRECTED = "an identity was corrected"
_LONGEST_VALUE = 44
_FIRST_WARNING, _FIRST_FAILURE = 0xB000, 0xC000
Rows = list[tuple[str, ...]]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def overview() -> str:
    """Which network services there are, and in which roles (PS3.2 N.1)."""
    roles: dict[tuple[str, str], set[str]] = {}
    for one in (*provided(), *used()):
        roles.setdefault((one.sop_class_uid, UID(one.sop_class_uid).name), set()).add(one.role)
    made = {uid for uid, _ in offers([(COMPREHENSIVE_3D_SR, EXPLICIT_LE)], "auto")} | {SECONDARY_CAPTURE, KEY_OBJECTS}
    rows = [(UID(uid).name, f"`{uid}`", "yes", "yes") for uid in sorted(made, key=lambda uid: UID(uid).name)]
    rows.append(("the other storage SOP classes (annex B)", "", "by hand (`radnode send`)", "yes"))
    transfer = [("**Transfer**", "", "", ""), *rows]
    groups: dict[str, Rows] = {"Query/Retrieve": [], "Workflow management": [], "Other": []}
    for (uid, name), held in sorted(roles.items(), key=lambda item: item[0][1]):
        if uid:
            row = (name, f"`{uid}`", *("yes" if role in held else "no" for role in ("SCU", "SCP")))
            groups[_group(name)].append(row)
    others = [row for name, held in groups.items() if held for row in ((f"**{name}**", "", "", ""), *held)]
    return table(("SOP class", "UID", "user (SCU)", "provider (SCP)"), [*transfer, *others])


def _group(name: str) -> str:
    if "Query/Retrieve" in name:
        return "Query/Retrieve"
    return "Other" if name.startswith("Verification") else "Workflow management"


def services() -> str:
    """What the node provides, with everything switched on, and what it uses."""
    rows = [
        (one.name, one.role, f"`{one.sop_class_uid}`" if one.sop_class_uid else "annex B", one.operations, one.when)
        for one in (*provided(), *used())
    ]
    return table(("service", "role", "SOP class", "operations", "when"), rows)


def accepted_contexts() -> str:
    """The presentation contexts that the listener accepts, with everything switched on."""
    storage = {uid for uid, _ in storage_sop_classes()}
    rows: Rows = []
    for context in everything_accepted():
        uid = str(context.abstract_syntax)
        if uid not in storage:
            rows.append((UID(uid).name, f"`{uid}`", _names(context.transfer_syntax or ()), _role(context), "none"))
    every = f"all {len(decodable_transfer_syntaxes())} of the list below"
    rows.insert(1, (f"each of the {len(storage)} storage SOP classes of annex B", "", every, "SCP", "none"))
    return table(("abstract syntax", "UID", "transfer syntaxes", "role of the node", "extended negotiation"), rows)


def _role(context: PresentationContext) -> str:
    """Role selection is spoken of from the requestor's side (PS3.7 D.3.3.4)."""
    if not context.scp_role:
        return "SCP"
    return "SCP; SCU by role selection" if context.scu_role else "SCU, by role selection"


def proposed_contexts() -> str:
    """The presentation contexts that the node proposes, by what it asks for."""
    rows: Rows = []
    results = [(COMPREHENSIVE_3D_SR, EXPLICIT_LE), (SECONDARY_CAPTURE, EXPLICIT_LE), (KEY_OBJECTS, EXPLICIT_LE)]
    by_class: dict[str, list[str]] = {}
    for uid, syntax in offers(results, "auto"):
        by_class.setdefault(uid, []).append(syntax)
    for uid, syntaxes in by_class.items():
        rows.append((UID(uid).name, f"`{uid}`", _names(syntaxes), "SCU", f"delivery{_CONDITIONS.get(uid, '')}"))
    rows += [
        (one.name, f"`{one.sop_class_uid}`", _names(proposed_syntaxes(one)), role, one.when) for one, role in proposed()
    ]
    return table(("abstract syntax", "UID", "transfer syntaxes", "role of the node", "when"), rows)


def proposed() -> list[tuple[Service, str]]:
    """What is proposed beside results, and in which role: a provider that reports opens the association itself."""
    asked = [(one, "SCU") for one in used() if one.sop_class_uid and not one.on_their_association]
    return asked + [(one, "SCP, by role selection") for one in provided() if one.on_own_association]


def proposed_syntaxes(one: Service) -> tuple[str, ...]:
    """Of a service that is used: those it names, else those that pynetdicom proposes by itself."""
    return one.syntaxes or tuple(map(str, build_context(one.sop_class_uid).transfer_syntax or ()))


def _names(uids: Iterable[Any]) -> str:
    return ", ".join(UID(str(uid)).name for uid in uids)


def association_parameters() -> str:
    """The parameters of associations that may be told beforehand (PS3.2 N.7.2)."""
    limits, delivery = Limits(), Delivery()
    settings = Settings()
    rows = [
        ("AE title", f"`{settings.ae_title}`", "`ae_title`"),
        ("TCP port", str(settings.dicom_port), "`dicom_port`"),
        ("application context", f"`{APPLICATION_CONTEXT}`", "fixed"),
        ("implementation class UID", f"`{PYNETDICOM_IMPLEMENTATION_UID}`", "fixed; the toolkit's"),
        ("implementation version name", f"`{PYNETDICOM_IMPLEMENTATION_VERSION}`", "fixed; the toolkit's"),
        ("longest PDU received, bytes", str(limits.max_pdu_bytes), "`limits.max_pdu_bytes`"),
        ("associations accepted at once", str(limits.max_associations), "`limits.max_associations`"),
        ("associations opened at once", "one for each destination and delivery process", "`work.deliver_processes`"),
        ("operations outstanding at once", "1; asynchronous operations are not negotiated", "fixed"),
        ("time for the request (ARTIM), s", f"{limits.acse_timeout_s:g}", "`limits.acse_timeout_s`"),
        ("time for the rest of a message, s", f"{limits.dimse_timeout_s:g}", "`limits.dimse_timeout_s`"),
        ("idle time until an association is aborted, s", f"{limits.network_timeout_s:g}", "`limits.network_timeout_s`"),
        ("longest data set, bytes", str(limits.max_dataset_bytes), "`limits.max_dataset_bytes`"),
        ("time to connect to a peer, s", f"{delivery.connect_timeout_s:g}", "`delivery.connect_timeout_s`"),
        ("time for a peer's answer, s", f"{delivery.response_timeout_s:g}", "`delivery.response_timeout_s`"),
        (
            "an opened association is kept idle for, s",
            f"{delivery.association_idle_s:g}",
            "`delivery.association_idle_s`",
        ),
        ("called AE title is checked", _yes(settings.access.check_called_ae), "`access.check_called_ae`"),
        (
            "calling AE title and address are checked",
            _yes(settings.access.known_peers_only),
            "`access.known_peers_only`",
        ),
        ("TLS", "off", "`tls.certificate`; beyond loopback needed unless waived"),
    ]
    return table(("parameter", "default", "configured by"), rows)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@dataclass(frozen=True)
class RejectionRow:
    """result, source, diagnostic: of A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    result: int
    source: int
    diagnostic: int
    name: str
    when: str


REJECTIONS = (
    RejectionRow(
        access.REJECTED_PERMANENT,
        access.SERVICE_USER,
        access.CALLED_AE_NOT_RECOGNISED,
        "called AE title not recognised",
        "another AE title is called (`access.check_called_ae`)",
    ),
    RejectionRow(
        access.REJECTED_PERMANENT,
        access.SERVICE_USER,
        access.CALLING_AE_NOT_RECOGNISED,
        "calling AE title not recognised",
        "no peer entry names it with its address (`access.known_peers_only`)",
    ),
    RejectionRow(1, 1, 2, "application context not supported", "it is not DICOM's"),
    RejectionRow(1, 2, 2, "protocol version not supported", "bit 0 of it is not set"),
    RejectionRow(
        LIMIT_EXCEEDED.result,
        LIMIT_EXCEEDED.source,
        LIMIT_EXCEEDED.diagnostic,
        "local limit exceeded",
        "`limits.max_associations` are open; try again",
    ),
)


def rejections() -> str:
    """When an association is rejected."""
    words = {1: "rejected, permanent", 2: "rejected, transient"}
    rows = [
        (f"{one.result} ({words[one.result]})", str(one.source), f"{one.diagnostic} ({one.name})", one.when)
        for one in REJECTIONS
    ]
    return table(("result", "source", "reason", "when"), rows)


def statuses(meanings: dict[Status, tuple[str, str]]) -> str:
    """What is answered, and when."""
    rows = [(f"`{int(s):#06x}`", s.name.replace("_", " ").lower(), *meanings[s]) for s in Status]
    return table(("status", "name", "in answer to", "when"), rows)


def workitem_statuses() -> str:
    """What is answered of work items beside the statuses above."""
    rows = [
        (f"`{int(one):#06x}`", one.name.replace("_", " ").lower(), "warning" if one < _FIRST_FAILURE else "failure")
        for one in UpsStatus
        if one >= _FIRST_WARNING
    ]
    return table(("status", "name", "kind"), rows)


def syntaxes() -> str:
    """The transfer syntaxes taken by this installation, preferred first."""
    rows = [
        (one.name, f"`{one.uid}`", ", ".join(one.plugins) or "uncompressed") for one in decodable_transfer_syntaxes()
    ]
    return table(("transfer syntax", "UID", "read by"), rows)


def storage_classes(readable: frozenset[str]) -> str:
    """Every storage SOP class, and whose pixels a model may read."""
    rows = [(name, f"`{uid}`", "yes" if uid in readable else "") for uid, name in storage_sop_classes()]
    return table(("SOP class", "UID", "read by models"), rows)


@dataclass(frozen=True)
class Sample:
    """One outcome. name: in words, after "where". objects: what is made of it."""

    name: str
    image: Dataset
    objects: tuple[ResultObject, ...]


def outcomes() -> list[Sample]:
    """Every kind of outcome, of an image with all that is copied and of one with what must be there only."""
    full = samples.header(
        StudyDescription="Chest", PatientAge="056Y", IssuerOfPatientID="H", SpecificCharacterSet="ISO_IR 100"
    )
    bare = samples.header(
        StudyDate=None, StudyTime=None, StudyID=None, AccessionNumber=None, ReferringPhysicianName=None,
        PatientBirthDate=None, PatientSex=None, PatientOrientation=None, BodyPartExamined=None, ViewPosition=None,
        Rows=300, Columns=600, PatientName="", StudyInstanceUID="1.2.3.4.9",
    )  # fmt: skip
    found = ["pneumonia"]
    slices = [samples.header(SOPInstanceUID=f"1.2.3.4.1.{place}", Modality="CT") for place in range(3)]
    before = (ResultRef(COMPREHENSIVE_3D_SR, "1.2.3.9.1", "1.2.3.9.2", "1.2.3.4.3"),)
    corrected = Correction(Identity("P-2", name="Doe^Janet"), datetime(2026, 3, 3, tzinfo=UTC), "HIS^HOSPITAL", 1)

    def made(name: str, image: Dataset, sources: list[Any], **more: Any) -> Sample:
        provenance = replace(
            samples.provenance(identity=name, predecessors=more.pop("predecessors", ())),
            # So that nothing of one job or one installation looks as if it were always so.
            created_at=datetime(2026, 3, 1, len(name) % 24, tzinfo=UTC) + timedelta(days=len(name), seconds=len(name)),
            ae_title=f"NODE{len(name)}",
            software_version=f"0.{len(name)}",
        )
        return Sample(name, image, build_results(sources, provenance, more.pop("correction", None), flags=True))

    return [
        made("nothing was found", full, [samples.analysed(full)]),
        made("something was found", full, [samples.analysed(full, found)]),
        made("the image was refused", full, [samples.refused(full)]),
        made("the image says little", bare, [samples.analysed(bare, found)]),
        made("a series was read", slices[1], [samples.series(slices, found)]),
        made("a report came before", full, [samples.analysed(full, found)], predecessors=before),
        made(CORRECTED, full, [samples.analysed(full, found)], correction=corrected),
    ]


def created(sop_class_uid: str, made: Sequence[Sample]) -> str:
    """The attributes of an object of that class, at its top level."""
    seen: list[tuple[Sample, Dataset]] = []
    for sample in made:
        for one in sample.objects:
            if one.ref.sop_class_uid == sop_class_uid:
                seen.append((sample, dcmread(BytesIO(one.data))))
    tags = sorted({element.tag for _, dataset in seen for element in dataset})
    rows: Rows = []
    for tag in tags:
        held = [(sample, dataset[tag]) for sample, dataset in seen if tag in dataset]
        name = dictionary_description(tag).replace("|", "/")
        rows.append(
            (
                name,
                f"({tag.group:04X},{tag.element:04X})",
                held[0][1].VR,
                _presence(held, len(seen)),
                _source(held),
                _when(held, seen),
            )
        )
    return table(("attribute", "tag", "VR", "presence of value", "source", "value, or when"), rows)


def _presence(held: list[tuple[Sample, DataElement]], count: int) -> str:
    """In the words of PS3.2: ALWAYS; VNAP, value not always present; ANAP, attribute not always present; EMPTY."""
    if len(held) < count:
        return "ANAP"
    empty = sum(element.is_empty for _, element in held)
    return "EMPTY" if empty == count else "VNAP" if empty else "ALWAYS"


def _source(held: list[tuple[Sample, DataElement]]) -> str:
    """COPY: as the image has it. FIXED: always the same. AUTO: made. CORRECTED: by an HL7 message, else COPY."""
    filled = [(sample, element) for sample, element in held if not element.is_empty]
    others = {s.name for s, element in filled if element.tag not in s.image or s.image[element.tag] != element}
    if filled and not others:
        return "COPY"
    if len(others) < len(filled):
        return "COPY, CORRECTED" if others == {CORRECTED} else "COPY or AUTO"
    values = {repr(element.value) for _, element in held}
    return "FIXED" if len(values) == 1 and held[0][1].VR not in ("SQ", "OB", "OW") else "AUTO"


def _when(held: list[tuple[Sample, DataElement]], seen: list[tuple[Sample, Dataset]]) -> str:
    if _source(held) == "FIXED":
        element = held[0][1]
        text = "\\".join(map(str, element.value)) if element.VM > 1 else str(element.value)
        if len(text) <= _LONGEST_VALUE and "|" not in text:
            return f"`{text}`" if text else ""
    if len(held) == len(seen):
        return ""
    if _source(held) == "COPY":
        return "where the image has it"
    here = dict.fromkeys(sample.name for sample, _ in held)
    missing = dict.fromkeys(sample.name for sample, _ in seen if sample.name not in here)
    if len(missing) < len(here):
        return "but where " + ", or ".join(missing)
    return "where " + ", or ".join(here)


def coded_terms() -> str:
    """Codes that reports use beside a model's own labels."""
    found = {}
    for value in _codes(vars(codes).values()):
        found[value.scheme_designator, value.value] = value.meaning
    return table(
        ("code value", "scheme", "code meaning"),
        [(f"`{value}`", scheme, meaning) for (scheme, value), meaning in sorted(found.items())],
    )


def _codes(values: Iterable[Any]) -> Iterator[Code]:
    for value in values:
        if isinstance(value, Code):
            yield value
        elif isinstance(value, dict):
            yield from _codes(value.values())


def parts(meanings: dict[Status, tuple[str, str]], readable: frozenset[str]) -> dict[str, Callable[[], str]]:
    """Each marked part of the document by its name."""
    made = outcomes()
    return {
        "overview": overview,
        "services": services,
        "association parameters": association_parameters,
        "accepted contexts": accepted_contexts,
        "transfer syntaxes": syntaxes,
        "rejections": rejections,
        "statuses": lambda: statuses(meanings),
        "work item statuses": workitem_statuses,
        "proposed contexts": proposed_contexts,
        "SOP classes": lambda: storage_classes(readable),
        "report": lambda: created(COMPREHENSIVE_3D_SR, made),
        "picture": lambda: created(SECONDARY_CAPTURE, made),
        "key objects": lambda: created(KEY_OBJECTS, made),
        "coded terms": coded_terms,
    }
