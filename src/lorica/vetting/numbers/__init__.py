"""What the values of the tensors say, of one adapter and of many beside each other (L2)."""
