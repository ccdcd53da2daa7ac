"""Requests to servers that are not ours: to listed hosts, never to a forbidden address, with bounded answers."""
