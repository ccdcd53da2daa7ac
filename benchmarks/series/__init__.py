"""Training runs of known history, audited at every checkpoint and judged: ``python -m benchmarks.series --keep FOLDER``."""
