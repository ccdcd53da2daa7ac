"""Policies that tenants store, and those that ship."""
