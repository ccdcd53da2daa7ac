"""Checkpoints of remote sources, as folders on this host: fetched once, verified, kept within a budget of bytes.

One folder serves every process of a host. :mod:`.store` knows what lies where, :mod:`.claims` who uses what and what
has to go, :mod:`.reads` how a source that comes and goes is read, :mod:`.parts` how bytes become a verified file,
:mod:`.stubs` the headers of weights, :mod:`.gather` the folder of one checkpoint.
"""
