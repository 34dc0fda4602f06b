"""Labelled images: reading label files, and splitting them by patient."""
