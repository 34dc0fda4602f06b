"""Why pixels could not be read.

::

    PixelError                    permanent: the same bytes will never be read
    ├── UnreadableHeader          no DICOM dataset, or attributes missing or contradictory
    ├── NoPixels                  a report, a plan, a presentation state …
    ├── ColourImage               models read grey images only
    ├── TooLarge                  beyond the limits, told before memory is taken
    ├── TruncatedPixels           fewer bytes or frames than the header says
    ├── UndecodablePixels         no decoder, or the decoder gave up
    ├── NoVolume                  the slices do not make one volume
    └── Poison                    reading it ended the process that read it (workers.sandbox)
        ├── DecoderCrashed        by a signal, or for want of memory
        ├── DecodingTooSlow       it did not end in time
        └── NotTried              others of the same study did that for too long

The message is a short reason for people: it becomes the text of a *not analysed* report. It holds numbers and names of
the standard, never a value that came as text from the file, and nothing a library said.
"""

from __future__ import annotations

from db.errors import UnreadableError


class PixelError(UnreadableError):
    """Pixels cannot be read; ``str(error)`` is the reason for people."""


class UnreadableHeader(PixelError):
    """No DICOM dataset, or attributes missing or contradictory."""


class NoPixels(PixelError):
    """The object holds no pixel data."""


class ColourImage(PixelError):
    """More than one sample per pixel, or a colour palette."""


class TooLarge(PixelError):
    """Beyond the limits."""


class TruncatedPixels(PixelError):
    """Fewer bytes or frames than the header says."""


class UndecodablePixels(PixelError):
    """No decoder for it, or the decoder gave up."""


class NoVolume(PixelError):
    """The slices do not make one volume."""


class Poison(PixelError):
    """Reading it ended the process that read it."""


class DecoderCrashed(Poison):
    """By a signal, or for want of memory."""


class DecodingTooSlow(Poison):
    """It did not end in time."""


class NotTried(Poison):
    """Others of the same study took their decoders' processes with them for too long."""
