"""Judging models: figures with patient-level intervals."""
