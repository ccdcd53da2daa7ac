"""Scores of an audit on the wire."""

from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field

from spinal.documents.account import Account, AccountContrast
from spinal.documents.comparison import (
    Comparison,
    Damage,
    Frame,
    Looked,
    Null,
    PromptChange,
    Scores,
    SettingDifference,
    Statement,
    Verdict,
)
from spinal.documents.localization import Localization


class ScoresOut(BaseModel):
    """The comparison without its layers."""

    audit: UUID
    comparison: str
    verdict: Verdict
    statements: list[Statement] = Field(description="Where the change sits and what carries it, in words.")
    accounts: dict[str, Account] = Field(
        description="What carries the change: by read-out, how much of it each part of the model carries."
    )
    control_accounts: dict[str, Account] = Field(description="The same of the control against the reference.")
    noise_accounts: dict[str, Account] = Field(description="The same of matched random noise.")
    account_contrasts: dict[str, AccountContrast] = Field(description="Candidate minus control, by read-out.")
    localization: dict[str, Localization] = Field(
        description="What computes something else: where each profile over the blocks concentrates."
    )
    scores: Scores
    damage: Damage
    nulls: dict[str, Null]
    settings: list[SettingDifference] = Field(
        description="Keys of configuration, generation configuration and chat template on which both sides differ."
    )
    frame: Frame | None = Field(description="Whether both sides write their residuals in one basis; null if not read.")
    unchanged_blocks: list[int]
    looked_at: list[Looked] = Field(description="How many prompts of each category were read, and for what.")
    prompt_changes: list[PromptChange] = Field(description="The prompts that moved most, first.")
    warnings: list[str]

    @classmethod
    def of(cls, audit: UUID, comparison: Comparison) -> Self:
        return cls(
            audit=audit,
            comparison=comparison.digest,
            verdict=comparison.verdict,
            statements=list(comparison.statements),
            accounts=comparison.accounts,
            control_accounts=comparison.control_accounts,
            noise_accounts=comparison.noise_accounts,
            account_contrasts=comparison.account_contrasts,
            localization={str(name): place for name, place in comparison.localization.items()},
            scores=comparison.scores,
            damage=comparison.damage,
            nulls=comparison.nulls,
            settings=list(comparison.settings),
            frame=comparison.frame,
            unchanged_blocks=list(comparison.unchanged_blocks),
            looked_at=list(comparison.looked_at),
            prompt_changes=list(comparison.prompt_changes),
            warnings=list(comparison.warnings),
        )
