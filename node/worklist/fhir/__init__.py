"""FHIR R4: what the models found as resources, and their way to a FHIR server."""
