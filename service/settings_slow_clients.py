"""Settings for clients that wait, and for those that are slow, silent or many (of ``python -m service``)."""

from pydantic import Field
from pydantic_settings import BaseSettings


class SlowClients(BaseSettings):
    """A part of ``service.settings.Settings``. Durations are seconds."""

    max_waiters: int = Field(default=2000, ge=0)
    """How many requests may wait (``?wait=``) in each process of the API; others are answered at once."""
    wait_sweep_s: float = Field(default=5.0, gt=0)
    """How often what is waited for is looked at although nobody told of its end."""

    http_header_s: float = Field(default=10.0, gt=0)
    """How long a client may take for the head of a request."""
    http_body_s: float = Field(default=60.0, gt=0)
    """How long it may take for the body."""
    http_silence_s: float = Field(default=10.0, gt=0)
    """Longest silence within a body, or within an answer that a client does not read on."""
    http_bytes_per_s: int = Field(default=500, ge=0)
    """What has to come of a body, or to be taken of an answer, each second on average, once a client may no longer be
    silent."""
    http_idle_s: int = Field(default=5, ge=1)
    """How long a connection stays open for a next request."""
    http_connections: int = Field(default=8192, ge=16)
    """Most connections of each process, as far as it may open so many files. Beyond, those that are half sent or idle
    are closed for others, and only ``/livez`` and ``/readyz`` are answered where there are none."""
    http_half_sent: int = Field(default=1024, ge=16)
    """Most requests that are half sent; beyond, the oldest are ended."""
    http_held_mb: int = Field(default=256, ge=1)
    """Most memory for bodies that are half sent and answers that are half read; beyond, the oldest are ended."""
