"""Attention backends of the native engine: `select` picks one for a loaded model, the other files are the backends."""
