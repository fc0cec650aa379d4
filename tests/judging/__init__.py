"""Tests of `lorica.judging`."""
