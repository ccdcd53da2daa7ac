"""The measuring engine of a worker: that of its settings, held to their number of threads, and what it keeps."""

from functools import lru_cache

from service.settings import Settings
from spinal.engine_port import MeasuringEngine, load_engine
from spinal.warm import Warm


def engine_with_threads(settings: Settings) -> MeasuringEngine:
    """The engine of the settings, held to their number of threads."""
    if settings.engine.startswith("spinal.engine"):
        from spinal.engine.threads import set_threads

        set_threads(settings.torch_threads)
    return load_engine(settings.engine)


@lru_cache(maxsize=1)
def warm_reference(limit_bytes: int) -> Warm:
    """What this process keeps of a reference from one run to the next."""
    return Warm(limit_bytes)
