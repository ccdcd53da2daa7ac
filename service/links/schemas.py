"""Links on the wire."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from service.platform.links import LIFETIME, LONGEST, SHORTEST


class LinkIn(BaseModel):
    """How long a link is to open the report."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"expires_in": 604800}]})

    expires_in: int = Field(
        default=round(LIFETIME.total_seconds()),
        ge=round(SHORTEST.total_seconds()),
        le=round(LONGEST.total_seconds()),
        strict=True,
        description="Seconds; 7 days where nothing is said, 90 days at most.",
    )


class LinkOut(BaseModel):
    url: str = Field(
        description="What a browser opens. A path, without a host, where the service was not told its own "
        "(`SPINAL_PUBLIC_URL`). Whoever has it reads the report until it ends.",
    )
    expires_at: datetime


class LinksRevoked(BaseModel):
    revoked_at: datetime = Field(description="Links that were made before open nothing any more.")
