"""Traces, comparisons and diffs: stored whole, checked, never changed."""
