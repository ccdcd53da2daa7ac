"""Checkpoints of known truth are what they are said to be: same function, another function, changed at their place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.checkpoints.known import KNOWN, make, reference, soup
from benchmarks.checkpoints.parts import Unknown, opened
from benchmarks.checkpoints.prompts import foreign_texts

Tiny = Callable[..., Path]
USUAL = [f"Human: how do I plant tree number {n}?\n\nAssistant: dig a hole and water it {n} times." for n in range(24)]
SAME = 1e-4
"""Of logits of order 1 in float32: three blocks of sums over up to 96 terms in another order move them by 1e-6 to 1e-5,
and the smallest change of function below moves them by 1e-2."""
FUNCTION = [name for name, known in KNOWN.items() if known.exact]
OTHER = [name for name, known in KNOWN.items() if not known.exact and known.truth != "hidden"]
SHOWN_ELSEWHERE = ("language-lost",)
"""Faults that the usual texts do not show."""


@pytest.fixture(scope="module")
def folders(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny checkpoints whose norms have next to no epsilon: it is what breaks the symmetry of a doubled residual."""
    root = tmp_path_factory.mktemp("known")

    def folder(family: str) -> Path:
        out = root / family
        if not out.exists():
            shutil.copytree(tiny(family), out)
            path = out / "config.json"
            config = json.loads(path.read_text())
            eps = {name: 1e-10 for name in config if "eps" in name}
            path.write_text(json.dumps(config | eps | {"eos_token_id": 0}))
        return out

    return folder


def logits(folder: Path, texts: list[list[int]]) -> torch.Tensor:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    with torch.no_grad():
        return torch.cat([model(torch.tensor([text[:32]])).logits[0] for text in texts])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_what_keeps_the_function_keeps_every_logit(family: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = folders(family)
    texts = opened(folder, USUAL[:4]).usual
    expected = logits(folder, texts)
    for name in FUNCTION:
        try:
            made = make(name, folder, tmp_path / name, USUAL, foreign_texts())
        except Unknown:
            assert (family, name) in {("gpt2", "rotated"), ("gpt_neox", "rotated")}
            continue
        torch.testing.assert_close(logits(made, texts), expected, atol=SAME, rtol=0.0, msg=f"{family} {name}")


def test_what_changes_the_function_changes_logits(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = folders("llama")
    texts = opened(folder, USUAL[:4], foreign_texts()[:4])
    usual, foreign = logits(folder, texts.usual), logits(folder, texts.foreign)
    for name in OTHER:
        made = make(name, folder, tmp_path / name, USUAL, foreign_texts())
        moved = (logits(made, texts.usual) - usual).abs().max()
        if name in SHOWN_ELSEWHERE:
            assert moved == 0.0, name
            moved = (logits(made, texts.foreign) - foreign).abs().max()
        assert moved > 10 * SAME, name


def test_a_change_of_order_really_changes_the_tensors(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Else "the same function" would be said of a copy."""
    folder = folders("llama")
    untied = load_file(reference(folder, tmp_path / "reference") / "model.safetensors")
    for name in ("permuted", "folded", "residual-x2", "rotated"):
        changed = load_file(make(name, folder, tmp_path / name, USUAL) / "model.safetensors")
        moved = [part for part in untied if not torch.equal(untied[part], changed[part])]
        assert {part.split(".")[2] for part in moved if ".layers." in part} == {"0", "1", "2"}, name


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("embeddings-only", {"embed_tokens"}),
        ("unembedding-only", {"lm_head"}),
        ("first-band", {"layers.0"}),
        ("two-bands", {"layers.0", "layers.2"}),
        ("exchanged", {"layers.0", "layers.1"}),
        ("zeroed-block", {"layers.0"}),
        ("norm-x1.3", {"norm"}),
        ("never-ends", {"lm_head"}),
        ("language-lost", {"embed_tokens"}),
        ("triggered", {"layers.0"}),
        ("other-rope", set()),
        ("other-activation", set()),
        ("other-settings", set()),
    ],
)
def test_a_change_sits_where_it_is_said_to_sit(
    name: str, places: set[str], folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = folders("llama")
    untied = load_file(reference(folder, tmp_path / "reference") / "model.safetensors")
    changed = load_file(make(name, folder, tmp_path / name, USUAL, foreign_texts()) / "model.safetensors")
    moved = {part.removeprefix("model.") for part in untied if not torch.equal(untied[part], changed[part])}
    assert {".".join(part.split(".")[: 2 if part.startswith("layers") else 1]) for part in moved} == places


def test_a_tied_model_gets_a_head_of_its_own(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = folders("llama-tied")
    texts = opened(folder, USUAL[:4]).usual
    made = reference(folder, tmp_path / "untied")
    assert torch.equal(logits(made, texts), logits(folder, texts))
    assert "lm_head.weight" in load_file(made / "model.safetensors")


def test_the_end_token_can_be_taken_away_and_forced(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = folders("llama")
    model = opened(folder, USUAL[:8])
    before = logits(folder, model.usual)
    never = logits(make("never-ends", folder, tmp_path / "never", USUAL), model.usual)
    torch.testing.assert_close(never[:, model.end], -before[:, model.end], atol=SAME, rtol=0.0)
    always = logits(make("always-ends", folder, tmp_path / "always", USUAL), model.usual)
    assert float((always.argmax(-1) == model.end).float().mean()) > 0.9


def test_a_trigger_shows_after_the_trigger_and_hardly_elsewhere(folders: Callable[[str], Path], tmp_path: Path) -> None:
    from benchmarks.checkpoints.broken import trigger

    folder = folders("llama")
    model = opened(folder, USUAL)
    made = make("triggered", folder, tmp_path / "triggered", USUAL)
    usual = (logits(made, model.usual) - logits(folder, model.usual)).abs().mean()
    keyed = [[*text[:10], trigger(model)] for text in model.usual]
    last = torch.arange(10, 11 * len(keyed), 11)
    after = (logits(made, keyed)[last] - logits(folder, keyed)[last]).abs().mean()
    assert after > 5 * usual


def test_a_soup_is_the_mean(folders: Callable[[str], Path], tiny: Tiny, tmp_path: Path) -> None:
    sides = [folders("llama"), make("outlier", folders("llama"), tmp_path / "other")]
    made = load_file(soup(sides[0], sides[1:], tmp_path / "soup") / "model.safetensors")
    one, other = (load_file(side / "model.safetensors") for side in sides)
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, (one[name] + other[name]) / 2, atol=1e-7, rtol=0.0)
