"""Looking at checkpoints in children: the same answers as here, within bounds, whatever becomes of a child."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spinal.checkpoints import bounded
from spinal.checkpoints.bounded import Bounds, InspectorBroke, Inspectors
from spinal.checkpoints.sources.reach import Reach
from spinal.checkpoints.survey import survey
from spinal.errors import InspectionExceeded, NotReady, SpinalError, StorageUnavailable, TokenizerInvalid
from tests.api.conftest import clone
from tests.conftest import EXAMPLES
from tests.support.waiting import until

PAIR = {"candidate": "local:dpo-short", "reference": "local:sft"}
ROOTS = [EXAMPLES / "checkpoints"]
REACH = Reach(tuple(ROOTS))


@pytest.fixture(scope="module")
def inspectors() -> Iterator[Inspectors]:
    with Inspectors(Bounds(children=1)) as made:
        yield made


def child_of(inspectors: Inspectors) -> int:
    """The process that the next question goes to."""
    return inspectors._idle[-1]._process.pid


def gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_child_finds_what_this_process_finds(inspectors: Inspectors) -> None:
    assert inspectors.survey(PAIR, REACH) == survey(PAIR, ROOTS)
    assert list(inspectors.survey(PAIR, REACH)) == list(PAIR)


REFUSED: dict[str, dict[str, Any]] = {
    "no such folder": {"candidate": "local:none"},
    "no reference at all": {"candidate": ""},
    "outside the roots": {"candidate": "local:../../etc"},
    "config of another": {"candidate": "local:broken"},
    "tokenizer that panics": {"candidate": "local:panics"},
    "a pipe": {"candidate": "local:pipe"},
    "no pair": {"candidate": "local:shallow", "reference": "local:sft"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("sft", "dpo-short"):
        clone(name, root / name)
    config = json.loads((root / "sft" / "config.json").read_text())
    clone("sft", root / "broken", config__json=b'{"a": "\x1b[31m\\ud800"')
    clone("sft", root / "shallow", config__json=json.dumps(config | {"num_hidden_layers": 8}))
    tokenizer = json.loads((root / "sft" / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    clone("sft", root / "panics", tokenizer__json=json.dumps(tokenizer))
    os.mkfifo(clone("sft", root / "pipe", config__json=None) / "config.json")
    return root


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_arrives_as_it_was_raised(inspectors: Inspectors, models: Path, name: str) -> None:
    with pytest.raises(SpinalError) as here:
        survey(REFUSED[name], [models])
    with pytest.raises(SpinalError) as there:
        inspectors.survey(REFUSED[name], Reach((models,)))
    assert type(there.value) is type(here.value)
    assert there.value.to_problem() == here.value.to_problem()


def test_a_panic_of_the_tokenizers_library_is_told_once(inspectors: Inspectors, models: Path) -> None:
    before = child_of(inspectors)
    with pytest.raises(TokenizerInvalid, match="Precompiled"):
        inspectors.survey({"candidate": "local:panics"}, Reach((models,)))
    assert child_of(inspectors) == before


def test_a_child_that_died_has_a_successor_and_nobody_notices(inspectors: Inspectors) -> None:
    before = child_of(inspectors)
    os.kill(before, signal.SIGKILL)
    until(lambda: gone(before), "the child's end")
    assert inspectors.survey(PAIR, REACH) == survey(PAIR, ROOTS)
    assert child_of(inspectors) != before


def test_a_child_that_hangs_is_ended_at_its_time_and_replaced() -> None:
    with Inspectors(Bounds(seconds=1, children=1)) as inspectors:
        inspectors.survey(PAIR, REACH)
        hanging = child_of(inspectors)
        os.kill(hanging, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(InspectionExceeded, match="1 s") as caught:
            inspectors.survey(PAIR, REACH)
        # A second and what a busy machine adds; without a bound it would be for ever.
        assert time.monotonic() - began < 10
        assert caught.value.hint
        until(lambda: gone(hanging), "the end of the child that hung")
        inspectors.start()
        assert child_of(inspectors) != hanging


def test_a_request_that_finds_all_children_busy_is_told_to_come_again() -> None:
    with Inspectors(Bounds(seconds=60, children=1, patience_s=0.05)) as inspectors:
        inspectors.survey(PAIR, REACH)
        busy = child_of(inspectors)
        os.kill(busy, signal.SIGSTOP)
        ended: list[object] = []
        first = threading.Thread(target=lambda: ended.append(inspectors.survey(PAIR, REACH)))
        first.start()
        until(lambda: not inspectors._idle, "the question of the first")
        with pytest.raises(NotReady, match="busy"):
            inspectors.survey(PAIR, REACH)
        os.kill(busy, signal.SIGCONT)
        first.join(60)
        assert len(ended) == 1


def test_what_needs_more_memory_than_allowed_is_refused_for_that(tmp_path: Path) -> None:
    clone("sft", tmp_path / "sft")
    # As many objects as are read, of 64 bytes and more each, in 12 MB of text.
    many = b'{"model": {"vocab": [' + b"{}," * 3_900_000 + b"{}]}}"
    clone("sft", tmp_path / "heavy", tokenizer__json=many)
    with Inspectors(Bounds(megabytes=512, children=1)) as inspectors:
        before = inspectors.survey({"candidate": "local:sft"}, Reach((tmp_path,)))
        with pytest.raises(InspectionExceeded, match="512 MB"):
            inspectors.survey({"candidate": "local:heavy"}, Reach((tmp_path,)))
        assert inspectors.survey({"candidate": "local:sft"}, Reach((tmp_path,))) == before


@pytest.mark.parametrize("interpreter", ["/bin/false", "/no/such/interpreter"])
def test_a_child_that_cannot_start_is_not_the_callers_fault(monkeypatch: pytest.MonkeyPatch, interpreter: str) -> None:
    monkeypatch.setattr(sys, "executable", interpreter)
    with Inspectors(Bounds(children=1)) as inspectors, pytest.raises(NotReady, match="started"):
        inspectors.survey(PAIR, REACH)


@pytest.mark.parametrize(
    ("answer", "error"),
    [({"system": "Input/output error", "ends": False}, StorageUnavailable),
     ({"broken": "Traceback", "ends": False}, InspectorBroke)],
)  # fmt: skip
def test_failures_of_disk_and_of_ours_are_not_the_callers(
    inspectors: Inspectors, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], error: type[Exception]
) -> None:
    monkeypatch.setattr(bounded._Child, "ask", lambda *_: answer)
    with pytest.raises(error):
        inspectors.survey(PAIR, REACH)


def test_a_child_gets_no_secret_and_loads_nothing_large(
    inspectors: Inspectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINAL_KEY_PEPPER", "tell-nobody")
    os.kill(child_of(inspectors), signal.SIGKILL)
    inspectors.survey(PAIR, REACH)
    child = Path(f"/proc/{child_of(inspectors)}")
    assert b"tell-nobody" not in (child / "environ").read_bytes()
    loaded = (child / "maps").read_text()
    assert "libtorch" not in loaded
    assert "psycopg" not in loaded
    asked = "import sys, spinal.checkpoints.child; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "fastapi", "sqlalchemy"} & set(done.stdout.split())


def test_children_end_with_whoever_asked_them() -> None:
    script = (
        "from spinal.checkpoints.bounded import *; i = Inspectors(Bounds(children=1)); "
        f"i.survey({PAIR!r}, Reach((Path({str(ROOTS[0])!r}),))); print(i._idle[0]._process.pid, flush=True); input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert not gone(child)
    parent.kill()
    parent.communicate()
    until(lambda: gone(child), "the child's end")
    with Inspectors(Bounds(children=1)) as inspectors:
        inspectors.start()
        closed = child_of(inspectors)
    assert gone(closed)
