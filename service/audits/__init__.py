"""Audits: what one caller asked, and what became of it."""
