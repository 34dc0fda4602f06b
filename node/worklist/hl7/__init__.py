"""HL7 v2.5.1 over MLLP: results go out as ORU^R01, orders and changes of identity come in."""
