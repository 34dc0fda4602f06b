"""One module per kind of data set: ``Options`` (what it takes) and ``load`` (what it makes of it)."""
