"""How good answers are, with how sure we can be of it: pure functions on arrays (numpy only)."""
