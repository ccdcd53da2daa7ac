"""Every knob of a measurement, in one frozen value with a fingerprint.

Two traces may be compared only when their fingerprints are equal; everything that changes a number in a
trace is therefore a field here. Fields in ``COMPARISON_FIELDS`` act only on a comparison: changing them
never makes a stored trace stale.
"""

from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from spinal.documents.canonical import digest_of

COMPARISON_FIELDS = frozenset(
    {
        "swap_prompts",
        "bootstrap_draws",
        "seed",
        "terminal_fraction",
        "weight_delta",
        "weight_coherence",
        "weight_footprint",
        "noise_draws",
    }
)

Unit = Annotated[float, Field(ge=0.0, le=1.0)]


class MeasurementProfile(BaseModel):
    """Knobs of a measurement (``docs/method.md``); the defaults are profile ``spinal/1``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    name: Literal["spinal/1"] = "spinal/1"

    # what is read
    max_tokens: Annotated[int, Field(ge=8, le=131_072)] = 512
    """Tokens kept of each prompt, counted from its end."""
    add_special_tokens: bool = True
    """Whether the tokenizer adds its own special tokens (its default behaviour)."""
    lens_positions: Annotated[int, Field(ge=1, le=4096)] | Literal["full"] = 16
    """Positions per prompt read by the lens at positions ``all``, evenly strided over the eligible ones."""

    # how it is computed
    dtype: Literal["float32", "checkpoint"] = "float32"
    """dtype of the blocks. ``checkpoint`` keeps the stored dtype (the choice on a GPU)."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 16
    """Prompts per forward pass. Part of the fingerprint: in bf16 the batch moves single positions."""
    rank_tolerance: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-7
    """Singular values below this share of the first do not count towards the rank."""
    min_window_ranks: Annotated[int, Field(ge=3, le=4096)] = 16
    """A fit window with fewer ranks than this has no alpha (``insufficient_rank``)."""
    window_last: Literal["bulk", "body", "wide", "tail"] = "bulk"
    window_all: Literal["bulk", "body", "wide", "tail"] = "body"
    jackknife_groups: Annotated[int, Field(ge=4, le=256)] = 16
    """Groups of the delete-group jackknife, used where rows do not outnumber dimensions."""
    parity_tolerance: Annotated[float, Field(gt=0.0, le=0.1)] = 1e-3
    """Largest mean Fisher-Rao distance (radians) between lens(r_D) and the model's own output."""

    continuation_prompts: Annotated[int, Field(ge=0, le=4096)] = 64
    """Prompts whose own continuation is scored for the damage panel, where the set carries continuations."""

    # what a comparison does with two traces
    swap_prompts: Annotated[int, Field(ge=4, le=4096)] = 128
    """Prompts used by block swap, the first ones of the set."""
    bootstrap_draws: Annotated[int, Field(ge=200, le=20_000)] = 2000
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    terminal_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.7
    """The terminal window T starts at block ceil(terminal_fraction * D)."""
    weight_delta: Unit = 1 / 3
    weight_coherence: Unit = 1 / 3
    weight_footprint: Unit = 1 / 3
    noise_draws: Annotated[int, Field(ge=0, le=64)] = 0
    """Draws of the matched-noise control; 0 leaves it out. Each costs about as much as a trace."""

    @property
    def fingerprint(self) -> str:
        """Identity of everything that can change a number in a trace."""
        return digest_of(self.model_dump(mode="json", exclude=set(COMPARISON_FIELDS)))

    @property
    def comparison_fingerprint(self) -> str:
        """Identity of every knob, those of comparisons included."""
        return digest_of(self.model_dump(mode="json"))

    def differing_knobs(self, other: "MeasurementProfile") -> dict[str, tuple[Any, Any]]:
        """Trace-level knobs on which two profiles differ, as ``{knob: (mine, theirs)}``."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return {
            knob: (mine[knob], theirs[knob])
            for knob in mine
            if knob not in COMPARISON_FIELDS and mine[knob] != theirs[knob]
        }

    def window_for(self, positions: str) -> str:
        """Name of the default fit window at positions ``last`` or ``all``."""
        return self.window_last if positions == "last" else self.window_all


class TraceKnobs(TypedDict, total=False):
    """Knobs of a measurement as keyword arguments; see :class:`MeasurementProfile`."""

    max_tokens: int
    add_special_tokens: bool
    lens_positions: int | Literal["full"]
    dtype: Literal["float32", "checkpoint"]
    batch_size: int
    rank_tolerance: float
    min_window_ranks: int
    window_last: Literal["bulk", "body", "wide", "tail"]
    window_all: Literal["bulk", "body", "wide", "tail"]
    jackknife_groups: int
    parity_tolerance: float
    continuation_prompts: int


class CompareKnobs(TraceKnobs, total=False):
    """Knobs of a measurement and of a comparison as keyword arguments."""

    swap_prompts: int
    bootstrap_draws: int
    seed: int
    terminal_fraction: float
    weight_delta: float
    weight_coherence: float
    weight_footprint: float
    noise_draws: int
