"""A gathered checkpoint is what its source lists, byte for byte, whatever the source does on the way."""

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spinal.checkpoints.copies import Copy, Entry, KnownCopies
from spinal.checkpoints.fetching import reads
from spinal.checkpoints.fetching.gather import Want, gather
from spinal.checkpoints.fetching.parts import SAMPLE
from spinal.checkpoints.fetching.store import ModelStore
from spinal.checkpoints.files import MOST_CONFIG_BYTES, list_files
from spinal.checkpoints.identity import content_snapshot, weights_digest
from spinal.checkpoints.resolve import resolve_reference, resolve_tokenizer
from spinal.checkpoints.sources.base import Listed
from spinal.errors import (
    Cancelled,
    ConfigInvalid,
    DeadlineExceeded,
    ModelChanged,
    SpinalError,
    StorageUnavailable,
    UsageError,
    WeightsCorrupt,
)
from spinal.errors.sources import SourceUnavailable
from spinal.progress import Progress
from tests.conftest import Without
from tests.support.malformed import make_sound
from tests.support.places import EXAMPLES
from tests.support.scripted_source import DECLARED, Scripted

SFT = EXAMPLES / "checkpoints" / "sft"
WEIGHTS = "model.safetensors"
SIZE = (SFT / WEIGHTS).stat().st_size
WHOLE = sum(file.stat().st_size for file in SFT.iterdir())


@pytest.fixture
def source(tmp_path: Path) -> Scripted:
    return Scripted(SFT, tmp_path / "control")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def copied(tmp_path: Path, source: Path = SFT) -> Path:
    folder = tmp_path / "copied"
    shutil.copytree(source, folder)
    return folder


def fetch(source: Scripted, store: ModelStore, want: Want = Want.WEIGHTS, **more: Any) -> int:
    """Bytes read from the source for one gathering."""
    with gather(source.pin(), source, store, want=want, **more) as gathered:
        return gathered.fetched_bytes


def blobs(store: ModelStore) -> list[Path]:
    return sorted(file for file in (store.folder / "blobs").rglob("*") if file.is_file())


def assert_only_what_it_is_called(store: ModelStore) -> None:
    for file in blobs(store):
        assert hashlib.sha256(file.read_bytes()).hexdigest() == file.name
    assert list((store.folder / "claims").iterdir()) == []


@pytest.mark.parametrize("declared", DECLARED)
def test_a_gathered_checkpoint_has_the_digest_of_the_folder(
    tmp_path: Path, source: Scripted, store: ModelStore, declared: str
) -> None:
    source = replace(source, declared=declared)
    with gather(source.pin(), source, store, want=Want.WEIGHTS) as gathered:
        found = resolve_reference(str(gathered.folder), roots=None)
        assert weights_digest(found) == weights_digest(resolve_reference(str(SFT), roots=None))
        assert found.remarks == resolve_reference(str(SFT), roots=None).remarks
        assert gathered.sha256 == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in SFT.iterdir()}
        assert (gathered.fetched_bytes, sum(gathered.missing.values())) == (WHOLE, 0) == (source.read_bytes(), 0)
        folder = gathered.folder
    assert not folder.exists()
    assert_only_what_it_is_called(store)
    assert fetch(source, store) == 0
    assert source.read_bytes() == WHOLE


@pytest.mark.parametrize(("declared", "again"), [("sha256", 0), ("git_sha1", 0), ("tag", 0), ("nothing", WHOLE)])
def test_what_nothing_vouches_for_is_believed_for_a_while_only(
    tmp_path: Path, source: Scripted, declared: str, again: int
) -> None:
    source = replace(source, declared=declared)
    fetch(source, ModelStore(tmp_path / "store"))
    assert fetch(source, ModelStore(tmp_path / "store", remember_s=0.0)) == again


def test_small_files_known_by_git_id_are_not_read_from_another_source_either(
    tmp_path: Path, source: Scripted, store: ModelStore
) -> None:
    fetch(replace(source, declared="tag"), store)
    other = replace(source, declared="git_sha1", control=tmp_path / "other", name="hf:other/model@" + "2" * 40)
    assert fetch(other, store, Want.TOKENIZER) == 0
    pinned = other.pin()
    for listed in pinned.files or ():
        assert store.known(pinned, listed) == hashlib.sha256((SFT / listed.name).read_bytes()).hexdigest()


def test_what_was_evicted_is_known_and_not_there(source: Scripted, store: ModelStore) -> None:
    source = replace(source, declared="tag")
    with gather(source.pin(), source, store, want=Want.WEIGHTS) as gathered:
        gathered.discard()
    pinned = source.pin()
    assert blobs(store) == []
    assert [store.known(pinned, listed) for listed in pinned.files or ()] == [None] * len(pinned.files or ())
    declared = replace(source, declared="sha256").pin()
    for listed in declared.files or ():
        assert store.known(declared, listed) == listed.sha256
        assert not store.has(listed.sha256 or "")
    assert fetch(source, store) == WHOLE


def test_a_discard_leaves_the_sound_settings_of_others_and_takes_damaged_ones(
    source: Scripted, store: ModelStore
) -> None:
    fetch(source, store)
    with gather(source.pin(), source, store, want=Want.WEIGHTS) as gathered:
        gathered.discard()
    assert fetch(source, store) == SIZE
    with gather(source.pin(), source, store, want=Want.HEADERS) as gathered:
        damaged = (gathered.folder / "tokenizer.json").resolve()
        damaged.write_bytes(damaged.read_bytes()[:-1] + b" ")
        gathered.discard()
    assert fetch(source, store) == SIZE + (SFT / "tokenizer.json").stat().st_size


def test_a_discard_leaves_what_others_fetched_in_place_of_what_was_used(source: Scripted, store: ModelStore) -> None:
    """Else each of those who held the damaged file would take the good one from the next."""
    with (
        gather(source.pin(), source, store, want=Want.WEIGHTS) as first,
        gather(source.pin(), source, store, want=Want.WEIGHTS) as second,
    ):
        first.discard()
        with gather(source.pin(), source, store, want=Want.WEIGHTS) as third:
            second.discard()
            assert (third.folder / WEIGHTS).read_bytes() == (SFT / WEIGHTS).read_bytes()
    assert fetch(source, store) == 0


def test_a_discard_of_what_is_damaged_leaves_sound_weights_and_takes_others(
    source: Scripted, store: ModelStore
) -> None:
    with gather(source.pin(), source, store, want=Want.WEIGHTS) as gathered:
        gathered.discard(only_damaged=True)
        assert fetch(source, store) == 0
        blob = (gathered.folder / WEIGHTS).resolve()
        blob.write_bytes(blob.read_bytes()[:-1] + b" ")
        gathered.discard(only_damaged=True)
    assert fetch(source, store) == SIZE


def test_a_folder_of_this_host_is_not_fetched(source: Scripted, store: ModelStore) -> None:
    pinned = replace(source.pin(), files=None)
    with pytest.raises(ValueError, match="on this host"), gather(pinned, source, store, want=Want.HEADERS):
        pass


def test_of_a_tokenizer_nothing_else_is_read(source: Scripted, store: ModelStore) -> None:
    with gather(source.pin(), source, store, want=Want.TOKENIZER) as gathered:
        assert sorted(file.name for file in gathered.folder.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
        assert resolve_tokenizer(str(gathered.folder), roots=None).files.settings == (
            "tokenizer.json",
            "tokenizer_config.json",
        )
    assert source.reads() == [0, 0]


def test_the_names_that_are_not_read_are_there_for_the_remark(tmp_path: Path, store: ModelStore) -> None:
    folder = copied(tmp_path)
    for index in range(1200):
        (folder / f"log-{index:04}.txt").touch()
    (folder / "vision.safetensors").write_bytes(b"another file")
    source = Scripted(folder, tmp_path / "control")
    with gather(source.pin(), source, store, want=Want.HEADERS) as gathered:
        files = list_files(gathered.folder, "x", None, adapter=False)
        assert files.uncounted
        assert len(list(gathered.folder.iterdir())) == 1000
        assert (gathered.folder / "vision.safetensors").stat().st_size == 0
    assert source.reads("vision.safetensors") == source.reads("log-0000.txt") == []


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def large_config(folder: Path) -> None:
    (folder / "config.json").write_bytes(b" " * (MOST_CONFIG_BYTES + 1))


def large_index(folder: Path) -> None:
    without_weights(folder)
    os.truncate(_touched(folder / "model.safetensors.index.json"), 64 * 2**20 + 1)


def missing_shard(folder: Path) -> None:
    without_weights(folder)
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_to_elsewhere(folder: Path) -> None:
    without_weights(folder)
    index = {"weight_map": {"a": "../../x.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def empty_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def _touched(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize(
    "spoil",
    [
        pickled, without_weights, without_config, broken_config, large_config, large_index, missing_shard,
        index_to_elsewhere, empty_adapter,
    ],
)  # fmt: skip
@pytest.mark.parametrize("want", [Want.HEADERS, Want.WEIGHTS])
def test_what_is_wrong_with_a_checkpoint_is_said_as_of_a_folder(
    tmp_path: Path, store: ModelStore, spoil: Callable[[Path], None], want: Want
) -> None:
    folder = copied(tmp_path)
    spoil(folder)
    source = Scripted(folder, tmp_path / "control", name="local:copied")
    with pytest.raises(SpinalError) as of_folder:
        resolve_reference(str(folder), roots=None)
    with pytest.raises(type(of_folder.value)) as of_source, gather(source.pin(), source, store, want=want):
        pass
    if spoil is not empty_adapter:
        assert (of_source.value.detail, of_source.value.hint) == (of_folder.value.detail, of_folder.value.hint)
    assert source.reads(WEIGHTS) == []
    if spoil in (large_config, large_index):
        assert source.read_bytes() < 2**20


@pytest.mark.parametrize("kind", ["whole", "shards", "adapter"])
def test_every_layout_is_gathered(tmp_path: Path, store: ModelStore, kind: str) -> None:
    make_sound(tmp_path)
    source = Scripted(tmp_path / kind, tmp_path / "control")
    with gather(source.pin(), source, store, want=Want.WEIGHTS, streams=2) as gathered:
        for name in gathered.sha256:
            assert (gathered.folder / name).read_bytes() == (tmp_path / kind / name).read_bytes()
        assert len(gathered.sha256) == len(list((tmp_path / kind).iterdir()))


def test_equal_files_are_fetched_once(tmp_path: Path, store: ModelStore) -> None:
    make_sound(tmp_path)
    folder = tmp_path / "shards"
    first, second = sorted(folder.glob("*.safetensors"))
    shutil.copyfile(first, second)
    source = Scripted(folder, tmp_path / "control")
    with gather(source.pin(), source, store, want=Want.WEIGHTS) as gathered:
        assert (gathered.folder / second.name).read_bytes() == first.read_bytes()
    assert len(source.reads(first.name)) + len(source.reads(second.name)) == 1


LISTED = Listed(WEIGHTS, 10, WEIGHTS, sha256="a" * 64)


@pytest.mark.parametrize(
    "listed",
    [
        replace(LISTED, name="../outside"),
        replace(LISTED, name="/etc/outside"),
        replace(LISTED, name=".."),
        replace(LISTED, name="a/b"),
        replace(LISTED, name="a\0b"),
        replace(LISTED, name=""),
        replace(LISTED, size=-1),
        replace(LISTED, size=2**63),
        replace(LISTED, size=10**30),
        replace(LISTED, sha256="../../../../outside"),
        replace(LISTED, sha256="A" * 64),
        replace(LISTED, sha256="a" * 63 + "\n"),
        replace(LISTED, sha256=None, git_sha1="../outside"),
        replace(LISTED, sha256=None, git_sha1="a" * 64),
        replace(LISTED, name="config.json"),
        replace(LISTED, name="other.safetensors", sha256=hashlib.sha256((SFT / WEIGHTS).read_bytes()).hexdigest()),
    ],
)
def test_a_list_that_no_source_can_give_is_refused_before_anything_is_read(
    source: Scripted, store: ModelStore, listed: Listed, tmp_path: Path
) -> None:
    pinned = source.pin()
    hostile = replace(pinned, files=(*(pinned.files or ()), listed))
    for want in Want:
        with pytest.raises(SourceUnavailable), gather(hostile, source, store, want=want):
            pass
    assert source.reads() == []
    assert blobs(store) == []
    assert store.known(pinned, replace(listed, sha256="../x")) is None
    assert not store.has("../../x")


@pytest.mark.parametrize("size", [2**40, 2**62, 2**63 - 1])
def test_a_size_that_cannot_be_ends_as_an_error_and_writes_nothing(
    source: Scripted, store: ModelStore, size: int
) -> None:
    pinned = source.pin()
    files = tuple(replace(each, size=size) if each.name == WEIGHTS else each for each in pinned.files or ())
    hostile = replace(pinned, files=files)
    with pytest.raises(SourceUnavailable), gather(hostile, source, store, want=Want.WEIGHTS, patience_s=0.3):
        pass
    # What file systems can hold differs.
    with suppress(WeightsCorrupt), gather(hostile, source, store, want=Want.HEADERS) as gathered:
        assert (gathered.folder / WEIGHTS).stat().st_size == size
    assert sum(file.stat().st_blocks * 512 for file in store.folder.rglob("*")) < 3 * WHOLE


@pytest.mark.parametrize(("declared", "name"), [("sha256", WEIGHTS), ("git_sha1", WEIGHTS), ("sha256", "config.json")])
def test_same_size_corruption_is_fetched_again(source: Scripted, store: ModelStore, declared: str, name: str) -> None:
    source = replace(source, declared=declared)
    position = {WEIGHTS: SIZE - 1, "config.json": 3}[name]
    source.tell(f"corrupt@{name}", position, times=2)
    assert fetch(source, store) == WHOLE + 2 * (SFT / name).stat().st_size
    assert_only_what_it_is_called(store)
    assert len(blobs(store)) == 5


@pytest.mark.parametrize(("position", "error"), [(SIZE - 1, WeightsCorrupt), (3, ConfigInvalid)])
def test_what_is_never_what_was_declared_is_refused_and_the_next_try_starts_clean(
    source: Scripted, store: ModelStore, position: int, error: type[SpinalError]
) -> None:
    source.tell("corrupt", position)
    with pytest.raises(error, match="is not what the source declares") as refused:
        fetch(source, store, streams=1)
    assert source.name in refused.value.detail
    assert source.reads() == [0] * len(source.reads())
    assert max(source.reads().count(0), 3) >= 3
    assert_only_what_it_is_called(store)
    assert list((store.folder / "parts").iterdir()) == []
    source.untell("corrupt")
    fetch(source, store)
    assert_only_what_it_is_called(store)


def test_a_file_that_goes_on_behind_its_size_is_refused(source: Scripted, store: ModelStore) -> None:
    source = replace(source, declared="tag")
    source.tell("long", 5)
    with pytest.raises(ConfigInvalid, match="is not what the source declares"):
        fetch(source, store, streams=1)
    assert blobs(store) == []


@pytest.mark.parametrize("how", ["cut", "end"])
def test_a_cut_costs_no_byte(source: Scripted, store: ModelStore, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "FIRST_PAUSE_S", 0.01)
    source.tell(how, 300_000)
    assert fetch(source, store) == WHOLE
    assert source.reads(WEIGHTS) == list(range(0, SIZE, 300_000))
    assert_only_what_it_is_called(store)


def test_a_source_that_comes_back_is_read_on(
    source: Scripted, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "FIRST_PAUSE_S", 0.01)
    source.tell("away", 0.05, times=3)
    source.tell("away", None, times=2)
    assert fetch(source, store) == WHOLE


@pytest.mark.parametrize(("retry_after", "patience"), [(None, 0.5), (0.0, 0.5), (30.0, 20.0), (10**9, 20.0)])
def test_a_source_that_stays_away_is_given_up_when_patience_ends(
    source: Scripted, store: ModelStore, retry_after: float | None, patience: float
) -> None:
    source.tell("away", retry_after)
    began = time.monotonic()
    with pytest.raises(SourceUnavailable, match="the hub is away"):
        fetch(source, store, patience_s=patience)
    assert time.monotonic() - began < 5
    assert (time.monotonic() - began >= patience) == (patience < 1)


def test_what_was_fetched_before_a_source_went_away_is_not_fetched_again(source: Scripted, store: ModelStore) -> None:
    source.tell("cut", 1_000_000)
    source.tell("stall", 2_000_000)
    source = replace(source, read_timeout_s=0.1)
    with pytest.raises(SourceUnavailable):
        fetch(source, store, patience_s=0.3)
    source.untell("stall")
    fetch(source, store)
    assert source.read_bytes() == WHOLE


@pytest.mark.parametrize("error", ["ModelChanged", "ModelNotFound"])
def test_what_another_try_cannot_mend_is_raised_at_once(source: Scripted, store: ModelStore, error: str) -> None:
    source.tell("raise", error)
    with pytest.raises(SpinalError) as raised:
        fetch(source, store, streams=1)
    assert type(raised.value).__name__ == error
    assert len(source.reads()) == 1


def test_the_deadline_ends_a_fetch_that_goes_on(source: Scripted, store: ModelStore) -> None:
    source.tell("slow", 0.05)
    with pytest.raises(DeadlineExceeded):
        fetch(source, store, deadline=time.monotonic() + 0.5)
    source.untell("slow")
    source.tell("away")
    with pytest.raises(SourceUnavailable):
        fetch(source, store, deadline=time.monotonic() + 0.5)


@pytest.mark.parametrize("told", [("stall", 500_000), ("away", None), ("slow", 0.3)])
def test_a_cancel_ends_it_at_once(source: Scripted, store: ModelStore, told: tuple[str, Any]) -> None:
    source = replace(source, read_timeout_s=0.5, piece=8192)
    source.tell(*told)
    cancelled = threading.Event()
    asked: list[float] = []

    def watch(report: Progress) -> None:
        if not asked and (told[0] != "stall" or source.is_stalled()):
            asked.append(time.monotonic())
            cancelled.set()

    before = threading.active_count()
    with pytest.raises(Cancelled):
        fetch(source, store, cancelled=cancelled.is_set, progress=watch)
    assert time.monotonic() - asked[0] < 2
    assert threading.active_count() == before
    assert list((store.folder / "claims").iterdir()) == []


def test_progress_counts_bytes_and_never_passes_its_total(source: Scripted, store: ModelStore) -> None:
    source.tell(f"corrupt@{WEIGHTS}", SIZE - 1, times=1)
    source.tell("slow", 0.02)
    seen: list[Progress] = []
    fetch(source, store, progress=seen.append)
    assert all(report.phase == "fetch" and 0 <= report.done <= report.total for report in seen)
    assert seen[-1].done == seen[-1].total == SIZE
    assert len({report.done for report in seen}) > 3


def test_a_use_leaves_no_mark_on_a_file(source: Scripted, store: ModelStore) -> None:
    fetch(source, store)
    fetch(source, store, Want.HEADERS)

    def marks() -> dict[str, os.stat_result]:
        headers = [file for file in (store.folder / "headers").rglob("*") if file.is_file()]
        # Reading a file is the system's to note.
        return {file.name: os.stat_result((*file.stat()[:7], 0, *file.stat()[8:])) for file in blobs(store) + headers}

    times = {file: (file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in blobs(store)}
    before = marks()
    for _ in range(10):
        fetch(source, store)
        fetch(source, store, Want.HEADERS)
        fetch(replace(source, declared="git_sha1"), store)
    assert marks() == before
    assert {file: (file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in blobs(store)} == times


def test_errors_of_whoever_works_with_a_checkpoint_are_their_own(source: Scripted, store: ModelStore) -> None:
    with pytest.raises(OSError, match="mine"), gather(source.pin(), source, store, want=Want.TOKENIZER):
        raise OSError(errno.EIO, "mine")
    assert list((store.folder / "claims").iterdir()) == []


def link(folder: Path) -> None:
    folder.with_name("elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.with_name("elsewhere"))


def writable(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def foreign(folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, os.geteuid() + 1, -1)


def no_folder(folder: Path) -> None:
    folder.touch()


def below_a_file(folder: Path) -> None:
    folder.parent.rmdir()
    folder.parent.touch()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (link, UsageError), (writable, UsageError), (foreign, UsageError), (no_folder, StorageUnavailable),
        (below_a_file, StorageUnavailable),
    ],
)  # fmt: skip
def test_a_store_that_others_could_write_is_refused(
    tmp_path: Path, source: Scripted, spoil: Callable[[Path], None], error: type[SpinalError], without: Without
) -> None:
    if spoil is foreign and os.geteuid() != 0:
        without("a folder of another user", "run the tests as root")
    parent = tmp_path / "parent"
    parent.mkdir()
    spoil(parent / "store")
    for use in (lambda store: fetch(source, store), lambda store: store.has("a" * 64)):
        with pytest.raises(error) as refused:
            use(ModelStore(parent / "store"))
        assert str(tmp_path) not in refused.value.detail + (refused.value.hint or "")
        assert "\n" not in refused.value.detail


def test_the_store_is_for_its_user_alone(source: Scripted, store: ModelStore) -> None:
    fetch(source, store)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o077 == 0 for file in store.folder.rglob("*"))


def test_a_changed_model_is_an_error_of_the_source(source: Scripted, store: ModelStore) -> None:
    source.tell("raise", "ModelChanged", times=1)
    with pytest.raises(ModelChanged):
        fetch(source, store, Want.HEADERS)


# what one source brought and another one names


def elsewhere(source: Scripted, folder: Path, tmp_path: Path) -> Scripted:
    """Another repository, which declares what ``source`` declares and gives the files of ``folder``."""
    made = replace(source, control=tmp_path / "theirs", name="hf:their/model@" + "3" * 40)

    class Claiming(Scripted):
        def list_file(self, file: Path) -> Listed:
            return replace(source.list_file(SFT / file.name), at=file.name)

    return Claiming(folder, made.control, name=made.name)


def test_a_file_that_another_source_brought_is_asked_for_in_one_place_and_once(
    tmp_path: Path, source: Scripted, store: ModelStore
) -> None:
    fetch(source, store)
    theirs = elsewhere(source, SFT, tmp_path)
    assert fetch(theirs, store) == SAMPLE
    assert fetch(theirs, store) == 0


def test_a_source_that_only_names_a_file_is_given_none_of_it(
    tmp_path: Path, source: Scripted, store: ModelStore
) -> None:
    """Its list declares the digest of a private model that somebody else brought to this host."""
    fetch(source, store)
    folder = copied(tmp_path)
    (folder / WEIGHTS).write_bytes(bytes(SIZE))
    with pytest.raises(WeightsCorrupt, match="not what the source declares"):
        fetch(elsewhere(source, folder, tmp_path), store)
    assert_only_what_it_is_called(store)
    assert fetch(source, store) == 0


@pytest.mark.parametrize(("declared", "same"), [("sha256", True), ("tag", False), ("nothing", False)])
def test_a_version_that_was_made_again_is_another_one_where_nothing_tells_its_content(
    source: Scripted, store: ModelStore, declared: str, same: bool
) -> None:
    source = replace(source, declared=declared)

    def snapshot(revision: str) -> str:
        pinned = replace(source.pin(), revision=revision)
        with gather(pinned, source, store, want=Want.HEADERS) as found:
            listing = tuple(Entry(each.name, each.size, each.content, each.tag) for each in pinned.files or ())
            copy = Copy(pinned.name, revision, found.folder, store.folder, listing, found.sha256, whole=False)
            copies = KnownCopies({pinned.name: copy})
            return content_snapshot(resolve_reference(pinned.name, roots=None, copies=copies))

    assert (snapshot("1/first-run") == snapshot("1/second-run")) is same
    assert snapshot("1/first-run") == snapshot("1/first-run")
