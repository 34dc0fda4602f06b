"""The DICOM upper layer of an association that a peer opened: one thread, one blocking loop, one table of states.

Reading order: `states` (what may happen when), `wire` (PDUs from a socket, each within its time and size),
`negotiation` (what is accepted), `commands` (DIMSE command sets), `association` (the loop), `server` (who gets a
thread). What is done with a request is decided elsewhere: see `node.handlers`.
"""
