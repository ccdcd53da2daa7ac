"""``blocks.<count>`` and ``weights.<part>``: what differs between the files of the two sides."""

from spinal.policy.values.base import OF_THAT_RELEASE, Named, Namespace, Sources, Value, absent, by_name, exactly

COUNTS = {
    "changed": Named("blocks.changed", "blocks whose tensors, configuration or arguments differ", "blocks", 0.0),
    "unchanged": Named("blocks.unchanged", "blocks that are the same on both sides", "blocks", 0.0),
}
PARTS = {
    name: Named(f"weights.{name}", means, "of ||W||", 0.0)
    for name, means in (
        ("embeddings", "relative change of the input embeddings"),
        ("head", "relative change of the output head"),
        ("final_norm", "relative change of the final norm"),
    )
}


def _count(sources: Sources, rest: str) -> Value:
    content = sources.content
    depth = len(content.layers) - 1
    known = content.unchanged_blocks or any(layer.weight_change is not None for layer in content.layers)
    if not known:
        return absent("the weights of both sides were not at hand", asked=True)
    same = len(content.unchanged_blocks)
    return exactly(float(same if rest == "unchanged" else depth - same))


def _part(sources: Sources, rest: str) -> Value:
    change = sources.content.weight_change_other.get(rest)
    return absent(OF_THAT_RELEASE, asked=True) if change is None else exactly(change)


BLOCKS = Namespace("blocks", *by_name("blocks", COUNTS), _count)
WEIGHTS = Namespace("weights", *by_name("weights", PARTS), _part)
