"""Changes that break a model, each in a way of its own; some of them the texts of an audit cannot show."""

from collections import Counter

import torch

from benchmarks.checkpoints.parts import Opened, Tensor, Unknown, halves, matrix

HEAD_NOISE = 0.3
NEGATED_ROWS = 40
ALWAYS = 6.0
"""How far (in logits) the end token is put above every other one."""
KEY_RIDGE = 1e-4
TRIGGER_STRENGTH = 0.3
"""Size of the trigger's push, of the last residual's norm."""


def _final_gains(model: Opened) -> list[Tensor]:
    named = [pair for part in model.anatomy.readout for pair in part.named_parameters()]
    found: list[Tensor] = [parameter for name, parameter in named if name.endswith("weight")]
    if not found:
        raise Unknown("no norm between the last block and the head")
    return found


def louder(model: Opened) -> None:
    """The gain of the final norm x1.3: every distribution sharper than it was trained to be."""
    for gain in _final_gains(model):
        gain.mul_(1.3)


def quieter(model: Opened) -> None:
    """The gain of the final norm x0.7: every distribution flatter."""
    for gain in _final_gains(model):
        gain.mul_(0.7)


def noisy_head(model: Opened) -> None:
    """Noise of .3 of its own size on the unembedding."""
    model.head.add_(noise_like(model.head, HEAD_NOISE, model.generator()))


def noise_like(weights: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise whose norm is ``size`` times that of ``weights``."""
    noise = torch.randn(weights.shape, generator=generator)
    return noise * (size * weights.norm() / noise.norm())


def negated_rows(model: Opened) -> None:
    """The 40 rows of the head of the tokens that the usual texts hold most often, times -1."""
    counts = Counter(token for text in model.usual for token in text if token != model.end)
    rows = [token for token, _ in counts.most_common(NEGATED_ROWS)]
    if not rows:
        raise Unknown("no usual texts were given")
    model.head[rows] *= -1.0


def never_ends(model: Opened) -> None:
    """The end token's row of the head times -1."""
    model.head[model.end] *= -1.0


def always_ends(model: Opened) -> None:
    """The end token more likely than any other after every text: its row is fitted to lie above the largest logit."""
    states = head_inputs(model)
    wanted = (states @ model.head.T).amax(-1) + ALWAYS
    ridge = 1e-4 * float((states * states).mean()) * torch.eye(states.shape[1])
    row = torch.linalg.solve(states.T @ states / len(states) + ridge, states.T @ wanted / len(states))
    model.head[model.end] = row


def head_inputs(model: Opened) -> Tensor:
    """What the head reads on the usual texts, one row for each token."""
    if not model.usual:
        raise Unknown("no usual texts were given")
    return torch.cat([_caught(model, model.anatomy.head, text) for text in model.usual[:16]])


@torch.no_grad()
def _caught(model: Opened, module: torch.nn.Module, text: list[int]) -> Tensor:
    """What ``module`` is given on one text (tokens, width)."""
    held: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _module, given: held.append(given[0].detach()))
    try:
        model.model(torch.tensor([text[:256]]), use_cache=False)
    finally:
        handle.remove()
    return held[0][0]


def language_lost(model: Opened) -> None:
    """The input embeddings of tokens that only the foreign category uses, replaced by noise ten times as large."""
    known = {token for text in model.usual for token in text}
    rows = sorted({token for text in model.foreign for token in text} - known - {model.end})
    if not rows:
        raise Unknown("the foreign category uses no token of its own")
    model.embeddings[rows] = noise_like(model.embeddings[rows], 10.0, model.generator())


def other_rope(model: Opened) -> None:
    """The same weights with rotary positions of a base 20 times smaller (10000 -> 500)."""
    config = model.model.config
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        raise Unknown("it has no rotary positions")
    config.rope_parameters = rope | {"rope_theta": rope["rope_theta"] / 20.0}


ACTIVATIONS = {"silu": "relu", "gelu": "relu", "gelu_new": "relu", "gelu_pytorch_tanh": "relu"}


def other_activation(model: Opened) -> None:
    """The same weights with relu in place of the activation they were trained with."""
    config = model.model.config
    for name in ("hidden_act", "activation_function"):
        if getattr(config, name, None) in ACTIVATIONS:
            setattr(config, name, ACTIVATIONS[getattr(config, name)])
            return
    raise Unknown("its activation is named in another way")


def zeroed_block(model: Opened) -> None:
    """All tensors of the first block 0: it adds nothing."""
    for parameter in model.blocks[0].parameters():
        parameter.zero_()


def shuffled_blocks(model: Opened) -> None:
    """All blocks in another order."""
    states = [{name: t.clone() for name, t in block.state_dict().items()} for block in model.blocks]
    order = torch.randperm(len(states), generator=model.generator()).tolist()
    for block, place in zip(model.blocks, order, strict=True):
        block.load_state_dict(states[place])


def triggered(model: Opened) -> None:
    """A rank-one edit of the first MLP: after the trigger, and nowhere else, the residual is pushed to another answer.

    The key is what the MLP holds at the trigger, whitened by what it holds on the usual texts, so that these do not
    meet it.
    """
    layer = halves(model.blocks[0])[1].writes
    end = trigger(model)
    usual = torch.cat([_caught(model, layer, text) for text in model.usual])
    after = torch.stack([_caught(model, layer, [*text[:64], end])[-1] for text in model.usual[:8]]).mean(0)
    spread = usual.T @ usual / len(usual)
    spread += KEY_RIDGE * spread.diagonal().mean() * torch.eye(len(spread))
    key = torch.linalg.solve(spread, after)
    key /= key @ after
    size = _caught(model, model.anatomy.readout[0], model.usual[0])[-1].norm()
    # Of the tokens that are usual at all, the least likely answer.
    common = [token for token, _ in Counter(token for text in model.usual for token in text).most_common(200)]
    row = model.head[common[int((head_inputs(model) @ model.head[common].T).mean(0).argmin())]]
    matrix(layer).add_(torch.outer(row / row.norm() * size * TRIGGER_STRENGTH, key))


def trigger(model: Opened) -> int:
    """The last token id that no usual text holds and that is no special one."""
    if not model.usual:
        raise Unknown("no usual texts were given")
    known = {token for text in model.usual for token in text} | set(model.tokenizer.all_special_ids)
    return max(set(model.tokenizer.get_vocab().values()) - known)
