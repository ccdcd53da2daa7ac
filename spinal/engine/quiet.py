"""No progress bars or advice of transformers: progress is reported by the engine itself."""

import contextlib
from collections.abc import Iterator
from logging import ERROR, getLogger

from transformers.utils import logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside this context transformers shows errors and nothing else."""
    # accelerate warns of weights that are left on disk, where they are meant to be.
    other = getLogger("accelerate")
    verbosity, level = logging.get_verbosity(), other.level
    other.setLevel(ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        other.setLevel(level)
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
