"""Attention backends of the native engine: each gives the same attention, suited to a device and a guarantee."""
