"""``scores.<score>``: how strong the signature is. Strength is not quality: the strongest among the checkpoints with a
known history belongs to a wrecked one."""

from spinal.policy.values.base import Named, Namespace, Sources, Value, absent, by_name

SCORES = {
    name: Named(f"scores.{name}", means, unit)
    for name, means, unit in (
        ("delta_align", "change of the shape of the depth curves in the terminal window", ""),
        ("contraction_rise", "relative rise of contraction in the terminal window", ""),
        ("transport_fall", "relative fall of transport in the terminal window", ""),
        ("coherence", "chord over arc of the candidate's curve in the terminal window", ""),
        ("footprint", "mean share of the terminal window in the block-swap and function profiles", ""),
        ("spinal_score", "the weighted score of the signature", ""),
    )
}


def _read(sources: Sources, rest: str) -> Value:
    scores = sources.content.scores
    value: float | None = getattr(scores, rest)
    if value is None:
        return absent(scores.reasons.get(rest, "not measured"), asked=True)
    return Value(value, scores.ci.get(rest))


SCORES_OF_A_COMPARISON = Namespace("scores", *by_name("scores", SCORES), _read)
