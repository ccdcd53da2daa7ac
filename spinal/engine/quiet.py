"""No progress bars or advice of transformers and accelerate: progress is reported by the engine itself."""

import contextlib
import logging as standard
from collections.abc import Iterator

from transformers.utils import logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside this context they show errors and nothing else."""
    verbosity, accelerate = logging.get_verbosity(), standard.getLogger("accelerate")
    level = accelerate.level
    accelerate.setLevel(standard.ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        accelerate.setLevel(level)
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
