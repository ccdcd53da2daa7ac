"""Signed statements about audits: what they say, how they are signed, how they are checked (``docs/attestations.md``).

Pure but for ``signers``, which ask key servers, and ``folder``, which reads one. ``cryptography`` is imported where a
key is used.
"""
