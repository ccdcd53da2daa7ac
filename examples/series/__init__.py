"""Training runs with a known history, made here in minutes: ``cd examples; python -m series.train OUT``."""
