"""Blends of several files of answers to the same rows: pure functions on columns of scores, no model."""
