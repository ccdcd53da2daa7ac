"""Is the candidate still a working model? (``docs/method.md`` ("Damage panel")). Shown next to every score.

``limits`` is the one table of limits, ``behaviour`` and ``structure`` measure the signals, ``bounds`` tells how sure
they are, ``panel`` draws them together.
"""
