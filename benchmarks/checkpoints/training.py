"""Plain training loops, seeded: from scratch, on answers (SFT), on preferences (DPO). float32 on the CPU."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import PreTrainedModel

from benchmarks.checkpoints.pairs import PairIds

Tensor = torch.Tensor
Ids = Sequence[int]
CLIP = 1.0
"""Largest norm of a gradient."""


@dataclass(frozen=True)
class Run:
    """How a model is trained."""

    lr: float
    steps: int
    batch: int
    seed: int = 0
    beta: float = 0.1
    """Of DPO; smaller ones let the model go further from its reference."""
    flipped: bool = False
    """Whether the other answer is preferred."""
    clip: float | None = CLIP
    falling: bool = False
    """Whether the learning rate falls to 0 in a straight line."""
    warm: int = 0
    """Steps over which the learning rate rises from 0 first."""

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        rising = min(1.0, (step + 1) / self.warm) if self.warm else 1.0
        return self.lr * rising * (1.0 - step / self.steps if self.falling else 1.0)


def train_on_text(model: PreTrainedModel, text: Tensor, run: Run, length: int) -> None:
    """Next-token prediction on random stretches of ``length`` ids of ``text`` (a long row of ids)."""
    generator = torch.Generator().manual_seed(run.seed)

    def loss(step: int) -> Tensor:
        starts = torch.randint(0, len(text) - length - 1, (run.batch,), generator=generator)
        rows = torch.stack([text[start : start + length + 1] for start in starts.tolist()])
        logits = model(rows[:, :-1]).logits
        return cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    _descend(model, run, loss, "text")


def train_sft(model: PreTrainedModel, pairs: Sequence[PairIds], run: Run) -> None:
    """Next-token prediction of the preferred answers."""
    chosen = _batches(pairs, run)

    def loss(step: int) -> Tensor:
        batch = chosen[step]
        total = -answer_log_p(model, [(pair.prompt, pair.preferred) for pair in batch]).sum()
        return total / sum(len(pair.preferred) for pair in batch)

    _descend(model, run, loss, "sft")


def train_dpo(model: PreTrainedModel, pairs: Sequence[PairIds], run: Run) -> None:
    """Direct preference optimisation against the model as it is given."""
    chosen = _batches(pairs, run)
    with torch.no_grad():
        before = [margins(model, batch) for batch in chosen]

    def loss(step: int) -> Tensor:
        change = margins(model, chosen[step]) - before[step]
        return -logsigmoid(run.beta * (-change if run.flipped else change)).mean()

    _descend(model, run, loss, "dpo")


def margins(model: PreTrainedModel, pairs: Sequence[PairIds]) -> Tensor:
    """log p(preferred) - log p(other) in nats, one for each pair, end token included."""
    rows = [(pair.prompt, pair.preferred) for pair in pairs] + [(pair.prompt, pair.other) for pair in pairs]
    found = answer_log_p(model, rows)
    return found[: len(pairs)] - found[len(pairs) :]


def answer_log_p(model: PreTrainedModel, rows: Sequence[tuple[Ids, Ids]]) -> Tensor:
    """Log probability of each answer after its prompt (nats, summed over its tokens)."""
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    answered = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        whole = len(prompt) + len(answer)
        ids[row, :whole] = torch.tensor([*prompt, *answer])
        mask[row, :whole] = 1
        answered[row, len(prompt) : whole] = True
    hidden = model.base_model(ids, attention_mask=mask).last_hidden_state
    # The head is read at answers alone: it is a fifth of a small model's work.
    before = answered[:, 1:]
    logits = model.get_output_embeddings()(hidden[:, :-1][before])
    found = -cross_entropy(logits, ids[:, 1:][before], reduction="none")
    owner = torch.arange(len(rows)).unsqueeze(1).expand_as(before)[before]
    return torch.zeros(len(rows)).index_add(0, owner, found)


def _batches(pairs: Sequence[PairIds], run: Run) -> list[list[PairIds]]:
    """As many batches as there are steps; every pair is read once before any is read again."""
    generator = torch.Generator().manual_seed(run.seed)
    order: list[int] = []
    while len(order) < run.steps * run.batch:
        order += torch.randperm(len(pairs), generator=generator).tolist()
    return [[pairs[i] for i in order[step * run.batch : (step + 1) * run.batch]] for step in range(run.steps)]


def _descend(model: PreTrainedModel, run: Run, loss: Callable[[int], Tensor], name: str) -> None:
    torch.manual_seed(run.seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=run.lr, weight_decay=0.0)
    model.train()
    for step in range(run.steps):
        for group in optimizer.param_groups:
            group["lr"] = run.lr_at(step)
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if run.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, run.clip)
        optimizer.step()
        if step % 10 == 0 or step + 1 == run.steps:
            sys.stderr.write(f"{name} step {step + 1}/{run.steps}: loss {value.item():.4f}\n")
    model.eval()
