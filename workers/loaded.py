"""The models a process has loaded. Belongs to one thread of one process: never carried over a fork."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from db.errors import PermanentError, RetriableError
from models import registry
from models.errors import ModelError
from models.registry import Bundle
from models.runner import Runner, load_runner
from node.settings import Settings

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
    """Loads a model at its first use and keeps it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._loaded: dict[str, Loaded] = {}

    def get(self, model_id: str) -> Loaded:
        """The model with that id.

        Raises ModelUnusable (no such bundle, damaged, or its codes are not verified in clinical mode) or ModelNotReady.
        """
        if model_id not in self._loaded:
            self._loaded[model_id] = self._load(model_id)
        return self._loaded[model_id]

    def warm_up(self, model_ids: Iterable[str]) -> None:
        """Load ahead of the first job. What cannot be loaded is logged, and its jobs will say so again."""
        for model_id in model_ids:
            try:
                self.get(model_id)
            except (ModelUnusable, ModelNotReady) as error:
                log.error("model_not_loaded", model=model_id, reason=str(error))

    def _load(self, model_id: str) -> Loaded:
        try:
            bundle = registry.load(model_id, self.settings.work.model_dirs)
            require_verified_codes(bundle, clinical_mode=self.settings.clinical_mode)
            runner = load_runner(bundle, self.settings.work.accelerator)
        except ModelError as error:
            kind = ModelUnusable if error.permanent else ModelNotReady
            raise kind(str(error)) from error
        log.info("model_loaded", model=model_id, version=bundle.manifest.version, digest=bundle.identity.bundle_digest)
        return Loaded(bundle, runner)


def require_verified_codes(bundle: Bundle, *, clinical_mode: bool) -> None:
    """In clinical mode every code that a report would carry must have been verified. Raises ModelUnusable."""
    unverified = [label.key for label in bundle.manifest.labels if not label.code_verified]
    if clinical_mode and unverified:
        raise ModelUnusable(
            f"clinical_mode refuses model {bundle.manifest.id}: no terminologist has verified the codes of "
            f"{', '.join(unverified)}"
        )
