"""The measuring engine: session -> walk -> contraction + transport -> Trace, and what a pair tells. The only place
with torch.

Importing this package imports nothing heavy; :mod:`spinal.engine.api` holds the two entry points.
"""
