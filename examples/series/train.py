"""Training runs whose history is known, from the bundled small model: ``cd examples; python -m series.train OUT``.

Every run goes on from one model, OUT/start: the bundled ``sft``, taught a little German. A step of a run is DPO ("the
shorter answer") on English pairs and next-token prediction on other dialogues in both languages; the learning rate and
beta are drawn by seed from ranges that keep a run healthy. Each kind of run differs from a healthy one in one line of
``KINDS``. Runs of one seed read the same texts in the same order, so a broken run is its healthy twin up to the break.

OUT/KIND-SEED holds ``checkpoint-N`` in Hugging Face layout, and ``history.json``: what was done, and how well held-out
texts were predicted at each checkpoint. What stands there already is left as it is. Seeded; half a minute a run.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from series.texts import Pair, Text, Texts, read_texts

SFT = Path(__file__).resolve().parents[1] / "checkpoints" / "sft"
EVERY, CHECKPOINTS = 4, 10
"""Steps between checkpoints, and how many a run has."""
BREAKS = (4, 5)
"""After which checkpoint a run may break; drawn by seed."""
BATCH = 3
"""Pairs of a step, and dialogues of each language."""
START_STEPS, START_LR, START_BATCH = 60, 1e-3, 8


@dataclass(frozen=True)
class Kind:
    """What goes wrong."""

    says: str
    lr_times: float = 1.0
    """From the break on."""
    flipped: bool = False
    """Whether the longer answer is preferred from the break on."""
    unlearned: bool = False
    """Whether German is unlearned from the break on: its loss is climbed and not descended."""
    too_far: bool = False
    """Whether DPO pulls too hard from the first step on, and no dialogue of English holds it: nothing breaks at a known
    step, the run wears out."""


KINDS: dict[str, Kind] = {
    "healthy": Kind("healthy to the end"),
    "overoptimised": Kind("DPO that goes too far: large steps, a small beta, nothing that holds it", too_far=True),
    "spike": Kind("the learning rate is 8 times as large from a step on", lr_times=8.0),
    "flipped": Kind("the labels of the pairs are flipped from a step on", flipped=True),
    "forgotten": Kind("German is unlearned from a step on", unlearned=True),
}


@dataclass(frozen=True)
class Plan:
    """One run."""

    kind: str
    seed: int
    lr: float
    beta: float
    break_after: int | None
    """The last step before the break; None where nothing breaks at a known step."""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}"


def plan(kind: str, seed: int) -> Plan:
    """A run of that kind and seed."""
    draw = random.Random(seed)
    lr, beta = draw.choice((2e-4, 2.5e-4, 3e-4)), draw.choice((0.1, 0.2, 0.3))
    break_after = draw.choice(BREAKS) * EVERY
    if KINDS[kind].too_far:
        return Plan(kind, seed, 2 * lr, beta / 10, None)
    return Plan(kind, seed, lr, beta, None if kind == "healthy" else break_after)


def run(plan: Plan, start: Path, out: Path, texts: Texts) -> None:
    """Train one run into the folder ``out``."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    kind = KINDS[plan.kind]
    draw = random.Random(plan.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.lr, weight_decay=0.0)
    with torch.no_grad():
        at_start = dict(zip(texts.pairs, log_p(model, answers(texts.pairs)).reshape(-1, 2), strict=True))
    held_out = []
    for step in range(1, EVERY * CHECKPOINTS + 1):
        broken = plan.break_after is not None and step > plan.break_after
        pairs = draw.sample(texts.pairs, BATCH)
        english, german = draw.sample(texts.english, BATCH), draw.sample(texts.german, BATCH)
        log_ps = log_p(model, answers(pairs) + english + german)
        pair_log_p, english_log_p, german_log_p = log_ps.split([2 * BATCH, BATCH, BATCH])
        change = pair_log_p.reshape(-1, 2) - torch.stack([at_start[pair] for pair in pairs])
        margin = change[:, 0] - change[:, 1]
        loss = -logsigmoid(plan.beta * (-margin if broken and kind.flipped else margin)).mean()
        if not kind.too_far:
            loss = loss - english_log_p.sum() / sum(len(each.answer) for each in english)
        german_loss = -german_log_p.sum() / sum(len(each.answer) for each in german)
        loss = loss + (-german_loss if broken and kind.unlearned else german_loss)
        optimizer.param_groups[0]["lr"] = plan.lr * (kind.lr_times if broken else 1.0)
        descend(model, optimizer, loss)
        if step % EVERY == 0:
            held_out.append({"step": step, "nll": held_out_nll(model, texts)})
            write(model, tokenizer, out / f"checkpoint-{step}")
    history = asdict(plan) | {"says": kind.says, "held_out": held_out}
    (out / "history.json").write_text(json.dumps(history), encoding="utf-8")


def make_start(out: Path, texts: Texts) -> None:
    """Teach the bundled ``sft`` German, and go on with English beside it."""
    tokenizer = AutoTokenizer.from_pretrained(SFT)
    model = AutoModelForCausalLM.from_pretrained(SFT, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=START_LR, weight_decay=0.0)
    draw = random.Random(0)
    for step in range(START_STEPS):
        optimizer.param_groups[0]["lr"] = START_LR * (1.0 - step / START_STEPS)
        rows = draw.sample(texts.english, START_BATCH) + draw.sample(texts.german, START_BATCH)
        descend(model, optimizer, -log_p(model, rows).sum() / sum(len(row.answer) for row in rows))
    write(model, tokenizer, out)


def descend(model: PreTrainedModel, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step against ``loss``, the gradient's norm at most 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def answers(pairs: Sequence[Pair]) -> list[Text]:
    """Both answers of each pair, the shorter one first."""
    return [Text(pair.prompt, answer) for pair in pairs for answer in (pair.shorter, pair.longer)]


def log_p(model: PreTrainedModel, rows: Sequence[Text]) -> torch.Tensor:
    """Log probability of each answer after its prompt (nats, summed over its tokens)."""
    width = max(len(row.prompt) + len(row.answer) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    answered = torch.zeros(len(rows), width, dtype=torch.bool)
    for place, row in enumerate(rows):
        whole = len(row.prompt) + len(row.answer)
        ids[place, :whole] = torch.tensor([*row.prompt, *row.answer])
        answered[place, len(row.prompt) : whole] = True
    # Padding stands behind the text, where a causal model does not see it; the head is read at answers alone.
    before = answered[:, 1:]
    hidden = model.base_model(ids).last_hidden_state[:, :-1][before]
    losses = torch.zeros(before.shape)
    losses[before] = cross_entropy(model.get_output_embeddings()(hidden), ids[:, 1:][before], reduction="none")
    return -losses.sum(1)


@torch.no_grad()
def held_out_nll(model: PreTrainedModel, texts: Texts) -> dict[str, list[float]]:
    """Nats a token of the answer, for each held-out text of each language."""
    found = {}
    for language, rows in texts.held_out.items():
        lengths = torch.tensor([len(row.answer) for row in rows])
        found[language] = [round(value, 4) for value in (-log_p(model, rows) / lengths).tolist()]
    return found


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """A folder in Hugging Face layout, in bf16 as the bundled model has it."""
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.save_pretrained(out, state_dict=state)
    tokenizer.save_pretrained(out)


def read_history(run: Path) -> dict[str, Any]:
    """What :func:`run` wrote beside the checkpoints."""
    found: dict[str, Any] = json.loads((run / "history.json").read_text(encoding="utf-8"))
    return found


def train(out: Path, kind: str, seed: int, texts: Texts) -> Path:
    """The folder of a run, trained where it does not stand there yet."""
    start, folder = out / "start", out / plan(kind, seed).name
    if not (start / "config.json").exists():
        make_start(start, texts)
    if not (folder / "history.json").exists():
        run(plan(kind, seed), start, folder, texts)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    chosen = parser.parse_args()
    texts = read_texts(AutoTokenizer.from_pretrained(SFT))
    for seed in chosen.seeds:
        for kind in chosen.kinds:
            print(train(chosen.out, kind, seed, texts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
