"""What the sentences are made of, read off a comparison: which blocks changed, and what changed outside them."""

from dataclasses import dataclass

from spinal.analysis.damage.limits import LIMITS
from spinal.analysis.statements.words import listed, runs, settings_in_words
from spinal.documents.account import configuration_carries
from spinal.documents.comparison import ComparisonContent, SettingDifference
from spinal.numbers import share

EXPLAINED = 0.25
"""Share of a large hidden change that one rotation and scale may leave over where it was one, with something else."""
OUTSIDE = {"embeddings": "the input embeddings", "final_norm": "the final norm", "head": "the unembedding"}


@dataclass(frozen=True)
class Facts:
    """What changed between the sides, before anything is measured on prompts."""

    depth: int
    same_weights: bool
    """Whether every tensor is the same on both sides, in the blocks and outside them."""
    unchanged: tuple[int, ...]
    """Blocks that are the same on both sides."""
    compared_settings: bool
    """Whether ``unchanged`` means tensors, configuration and arguments; documents of earlier releases tell of tensors
    alone."""
    same_tensors: tuple[int, ...]
    """Blocks whose tensors are the same on both sides."""
    outside: dict[str, float]
    """Relative weight change of what lies outside the blocks and changed."""
    perhaps_another_basis: bool
    """Whether most of what the last residuals differ by is one rotation and scale, and outputs differ as well."""
    measured: bool
    """Whether weights were compared at all."""
    computing: tuple[SettingDifference, ...]
    """Settings that shape what the model computes from token ids."""
    other: tuple[SettingDifference, ...]
    """Settings that do not: template, generation, how a configuration was written."""
    configuration_carries: bool | None = None
    """Whether other settings compute something else on the prompts that were read; None where it was not measured."""

    @property
    def changed(self) -> tuple[int, ...]:
        return tuple(block for block in range(1, self.depth + 1) if block not in self.unchanged)

    @property
    def changed_runs(self) -> tuple[tuple[int, int], ...]:
        return runs(self.changed)

    def alike(self, count: int) -> str:
        """What is known of ``count`` blocks that did not change."""
        if self.compared_settings:
            return "are bit-identical" if count > 1 else "is bit-identical"
        return "hold the same tensors" if count > 1 else "holds the same tensors"

    def elsewhere(self) -> str | None:
        """What changed outside the blocks, in words; None where nothing did."""
        parts = [f"{OUTSIDE.get(name, name.replace('_', ' '))} (by {_part(of)})" for name, of in self.outside.items()]
        return f"{listed(parts)} changed" if parts else None

    def settings(self) -> str | None:
        """On what configuration, generation and template differ, in words."""
        both = (*self.computing, *self.other)
        return settings_in_words(both) if both else None


def _perhaps_another_basis(content: ComparisonContent) -> bool:
    """A change of basis beside one of what the model says. Of a change in one basis a rotation and scale explain next
    to nothing: those of trained and of wrecked models leave .8 or more of it over, and never less than the half."""
    frame, hidden = content.frame, content.damage.signals.get("hidden_change")
    if frame is None or frame.changed or frame.residual is None or hidden is None or hidden.value is None:
        return False
    far = hidden.value >= LIMITS["hidden_change"].watch
    return far and frame.residual < EXPLAINED * min(1.0, hidden.value)


def _part(change: float) -> str:
    """A change that is there is never called 0%."""
    said = share(change)
    return "less than 0.1%" if said == "0%" else said


def facts_of(content: ComparisonContent) -> Facts:
    """The facts of a stored comparison, of this release or of an earlier one."""
    blocks = content.layers[1:]
    equal = tuple(layer.layer for layer in blocks if layer.weight_change == 0.0)
    computing = tuple(one for one in content.settings if one.computes)
    # Where a block computes something else, equal tensors do not make it the same.
    still = tuple(layer.layer for layer in blocks if layer.layer in equal and not layer.block_swap.value)
    recorded = bool(content.unchanged_blocks)
    outside = {name: change for name, change in content.weight_change_other.items() if change > 0.0}
    return Facts(
        depth=len(blocks),
        same_weights=content.identical or (len(equal) == len(blocks) and not outside),
        unchanged=content.unchanged_blocks if recorded or computing else still,
        compared_settings=recorded,
        same_tensors=equal,
        outside=outside,
        perhaps_another_basis=_perhaps_another_basis(content),
        measured=any(layer.weight_change is not None for layer in blocks),
        computing=computing,
        other=tuple(one for one in content.settings if not one.computes),
        configuration_carries=configuration_carries(content.accounts),
    )
