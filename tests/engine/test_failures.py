"""What the machine does to a measurement: overflow, a full disk, cancellation while files are hashed."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from service.platform.artifacts import storage_problem
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.identity import weights_digest
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.api import measure
from spinal.engine.failures import system_errors
from spinal.errors import Cancelled, NonFiniteActivations, StorageUnavailable
from spinal.profile import MeasurementProfile
from spinal.progress import Progress
from spinal.prompts.sets import PromptSet
from tests.conftest import ROOT
from tests.engine.conftest import KNOBS

PROFILE = MeasurementProfile(**KNOBS)
Tiny = Callable[..., Path]

FULL = """
import resource, sys, threading
from pathlib import Path
from safetensors import safe_open
from service.platform.artifacts import storage_problem
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.api import measure
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet
root, target = Path(sys.argv[1]), Path(sys.argv[2])
known = builtin_prompts("hh-harmless-64")
prompts = PromptSet(known.prompts[:24], known.continuations[:24])
checkpoint = resolve_reference(f"local:{root.name}", roots=(root.parent,))
profile, calls = MeasurementProfile(max_tokens=16, lens_positions=2), []
# A file that may not grow any more is what a full disk is to its writer.
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

def waiting_for_room(write):
    try:
        write()
    except OSError:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        # As a worker does it, which has to go on saying that it is alive.
        again = threading.Thread(target=write)
        again.start()
        again.join()

def told(progress):
    calls.append(progress.phase)

try:
    measure(checkpoint, prompts, profile, capture_path=target)
except OSError as error:
    problem = storage_problem(error)
    print(problem.code if problem else repr(error), problem.detail if problem else "", list(target.parent.iterdir()))
measure(checkpoint, prompts, profile, capture_path=target, write_capture=waiting_for_room, progress=told)
print("walked", calls.count("load"))
in_peace = target.with_name("in-peace")
measure(checkpoint, prompts, profile, capture_path=in_peace)
with safe_open(target, "np") as one, safe_open(in_peace, "np") as other:
    assert one.metadata() == other.metadata() and set(one.keys()) == set(other.keys())
    assert all(one.get_tensor(name).tobytes() == other.get_tensor(name).tobytes() for name in one.keys())
print("same")
"""


def of(folder: Path) -> Checkpoint:
    return resolve_reference(f"local:{folder.name}", roots=(folder.parent,))


def test_weights_that_are_finite_and_overflow_are_no_measurement(tiny: Tiny, few: PromptSet, tmp_path: Path) -> None:
    broken = tmp_path / "overflows"
    shutil.copytree(tiny("llama"), broken)
    tensors = load_file(broken / "model.safetensors")
    [name] = [name for name in tensors if name.endswith("layers.1.mlp.down_proj.weight")]
    tensors[name] = np.full_like(tensors[name], 3e38)
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    capture = tmp_path / "capture.safetensors"
    with pytest.raises(NonFiniteActivations, match="after block 2"):
        measure(of(broken), few, PROFILE, capture_path=capture)
    assert not capture.exists()


def test_a_full_disk_is_told_from_an_error_of_ours_and_may_be_waited_for(tiny: Tiny, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tiny("llama")), str(tmp_path / "capture.safetensors")],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    refused, walked, found = done.stdout.splitlines()
    assert refused.startswith(StorageUnavailable.code), done.stderr
    assert refused.endswith("[]")
    assert (walked, found) == ("walked 1", "same"), done.stderr


def test_the_number_in_the_text_of_a_storage_error_becomes_its_type(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as found, system_errors(tmp_path / "capture.safetensors"):
        save_file({"a": np.zeros(2)}, tmp_path / "no such folder" / "x")
    assert storage_problem(found.value) is None


def test_hashing_says_how_far_it_is_and_stops_when_told(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spinal.checkpoints.held.HASH_PIECE", 1000)
    checkpoint = of(tiny("llama"))
    told: list[Progress] = []
    whole = weights_digest(checkpoint)
    assert weights_digest(checkpoint, progress=told.append) == whole
    assert [step.done for step in told] == sorted({step.done for step in told})
    assert told[-1].done == told[-1].total
    stopped: list[Progress] = []
    with pytest.raises(Cancelled):
        weights_digest(checkpoint, progress=stopped.append, cancelled=lambda: len(stopped) > 2)
    assert len(stopped) == 3
