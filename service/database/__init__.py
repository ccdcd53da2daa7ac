"""Connections, transactions, tables."""
