"""The models a process has loaded, for all its threads. Belongs to one process: never carried over a fork.

Which version of a model reads is asked of the record at every job, which costs one look into a small table; what is
loaded is kept by its digest, so that an activation takes effect at the next job and a roll-back costs nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from db import model_versions
from db.errors import PermanentError, RetriableError
from db.model_versions import ModelVersionView
from db.session import Record
from db.states import ModelState
from models import registry
from models.errors import DigestError, ModelError
from models.gate import gate_of
from models.registry import Bundle
from models.runner import Runner, load_runner
from node.settings import Settings
from workers.turn import Turn

log = structlog.get_logger(__name__)


class ModelUnusable(PermanentError):
    """The model cannot be used until a person has replaced or installed it."""


class ModelNotReady(RetriableError):
    """The machine lacks something for now: a GPU, a runtime, room for the compiled model."""


@dataclass(frozen=True)
class Loaded:
    """A verified bundle and its network, which has answered the bundle's own test vectors."""

    bundle: Bundle
    runner: Runner


class LoadedModels:
    """Loads a model at its first use and keeps it, the `work.models_kept` used last. Every method is for any thread.

    record: asked for installed versions; None knows only the bundles that came with the node or lie in its folders.
    """

    def __init__(self, settings: Settings, record: Record | None = None) -> None:
        self.settings = settings
        self.record = record
        self._kept: OrderedDict[str, Loaded] = OrderedDict()
        # Bundles in folders do not change while a process runs: the digest of the one that goes by an id.
        self._by_id: dict[str, str] = {}
        self._lock = threading.Lock()
        # One is loaded at a time, and who wants one that is kept does not wait for that.
        self._loading = threading.Lock()
        # Two passes side by side take longer than one after the other, and no interpreter runs twice at a time.
        self._turn = Turn()

    def get(self, model_id: str) -> Loaded:
        """The model with that id: its active version, else the bundle in a folder.

        Raises ModelUnusable (no such bundle, damaged, or unsigned or with unverified codes in clinical mode),
        ModelNotReady, or RecordUnavailable.
        """
        active = self.version_in(ModelState.ACTIVE, model_id)
        if active is not None:
            return self.installed(active)
        return self._kept_or(lambda: self._by_id.get(model_id, ""), lambda: self._from_folders(model_id))

    def version_in(self, state: ModelState, model_id: str) -> ModelVersionView | None:
        """The installed version in that state, ACTIVE or SHADOW. Raises RecordUnavailable."""
        if self.record is None:
            return None
        with self.record.read() as session:
            return model_versions.serving(session, model_id, state)

    def installed(self, version: ModelVersionView) -> Loaded:
        """An installed version. Raises like `get`."""
        return self._kept_or(lambda: version.digest, lambda: self._from_record(version))

    def warm_up(self, model_ids: Iterable[str]) -> None:
        """Load ahead of the first job. What cannot be loaded is logged, and its jobs will say so again."""
        for model_id in model_ids:
            try:
                self.get(model_id)
            except (ModelUnusable, RetriableError) as error:
                log.error("model_not_loaded", model=model_id, reason=str(error))

    def _kept_or(self, digest: Callable[[], str], load: Callable[[], Loaded]) -> Loaded:
        known = self._known(digest())
        if known is not None:
            return known
        with self._loading:
            # Somebody else may have loaded it meanwhile.
            return self._known(digest()) or load()

    def _known(self, digest: str) -> Loaded | None:
        with self._lock:
            known = self._kept.get(digest)
            if known is not None:
                self._kept.move_to_end(digest)
            return known

    def _from_folders(self, model_id: str) -> Loaded:
        loaded = self._load(model_id, lambda: registry.load(model_id, self.settings.work.model_dirs))
        self._by_id[model_id] = loaded.bundle.identity.bundle_digest
        return loaded

    def _from_record(self, version: ModelVersionView) -> Loaded:
        if self.settings.clinical_mode and not version.signed_by:
            raise ModelUnusable(f"clinical_mode refuses model {version.model_id} {version.version}: nobody signed it")
        return self._load(version.model_id, lambda: installed_bundle(self.settings, version))

    def _load(self, model_id: str, find: Callable[[], Bundle]) -> Loaded:
        try:
            bundle = find()
            require_verified_codes(bundle, clinical_mode=self.settings.clinical_mode)
            gate_of(bundle)
            runner = load_runner(bundle, self.settings.work.accelerator, self._turn)
        except ModelError as error:
            kind = ModelUnusable if error.permanent else ModelNotReady
            raise kind(str(error)) from error
        log.info("model_loaded", model=model_id, version=bundle.manifest.version, digest=bundle.identity.bundle_digest)
        return self._keep(Loaded(bundle, runner))

    def _keep(self, loaded: Loaded) -> Loaded:
        with self._lock:
            self._kept[loaded.bundle.identity.bundle_digest] = loaded
            self._kept.move_to_end(loaded.bundle.identity.bundle_digest)
            while len(self._kept) > self.settings.work.models_kept:
                dropped, _ = self._kept.popitem(last=False)
                log.info("model_dropped", digest=dropped)
        return loaded


def installed_bundle(settings: Settings, version: ModelVersionView) -> Bundle:
    """The verified bundle of an installed version. Raises BundleError, also where it is not the one recorded."""
    bundle = registry.load_bundle(settings.data_dir / version.folder)
    if bundle.identity.bundle_digest != version.digest:
        raise DigestError(
            f"model {version.model_id} {version.version} is not what was installed; install its zip again"
        )
    return bundle


def require_verified_codes(bundle: Bundle, *, clinical_mode: bool) -> None:
    """In clinical mode every code that a report would carry must have been verified. Raises ModelUnusable."""
    unverified = [label.key for label in bundle.manifest.labels if not label.code_verified]
    if clinical_mode and unverified:
        raise ModelUnusable(
            f"clinical_mode refuses model {bundle.manifest.id}: no terminologist has verified the codes of "
            f"{', '.join(unverified)}"
        )
