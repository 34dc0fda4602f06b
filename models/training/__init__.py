"""Transfer learning in two phases."""
