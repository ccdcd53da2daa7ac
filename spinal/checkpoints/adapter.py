"""What the settings of a PEFT adapter and the header of its file tell before anything is loaded. No torch."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_config
from spinal.checkpoints.stored import FLOATS, NO_PATTERN
from spinal.checkpoints.tensors import read_header
from spinal.errors import AdapterInvalid

PREFIX = "base_model.model."
"""What PEFT writes before each name of the model's own."""
MEASURED = frozenset({
    "LORA", "ADALORA", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA", "IA3",
    "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING",
    "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
})  # fmt: skip
"""Types of PEFT that merge into the weights exactly: a test holds for each that the merged model's logits are those of
PEFT's own forward pass."""
VIRTUAL = "puts trained virtual tokens before each prompt instead of changing weights"
BESIDE = "computes something beside the weights that cannot be merged into them"
REFUSED = {
    "PROMPT_TUNING": VIRTUAL, "MULTITASK_PROMPT_TUNING": VIRTUAL, "P_TUNING": VIRTUAL, "PREFIX_TUNING": VIRTUAL,
    "CPT": VIRTUAL, "CARTRIDGE": VIRTUAL,
    "ADAPTION_PROMPT": BESIDE, "LILY": BESIDE, "POLY": BESIDE, "SHADOW": BESIDE, "XLORA": BESIDE,
    "ADAMSS": "needs a clustering of the base's weights to be loaded",
    "FROD": "needs a joint decomposition of all of the base's weights to be loaded",
    "PVERA": "may draw random numbers whenever it is run",
}  # fmt: skip
"""Types of PEFT that cannot be measured, and why."""
OFF = {
    "megatron_config": "has a Python module of its choice imported",
    "layer_replication": "makes a model of more blocks than its base has",
    "alora_invocation_tokens": "works only behind certain tokens, so that it cannot be merged",
    "arrow_config": "routes each token to experts, so that it cannot be merged",
}
"""Settings that an adapter cannot have, and why."""
STARTS = {
    "corda": "changes the base by data that the adapter does not hold",
    "lora_ga": "changes the base by data that the adapter does not hold",
    "loftq": "quantises the base",
    "pissa_niter_": "starts from random numbers that the adapter does not hold",
}
"""Ways of init_lora_weights, or how they begin, after which the adapter alone does not say what it was trained on."""
TASKS = (None, "CAUSAL_LM")
WHOLE = ("I64", "U64", "I32", "U32", "I16", "U16", "U8")
SIZES = ("r", "init_r", "target_r", "mini_r", "num_vectors", "vector_length", "n_frequency", "theta_d_length", "depth")
"""Settings that say how much memory is taken; what is stored has to bear them out."""
BY_MODULE = ("rank_pattern", "alpha_pattern")
ANY_SIZE = 256
MOST_PATTERN = 4096
MERGE_FIRST = "merge it with merge_and_unload() of PEFT and submit the merged model"
AGAIN = "save it again with save_pretrained() of PEFT"
PLAIN = re.compile(r"[\w.\-]*")


def read_adapter(checkpoint: Checkpoint) -> dict[str, Any]:
    """adapter_config.json; raises AdapterInvalid."""
    return read_config(checkpoint.path, ADAPTER_CONFIG, checkpoint.source, checkpoint.roots)


def check_adapter(checkpoint: Checkpoint, header: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse an adapter that cannot be measured; ``header`` is that of its file.

    Raises AdapterInvalid naming the setting or the tensor, with what to do, and the errors of reading headers.
    """
    settings, source = read_adapter(checkpoint), checkpoint.source
    _check_type(settings, source)
    _check_options(settings, source)
    _check_tensors(header, source)
    _check_sizes(settings, header, source)
    _check_patterns(settings, checkpoint)


def trained_tokens(settings: Mapping[str, Any]) -> list[int]:
    """Ids of the tokens whose embeddings alone are trained, in order."""
    found = settings.get("trainable_token_indices") or settings.get("token_indices") or []
    lists = list(found.values()) if isinstance(found, dict) else [found]
    return sorted({index for each in lists for index in each if _is_count(index)})


def _check_type(settings: Mapping[str, Any], source: str) -> None:
    kind = settings.get("peft_type")
    if not isinstance(kind, str) or kind not in MEASURED:
        why = "is missing" if kind is None else REFUSED.get(str(kind), "is not known")
        hint = "submit the model that it was trained on, without it" if why == VIRTUAL else MERGE_FIRST
        raise AdapterInvalid(f"{source}: adapter type {_shown(kind)} {why}", hint=hint)
    task = settings.get("task_type")
    if task not in TASKS:
        raise AdapterInvalid(
            f"{source}: the adapter was trained for task {_shown(task)}",
            hint="only adapters of causal language models (CAUSAL_LM) are measured",
        )


def _check_options(settings: Mapping[str, Any], source: str) -> None:
    for name, why in OFF.items():
        if settings.get(name):
            raise AdapterInvalid(f"{source}: an adapter with {name} {why}", hint=MERGE_FIRST)
    for name in BY_MODULE:
        if not isinstance(settings.get(name) or {}, dict):
            raise AdapterInvalid(f"{source}: {name} is not a JSON object", hint=AGAIN)
    start = settings.get("init_lora_weights")
    begun = [why for begin, why in STARTS.items() if isinstance(start, str) and start.lower().startswith(begin)]
    if begun:
        raise AdapterInvalid(
            f"{source}: an adapter with init_lora_weights {_shown(start)} {begun[0]}",
            hint="save it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
        )


def _check_tensors(header: Mapping[str, Mapping[str, Any]], source: str) -> None:
    if not header:
        raise AdapterInvalid(f"{source}: {ADAPTER_WEIGHTS} holds no tensor", hint=AGAIN)
    for name, entry in header.items():
        if not name.startswith("base_model."):
            raise AdapterInvalid(
                f"{source}: {ADAPTER_WEIGHTS} holds {_shown(name)}, and names of PEFT begin with {PREFIX}", hint=AGAIN
            )
        if entry["dtype"] not in FLOATS and not (entry["dtype"] in WHOLE and "indices" in name):
            raise AdapterInvalid(
                f"{source}: tensor {_shown(name)} of the adapter is stored as {entry['dtype']}",
                hint="save it in 16 or 32 bits",
            )


def _check_sizes(settings: Mapping[str, Any], header: Mapping[str, Mapping[str, Any]], source: str) -> None:
    if settings["peft_type"] == "LOKR":  # Of any rank: above the size of a weight it means the whole weight.
        return
    ranks = [min(entry["shape"]) for name, entry in header.items() if ".lora_" in name and len(entry["shape"]) > 1]
    extents = ranks or [extent for entry in header.values() for extent in entry["shape"]]
    most = max([ANY_SIZE, *extents])
    ranks_by_name = settings.get("rank_pattern") or {}
    named = {name: settings.get(name) for name in SIZES} | {f"rank_pattern of {n}": r for n, r in ranks_by_name.items()}
    for name, value in named.items():
        # AdaLoRA keeps one truth value for each direction there.
        if isinstance(value, list) or value is None:
            continue
        if not _is_count(value) or value > most:
            raise AdapterInvalid(
                f"{source}: {name[:100]} is {_shown(value)}, and no tensor of the adapter is of that size", hint=AGAIN
            )


def _check_patterns(settings: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Regular expressions of the caller, tried here on names like those that PEFT will try them on: one that takes for
    ever has to meet the bound on inspection, not the worker."""
    source = checkpoint.source
    tried = []
    for name, pattern in _patterns(settings):
        if not isinstance(pattern, str) or len(pattern) > MOST_PATTERN:
            raise AdapterInvalid(f"{source}: {name} is no pattern of at most {MOST_PATTERN} characters", hint=AGAIN)
        try:
            found = re.compile(pattern)
        except NO_PATTERN as error:
            raise AdapterInvalid(f"{source}: {name} is no regular expression ({error})", hint=AGAIN) from error
        if not PLAIN.fullmatch(pattern):
            tried.append(found)
    if tried:
        for module in _modules(checkpoint.whole):
            for pattern in tried:
                pattern.fullmatch(module)


def _modules(base: Checkpoint) -> set[str]:
    """Names of modules as the headers of the weights have them."""
    headers = (read_header(file, base.source, base.roots) for file in base.weight_files())
    return {name.rpartition(".")[0] for header in headers for name in header}


def _patterns(settings: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Every setting that PEFT takes for a regular expression; members of a list of modules are plain names."""
    for name in ("target_modules", "exclude_modules", "feedforward_modules"):
        if isinstance(settings.get(name), str):
            yield name, settings[name]
    layers = settings.get("layers_pattern") or []
    yield from (("layers_pattern", pattern) for pattern in (layers if isinstance(layers, list) else [layers]))
    for name in BY_MODULE:
        yield from ((name, key) for key in settings.get(name) or {})


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shown(value: Any) -> str:
    return repr(value)[:100]
