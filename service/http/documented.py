"""Errors on the wire: RFC 9457 problem objects with a stable ``code``."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from spinal import errors as known
from spinal.errors import SpinalError


class FieldError(BaseModel):
    pointer: str = Field(description="JSON pointer to the member, e.g. /profile/max_tokens", examples=["/candidate"])
    detail: str = Field(examples=["Field required"])


class Problem(BaseModel):
    """Further members depend on ``code``."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:spinal:problem:model_not_found"])
    title: str
    status: int
    code: str = Field(description="Stable; the table is in docs/errors.md")
    detail: str
    hint: str | None = Field(default=None, description="What to do next")
    instance: str | None = Field(default=None, description="Id of the request, as in X-Request-Id")
    errors: list[FieldError] | None = None


def documented(*errors: type[SpinalError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for the errors a route can answer with, one real example per code."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        entry = by_status.setdefault(
            error.status,
            {
                "model": Problem,
                "description": "",
                "content": {
                    "application/problem+json": {"examples": {}, "schema": {"$ref": "#/components/schemas/Problem"}}
                },
            },
        )
        example = error("what is wrong, and where", hint="what to do next").to_problem()
        entry["content"]["application/problem+json"]["examples"][error.code] = {"value": example}
        entry["description"] = ", ".join(filter(None, (entry["description"], error.title)))
    return by_status


ACCESS = (
    known.Unauthorized, known.Forbidden, known.RequestLimitReached, known.DatabaseUnavailable, known.RequestInvalid,
)  # fmt: skip


SUBMIT_ERRORS = (
    *ACCESS,
    known.BodyMalformed,
    known.BodyTooLarge,
    known.MediaTypeUnsupported,
    known.ModelNotFound,
    known.ModelReferenceInvalid,
    known.ModelPathRefused,
    known.NoModelRoots,
    known.ConfigInvalid,
    known.WeightsMissing,
    known.WeightsCorrupt,
    known.PickleWeightsRefused,
    known.NonFiniteWeights,
    known.ArchitectureUnsupported,
    known.TokenizerInvalid,
    known.TokenizerMismatch,
    known.PairMismatch,
    known.AdapterInvalid,
    known.InspectionExceeded,
    known.SourceRefused,
    known.ModelAccessRefused,
    known.ModelChanged,
    known.WeightsDigestMismatch,
    known.ModelSignatureInvalid,
    known.ModelSignatureUntrusted,
    known.NotReady,
    known.SourceUnavailable,
    known.ModelStoreFull,
    known.StorageUnavailable,
    known.PromptSetNotFound,
    known.PolicyNotFound,
    known.IdempotencyKeyReused,
    known.IdempotencyInFlight,
    known.OpenAuditLimitReached,
    known.IdempotencyKeyLimitReached,
)
