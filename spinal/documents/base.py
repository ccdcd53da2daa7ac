"""What all stored documents share: frozen, closed, finite."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from spinal.text import readable

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Remark = Annotated[str, AfterValidator(readable)]
"""A sentence for whoever reads the document, on any machine: it may repeat names out of files."""


class Document(BaseModel):
    """Base of every document part: immutable, no unknown member, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(Document):
    """A value with its 95% interval. ``value`` null always comes with ``reason``."""

    value: Finite | None
    ci: tuple[Finite, Finite] | None = None
    se: Finite | None = None
    mde: Finite | None = None
    """Minimum detectable effect: 2.8 standard errors."""
    significant: bool | None = None
    """Whether the difference from zero survives correction over layers; null where it was not tested."""
    reason: str | None = None


def missing(reason: str) -> Estimate:
    """The estimate of something that has no value, with why."""
    return Estimate(value=None, reason=reason)


class Provenance(Document):
    """Where a number came from: enough to run it again."""

    created_at: str
    """UTC, RFC 3339."""
    duration_s: Finite
    hostname: str | None = None
    platform: str
    python: str
    versions: dict[str, str]
    device: str
    dtype: str
    threads: int
    seed: int
    command: list[str] | None = None
