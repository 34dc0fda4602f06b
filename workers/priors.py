"""Prior studies for a job whose model compares: waited for, held against the patient once more, and read.

The record has what a peer gave (`node.retrieve`); a job whose priors are still wanted goes back to the queue, so that
no worker waits for a peer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import structlog
from pydicom.dataset import Dataset

from db import identities, priors
from db.domain import ClaimedJob
from db.errors import UnreadableError
from db.identities import Correction
from db.priors import PriorFile, Wish
from db.session import Record
from db.states import PriorState
from models.admission import admit
from models.contracts import GreyImage, HeaderFacts
from models.manifest import PriorRules
from node.dataset_source import HeaderError
from node.header import Header, header_facts
from node.header import facts as facts_of
from node.retrieve.choosing import current_of, identity_of
from node.settings import Settings
from node.worklist.matching import differences
from workers.loaded import Loaded
from workers.pixels import PixelError, Poison
from workers.sandbox import Examined, JobFiles

log = structlog.get_logger(__name__)

NO_PEER = "no peer for prior studies is set"
NOT_FETCHED = "prior studies are not fetched here"


@dataclass(frozen=True)
class Priors:
    """What there is of a study's priors. reason: why there is nothing, or not all; "" where nothing is amiss.

    correction: the patient as known today. folder: that the files' paths are relative to.
    """

    folder: Path
    files: tuple[PriorFile, ...] = ()
    reason: str = ""
    correction: Correction | None = None


@dataclass(frozen=True)
class Prior:
    """An earlier image that is read beside another one. header: its data set, without pixels."""

    file: PriorFile
    header: Dataset
    image: GreyImage


def await_priors(settings: Settings, record: Record, job: ClaimedJob, rules: PriorRules) -> Priors | None:
    """What a job's model is to compare with; None where the job was handed back to wait. Raises RecordUnavailable."""
    if not settings.priors.peer:
        return Priors(settings.data_dir, reason=NO_PEER)
    wish = Wish(rules.max, rules.modality, rules.body_part, rules.within_days)
    with record.write() as session:
        answer = priors.ask(session, job, wish, wait_s=settings.priors.wait_s)
        if answer.state is PriorState.WANTED:
            priors.wait(session, job, answer)
            log.info("job_waits_for_priors", wait_until=str(answer.wait_until))
            return None
        correction = identities.of_study(session, job.study_instance_uid)
    reason = "" if answer.images else answer.reason
    return Priors(settings.data_dir, answer.images, reason, correction)


@dataclass
class Companion:
    """Finds the earlier image to read beside each image of a job: the latest that the model's rules let pass."""

    model: Loaded
    priors: Priors
    files: JobFiles
    _examined: dict[str, Examined | str] = field(default_factory=dict)
    _read: dict[str, Prior | str] = field(default_factory=dict)

    def beside(self, current: Header) -> tuple[Prior | None, str]:
        """A prior, or why there is none."""
        reasons = [self.priors.reason] if self.priors.reason else []
        for file in self.priors.files:
            found = self._fitting(file, current)
            if isinstance(found, Prior):
                return found, ""
            reasons.append(found)
        reason = "; ".join(dict.fromkeys(reasons))
        if self.priors.files:
            log.warning("prior_not_read", sop_instance_uid=current.sop_instance_uid, reason=reason)
        return None, reason

    def _fitting(self, file: PriorFile, current: Header) -> Prior | str:
        uid = file.sop_instance_uid
        if uid not in self._examined:
            self._examined[uid] = self._examine(file)
        examined = self._examined[uid]
        if isinstance(examined, str):
            return examined
        # Beside each image anew: nothing says that all images of a study name one patient.
        different = differences(current_of(current, self.priors.correction).identity, identity_of(examined.header))
        if different or examined.header.study_instance_uid == current.study_instance_uid:
            return f"a prior is of another {', '.join(different) or 'kind'}"
        if uid not in self._read:
            self._read[uid] = self._read_one(file, examined)
        return self._read[uid]

    def _examine(self, file: PriorFile) -> Examined | str:
        try:
            return self.files.examine(self.priors.folder / file.path)
        except (HeaderError, Poison) as error:
            return f"a prior cannot be read: {error}"
        except OSError as error:
            return f"a prior's file cannot be opened ({type(error).__name__})"

    def _read_one(self, file: PriorFile, examined: Examined) -> Prior | str:
        admission = admit(
            self.model.bundle.manifest.admission, HeaderFacts(**header_facts(facts_of(examined.header, "")))
        )
        if not admission.admitted:
            return f"a prior is not one the model reads: {admission.reason}"
        try:
            return Prior(file, examined.dataset, self.files.grey(self.priors.folder / file.path))
        except (PixelError, UnreadableError) as error:
            return f"a prior cannot be read: {error}"
        except OSError as error:
            return f"a prior's file cannot be opened ({type(error).__name__})"
