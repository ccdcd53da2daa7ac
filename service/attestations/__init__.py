"""Attestations: signed statements about audits, made when they are first asked for."""
