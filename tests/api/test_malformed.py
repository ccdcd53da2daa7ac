"""Malformed checkpoint folders from the seeded generator, through HTTP: a clear answer each, from a service that lives.

The long form of this is ``python -m benchmarks.malformed``, which has a worker carry out what was accepted, too.
"""

import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.support.malformed import KINDS, make_sound, malform

SEEDS = range(5000, 5120)
AT_MOST_S = 15.0
"""For one answer, on a machine whose cores do other things too; the bound of an inspection is 45 s."""


@pytest.fixture
def root(models: Path) -> Path:
    make_sound(models)
    return models


def test_every_malformed_folder_gets_one_clear_answer(api: TestClient, root: Path) -> None:
    for kind in KINDS:
        assert api.post("/v1/audits", json={"candidate": f"local:{kind}"}).status_code == 202
    refused = 0
    for seed in SEEDS:
        done = malform(root, f"m{seed}", seed)
        began = time.monotonic()
        answer = api.post("/v1/audits", json={"candidate": f"local:m{seed}", "reference": "local:whole"})
        assert time.monotonic() - began < AT_MOST_S, done
        assert answer.status_code in (202, 422), (done, answer.text)
        if answer.status_code == 422:
            refused += 1
            problem = answer.json()
            assert problem["detail"].isprintable(), done
            assert len(problem["detail"]) < 500, done
            assert str(root) not in answer.text, done
            assert problem["code"] != "inspection_exceeded", done
        assert api.get("/livez").status_code == 200
    # Not all that is done to a folder can be seen from outside, and most of it can.
    assert refused > len(SEEDS) / 2


def test_the_generator_makes_the_same_folder_from_the_same_seed(tmp_path: Path) -> None:
    for side in ("one", "two"):
        (tmp_path / side).mkdir()
        make_sound(tmp_path / side)
    for seed in range(20):
        told = {malform(tmp_path / side, f"m{seed}", seed) for side in ("one", "two")}
        assert len(told) == 1
        one, two = (sorted((tmp_path / side / f"m{seed}").iterdir()) for side in ("one", "two"))
        assert [path.name for path in one] == [path.name for path in two]
        for left, right in zip(one, two, strict=True):
            if left.is_file() and not left.is_symlink() and left.stat().st_size < 1 << 20:
                assert left.read_bytes() == right.read_bytes()
