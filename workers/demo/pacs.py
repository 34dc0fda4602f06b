"""What the demo asks of a PACS, and a small one of our own for machines without Orthanc.

The sample PACS speaks C-ECHO, C-STORE, C-FIND (STUDY and IMAGE level) and storage commitment, for one node on loopback.
It keeps nothing beyond the demo and is no archive.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AllStoragePresentationContexts, build_context, build_role, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import ThreadedAssociationServer

from db.errors import PeerUnavailable, PermanentError

log = structlog.get_logger(__name__)

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
COMMITMENT = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
_SUCCESS, _PENDING, _CANCELLED = 0x0000, 0xFF00, 0xFE00
_CANNOT_UNDERSTAND = 0xC000
_NO_SUCH_ACTION = 0x0123
_NO_SUCH_INSTANCE = 0x0112
_REPORT_ATTEMPTS = 3
_TIMEOUT_S = 20.0


class DemoError(PermanentError):
    """The demo cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Address:
    """An application entity on loopback."""

    ae_title: str
    port: int
    host: str = "127.0.0.1"


class Pacs(Protocol):
    """A PACS of the demo's own."""

    @property
    def told_as(self) -> str:
        """What it is, for a person: product and version."""

    @property
    def address(self) -> Address: ...

    def start(self) -> None:
        """Start and wait until it answers. Raises DemoError."""

    def load(self, files: Sequence[Path]) -> None:
        """Put the radiographs into it, as if they had been acquired. Raises DemoError."""

    def route(self) -> None:
        """Send what it holds to the node by C-STORE, as a routing rule would. Raises DemoError."""

    def fetch(self, sop_instance_uid: str) -> bytes:
        """The DICOM file it holds under that UID. Raises DemoError where it holds none."""

    def stop(self) -> None: ...


class SamplePacs:
    """The one of our own. Files lie in `folder` by number: no peer's string becomes a name."""

    def __init__(self, folder: Path, address: Address, node: Address) -> None:
        self.folder = folder
        self._address = address
        self.node = node
        self._files: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._reports = ThreadPoolExecutor(1, thread_name_prefix="commitment")
        self._server: ThreadedAssociationServer | None = None
        self._entity = _entity(address)

    @property
    def told_as(self) -> str:
        return "the demo's own sample PACS (pynetdicom)"

    @property
    def address(self) -> Address:
        return self._address

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handlers: list[Any] = [
            (evt.EVT_C_ECHO, lambda _event: _SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_N_ACTION, self._on_action),
        ]
        try:
            self._server = self._entity.start_server(
                (self._address.host, self._address.port), block=False, evt_handlers=handlers
            )
        except OSError as error:
            raise DemoError(f"the sample PACS cannot listen on port {self._address.port} ({error.strerror})") from error

    def load(self, files: Sequence[Path]) -> None:
        for file in files:
            self._keep(str(dcmread(file, stop_before_pixels=True).SOPInstanceUID), file.read_bytes())

    def route(self) -> None:
        images = [dcmread(path) for path in list(self._files.values())]
        kinds = {(str(image.SOPClassUID), str(image.file_meta.TransferSyntaxUID)) for image in images}
        try:
            association = self._associate([build_context(*kind) for kind in sorted(kinds)])
        except PeerUnavailable as error:
            raise DemoError(str(error)) from error
        try:
            for image in images:
                status = association.send_c_store(image).get("Status")
                if status != _SUCCESS:
                    raise DemoError(f"the node answered C-STORE with {status if status is None else hex(status)}")
        finally:
            association.release()

    def fetch(self, sop_instance_uid: str) -> bytes:
        path = self._files.get(sop_instance_uid)
        if path is None:
            raise DemoError(f"the sample PACS holds no object {sop_instance_uid}")
        return path.read_bytes()

    def stop(self) -> None:
        self._reports.shutdown(wait=True, cancel_futures=True)
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _keep(self, uid: str, data: bytes) -> None:
        with self._lock:
            path = self._files.get(uid) or self.folder / f"{len(self._files) + 1}.dcm"
            path.write_bytes(data)
            self._files[uid] = path

    def _on_store(self, event: evt.Event) -> int:
        request: Any = event.request
        uid = str(request.AffectedSOPInstanceUID or "")
        if not uid:
            return _CANNOT_UNDERSTAND
        self._keep(uid, event.encoded_dataset())
        return _SUCCESS

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        level = str(query.get("QueryRetrieveLevel", ""))
        if level not in {"STUDY", "IMAGE"}:
            yield _CANNOT_UNDERSTAND, None
            return
        for answer in self._matches(query, level):
            if event.is_cancelled:
                yield _CANCELLED, None
                return
            yield _PENDING, answer

    def _matches(self, query: Dataset, level: str) -> list[Dataset]:
        headers = [dcmread(path, stop_before_pixels=True) for path in list(self._files.values())]
        keys = ["StudyInstanceUID"] if level == "STUDY" else ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
        found = [header for header in headers if all(_same(query, header, key) for key in keys)]
        answers: dict[str, Dataset] = {}
        for header in found:
            answer = Dataset()
            answer.QueryRetrieveLevel = level
            for key in keys:
                setattr(answer, key, header[key].value)
            answers[str(header[keys[-1]].value)] = answer
            if level == "STUDY":
                same = [h for h in found if h.StudyInstanceUID == header.StudyInstanceUID]
                answer.NumberOfStudyRelatedInstances = str(len(same))
        return list(answers.values())

    def _on_action(self, event: evt.Event) -> tuple[int, Dataset | None]:
        if event.action_type != 1:
            return _NO_SUCH_ACTION, None
        request = event.action_information
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        items = list(request.ReferencedSOPSequence)
        report.ReferencedSOPSequence = [item for item in items if str(item.ReferencedSOPInstanceUID) in self._files]
        failed = [item for item in items if str(item.ReferencedSOPInstanceUID) not in self._files]
        for item in failed:
            item.FailureReason = _NO_SUCH_INSTANCE
        if failed:
            report.FailedSOPSequence = failed
        # The report goes over an association of its own, after this request is answered (PS3.4 J.3.3).
        self._reports.submit(self._report, report, 2 if failed else 1)
        return _SUCCESS, None

    def _report(self, report: Dataset, event_type: int) -> None:
        for _ in range(_REPORT_ATTEMPTS):
            try:
                if self._report_once(report, event_type) == _SUCCESS:
                    return
            except (PeerUnavailable, RuntimeError, ValueError) as error:
                log.warning("commitment_not_reported", reason=str(error))
        log.error("commitment_report_given_up", transaction_uid=str(report.TransactionUID))

    def _report_once(self, report: Dataset, event_type: int) -> int | None:
        association = self._associate([build_context(COMMITMENT)], build_role(COMMITMENT, scp_role=True))
        try:
            status, _ = association.send_n_event_report(report, event_type, COMMITMENT, COMMITMENT_INSTANCE)
        finally:
            association.release()
        code: int | None = status.get("Status")
        return code

    def _associate(self, contexts: list[PresentationContext], *roles: SCP_SCU_RoleSelectionNegotiation) -> Association:
        """Raises PeerUnavailable where the node takes none."""
        where = (self.node.host, self.node.port)
        try:
            # pynetdicom leaves the socket of a refused connection open.
            socket.create_connection(where, _TIMEOUT_S).close()
        except OSError as error:
            raise PeerUnavailable(f"the node cannot be reached ({error.strerror or type(error).__name__})") from error
        association = self._entity.associate(*where, contexts, ae_title=self.node.ae_title, ext_neg=list(roles))
        if not association.is_established:
            raise PeerUnavailable("the node took no association from the sample PACS")
        return association


def _entity(address: Address) -> ApplicationEntity:
    entity = ApplicationEntity(ae_title=address.ae_title)
    entity.require_called_aet = True
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
    entity.add_supported_context(VERIFICATION)
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    entity.add_supported_context(STUDY_ROOT_FIND)
    entity.add_supported_context(COMMITMENT)
    return entity


def _same(query: Dataset, header: Dataset, key: str) -> bool:
    """An empty key matches anything, a list of UIDs any of them (PS3.4 C.2.2.2)."""
    wanted = query.get(key)
    if not wanted:
        return True
    values = [wanted] if isinstance(wanted, str) else list(wanted)
    return str(header.get(key, "")) in {str(value) for value in values}
