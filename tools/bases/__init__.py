"""Builds the shipped table of base models' shapes (src/lorica/adapters/bases.csv)."""
