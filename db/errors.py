"""Every failure the node can name.

::

    RadnodeError
    ├── PermanentError            trying again changes nothing; a person or a setting must
    │   ├── RefusedError          what a peer sent cannot be taken
    │   ├── ConfigError           a setting is wrong or missing
    │   └── UnreadableError       stored bytes cannot be used (not analysed, with a reason)
    ├── RetriableError            the same call may succeed later
    │   ├── RecordUnavailable     the database does not answer
    │   ├── StudyGoing            files of the study are being deleted
    │   ├── StorageFull           disk or database below the watermark
    │   ├── BrokerUnavailable     Redis/Valkey does not answer
    │   └── PeerUnavailable       a DICOM peer does not answer or has no room
    └── ConflictError             somebody else changed the row first; read again before acting
        ├── IllegalTransition     the state table has no such change
        └── LeaseLost             the work was given to another worker meanwhile

Messages name the object by its UID or row id and say what to do. They never hold a patient's name, id or dates.
"""

from __future__ import annotations


class RadnodeError(Exception):
    """Root of all typed failures of this project."""


class PermanentError(RadnodeError):
    """Trying again changes nothing."""


class RefusedError(PermanentError):
    """What a peer sent cannot be taken."""


class ConfigError(PermanentError):
    """A setting is wrong or missing."""


class UnreadableError(PermanentError):
    """Stored bytes cannot be used."""


class RetriableError(RadnodeError):
    """The same call may succeed later."""


class RecordUnavailable(RetriableError):
    """The database does not answer."""


class StudyGoing(RetriableError):
    """Files of the study are being deleted."""


class StorageFull(RetriableError):
    """Disk or database below the watermark."""


class BrokerUnavailable(RetriableError):
    """Redis/Valkey does not answer."""


class PeerUnavailable(RetriableError):
    """A DICOM peer does not answer or has no room."""


class ConflictError(RadnodeError):
    """Somebody else changed the row first."""


class IllegalTransition(ConflictError):
    """The state table has no such change."""


class LeaseLost(ConflictError):
    """The work was given to another worker meanwhile."""
