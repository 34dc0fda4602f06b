"""A hospital's day with real parts, compressed in time, and a queueing model of its workers beside it."""
