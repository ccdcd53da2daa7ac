"""Policies on the wire."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field

from service.policies.store import StoredPolicy
from spinal.documents.base import Digest
from spinal.documents.policy import NAME

PolicyName = Annotated[str, Field(pattern=NAME, description="Name and version: ``acme-release/3``")]


class PolicyHead(BaseModel):
    """A policy without its rules."""

    name: PolicyName
    digest: Digest
    description: str
    rules: int = Field(description="How many rules it has.")
    builtin: bool = Field(description="Whether it ships with a release of the service.")
    created_at: datetime | None = Field(description="When it was stored; null where it ships.")

    @classmethod
    def of(cls, policy: StoredPolicy) -> Self:
        return cls(**_head(policy))


class PolicyOut(BaseModel):
    """A policy with its document, every member spelled out: what the digest covers."""

    name: PolicyName
    digest: Digest
    builtin: bool = Field(description="Whether it ships with a release of the service.")
    created_at: datetime | None = Field(description="When it was stored; null where it ships.")
    document: dict[str, Any] = Field(description="``spinal.policy/1``; see the schema Policy.")

    @classmethod
    def of(cls, policy: StoredPolicy) -> Self:
        head = {name: member for name, member in _head(policy).items() if name in cls.model_fields}
        return cls(**head, document=policy.document)


class PolicyPage(BaseModel):
    items: list[PolicyHead]
    next: str | None = Field(description="Cursor of the next page; null on the last.")


def _head(policy: StoredPolicy) -> dict[str, Any]:
    return {
        "name": policy.name,
        "digest": policy.digest,
        "description": policy.document.get("description", ""),
        "rules": len(policy.document.get("rules", ())),
        "builtin": policy.builtin,
        "created_at": None if policy.builtin else policy.created_at,
    }
