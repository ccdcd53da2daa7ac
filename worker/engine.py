"""The measuring engine of a worker: that of its settings, held to their number of threads."""

from service.settings import Settings
from spinal.engine_port import MeasuringEngine, load_engine


def engine_with_threads(settings: Settings) -> MeasuringEngine:
    """The engine of the settings, held to their number of threads."""
    if settings.engine.startswith("spinal.engine"):
        from spinal.engine.threads import set_threads

        set_threads(settings.torch_threads)
    return load_engine(settings.engine)
