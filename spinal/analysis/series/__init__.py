"""Detectors over the members of a series: pure functions of arrays."""
