"""Peers' files are read in processes of their own, which a hostile or broken one may crash, hang or fill.

`Decoders` keeps a few such processes warm (`workers.sandbox.child`), confined by the kernel (`node.confinement`).
`JobFiles` is what an analysis reads files through. Both ends speak over a socket pair (`wire`): JSON, never a pickle,
as what comes back is no more to be trusted than the file it was made of.
"""

from workers.sandbox.decoders import Decoders
from workers.sandbox.files import Examined, JobFiles
from workers.sandbox.process import DecoderUnavailable
from workers.sandbox.terms import Terms

__all__ = ["DecoderUnavailable", "Decoders", "Examined", "JobFiles", "Terms"]
