"""Whether two traces may be compared at all; refusals say what differs."""

from typing import TypeVar

from spinal.documents.trace import Trace
from spinal.errors import FingerprintMismatch, TracesNotComparable

T = TypeVar("T")


def check_comparable(reference: Trace, candidate: Trace) -> None:
    """Refuse traces measured under different profiles (FingerprintMismatch, with both fingerprints and the
    differing knobs) or on different prompts, token ids, shapes, numbers of ids or engine versions
    (TracesNotComparable)."""
    if not same_fingerprint(reference, candidate):
        knobs = reference.measurement_profile().differing_knobs(candidate.measurement_profile())
        raise FingerprintMismatch(
            "the traces were measured under different profiles"
            + (f": {', '.join(sorted(knobs))}" if knobs else " of different versions"),
            hint="trace both checkpoints with the same profile",
            reference_fingerprint=reference.fingerprint,
            candidate_fingerprint=candidate.fingerprint,
            differing_knobs={knob: {"reference": mine, "candidate": theirs} for knob, (mine, theirs) in knobs.items()},
        )
    for what, mine, theirs, hint in (
        ("prompt set", reference.prompt_set.digest, candidate.prompt_set.digest, "trace both on one prompt set"),
        (
            "token ids",
            reference.prompt_set.token_ids_digest,
            candidate.prompt_set.token_ids_digest,
            "the checkpoints tokenize the same prompts differently: give both the same tokenizer files",
        ),
        ("prompt count", reference.prompt_set.count, candidate.prompt_set.count, "trace both on one prompt set"),
        ("number of blocks", reference.model.n_layers, candidate.model.n_layers, "compare checkpoints of one shape"),
        ("hidden size", reference.model.hidden_size, candidate.model.hidden_size, "compare checkpoints of one shape"),
        (
            "token ids of continuations",
            *_known_on_both(reference.prompt_set.continuation_ids_digest, candidate.prompt_set.continuation_ids_digest),
            "the checkpoints tokenize the same continuations differently: read both with one tokenizer",
        ),
        (
            "number of ids read",
            *_known_on_both(
                reference.vocabulary and reference.vocabulary.ids, candidate.vocabulary and candidate.vocabulary.ids
            ),
            "trace both sides in one comparison: they are then read up to the ids that they share",
        ),
        ("dtype", reference.engine.dtype, candidate.engine.dtype, "trace both in one dtype"),
        ("engine version", reference.engine.version, candidate.engine.version, "trace the older checkpoint again"),
    ):
        if mine != theirs:
            raise TracesNotComparable(
                f"{what} differs: {mine} against {theirs}", hint=hint, reference=mine, candidate=theirs
            )


def _known_on_both(reference: T | None, candidate: T | None) -> tuple[T | None, T | None]:
    """Both values, or neither where a trace of a release before does not say its own."""
    return (None, None) if reference is None or candidate is None else (reference, candidate)


def same_fingerprint(reference: Trace, candidate: Trace) -> bool:
    """Whether two traces were measured under one profile. Fingerprints of two schemes differ where the knobs do not."""
    if reference.fingerprint == candidate.fingerprint:
        return True
    schemes = {reference.scheme, candidate.scheme}
    if len(schemes) == 1 or None in schemes:
        return False
    return not reference.measurement_profile().differing_knobs(candidate.measurement_profile())
