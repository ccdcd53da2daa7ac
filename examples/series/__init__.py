"""Training runs with a known history, made here in minutes: ``python examples/series/train.py OUT``."""
