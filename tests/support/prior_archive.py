"""An archive that gives as prior studies whatever a test has it give; pynetdicom on its side of the wire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from tests.support.listening import CR
from tests.support.processes import free_port

FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{n}" for n in (1, 2, 3))
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")


class Archive:
    """A peer whose C-FIND answers `studies`, with a series of each, and whose C-GET gives `images`."""

    def __init__(self, *, models: tuple[str, ...] = (FIND, GET)) -> None:
        self.port = free_port()
        self.studies: list[Dataset] = []
        self.images: list[Dataset] = []
        self.move_to: int | None = None
        self.originator: str | None = "RADNODE"
        self.questions = 0
        self.series_after_s = 0.0
        self._entity = AE("ORTHANC")
        for model in models:
            self._entity.add_supported_context(model)
        self._entity.add_supported_context(CR, "1.2.840.10008.1.2.1", scu_role=False, scp_role=True)
        self._entity.add_requested_context(CR, "1.2.840.10008.1.2.1")

    def __enter__(self) -> Archive:
        handlers: list[Any] = [
            (evt.EVT_C_FIND, self._find), (evt.EVT_C_GET, self._give), (evt.EVT_C_MOVE, self._send),
        ]  # fmt: skip
        self._server: Any = self._entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def has(self, file: Path, *, said: dict[str, Any] | None = None) -> None:
        """Holds an image, and says of its study what it says, but for `said`."""
        image = dcmread(file)
        study = Dataset()
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "StudyDate", *_PATIENT):
            setattr(study, keyword, (said or {}).get(keyword, image[keyword].value))
        study.ModalitiesInStudy = study.Modality = "CR"
        self.studies.append(study)
        self.images.append(image)

    def _find(self, event: evt.Event) -> Iterator[Any]:
        self.questions += 1
        level = event.identifier.QueryRetrieveLevel
        if level == "SERIES":
            time.sleep(self.series_after_s)
        for one in self.studies:
            if level == "STUDY" or one.StudyInstanceUID == event.identifier.StudyInstanceUID:
                yield 0xFF00, one

    def _give(self, event: evt.Event) -> Iterator[Any]:
        yield len(self.images)
        for one in self.images:
            yield 0xFF00, one

    def _send(self, event: evt.Event) -> Iterator[Any]:
        if self.originator is None:
            # By itself, as an archive does that names no originator.
            sender = AE("ORTHANC")
            sender.add_requested_context(CR, "1.2.840.10008.1.2.1")
            association = sender.associate("127.0.0.1", self.move_to or 0, ae_title="RADNODE")
            for one in self.images:
                assert association.send_c_store(one).Status == 0
            association.release()
        yield "127.0.0.1", self.move_to
        yield len(self.images) if self.originator else 0
        for one in self.images if self.originator else []:
            yield 0xFF00, one
