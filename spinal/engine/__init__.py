"""The measuring engine: load -> anatomy -> walk -> spectrum + lens -> Trace. The only place with torch.

Importing this package imports nothing heavy; :mod:`spinal.engine.api` holds the two entry points.
"""
