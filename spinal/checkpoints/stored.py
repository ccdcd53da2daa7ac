"""What the tensors of a checkpoint's files are: floats as they stand, codes with their scales, or nothing that can be
read. Configuration and headers alone decide, so that it can be said at submission. No torch."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from spinal.checkpoints.architecture import text_part
from spinal.errors import ConfigInvalid, QuantizationUnsupported, WeightsCorrupt

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
WHOLE_NUMBERS = frozenset({"BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"})
CODES = frozenset(
    {"F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "F6_E2M3", "F6_E3M2", "I8", "U8", "I16",
     "U16", "U32"}
)  # fmt: skip
"""dtypes in which no language model keeps a weight as it is meant."""
EIGHT_BITS = frozenset({"F8_E4M3", "F8_E5M2", "I8"})
SIGN = re.compile(
    r"(weight_scale(_inv|_2)?|_scale_inv|weight_packed|weight_zero_point|weight_g_idx|weight_global_scale"
    r"|qweight|qzeros|absmax|quant_map|quant_state\S*|\bSCB|\bW_q|codebooks)$"
)
"""Names of which a quantised weight is made, whatever their dtype."""
MASKS = re.compile(r"((^|\.)(attn|attention|self_attn)\.(masked_)?bias|position_ids|_extra_state)$")
"""Whole numbers that are no weights: causal masks and positions that old checkpoints store."""
IDLE = re.compile(r"[._](input|output|activation|[kqv])_(global_)?(scale|zero_point)$")
"""Scales of activations, which a measurement of dequantised weights does not use."""
WRAPPERS = {
    "_orig_mod.": "torch.compile left it; take it off every name, or save model._orig_mod",
    "module.": "DistributedDataParallel or FSDP left it; take it off every name, or save model.module",
    "_fsdp_wrapped_module.": "FSDP left it; save the model with a full state dict",
    "_forward_module.": "a trainer left it; take it off every name, or save the inner model",
    "base_model.model.": "PEFT left it; call merge_and_unload() and save the model",
}
"""What trainers leave in front of names, and what to do about it."""
DENSE = "dequantise it where it can be loaded (in transformers: model.dequantize()) and save a 16-bit copy"
OF_MLX = "make a 16-bit copy: mlx_lm.convert --dequantize"
UNNAMED = "unnamed"
GATHER = (
    "DeepSpeed ZeRO-3 left it so: gather the weights with zero_to_fp32.py, or train with "
    "stage3_gather_16bit_weights_on_model_save"
)
NO_PATTERN = (re.error, RecursionError, OverflowError)
"""What compiling text that is no regular expression raises."""
REMADE = frozenset({"bitnet", "fp_quant"})
"""Methods that change what a layer computes even where its weights are stored in 16 bits."""

Header = Mapping[str, Mapping[str, Any]]
"""Tensor name -> {dtype, shape}."""


@dataclass(frozen=True)
class Coded:
    """A weight that is stored as codes and scales: names of the tensors that it is made of."""

    layout: str
    """``grid`` (codes of 8 bits), ``packed`` (codes in words of 32 bits) or ``mxfp4``."""
    codes: str
    scale: str
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale; None: all of them."""
    zero: str | None = None
    bits: int = 8
    extent: str | None = None
    """The tensor that holds the shape, which packed codes hide."""

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(part for part in (self.codes, self.scale, self.zero, self.extent) if part is not None)


@dataclass(frozen=True)
class Stored:
    """How the tensors of the files become weights; a name that is in neither member is one as it stands."""

    coded: Mapping[str, Coded]
    """By the name of the weight."""
    idle: frozenset[str] = frozenset()
    """Scales that nothing needs."""
    remarks: tuple[str, ...] = ()


def stored_tensors(config: Mapping[str, Any], tensors: Header, source: str) -> Stored:
    """How ``tensors``, the headers of all weight files together, become weights.

    Raises QuantizationUnsupported for quantised weights that cannot be dequantised exactly, WeightsCorrupt where scales
    do not fit their codes or names carry a trainer's wrapper, ConfigInvalid for an entry that is no object.
    """
    _check_names_and_types(tensors, source)
    settings = _settings(config, source)
    method = _method(settings) if settings is not None else None
    if method in REMADE or (settings or {}).get("transform_config"):
        _refuse(source, f"quantization {method!r} changes what the layers compute, not only how weights are stored")
    signs = [name for name, tensor in tensors.items() if _is_sign(name, tensor)]
    if not signs:
        return Stored({}, remarks=() if settings is None else (_left_over(method),))
    if method in (None, UNNAMED) and isinstance(config.get("quantization"), dict):
        _refuse(source, f"weights are quantised as MLX does it ({_told(signs[0], tensors)})", OF_MLX)
    if settings is None:
        _refuse(
            source, f"{_told(signs[0], tensors)} is part of a quantised weight, and config.json names no quantization"
        )
    read = METHODS.get(method or "")
    if read is None:
        _refuse(source, f"weights are quantised by {method!r} ({_told(signs[0], tensors)})")
    coded = read(settings, tensors, source)
    return _accounted(coded, signs, tensors, method, source)


def check_not_empty(tensors: Header, source: str) -> None:
    """Raise WeightsCorrupt where every tensor holds nothing, which says more than that no extent fits."""
    if tensors and all(tensor["shape"] == [0] for tensor in tensors.values()):
        raise WeightsCorrupt(f"{source}: all {len(tensors)} tensors are empty", hint=GATHER)


def _check_names_and_types(tensors: Header, source: str) -> None:
    for prefix, remedy in WRAPPERS.items():
        if tensors and all(name.startswith(prefix) for name in tensors):
            raise WeightsCorrupt(f"{source}: the name of every tensor starts with {prefix!r}", hint=remedy)
    for name, tensor in tensors.items():
        if tensor["dtype"] not in FLOATS | WHOLE_NUMBERS | CODES:
            raise WeightsCorrupt(f"{source}: {_told(name, tensors)} is of no known type", hint=DENSE)


def _settings(config: Mapping[str, Any], source: str) -> Mapping[str, Any] | None:
    for holder in (config, text_part(config)):
        found = holder.get("quantization_config") or holder.get("compression_config")
        if isinstance(found, dict):
            return found
        if found:
            raise ConfigInvalid(f"{source}: quantization_config in config.json is no object", hint="remove the entry")
    return None


def _method(settings: Mapping[str, Any]) -> str:
    if settings.get("load_in_8bit") or settings.get("load_in_4bit"):
        return "bitsandbytes"
    return str(settings.get("quant_method") or UNNAMED)[:40]


def _is_sign(name: str, tensor: Mapping[str, Any]) -> bool:
    kind = tensor["dtype"]
    if MASKS.search(name) and kind in WHOLE_NUMBERS:
        return False
    return kind in CODES or bool(SIGN.search(name)) or (kind == "I32" and name.endswith("weight"))


def _told(name: str, tensors: Header) -> str:
    return f"tensor {name} ({tensors[name]['dtype']})"


def _left_over(method: str | None) -> str:
    return (
        f"config.json names quantization {method!r}, but every weight is stored in 16 bits or more: measured as stored"
    )


def _refuse(source: str, what: str, hint: str = DENSE) -> NoReturn:
    raise QuantizationUnsupported(f"{source}: {what}", hint=hint)


def _accounted(coded: dict[str, Coded], signs: list[str], tensors: Header, method: str | None, source: str) -> Stored:
    """Nothing that looks quantised is left, and no weight is there twice."""
    used = {part for weight in coded.values() for part in weight.parts}
    idle = frozenset(name for name in tensors if name not in used and IDLE.search(name)) if coded else frozenset()
    rest = [name for name in signs if name not in used and name not in idle]
    if rest:
        _refuse(source, f"{_told(rest[0], tensors)} belongs to no weight that {method!r} is known to store so")
    for name, weight in coded.items():
        if name in tensors and name != weight.codes:
            raise WeightsCorrupt(f"{source}: {name} is stored twice, as codes and as it is", hint="keep one of them")
    remarks = (
        f"{len(coded)} weights are stored as codes with scales ({method}) and were dequantised exactly; a runtime that "
        "also rounds activations gives other numbers",
    )
    return Stored(coded, idle, remarks)


def _fine_grained(settings: Mapping[str, Any], tensors: Header, source: str) -> dict[str, Coded]:
    """``fp8``: codes of 8 bits under the weight's own name, one scale for each block of ``weight_block_size``."""
    size = settings.get("weight_block_size")
    block = None if size is None else _pair(size, "weight_block_size", source)
    found = {}
    for scale in [name for name in tensors if name.endswith("_scale_inv")]:
        name = scale.removesuffix("_scale_inv")
        if name in tensors and tensors[name]["dtype"] in EIGHT_BITS - {"I8"}:
            found[name] = Coded("grid", name, scale, block)
            _check_grid(found[name], tensors, tuple(tensors[name]["shape"]), source)
    return found


def _compressed(settings: Mapping[str, Any], tensors: Header, source: str) -> dict[str, Coded]:
    """``compressed-tensors``: naive formats (codes of 8 bits beside ``weight_scale``) and packed ones."""
    sparsity = settings.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        _refuse(source, f"weights are stored sparse ({str(sparsity.get('format'))[:40]!r})")
    found = {}
    for scale in [name for name in tensors if name.endswith("weight_scale")]:
        name = scale.removesuffix("_scale")
        scheme = _scheme(settings, name.removesuffix(".weight"), source)
        weight = _naive(name, scheme, tensors) if name in tensors else _packed(name, scheme, tensors)
        if weight is None:
            _refuse(source, f"{_told(scale, tensors)} scales no codes of a format that is read")
        rows, columns = tensors[weight.codes]["shape"][-2:]
        columns = columns if weight.layout == "grid" else columns * 32 // weight.bits
        found[name] = _with_block(weight, scheme, tensors, (rows, columns), source)
        _check_zero(found[name], scheme, tensors, source)
    return found


def _naive(name: str, scheme: Mapping[str, Any], tensors: Header) -> Coded | None:
    expected = {"float": "F8_E4M3", "int": "I8"}.get(str(scheme.get("type", "int")))
    if tensors[name]["dtype"] != expected or len(tensors[name]["shape"]) < 2:
        return None
    zero = f"{name}_zero_point"
    return Coded("grid", name, f"{name}_scale", zero=zero if zero in tensors else None)


def _packed(name: str, scheme: Mapping[str, Any], tensors: Header) -> Coded | None:
    codes, extent, zero = f"{name}_packed", f"{name}_shape", f"{name}_zero_point"
    bits = scheme.get("num_bits")
    right = (
        tensors.get(codes, {}).get("dtype") == "I32"
        and len(tensors[codes]["shape"]) == 2
        and tensors.get(extent, {}).get("dtype") in ("I64", "I32")
        and list(tensors[extent]["shape"]) == [2]
    )
    # Codes of other widths lie across words in one release of the library and do not in another.
    if not right or scheme.get("type", "int") != "int" or bits not in (2, 4, 8) or f"{name}_g_idx" in tensors:
        return None
    return Coded("packed", codes, f"{name}_scale", None, zero if zero in tensors else None, int(bits), extent)


def _scheme(settings: Mapping[str, Any], module: str, source: str) -> Mapping[str, Any]:
    """How the weight of ``module`` was quantised: the only scheme, or the one whose target names the module."""
    groups = settings.get("config_groups")
    schemes: list[tuple[list[str], dict[str, Any]]] = []
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            targets = group.get("targets")
            schemes.append(([str(target) for target in targets] if isinstance(targets, list) else [], weights))
    if len({str(sorted(weights.items(), key=str)) for _, weights in schemes}) == 1:
        return schemes[0][1]
    for names in (True, False):
        fitting = [weights for targets, weights in schemes if any(_is_target(t, module, names) for t in targets)]
        if len(fitting) == 1:
            return fitting[0]
    _refuse(source, f"config_groups do not say how {module} was quantised")


def _is_target(target: str, module: str, names: bool) -> bool:
    """Whether ``target`` of a scheme names the module, or (not ``names``) its class, which all weights share here."""
    if not names:
        return target == "Linear"
    if not target.startswith("re:"):
        return target == module
    try:
        return re.match(target.removeprefix("re:"), module) is not None
    except NO_PATTERN:
        return False


def _with_block(
    weight: Coded, scheme: Mapping[str, Any], tensors: Header, shape: tuple[int, int], source: str
) -> Coded:
    """``weight`` with the rows and columns that share a scale, once the scales' shape is what the scheme says."""
    strategy = scheme.get("strategy")
    group = scheme.get("group_size")
    rows, columns = shape
    if strategy is None:
        strategy = "tensor" if group is None else "channel" if group == -1 else "group"
    if strategy == "tensor":
        block = None
    elif strategy == "channel":
        block = (1, max(columns, 1))
    elif strategy == "group" and type(group) is int and group > 0:
        block = (1, group)
    elif strategy == "block":
        block = _pair(scheme.get("block_structure"), "block_structure", source)
    else:
        _refuse(source, f"scales by {str(strategy)[:40]!r} are not read")
    found = Coded(weight.layout, weight.codes, weight.scale, block, weight.zero, weight.bits, weight.extent)
    _check_grid(found, tensors, (*tensors[weight.codes]["shape"][:-2], rows, columns), source)
    return found


def _check_zero(weight: Coded, scheme: Mapping[str, Any], tensors: Header, source: str) -> None:
    """Raise unless there is one zero point for each scale, where the scheme has any."""
    if weight.zero is None:
        if scheme.get("symmetric", True) is not True:
            _refuse(source, f"{_told(weight.codes, tensors)} lacks its zero points")
        return
    zero, scales = tensors[weight.zero], list(tensors[weight.scale]["shape"])
    shape = list(zero["shape"])
    if zero["dtype"] == "I32" and weight.layout == "packed":
        rows = tensors[weight.codes]["shape"][0]
        fits = len(scales) == 2 and scales[0] == rows and shape == [math.ceil(rows * weight.bits / 32), scales[1]]
    else:
        fits = zero["dtype"] in FLOATS | EIGHT_BITS and shape == scales
    if not fits:
        _refuse(source, f"{_told(weight.zero, tensors)} is not one zero point for each scale")


def _pair(value: object, what: str, source: str) -> tuple[int, int]:
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(n) is int and n > 0 for n in value):
        return int(value[0]), int(value[1])
    _refuse(source, f"{what} of quantization_config is not two sizes")


def _check_grid(weight: Coded, tensors: Header, shape: tuple[int, ...], source: str) -> None:
    """Raise unless there is one scale for each block of codes of ``shape`` (the last columns may be padding)."""
    scale = tensors[weight.scale]
    if scale["dtype"] not in FLOATS | {"F8_E8M0"} or len(shape) < 2:
        _refuse(source, f"{_told(weight.scale, tensors)} is no scale of a format that is read")
    *lead, rows, columns = shape
    height, width = weight.block or (max(rows, 1), max(columns, 1))
    grid = [math.ceil(rows / height), math.ceil(columns / width)]
    fits = list(scale["shape"]) == [*lead, *grid]
    if not fits and grid == [1, 1] and not lead:
        fits = math.prod(scale["shape"]) == 1
    if not fits:
        raise WeightsCorrupt(
            f"{source}: tensor {weight.scale} of shape {list(scale['shape'])} does not scale {weight.codes} of shape "
            f"{list(tensors[weight.codes]['shape'])} in blocks of {height} x {width}",
            hint=DENSE,
        )


def _mxfp4(_settings: Mapping[str, Any], tensors: Header, source: str) -> dict[str, Coded]:
    """``mxfp4``: ``*_blocks`` of 16 bytes (32 codes) with an exponent each in ``*_scales``."""
    found = {}
    for codes in [name for name in tensors if name.endswith("_blocks")]:
        name = codes.removesuffix("_blocks")
        scale = f"{name}_scales"
        if scale not in tensors or {tensors[codes]["dtype"], tensors[scale]["dtype"]} != {"U8"}:
            continue
        shape = list(tensors[codes]["shape"])
        if len(shape) != 4 or shape[-1] != 16 or shape[:-1] != list(tensors[scale]["shape"]):
            raise WeightsCorrupt(
                f"{source}: tensor {scale} does not hold one exponent for 16 bytes of {codes}, {shape}",
                hint=DENSE,
            )
        found[name] = Coded("mxfp4", codes, scale)
    return found


METHODS: dict[str, Callable[[Mapping[str, Any], Header, str], dict[str, Coded]]] = {
    "fp8": _fine_grained,
    "compressed-tensors": _compressed,
    "mxfp4": _mxfp4,
}
"""Reads of quantised weights by ``quant_method``; whatever is not here is refused."""
