"""Prompt sets that callers store."""
