"""What names, cards and records claim, against each other and against the tensors (L1)."""
