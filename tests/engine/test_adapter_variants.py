"""Every type and setting of adapter that is measured: the merged model computes what PEFT computes, the base stays."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spinal.checkpoints.adapter import MEASURED
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.load import load, load_pair
from spinal.profile import MeasurementProfile
from tests.engine.adapter_variants import IDS, VARIANTS, open_base, own_logits, save_adapter


def resolved(folder: Path) -> Checkpoint:
    return resolve_reference(os.fspath(folder), roots=None)


def beside(base: Path, folder: Path) -> Path:
    """``folder``/base is ``base``, so that an adapter in ``folder`` finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base").symlink_to(base)
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_merged_logits_are_those_of_peft_and_the_base_stays(
    name: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    family, config = VARIANTS[name]
    base = tiny(family)
    folder = save_adapter(open_base(base), config(), beside(base, tmp_path / "adapter"))
    expected = own_logits(open_base(base), folder)
    before = {key: tensor.clone() for key, tensor in open_base(base).state_dict().items()}
    profile = MeasurementProfile()
    with torch.inference_mode():
        ours, theirs = load_pair(resolved(base), resolved(folder), profile, "cpu")
        alone = load(resolved(folder), profile, "cpu")
        plain, *found = (side.model(input_ids=IDS).logits for side in (ours, theirs, alone))
    # Merging in float32 rounds each weight once and changes the order of sums: 1e-5 of logits around 10.
    for logits in found:
        torch.testing.assert_close(logits, expected, rtol=0.0, atol=1e-4)
    assert (expected - plain).abs().max() > 1e-2
    assert ours.model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in ours.model.state_dict().items())


def test_every_measured_type_is_proven() -> None:
    assert {config().peft_type.value for _, config in VARIANTS.values()} == MEASURED
