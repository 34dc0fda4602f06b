"""Finding bundles, and proving them whole before use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from models.contracts import ModelIdentity
from models.errors import BundleNotFoundError
from models.manifest import MANIFEST, Manifest, read_manifest, verify_files

SHIPPED = Path(__file__).parent / "bundles"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    folder: Path
    manifest: Manifest
    identity: ModelIdentity

    @property
    def weights(self) -> Path:
        """npz of the network's arrays."""
        return self.folder / self.manifest.file("weights")

    @property
    def golden(self) -> Path:
        """npz of the bundle's own test vectors."""
        return self.folder / self.manifest.file("golden")


def load_bundle(folder: Path) -> Bundle:
    """Check the manifest, then every file's digest. Raises BundleError; opens no weights."""
    manifest, digest = read_manifest(folder)
    verify_files(folder, manifest)
    weights = next(f.sha256 for f in manifest.files if f.path == manifest.file("weights"))
    identity = ModelIdentity(
        id=manifest.id,
        name=manifest.name,
        version=manifest.version,
        manufacturer=manifest.manufacturer,
        bundle_digest=digest,
        weights_digest=weights,
        licence=manifest.licence,
    )
    return Bundle(folder, manifest, identity)


def candidates(extra: Iterable[Path] = ()) -> list[Path]:
    """Every folder that looks like a bundle, shipped ones first; none of them is opened."""
    return [path.parent for root in (SHIPPED, *extra) for path in sorted(root.glob(f"*/{MANIFEST}"))]


def find_folders(extra: Iterable[Path] = ()) -> dict[str, Path]:
    """Bundle folders by id; an extra folder's bundle outweighs a shipped one of the same id.

    Raises ManifestError where a folder that looks like a bundle is none.
    """
    found: dict[str, Path] = {}
    for folder in candidates(extra):
        found[read_manifest(folder)[0].id] = folder
    return found


def load(model_id: str, extra: Iterable[Path] = ()) -> Bundle:
    """The verified bundle with that id. Raises BundleError."""
    folders = find_folders(extra)
    if model_id not in folders:
        raise BundleNotFoundError(f"no model {model_id!r}; there are {', '.join(sorted(folders)) or 'none'}")
    return load_bundle(folders[model_id])
