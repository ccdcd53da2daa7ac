"""Checkpoints: from a reference to files that were looked at, with an identity. No torch."""
