"""Every knob of a measurement, in one frozen value with a fingerprint.

Two traces may be compared only when their fingerprints are equal; everything that changes a number in a
trace is therefore a field here. A knob of stage ``compare`` acts only on a comparison: changing it never makes a stored
trace stale.

An identity holds the profile's name and the knobs that differ from the defaults of that name. So a new knob with a
default changes no identity; and the defaults of a name never change: other defaults are another name.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator

from spinal.documents.canonical import digest_of
from spinal.documents.editions import FORMER, PRESENT

Stage = Literal["trace", "compare"]


@dataclass(frozen=True)
class Knob:
    """What a knob acts on, and since when there is one."""

    stage: Stage
    since: int = FORMER.since
    """The version of specifications (``service/runs/specs.py``) that first knew it. A new knob takes the next one:
    workers from before it then leave alone what sets it, and go on with everything else."""


TRACE, COMPARE = Knob("trace"), Knob("compare")
TRACE_SINCE_5, COMPARE_SINCE_5 = Knob("trace", since=5), Knob("compare", since=5)
Share = Annotated[float, Field(ge=0.0, le=1.0), COMPARE]


OTHER_DEFAULTS: dict[str, dict[str, Any]] = {
    "spinal/1": {"sampling": "first", "continuation_walk": "apart", "greedy_prompts": 0},
    "spinal/2": {},
}
"""By name of a profile, the defaults in which it differs from those written at the knobs."""


class MeasurementProfile(BaseModel):
    """Knobs of a measurement (``docs/method.md``); the defaults are those of the profile's name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    name: Literal["spinal/1", "spinal/2"] = "spinal/2"

    # what is read
    max_tokens: Annotated[int, Field(ge=8, le=131_072), TRACE] = 512
    """Tokens kept of each prompt, counted from its end."""
    add_special_tokens: Annotated[bool, TRACE] = True
    """Whether the tokenizer adds its own special tokens (its default behaviour)."""
    lens_positions: Annotated[Annotated[int, Field(ge=1, le=4096)] | Literal["full"], TRACE] = 16
    """Positions per prompt read by the lens at positions ``all``, evenly strided over the eligible ones."""

    # how it is computed
    dtype: Annotated[Literal["float32", "checkpoint"], TRACE] = "float32"
    """dtype of the blocks. ``checkpoint`` keeps the stored dtype (the choice on a GPU)."""
    batch_size: Annotated[int, Field(ge=1, le=1024), TRACE] = 16
    """Prompts per forward pass. Part of the fingerprint: in bf16 the batch moves single positions."""
    rank_tolerance: Annotated[float, Field(gt=0.0, lt=1.0), TRACE] = 1e-7
    """Singular values below this share of the first do not count towards the rank."""
    min_window_ranks: Annotated[int, Field(ge=3, le=4096), TRACE] = 16
    """A fit window with fewer ranks than this has no alpha (``insufficient_rank``)."""
    window_last: Annotated[Literal["bulk", "body", "wide", "tail"], TRACE] = "bulk"
    window_all: Annotated[Literal["bulk", "body", "wide", "tail"], TRACE] = "body"
    jackknife_groups: Annotated[int, Field(ge=4, le=256), TRACE] = 16
    """Groups of the delete-group jackknife of engines before 4, where rows do not outnumber dimensions."""
    parity_tolerance: Annotated[float, Field(gt=0.0, le=0.1), TRACE] = 1e-3
    """Largest mean Fisher-Rao distance (radians) between lens(r_D) and the model's own output."""

    continuation_prompts: Annotated[int, Field(ge=0, le=4096), TRACE] = 64
    """Prompts whose own continuation is scored for the damage panel, where the set carries continuations."""

    sampling: Annotated[Literal["first", "stratified"], TRACE_SINCE_5] = "stratified"
    """Which prompts are scored, swapped, stitched and continued: a seeded sample over the categories of the set, or its
    first ones."""
    continuation_walk: Annotated[Literal["apart", "joint"], TRACE_SINCE_5] = "joint"
    """Whether a prompt and its own continuation are read in one pass, or the prompt in another one by itself."""
    greedy_prompts: Annotated[int, Field(ge=0, le=1024), TRACE_SINCE_5] = 32
    """Prompts that are continued greedily, for the damage panel."""
    greedy_tokens: Annotated[int, Field(ge=1, le=1024), TRACE_SINCE_5] = 64
    """Tokens that a greedy continuation has at most."""

    # what a comparison does with two traces
    swap_prompts: Annotated[int, Field(ge=4, le=4096), COMPARE] = 128
    """Prompts used by block swap."""
    stitch_prompts: Annotated[int, Field(ge=0, le=4096), COMPARE_SINCE_5] = 64
    """Prompts over which the accounts of what carries the change are drawn up; 0 leaves them out."""
    stitch_tokens: Annotated[int, Field(ge=8, le=131_072), COMPARE_SINCE_5] = 128
    """Tokens kept of each prompt for the account of KL, counted from its end."""
    pair_tokens: Annotated[int, Field(ge=8, le=131_072), COMPARE_SINCE_5] = 256
    """Tokens kept of a prompt with an answer, for the accounts of margin and refusals: the prompt is cut from its
    front, an answer never."""
    bootstrap_draws: Annotated[int, Field(ge=200, le=20_000), COMPARE] = 2000
    seed: Annotated[int, Field(ge=0, lt=2**31), COMPARE] = 0
    terminal_fraction: Annotated[float, Field(gt=0.0, lt=1.0), COMPARE] = 0.7
    """The terminal window T starts at block ceil(terminal_fraction * D)."""
    weight_delta: Share = 1 / 3
    weight_coherence: Share = 1 / 3
    weight_footprint: Share = 1 / 3
    noise_draws: Annotated[int, Field(ge=0, le=64), COMPARE] = 0
    """Draws of the matched-noise control; 0 leaves it out. Each costs about as much as a trace."""

    @model_validator(mode="wrap")
    @classmethod
    def _defaults_of_its_name(cls, given: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(given, dict):
            return build(given)
        name = given.get("name", cls.model_fields["name"].default)
        others = OTHER_DEFAULTS.get(name if isinstance(name, str) else "", {})
        made = build(others | given)
        # What was sent says which request it was: a default is not sent, under any name.
        made.model_fields_set.difference_update(others.keys() - given.keys())
        return made

    @property
    def reads_behaviour(self) -> bool:
        """Whether a trace keeps how the model goes on from its prompts: under ``spinal/1`` none does."""
        return self.name != "spinal/1"

    @property
    def fingerprint(self) -> str:
        """Identity of everything that can change a number in a trace."""
        return self.fingerprint_under(PRESENT.scheme)

    @property
    def comparison_fingerprint(self) -> str:
        """Identity of every knob, those of comparisons included."""
        return self.comparison_fingerprint_under(PRESENT.scheme)

    def fingerprint_under(self, scheme: str) -> str:
        """:attr:`fingerprint` as digests of that scheme hold it (``spinal.documents.canonical``)."""
        return self._identity(scheme, self.knobs("trace"))

    def comparison_fingerprint_under(self, scheme: str) -> str:
        """:attr:`comparison_fingerprint` as digests of that scheme hold it."""
        return self._identity(scheme, self.knobs("trace", "compare"))

    def _identity(self, scheme: str, knobs: set[str]) -> str:
        if scheme != FORMER.scheme:
            return digest_of(self.asked(knobs), scheme)
        # The release before knew no defaults: every knob that it had stood in a fingerprint.
        return digest_of(self.model_dump(mode="json", include={"name", *(knobs & self.known_before())}), scheme)

    @classmethod
    def known_before(cls) -> set[str]:
        """Names of the knobs that the release before has."""
        return {name for name, knob in cls.table().items() if knob.since <= FORMER.since}

    def spelled_out(self) -> dict[str, Any]:
        """The profile as the release before, asked for the same, would have written it: every knob that it knows, with
        its own default where none was sent; and beside them whatever was sent, known or not."""
        sent = self.model_dump(mode="json", exclude_unset=True)
        before = type(self)(name="spinal/1")
        return before.model_dump(mode="json", include={"name", *self.known_before()}) | sent

    def asked(self, knobs: set[str]) -> dict[str, Any]:
        """The name, and of ``knobs`` those that differ from its defaults: the profile by value, as JSON."""
        defaults = self.defaults_of(self.name)
        differing = {knob for knob in knobs if getattr(self, knob) != defaults[knob]}
        return self.model_dump(mode="json", include={"name", *differing})

    @classmethod
    def defaults_of(cls, name: str) -> dict[str, Any]:
        """Every knob's default under the profile ``name``."""
        return {knob: cls.model_fields[knob].default for knob in cls.table()} | OTHER_DEFAULTS[name]

    @classmethod
    def knobs(cls, *stages: Stage) -> set[str]:
        """Names of the knobs that act in any of ``stages``."""
        return {name for name, knob in cls.table().items() if knob.stage in stages}

    @classmethod
    def table(cls) -> dict[str, Knob]:
        """Every knob, by name."""
        return {
            name: knob for name, field in cls.model_fields.items() for knob in field.metadata if isinstance(knob, Knob)
        }

    def differing_knobs(self, other: "MeasurementProfile") -> dict[str, tuple[Any, Any]]:
        """Trace-level knobs on which two profiles differ, as ``{knob: (mine, theirs)}``; their names, too, since a
        name says what a trace keeps."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        compared = ["name", *sorted(self.knobs("trace"))]
        return {knob: (mine[knob], theirs[knob]) for knob in compared if mine[knob] != theirs.get(knob)}

    def window_for(self, positions: str) -> str:
        """Name of the default fit window at positions ``last`` or ``all``."""
        return self.window_last if positions == "last" else self.window_all


class TraceKnobs(TypedDict, total=False):
    """Knobs of a measurement as keyword arguments; see :class:`MeasurementProfile`."""

    name: Literal["spinal/1", "spinal/2"]
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
    sampling: Literal["first", "stratified"]
    continuation_walk: Literal["apart", "joint"]
    greedy_prompts: int
    greedy_tokens: int


class CompareKnobs(TraceKnobs, total=False):
    """Knobs of a measurement and of a comparison as keyword arguments."""

    swap_prompts: int
    stitch_prompts: int
    stitch_tokens: int
    pair_tokens: int
    bootstrap_draws: int
    seed: int
    terminal_fraction: float
    weight_delta: float
    weight_coherence: float
    weight_footprint: float
    noise_draws: int
