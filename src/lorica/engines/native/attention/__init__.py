"""Attention of the native engine: `select` picks one backend for a loaded model; the other files are the backends."""
