"""Training runs of known history, audited and judged: ``python -m benchmarks.series --keep FOLDER``."""
