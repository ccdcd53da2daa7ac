"""The store stays within its bytes, and what is in use stays in the store."""

import errno
import hashlib
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spinal.checkpoints.fetching.claims import ABANDONED_S, SWEEP_S, claim
from spinal.checkpoints.fetching.gather import Gathered, Want, gather
from spinal.checkpoints.fetching.halting import Halt
from spinal.checkpoints.fetching.locks import remove_unused, try_lock
from spinal.checkpoints.fetching.store import ModelStore
from spinal.errors import Cancelled, StorageUnavailable
from spinal.errors.sources import ModelStoreFull, SourceUnavailable
from tests.support.scripted_source import Scripted

WEIGHTS = "model.safetensors"
UNIT = 100_000
CONFIG = b'{"model_type": "llama"}'
SLACK = 64 * 1024
"""Of stubs, in whole blocks."""


def model(root: Path, number: int, units: int) -> Scripted:
    """A source of a model with weights of its own."""
    folder = root / f"model-{number}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    (folder / WEIGHTS).write_bytes(random.Random(number).randbytes(units * UNIT))
    return Scripted(folder, root / f"control-{number}", name=f"hf:org/model-{number}@{'1' * 40}")


def fetch(source: Scripted, store: ModelStore, **more: Any) -> int:
    with gather(source.pin(), source, store, want=Want.WEIGHTS, **more) as gathered:
        return gathered.fetched_bytes


def there(store: ModelStore, *sources: Scripted) -> list[bool]:
    return [store.has(hashlib.sha256((source.folder / WEIGHTS).read_bytes()).hexdigest()) for source in sources]


def kept_bytes(store: ModelStore) -> int:
    blobs = sum(file.stat().st_size for file in (store.folder / "blobs").rglob("*") if file.is_file())
    parts = sum(file.stat().st_size for file in (store.folder / "parts").iterdir())
    headers = sum(file.stat().st_blocks * 512 for file in (store.folder / "headers").rglob("*") if file.is_file())
    return blobs + parts + headers


@pytest.fixture
def models(tmp_path: Path) -> list[Scripted]:
    return [model(tmp_path, number, 2) for number in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """Room for three models of two units, and the stubs of all."""
    return ModelStore(tmp_path / "store", most_bytes=6 * UNIT + SLACK)


def test_the_longest_unused_goes_first(models: list[Scripted], store: ModelStore) -> None:
    for source in models[:3]:
        fetch(source, store)
    assert there(store, *models) == [True, True, True, False, False]
    assert fetch(models[0], store) == 0
    fetch(models[3], store)
    assert there(store, *models) == [True, False, True, True, False]
    fetch(models[4], store)
    assert there(store, *models) == [True, False, False, True, True]
    assert kept_bytes(store) <= (store.most_bytes or 0)


def test_a_use_lasts_until_its_end(models: list[Scripted], store: ModelStore) -> None:
    with gather(models[0].pin(), models[0], store, want=Want.WEIGHTS):
        for source in models[1:3]:
            fetch(source, store)
    fetch(models[3], store)
    assert there(store, *models) == [True, False, True, True, False]


def test_what_is_in_use_stays_and_nothing_goes_for_what_does_not_fit(models: list[Scripted], store: ModelStore) -> None:
    fetch(models[2], store)
    with ExitStack() as stack:
        held = [stack.enter_context(gather(each.pin(), each, store, want=Want.WEIGHTS)) for each in models[:2]]
        fetch(models[3], store)
        assert there(store, *models) == [True, True, False, True, False]
        third = stack.enter_context(gather(models[3].pin(), models[3], store, want=Want.WEIGHTS))
        with pytest.raises(ModelStoreFull) as refused:
            fetch(models[4], store)
        assert f"{2 * UNIT:,}" in refused.value.detail
        assert f"{store.most_bytes:,}" in refused.value.detail
        assert refused.value.retryable
        for source, gathered in zip([*models[:2], models[3]], [*held, third], strict=True):
            assert (gathered.folder / WEIGHTS).read_bytes() == (source.folder / WEIGHTS).read_bytes()
        assert models[4].reads(WEIGHTS) == []
    fetch(models[4], store)


def test_a_model_larger_than_the_store_is_refused_before_anything_goes(tmp_path: Path, store: ModelStore) -> None:
    small, large = model(tmp_path, 1, 2), model(tmp_path, 2, 7)
    fetch(small, store)
    with pytest.raises(ModelStoreFull, match="700,000 bytes, and the model store of this host holds at most 665,536"):
        fetch(large, store)
    assert large.reads(WEIGHTS) == []
    assert there(store, small) == [True]


def test_what_is_promised_to_one_is_not_given_to_another(models: list[Scripted], store: ModelStore) -> None:
    halt = Halt()
    with claim(store, halt) as first, claim(store, halt) as second:
        first.reserve({"sha256-" + "a" * 64: 4 * UNIT}, 4 * UNIT, "x")
        # Who waits for the same file needs no room of its own.
        second.reserve({"sha256-" + "a" * 64: 4 * UNIT}, 4 * UNIT, "y")
        with pytest.raises(ModelStoreFull):
            second.reserve({"sha256-" + "b" * 64: 3 * UNIT}, 3 * UNIT, "y")
        second.reserve({"sha256-" + "c" * 64: 2 * UNIT}, 2 * UNIT, "y")
    with claim(store, halt) as third:
        third.reserve({"sha256-" + "b" * 64: 6 * UNIT}, 6 * UNIT, "z")


def test_parts_that_nobody_fetches_count_and_go(models: list[Scripted], store: ModelStore) -> None:
    models[0].tell("end", UNIT)
    models[0].tell("away")
    models[0].tell("stall", UNIT)
    models[0].untell("away")
    impatient = Scripted(models[0].folder, models[0].control, name=models[0].name, read_timeout_s=0.05)
    with pytest.raises(SourceUnavailable):
        fetch(impatient, store, patience_s=0.1)
    assert kept_bytes(store) >= UNIT
    with ExitStack() as stack:
        for source in models[1:4]:
            stack.enter_context(gather(source.pin(), source, store, want=Want.WEIGHTS))
        assert list((store.folder / "parts").iterdir()) == []


def test_what_was_abandoned_is_swept(models: list[Scripted], store: ModelStore) -> None:
    fetch(models[0], store)
    long_ago = time.time() - ABANDONED_S - 1
    left = [store.part("sha256-" + "a" * 64), store.new_path(), store.fetch_lock("x"), store.folder / "claims" / "x"]
    fresh = store.part("sha256-" + "b" * 64)
    for file in (*left, fresh):
        file.touch()
        if file != fresh:
            os.utime(file, (long_ago, long_ago))
    held = try_lock(store.fetch_lock("held"))
    os.utime(store.fetch_lock("held"), (long_ago, long_ago))
    swept = store.folder / "uses" / "swept"
    fetch(models[0], store)
    assert left[0].exists()
    os.utime(swept, (time.time() - SWEEP_S - 1,) * 2)
    fetch(models[0], store)
    assert [file.exists() for file in left] == [False] * 4
    assert fresh.exists()
    assert store.fetch_lock("held").exists()
    assert held is not None
    os.close(held)


def full(monkeypatch: pytest.MonkeyPatch, error: int, fail: Callable[[int], bool]) -> None:
    """Have every write of a part fail that ``fail`` says, by the number of the write."""
    real, count = os.pwrite, iter(range(10**9))

    def pwrite(descriptor: int, piece: bytes, at: int) -> int:
        if fail(next(count)):
            raise OSError(error, os.strerror(error))
        # A disk takes part of what it is given, too.
        return real(descriptor, piece[: max(1, len(piece) // 2)], at)

    monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_what_nobody_uses_go(
    tmp_path: Path, models: list[Scripted], monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    store = ModelStore(tmp_path / "store")
    fetch(models[0], store)
    with gather(models[1].pin(), models[1], store, want=Want.WEIGHTS):
        full(monkeypatch, error, lambda number: number == 20)
        fetch(models[2], store)
        assert there(store, *models[:3]) == [False, True, True]
        monkeypatch.undo()
        full(monkeypatch, error, lambda number: number > 20)
        with pytest.raises(StorageUnavailable, match="disk of the model store is full"):
            fetch(models[3], store)
        monkeypatch.undo()
        assert there(store, *models[:4]) == [False, True, False, False]
        assert sum(file.stat().st_size for file in (store.folder / "parts").iterdir()) == 0
        fetch(models[3], store)


@pytest.mark.parametrize("error", [errno.EFBIG, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_is_no_fault_of_the_model(
    tmp_path: Path, models: list[Scripted], monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    store = ModelStore(tmp_path / "store")
    full(monkeypatch, error, lambda number: number > 2)
    with pytest.raises(StorageUnavailable) as refused:
        fetch(models[0], store)
    assert str(tmp_path) not in refused.value.detail
    monkeypatch.undo()
    fetch(models[0], store)


def test_a_store_that_is_locked_for_long_ends_as_an_error_and_can_be_cancelled(
    models: list[Scripted], store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.prepare()
    held = try_lock(store.lock)
    assert held is not None
    with pytest.raises(Cancelled):
        fetch(models[0], store, cancelled=lambda: True)
    monkeypatch.setattr("spinal.checkpoints.fetching.locks.PATIENCE_S", 0.2)
    with pytest.raises(StorageUnavailable, match="locked"):
        fetch(models[0], store)
    os.close(held)
    fetch(models[0], store)


def test_a_lock_of_a_file_that_is_not_there_any_more_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    path, real = tmp_path / "lock", fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        path.unlink()
        path.touch()
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert try_lock(path) is None
    monkeypatch.undo()
    held = try_lock(path)
    assert held is not None
    assert try_lock(path) is None
    remove_unused(path)
    assert path.exists()
    os.close(held)
    remove_unused(path)
    assert not path.exists()


class Uses(RuleBasedStateMachine):
    """Models are gathered, held, let go and discarded in any order; the store is asked after each step."""

    UNITS = (1, 2, 3, 4, 5, 7)
    MOST = 8 * UNIT

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.sources = [model(self.root, number, units) for number, units in enumerate(self.UNITS)]
        self.store = ModelStore(self.root / "store", most_bytes=self.MOST)
        self.held: list[tuple[int, ExitStack, Gathered]] = []
        self.fsync = os.fsync
        # What a power cut leaves is not asked here.
        setattr(os, "fsync", lambda descriptor: None)  # noqa: B010  an assignment would have to have its type

    def teardown(self) -> None:
        for _, stack, _ in self.held:
            stack.close()
        os.fsync = self.fsync
        shutil.rmtree(self.root)

    def in_use(self) -> set[int]:
        return {number for number, _, _ in self.held}

    @rule(number=st.integers(0, len(UNITS) - 1))
    def take(self, number: int) -> None:
        used = sum(self.UNITS[each] for each in self.in_use() - {number}) * UNIT + len(CONFIG)
        size = self.UNITS[number] * UNIT
        before = there(self.store, *self.sources)
        stack = ExitStack()
        try:
            gathered = stack.enter_context(
                gather(self.sources[number].pin(), self.sources[number], self.store, want=Want.WEIGHTS)
            )
        except ModelStoreFull:
            assert used + size + SLACK > self.MOST
            assert there(self.store, *self.sources) == before
            return
        assert used + size <= self.MOST
        assert (gathered.fetched_bytes >= size) == (not before[number])
        self.held.append((number, stack, gathered))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        _, stack, _ = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        stack.close()

    @rule(number=st.integers(0, len(UNITS) - 1))
    def look(self, number: int) -> None:
        source = self.sources[number]
        with gather(source.pin(), source, self.store, want=Want.HEADERS) as gathered:
            assert (sum(gathered.missing.values()) == 0) == there(self.store, source)[0]

    @precondition(lambda self: len({number for number, _, _ in self.held}) == len(self.held) > 0)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        number, stack, gathered = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        gathered.discard()
        assert there(self.store, self.sources[number]) == [False]
        stack.close()

    @invariant()
    def nothing_is_lost_and_nothing_too_much(self) -> None:
        for number, _, gathered in self.held:
            assert (gathered.folder / WEIGHTS).read_bytes() == (self.sources[number].folder / WEIGHTS).read_bytes()
            assert (gathered.folder / "config.json").read_bytes() == CONFIG
        assert kept_bytes(self.store) <= self.MOST if self.store.folder.exists() else True
        if self.store.folder.exists():
            assert len(list((self.store.folder / "claims").iterdir())) == len(self.held)


TestUses = Uses.TestCase
TestUses.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
