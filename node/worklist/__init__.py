"""The hospital's own systems: its worklist, its orders, its messages."""
