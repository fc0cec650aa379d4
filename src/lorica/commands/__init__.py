"""One straight-line module per command; the only package that sees the whole configuration."""
