"""Running the fault bench: judging a case, what PEFT says of it, and the tables."""
