"""Every tensor accounted for: what the model asks, what the files hold, and what is left over.

A tensor that the model asks for and the files lack would be random numbers; one that the files hold and the model does
not use means that another model was trained than the one measured. Either is refused, but for a short table of
leftovers that change nothing, each with a remark.
"""

import math
import re
from collections import defaultdict
from collections.abc import Collection

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from spinal.checkpoints.stored import WRAPPERS
from spinal.engine.stored import StoredTensors
from spinal.errors import WeightsCorrupt

MASKS = "causal masks"
SCALES = "scales of activations or of the cache, for runtimes that round those"
HARMLESS = (
    (
        re.compile(r"rotary_emb\.(original_)?inv_freq$"),
        "frequencies; those that follow from the configuration are used",
    ),
    (re.compile(r"(^|\.)(attn|attention|self_attn|crossattention)\.(masked_)?bias$"), MASKS),
    (re.compile(r"(^|\.)position_ids$"), "positions, counted up"),
    (re.compile(r"(^|[._])(input_scale|[kqv]_scale|[kqv]_proj\.output_scale)$"), SCALES),
    (re.compile(r"^v_head\."), "the value head of reinforcement learning, which writes no text"),
)
"""Names of tensors that may be left over, and what they are."""
SAVE = "save the whole model with save_pretrained()"
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")


def require_complete(missing: Collection[str], mismatched: Collection[str], left: Collection[str], source: str) -> None:
    """Raise WeightsCorrupt when the model asks for tensors that the files lack (``left`` is what they hold instead) or
    hold in another shape."""
    # transformers fills such tensors with random numbers; a measurement of those would be fiction.
    for names, what in ((missing, "missing"), (mismatched, "of another shape than config.json says")):
        if names:
            raise WeightsCorrupt(
                f"{source}: {len(names)} tensors are {what}, first {min(names)}", hint=_wrapped(left) or SAVE
            )


def account(model: PreTrainedModel, tensors: StoredTensors, used: Collection[str]) -> tuple[str, ...]:
    """Remarks on the stored tensors that were not ``used``. Raises WeightsCorrupt for one that has no harmless reason,
    for a weight of floats that is stored as whole numbers, and for one that is stored under two names."""
    weights = destinations(model, tensors)
    _check_floats(model, tensors, weights)
    _check_names(weights, tensors.source)
    _check_numbers(weights, tensors.source)
    reasons: dict[str, list[str]] = {}
    refused = []
    left = tensors.names - set(used)
    for name in sorted(left):
        reason = _reason(name, tensors) or _known_to(model, name, left)
        if reason is None:
            refused.append(name)
        else:
            reasons.setdefault(reason, []).append(name)
    if refused:
        raise WeightsCorrupt(
            f"{tensors.source}: {len(refused)} stored tensors are not used by {type(model).__name__} as config.json "
            f"describes it, first {refused[0]}",
            hint=_wrapped(refused) or _deeper(model, refused) or "save config.json and weights of one model together",
        )
    return tuple(
        f"{len(names)} stored tensors are not used: {reason} (first {names[0]})" for reason, names in reasons.items()
    )


def destinations(model: PreTrainedModel, tensors: StoredTensors) -> dict[str, tuple[str, bool]]:
    """For each stored tensor that the model uses: the name of the weight that transformers makes of it, and whether it
    is converted on the way (fused with others, split, transposed)."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    asked = model.state_dict()
    found = {}
    for name in sorted(tensors.names):
        weight, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, asked)
        if weight not in asked and name in asked:
            weight, pattern = name, None
        if weight in asked:
            found[name] = (weight, pattern is not None)
    return found


def _check_floats(model: PreTrainedModel, tensors: StoredTensors, weights: dict[str, tuple[str, bool]]) -> None:
    asked = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, (weight, _) in weights.items():
        if not tensors.is_float(name) and (weight not in asked or asked[weight].is_floating_point()):
            raise WeightsCorrupt(
                f"{tensors.source}: tensor {name} is stored as whole numbers, the model asks for floats",
                hint="save the model in 16 or 32 bits",
            )


def _check_names(weights: dict[str, tuple[str, bool]], source: str) -> None:
    first: dict[str, tuple[str, bool]] = {}
    for name, (weight, converted) in weights.items():
        other, as_well = first.setdefault(weight, (name, converted))
        # Many tensors are converted into one weight, as experts are; but none beside one that is that weight already.
        if other != name and not (converted and as_well):
            raise WeightsCorrupt(f"{source}: {other} and {name} are the same weight", hint="keep one of them")


def _check_numbers(weights: dict[str, tuple[str, bool]], source: str) -> None:
    """Parts of one weight, as experts are, are put together in order, whatever their numbers: one that is missing would
    let those behind it take its place."""
    parts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, (weight, converted) in weights.items():
        if converted:
            parts[weight, NUMBER.sub("#", name)].append(name)
    for (weight, _), names in parts.items():
        for numbers in zip(*map(NUMBER.findall, names), strict=True):
            if len(set(numbers)) > 1 and set(numbers) != {str(number) for number in range(len(names))}:
                wrong = max(set(numbers) - {str(number) for number in range(len(names))}, key=len)
                raise WeightsCorrupt(
                    f"{source}: {weight} is made of {len(names)} parts, and their numbers are not those from 0 to "
                    f"{len(names) - 1}, but also {wrong}",
                    hint=SAVE,
                )


def _reason(name: str, tensors: StoredTensors) -> str | None:
    for pattern, reason in HARMLESS:
        if pattern.search(name) and (reason not in LOOKED_AT or LOOKED_AT[reason](name, tensors)):
            return reason
    return None


def _is_mask(name: str, tensors: StoredTensors) -> bool:
    """A square of positions that are seen or not, or the one number that fills it; anything else would be a bias that
    somebody trained."""
    shape = tensors.stored_shape(name) or ()
    if len(shape) not in (0, 4) and shape != (1,):
        return False
    values = tensors.value(name)
    return not values.is_floating_point() or bool(((values == 0) | (values == 1) | (values <= -1e4)).all())


def _is_one_number(name: str, tensors: StoredTensors) -> bool:
    return math.prod(tensors.stored_shape(name) or ()) == 1


LOOKED_AT = {MASKS: _is_mask, SCALES: _is_one_number}
"""Reasons that hold for some tensors of these names only."""


def _known_to(model: PreTrainedModel, name: str, left: Collection[str]) -> str | None:
    """Parts of a checkpoint that transformers itself names as none of this architecture's (multi-token prediction)."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    if not any(re.search(pattern, name) for pattern in patterns) or name.endswith("bias"):
        return None
    layer, depth = LAYER.search(name), _depth(model)
    # Where the prediction of more tokens is stored as one more layer, it has two norms that no block has.
    if layer and depth is not None and int(layer[1]) >= depth and f"{name[: layer.end()]}hnorm.weight" not in left:
        return None
    return "transformers knows them as no part of this architecture"


def _depth(model: PreTrainedModel) -> int | None:
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    return depth if isinstance(depth, int) else None


def _wrapped(names: Collection[str]) -> str | None:
    """What to do about a prefix that a trainer left in front of names."""
    return next(
        (
            f"names hold {prefix!r}: {remedy}"
            for prefix, remedy in WRAPPERS.items()
            if any(f".{prefix}" in f".{name}" for name in names)
        ),
        None,
    )


def _deeper(model: PreTrainedModel, names: Collection[str]) -> str | None:
    depth = _depth(model)
    found = [int(layer[1]) for name in names if (layer := LAYER.search(name))]
    if depth is not None and found and max(found) >= depth:
        return f"config.json names {depth} blocks, the files hold at least {max(found) + 1}; correct num_hidden_layers"
    return None
