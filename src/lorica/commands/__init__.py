"""One short, straight-line module per verb; the only rooms that see the configuration."""
