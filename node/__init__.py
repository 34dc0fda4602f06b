"""The DICOM edges, the decisions, and what people and systems see. Imports `db` only."""
