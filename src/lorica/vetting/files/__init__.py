"""Is an adapter safe to read, and what its name says (L0)? Wherever it lies, nothing of it is trusted."""
