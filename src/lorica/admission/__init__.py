"""Admission: what an adapter proves in an engine before it may answer there, and the passport that says so."""
