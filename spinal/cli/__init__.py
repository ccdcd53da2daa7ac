"""The ``spinal`` command."""
