"""Training at test time: labels out of the rows to answer, guards of rounds, the ledger. Pure functions, no model."""
