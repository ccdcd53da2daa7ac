"""Checkpoints whose truth is known: built from any reference, trained here in minutes, or unpacked from a package."""
