"""What can go wrong with a model, drawn as a tree.

::

    ModelError                       .permanent says whether trying again can help
    |-- BundleError                  the bundle cannot be used as it is; a person has to replace it
    |   |-- BundleNotFoundError      no bundle of that id in any of the folders looked into
    |   |-- ManifestError            model.json is missing, malformed, or contradicts itself
    |   |-- BundleFileError          a listed file is missing, or a file is there that the manifest does not list
    |   |-- DigestError              a file's SHA-256 is not the one in the manifest
    |   |-- ArchitectureError        the architecture is not on the allow-list, or the weights do not fit it
    |   |-- GoldenError              the model answers the bundle's own test inputs differently
    |   |-- SignatureError           unsigned, signed by nobody trusted here, or not the bytes that were signed
    |   `-- ArchiveError             the zip is not one this release would write; nothing of it is used
    |-- SigningKeyError              a key file cannot be used
    |-- PreprocessError              this image cannot become this model's input; the next one may
    |-- SliceOrderError              the slices of a series make no volume
    |-- NoReadingError               the model gave no usable numbers for this image
    |   `-- NotInDistribution        the image is unlike those the model was made for
    `-- RuntimeUnavailable           the machine lacks something for now (runtime, cache folder); retriable
"""

from __future__ import annotations

from typing import ClassVar


class ModelError(Exception):
    """Root of all errors this package raises on purpose."""

    permanent: ClassVar[bool] = True


class BundleError(ModelError):
    """A model bundle is absent, damaged, tampered with, or not for this release."""


class BundleNotFoundError(BundleError):
    """No bundle of the asked id; the message lists the ids there are."""


class ManifestError(BundleError):
    """``model.json`` cannot be read, breaks its schema, or contradicts itself."""


class BundleFileError(BundleError):
    """A file of the bundle is missing, unlisted, or no regular file."""


class DigestError(BundleError):
    """A file's bytes are not those that the manifest vouches for."""


class ArchitectureError(BundleError):
    """The named architecture is not allowed here, or its weights do not fit."""


class GoldenError(BundleError):
    """The model's answers to its golden inputs differ from the recorded ones."""


class SignatureError(BundleError):
    """Nobody trusted here vouches for these very bytes."""


class ArchiveError(BundleError):
    """A bundle's zip holds something that no bundle holds, or is larger than one may be."""


class SigningKeyError(ModelError):
    """A file is no Ed25519 key of the kind asked for, or cannot be read with this passphrase."""


class PreprocessError(ModelError):
    """The image cannot become the model's input. The message is for people and holds nothing of the patient."""


class SliceOrderError(ModelError):
    """The slices of a series have no order in space. The message is for people and holds nothing of the patient."""


class NoReadingError(ModelError):
    """The model ran, but its output is not a number; nothing may be reported from it."""


class NotInDistribution(NoReadingError):
    """The image lies further from the training images than the bundle allows; what the model says of it is unknown."""


class RuntimeUnavailable(ModelError):
    """An inference runtime or its cache is not usable now; another worker or a later moment may have it."""

    permanent: ClassVar[bool] = False


class DatasetError(ModelError):
    """A label file, its images or their split cannot be used for training or judging."""
