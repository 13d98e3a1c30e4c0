"""Event-driven Python: one envelope, one delivery contract, any engine."""
