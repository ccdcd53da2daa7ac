"""Registered models: names for references."""
