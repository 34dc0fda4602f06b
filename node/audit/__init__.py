"""The audit trail outwards: what a collector gets, how it is sent, and the proof kept outside of the database."""
