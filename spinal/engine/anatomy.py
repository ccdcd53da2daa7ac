"""Where the blocks, the final norm and the head of a model are, found by data flow and never by name.

One tiny forward pass is watched: the blocks are the ModuleList whose members are called in order, the
read-out is the chain of modules that carries the last block's output to the head's input, and what happens
between head output and logits (softcap, logit scale) is fitted on the model's own code.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from spinal.engine.failures import architecture_failures
from spinal.engine.stream import BlockStore
from spinal.errors import ArchitectureUnsupported

Tensor = torch.Tensor
PROBE_TOKENS = 5


@dataclass(frozen=True, eq=False)
class Handover:
    """In what a block hands the residual on: alone, or first in a tuple or list."""

    container: type | None
    """None where the residual is returned alone."""
    others: tuple[Any, ...] = ()
    """The other members, as one call of the block returned them."""

    def holding(self, residual: Tensor) -> Any:
        """What the block would return with this residual."""
        if self.container is None:
            return residual
        members = (residual, *self.others)
        return self.container(*members) if hasattr(self.container, "_fields") else self.container(members)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Parts of one model of D blocks. ``readout`` is applied in order to a residual row before ``head``."""

    core: nn.Module
    """The model without its head."""
    blocks: nn.ModuleList
    handovers: tuple[Handover, ...]
    """How each block returns the residual."""
    readout: tuple[nn.Module, ...]
    head: nn.Module
    scale: float
    """Logits are head output * scale, then softcap * tanh(. / softcap) where a softcap is set."""
    softcap: float | None
    store: BlockStore | None = None
    """Set where the blocks are read from disk one at a time."""

    def resident(self, index: int) -> contextlib.AbstractContextManager[None]:
        """Block ``index`` (from 0) has its weights inside this context; always so in a model loaded whole.

        Raises NonFiniteWeights and WeightsCorrupt where the block is read from disk.
        """
        return contextlib.nullcontext() if self.store is None else self.store.resident(index)

    def callable(self) -> contextlib.AbstractContextManager[None]:
        """The model's own forward can be called inside this context."""
        return contextlib.nullcontext() if self.store is None else self.store.on_call()

    @property
    def head_weight(self) -> Tensor:
        """Unembedding matrix (rows of the vocabulary, hidden)."""
        weight: Tensor = self.head.weight  # type: ignore[assignment]  # a linear layer's weight
        return weight

    @property
    def vocabulary(self) -> int:
        """Rows of the unembedding matrix, padding included."""
        return int(self.head_weight.shape[0])


@dataclass(frozen=True, eq=False)
class _Call:
    module: nn.Module
    given: Tensor
    returned: Tensor
    handover: Handover


def residual_of(output: Any) -> Tensor:
    """The residual stream (B, T, d) in a block's return value: itself, or the first member of a tuple or list."""
    return output[0] if isinstance(output, (tuple, list)) and output else output


def _handover_of(output: Any) -> Handover:
    return Handover(type(output), tuple(output[1:])) if isinstance(output, (tuple, list)) else Handover(None)


def taken_residual(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Tensor, str | None]:
    """The residual among a block's arguments, and the keyword it travels by; None where it comes first."""
    if args:
        return args[0], None
    first = next((name for name, value in kwargs.items() if _floating(value)), "hidden_states")
    name = "hidden_states" if "hidden_states" in kwargs else first
    return kwargs[name], name


def find_anatomy(model: PreTrainedModel, n_layers: int | None, source: str, store: BlockStore | None = None) -> Anatomy:
    """Find the parts of ``model`` by watching one forward pass over ``PROBE_TOKENS`` ids.

    ``n_layers`` is D as the configuration says it, None where it does not; ``source`` what errors call the model,
    ``store`` where its blocks are read from if they are not loaded. Raises ArchitectureUnsupported saying what was not
    found.
    """
    head = model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None:
        raise _unsupported(source, "it has no output embedding")
    with contextlib.nullcontext() if store is None else store.on_call(), architecture_failures(source):
        calls = _watch(model)
    blocks = _find_blocks(model, calls, n_layers, source)
    core = _find_core(model, blocks, head)
    made = {call.module: call for call in calls if call.module in set(blocks)}
    last = made[blocks[-1]]
    _check_single_stream(last.returned, source)
    head_call = next((call for call in reversed(calls) if call.module is head), None)
    if head_call is None:
        raise _unsupported(source, "its head was not called in a forward pass")
    fed, before = _before_scaling(calls, head_call, source)
    readout = _find_readout(calls, last.returned, fed, source)
    handovers = tuple(made[block].handover for block in blocks)
    # What follows the head does not depend on the blocks: passing the residual through spares running them.
    with replaced_forward(blocks, [_passing(handover) for handover in handovers]):
        scale, softcap = _fit_post(model, head, head_call, source)
    return Anatomy(core, blocks, handovers, readout, head, before * scale, softcap, store)


def _passing(handover: Handover) -> Callable[..., Any]:
    return lambda *args, **kwargs: handover.holding(taken_residual(args, kwargs)[0])


def _check_single_stream(residual: Tensor, source: str) -> None:
    if residual.shape[:-1] != (1, PROBE_TOKENS):
        raise _unsupported(
            source, f"its blocks return {tuple(residual.shape)} for {PROBE_TOKENS} tokens, not one residual for each"
        )


@contextlib.contextmanager
def replaced_forward(blocks: nn.ModuleList, replacements: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Inside this context every block's forward is its replacement, called with the block's own arguments."""
    for block, replacement in zip(blocks, replacements, strict=True):
        block.forward = replacement  # shadows the method for this pass only
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _unsupported(source: str, why: str) -> ArchitectureUnsupported:
    return ArchitectureUnsupported(
        f"{source}: {why}", hint="only decoder-only models with one residual stream have a depth trace"
    )


def _probe_ids(model: PreTrainedModel) -> Tensor:
    embedding: Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]  # an nn.Embedding
    return torch.arange(PROBE_TOKENS, device=model.device).unsqueeze(0) % embedding.shape[0]


def _watch(model: PreTrainedModel) -> list[_Call]:
    """Every module call of one tiny forward pass that takes and returns a floating tensor, in order of return."""
    calls: list[_Call] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = next((x for x in (*args, *kwargs.values()) if _floating(x)), None)
        returned = residual_of(output)
        if given is not None and torch.is_tensor(returned):
            calls.append(_Call(module, given, returned, _handover_of(output)))

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in model.modules()]
    try:
        with torch.inference_mode():
            model(input_ids=_probe_ids(model), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _floating(value: Any) -> bool:
    return torch.is_tensor(value) and value.is_floating_point()


def _find_blocks(model: PreTrainedModel, calls: list[_Call], n_layers: int | None, source: str) -> nn.ModuleList:
    """The outermost list of ``n_layers`` modules called in order; the longest such list where no number is given."""
    order = {call.module: place for place, call in reversed(list(enumerate(calls)))}
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    in_sequence = [blocks for blocks in lists if _called_in_order(blocks, order)]
    fitting = [blocks for blocks in in_sequence if n_layers in (None, len(blocks))]
    if not fitting:
        skipped = [blocks for blocks in lists if n_layers in (None, len(blocks)) and any(b in order for b in blocks)]
        called = [sum(block in order for block in blocks) for blocks in skipped]
        why = f": of {len(skipped[0])} blocks a text alone passes {called[0]}" if skipped else ""
        raise _unsupported(source, f"no list of {n_layers or 'its'} blocks called in sequence was found{why}")
    return max(fitting, key=len)


def _called_in_order(blocks: nn.ModuleList, order: dict[nn.Module, int]) -> bool:
    places = [order.get(block, -1) for block in blocks]
    return places[0] >= 0 and places == sorted(set(places))


def _find_core(model: PreTrainedModel, blocks: nn.ModuleList, head: nn.Module) -> nn.Module:
    """The largest direct child that holds the blocks but not the head; descends while the head is inside."""
    current: nn.Module = model
    while True:
        holding = [child for child in current.children() if any(part is blocks for part in child.modules())]
        if not holding:
            return current
        if all(part is not head for part in holding[0].modules()):
            return holding[0]
        current = holding[0]


def _before_scaling(calls: list[_Call], head_call: _Call, source: str) -> tuple[Tensor, float]:
    """What a module made of the head's input, and the number that it was then multiplied by: some models scale there,
    and in front of a head without bias that is scaling the logits."""
    target, bias = head_call.given, getattr(head_call.module, "bias", None)
    if any(_same_data(call.returned, target) for call in calls):
        return target, 1.0
    for call in reversed(calls):
        factor = _factor(call.returned, target)
        if factor is not None and bias is None:
            return call.returned, factor
    raise _unsupported(source, "what its head is given is no module's output")


def _factor(made: Tensor, given: Tensor) -> float | None:
    """s where ``given`` is s times ``made``, up to rounding; None where it is not."""
    if made.shape != given.shape:
        return None
    a, b = made.double().reshape(-1), given.double().reshape(-1)
    factor = float((a @ b) / (a @ a).clamp(min=1e-300))
    tolerance = 1e-5 if given.dtype == torch.float32 else 1e-2
    close = factor > 0.0 and bool((b - factor * a).norm() <= tolerance * b.norm())
    return factor if close else None


def _find_readout(calls: list[_Call], residual: Tensor, target: Tensor, source: str) -> tuple[nn.Module, ...]:
    """The shortest chain of calls that leads from the last residual to the head's input."""
    chain: list[nn.Module] = []
    wanted = target
    while not _same_data(wanted, residual):
        maker = next(
            (
                call
                for call in calls  # an inner module returns before the one around it
                if _same_data(call.returned, wanted) and not _same_data(call.given, wanted)
            ),
            None,
        )
        if maker is None or len(chain) > 4:
            raise _unsupported(source, "the path from the last block to the head is not a chain of modules")
        chain.append(maker.module)
        wanted = maker.given
    return tuple(reversed(chain))


def _same_data(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    if a.shape[-1] != b.shape[-1] or a.numel() != b.numel():
        return False
    if a.data_ptr() == b.data_ptr():
        return True
    # A residual kept in float32 is cast down on its way to a 16-bit norm: another tensor, the same data.
    narrow = a.dtype if a.dtype.itemsize < b.dtype.itemsize else b.dtype
    return a.dtype != b.dtype and torch.equal(a.reshape(-1).to(narrow), b.reshape(-1).to(narrow))


def _fit_post(model: PreTrainedModel, head: nn.Module, head_call: _Call, source: str) -> tuple[float, float | None]:
    """Scale and softcap between head output and logits, fitted by feeding chosen head outputs through the
    model's own forward and checked on others."""
    width = head_call.returned.shape[-1]

    def post(values: Tensor) -> Tensor:
        fed = values.to(head_call.returned.dtype).expand(1, PROBE_TOKENS, width)
        handle = head.register_forward_hook(lambda _m, _a, _o: fed.clone())
        try:
            with torch.inference_mode():
                return model(input_ids=_probe_ids(model), use_cache=False).logits[0, 0].double()
        finally:
            handle.remove()

    grid = torch.linspace(-1.0, 1.0, width, device=model.device, dtype=torch.float64)
    small, large = post(grid * 1e-3), post(grid * 200.0)
    given_small = (grid * 1e-3).to(head_call.returned.dtype).double()
    scale = float((small @ given_small) / (given_small @ given_small))
    scale = 1.0 if abs(scale - 1.0) < 1e-6 else scale
    cap = float(large.abs().max())
    softcap = cap if cap < 200.0 * abs(scale) * 0.99 else None
    if softcap is not None:
        softcap = _solve_softcap(post, scale, grid)
    for magnitude in (1.0, 30.0, 100.0):
        values = (grid * magnitude).to(head_call.returned.dtype).double()
        got, expected = post(values), values * scale
        if softcap is not None:
            expected = softcap * torch.tanh(expected / softcap)
        tolerance = 1e-4 if head_call.returned.dtype == torch.float32 else 2e-2
        if not torch.allclose(got, expected, rtol=tolerance, atol=tolerance):
            raise _unsupported(source, "what it does between head and logits is neither a scale nor a softcap")
    return scale, softcap


def _solve_softcap(post: Callable[[Tensor], Tensor], scale: float, grid: Tensor) -> float:
    """c of c tanh(x / c), read off where tanh is saturated."""
    return float(post(grid * 1e6 / abs(scale)).abs().max())
