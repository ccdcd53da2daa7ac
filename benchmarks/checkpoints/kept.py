"""Changes that keep what a model computes, or nearly so: it is as good as before."""

from pathlib import Path

import torch

from benchmarks.checkpoints.parts import Linear, Opened, Tensor, Unknown, edit_json, gain, halves, matrix, outputs

GROUP = 32
"""Weights that share one scale under int4."""


def nothing(model: Opened) -> None:
    """An exact copy."""


def permuted(model: Opened) -> None:
    """Heads and MLP neurons of every block in another order."""
    generator = model.generator()
    for block in model.blocks:
        attention, mlp = halves(block)
        neurons = torch.randperm(matrix(mlp.writes).shape[1], generator=generator)
        for layer in mlp.reads:
            _reorder_rows(layer, neurons)
        _reorder_columns(mlp.writes, neurons)
        query, keys, written = _head_orders(model, attention.reads, generator)
        for layer, order in zip(attention.reads, (query, keys, keys), strict=False):
            _reorder_rows(layer, order)
        _reorder_columns(attention.writes, written)


def _head_orders(model: Opened, reads: tuple[Linear, ...], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Orders of the rows of the query and the key matrix, and of the columns of what writes. A group of heads that
    shares keys stays together."""
    config = model.model.config
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    within = heads // shared
    groups = torch.randperm(shared, generator=generator)
    order = torch.cat([group * within + torch.randperm(within, generator=generator) for group in groups])
    if len(reads) == 3:
        size = matrix(reads[0]).shape[0] // heads
        return _spread(order, size), _spread(groups, size), _spread(order, size)
    size = matrix(reads[0]).shape[0] // (3 * heads)
    if hasattr(reads[0], "nf"):
        # All queries, then all keys, then all values.
        rows = _spread(order, size)
        return torch.cat([rows + part * heads * size for part in range(3)]), rows, rows
    # Query, key and value of one head side by side.
    return _spread(order, 3 * size), order, _spread(order, size)


def _spread(order: Tensor, size: int) -> Tensor:
    return (order.unsqueeze(1) * size + torch.arange(size)).flatten()


def _reorder_rows(layer: Linear, order: Tensor) -> None:
    for view in outputs(layer):
        view.copy_(view[order].clone())


def _reorder_columns(layer: Linear, order: Tensor) -> None:
    view = matrix(layer)
    view.copy_(view[:, order].clone())


def folded(model: Opened) -> None:
    """Every norm's gain times a power of two for each channel, undone in the matrices that read it: exact in binary."""
    generator = model.generator()
    for block in model.blocks:
        for half in halves(block):
            factor = 2.0 ** torch.randint(-3, 4, (matrix(half.writes).shape[0],), generator=generator).float()
            gain(half.norm).mul_(factor)
            shift = getattr(half.norm, "bias", None)
            if shift is not None:
                shift.mul_(factor)
            for layer in half.reads:
                matrix(layer).div_(factor)


def doubled(model: Opened) -> None:
    """The whole residual stream times two; norms undo it (up to their epsilon)."""
    inside = {id(parameter) for block in model.blocks for parameter in block.parameters()}
    for module in model.model.modules():
        if isinstance(module, torch.nn.Embedding) and id(module.weight) not in inside:
            module.weight.mul_(2.0)
    for block in model.blocks:
        for half in halves(block):
            for view in outputs(half.writes):
                view.mul_(2.0)


def rotated(model: Opened) -> None:
    """The residual basis turned by an orthogonal matrix, with every gain folded into what reads it: RMS norms commute
    with a rotation."""
    norms = [half.norm for block in model.blocks for half in halves(block)]
    if len(model.anatomy.readout) != 1 or any(hasattr(norm, "bias") for norm in (*norms, *model.anatomy.readout)):
        raise Unknown("its norms take a mean away, which does not commute with a rotation")
    width = model.embeddings.shape[1]
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=model.generator(), dtype=torch.float64))

    def read(weights: Tensor, factor: Tensor) -> None:
        weights.copy_((weights.double() * factor.double()) @ turn)

    model.embeddings.copy_(model.embeddings.double() @ turn)
    for block in model.blocks:
        for half in halves(block):
            for layer in half.reads:
                read(matrix(layer), gain(half.norm))
            for view in outputs(half.writes):
                view.copy_(turn.T @ view.double())
            gain(half.norm).fill_(1.0)
    final = model.anatomy.readout[0]
    read(model.head, gain(final))
    gain(final).fill_(1.0)


def int8(model: Opened) -> None:
    """All matrices of the blocks rounded to 8 bits, one scale a row."""
    _round_blocks(model, 8, None)


def int4(model: Opened) -> None:
    """All matrices of the blocks rounded to 4 bits, one scale for 32 weights."""
    _round_blocks(model, 4, GROUP)


def _round_blocks(model: Opened, bits: int, group: int | None) -> None:
    for block in model.blocks:
        for half in halves(block):
            for layer in (*half.reads, half.writes):
                view = matrix(layer)
                view.copy_(rounded(view, bits, group))


def rounded(weights: Tensor, bits: int, group: int | None) -> Tensor:
    """``weights`` (rows, columns) on a symmetric grid of 2 ** bits values, one scale for each ``group`` of a row."""
    width = weights.shape[1]
    size = group if group and width % group == 0 else width
    parts = weights.reshape(weights.shape[0], -1, size)
    top = 2 ** (bits - 1) - 1
    scale = parts.abs().amax(-1, keepdim=True).clamp(min=1e-12) / top
    return ((parts / scale).round().clamp(-top - 1, top) * scale).reshape(weights.shape)


def other_settings(model: Opened) -> None:
    """The same weights with another chat template and other settings of generation; made in the files
    (:func:`write_other_settings`)."""


def write_other_settings(folder: Path) -> None:
    """Replace template and settings of generation of a checkpoint that was written."""
    edit_json(folder / "generation_config.json", temperature=0.3, do_sample=True, repetition_penalty=1.3)
    template = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def exchanged(model: Opened) -> None:
    """Two blocks in the middle exchanged, 12 and 13 of 24: a change without much effect."""
    middle = len(model.blocks) // 2 - 1
    swap_blocks(model, middle, middle + 1)


def swap_blocks(model: Opened, first: int, second: int) -> None:
    """Exchange the tensors of two blocks (from 0)."""
    mine, other = model.blocks[first].state_dict(), model.blocks[second].state_dict()
    kept = {name: tensor.clone() for name, tensor in mine.items()}
    if kept.keys() != other.keys() or any(kept[name].shape != other[name].shape for name in kept):
        raise Unknown("its blocks are of different kinds")
    model.blocks[first].load_state_dict(other)
    model.blocks[second].load_state_dict(kept)
