"""Prompt sets: what a measurement reads."""
