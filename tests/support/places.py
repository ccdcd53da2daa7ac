"""Where the checkout and its examples lie. Apart from ``tests/conftest.py``: benchmarks run where pytest is not."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
