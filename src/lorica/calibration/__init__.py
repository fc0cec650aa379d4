"""Calibration: scores turned into probabilities that come true as often as they say; fitted, measured, saved."""
