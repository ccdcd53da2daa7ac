"""What was measured on this machine, kept for the next time: traces with their captures, and comparisons.

One folder for each entry: its files, and one with the sha256 of them. An entry is written under another name and
renamed, so that it is whole or absent; what is read is verified first, and what is damaged is removed and measured
again. Whoever uses an entry holds a shared lock on it, so that no other process removes it meanwhile; a lock ends with
its process.

A digest says what was measured and how, not on which device or with which libraries. Entries are therefore kept apart
by the conditions of the measurement, too (:mod:`spinal.engine.conditions`): a trace from a GPU never stands in for one
from a CPU.
"""

from spinal.cache.comparisons import Comparisons, open_comparisons
from spinal.cache.entries import LOCK, SUMS, UNSURE_S, Conditions
from spinal.cache.environment import cache_folder
from spinal.cache.traces import CAPTURE, TRACE, Cache, open_cache

__all__ = [
    "CAPTURE",
    "LOCK",
    "SUMS",
    "TRACE",
    "UNSURE_S",
    "Cache",
    "Comparisons",
    "Conditions",
    "cache_folder",
    "open_cache",
    "open_comparisons",
]
