"""Run folders: what a command was given, what it computed on, and what came of it, as plain files."""
