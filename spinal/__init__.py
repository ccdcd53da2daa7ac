"""SPINAL: what alignment did inside a language model, layer by layer.

``import spinal`` needs neither torch nor a server: reading traces and comparisons is pure pydantic and
numpy. Measuring lives in :mod:`spinal.engine` (torch), which is imported only when asked for.
"""

__version__ = "0.1.0"
