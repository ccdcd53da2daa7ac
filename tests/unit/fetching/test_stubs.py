"""A stub says of a weights file what the whole file says, and is read once."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from spinal.checkpoints.fetching.gather import Want, gather
from spinal.checkpoints.fetching.store import ModelStore
from spinal.checkpoints.tensors import MOST_HEADER, read_header
from spinal.errors import SpinalError, WeightsCorrupt
from tests.support.malformed import KINDS, make_sound, malform
from tests.support.places import EXAMPLES
from tests.support.scripted_source import DECLARED, Scripted

CHECKPOINTS = sorted(folder for folder in (EXAMPLES / "checkpoints").iterdir() if folder.is_dir())
SFT = EXAMPLES / "checkpoints" / "sft"
WEIGHTS = "model.safetensors"
SIZE = (SFT / WEIGHTS).stat().st_size
HEADER = 8 + int.from_bytes((SFT / WEIGHTS).read_bytes()[:8], "little")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def fetch(source: Scripted, store: ModelStore, want: Want = Want.HEADERS) -> int:
    with gather(source.pin(), source, store, want=want) as gathered:
        return gathered.fetched_bytes


def said(path: Path) -> object:
    """What is read in a header, or what is said against it."""
    try:
        return read_header(path, "x")
    except SpinalError as error:
        return type(error), error.detail, error.hint


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("declared", DECLARED)
def test_the_header_of_a_stub_is_that_of_the_file(
    tmp_path: Path, store: ModelStore, folder: Path, declared: str
) -> None:
    source = Scripted(folder, tmp_path / "control", declared)
    for _ in range(2):
        with gather(source.pin(), source, store, want=Want.HEADERS) as gathered:
            stub = gathered.folder / WEIGHTS
            assert read_header(stub, "x") == read_header(folder / WEIGHTS, "x")
            assert stub.stat().st_size == SIZE
            assert stub.stat().st_blocks * 512 < HEADER + 16384
            assert sum(gathered.missing.values()) == SIZE
        assert source.read_bytes(WEIGHTS) == HEADER
    assert fetch(source, store) == 0


def damaged(root: Path) -> list[Path]:
    """Folders whose weights files are damaged in ways that a header shows, or not."""
    root.mkdir()
    make_sound(root)
    rest = random.Random(7)
    for number in range(120):
        malform(root, f"m{number}", rest.randrange(10**9))
    for length in (0, 1, 7, 8, 9, SIZE - 8, SIZE - 7, 2**63, 2**64 - 1, MOST_HEADER, MOST_HEADER + 1):
        folder = root / f"length-{length}"
        shutil.copytree(SFT, folder)
        with (folder / WEIGHTS).open("r+b") as stream:
            stream.write(length.to_bytes(8, "little"))
            if length in (MOST_HEADER, MOST_HEADER + 1):
                stream.truncate(MOST_HEADER + 4096)
    for size in (0, 1, 7, 8, 9, HEADER - 1, HEADER, HEADER + 1, SIZE - 1):
        folder = root / f"size-{size}"
        shutil.copytree(SFT, folder)
        with (folder / WEIGHTS).open("r+b") as stream:
            stream.truncate(size)
    return [folder for folder in sorted(root.iterdir()) if folder.name not in (*KINDS, "base")]


def _can_be_listed(file: Path) -> bool:
    return file.is_file() and not file.is_symlink() and file.stat().st_size < 2**30


def test_what_is_wrong_with_a_header_is_found_in_the_stub(tmp_path: Path, store: ModelStore) -> None:
    compared = wrong = 0
    for folder in damaged(tmp_path / "sound"):
        if not all(_can_be_listed(file) for file in folder.iterdir()):
            continue
        source = Scripted(folder, tmp_path / f"control-{folder.name}", piece=2**20)
        try:
            with gather(source.pin(), source, store, want=Want.HEADERS) as gathered:
                for stub in gathered.folder.glob("*.safetensors"):
                    found = said(folder / stub.name)
                    assert said(stub) == found, folder.name
                    compared += 1
                    wrong += isinstance(found, tuple)
        except SpinalError:
            # Its settings are damaged, which comes first.
            assert source.reads("model.safetensors") == []
    assert compared > 50
    assert wrong > 30


def test_a_cut_inside_the_header_is_read_on(tmp_path: Path, store: ModelStore) -> None:
    source = Scripted(SFT, tmp_path / "control")
    source.tell(f"cut@{WEIGHTS}", 5, times=1)
    source.tell(f"end@{WEIGHTS}", 100, times=1)
    fetch(source, store)
    assert source.read_bytes(WEIGHTS) == HEADER
    assert fetch(source, store) == 0


def test_a_damaged_header_is_not_kept(tmp_path: Path, store: ModelStore) -> None:
    source = Scripted(SFT, tmp_path / "control")
    source.tell(f"corrupt@{WEIGHTS}", 20)
    with gather(source.pin(), source, store, want=Want.HEADERS) as gathered, pytest.raises(WeightsCorrupt):
        read_header(gathered.folder / WEIGHTS, "x")
    source.untell(f"corrupt@{WEIGHTS}")
    with gather(source.pin(), source, store, want=Want.HEADERS) as gathered:
        assert read_header(gathered.folder / WEIGHTS, "x") == read_header(SFT / WEIGHTS, "x")


def test_a_header_that_nobody_verified_is_believed_of_its_own_place_alone(tmp_path: Path, store: ModelStore) -> None:
    false = Scripted(SFT, tmp_path / "false", name="hf:false/model@" + "2" * 40)
    # A letter of a tensor's name.
    position = (SFT / WEIGHTS).read_bytes().index(b"model.norm")
    false.tell(f"corrupt@{WEIGHTS}", position)
    fetch(false, store)
    true = Scripted(SFT, tmp_path / "control")
    with gather(true.pin(), true, store, want=Want.HEADERS) as gathered:
        assert read_header(gathered.folder / WEIGHTS, "x") == read_header(SFT / WEIGHTS, "x")


@pytest.mark.parametrize("declared", DECLARED)
def test_the_header_of_a_verified_file_is_known_wherever_it_is_declared(
    tmp_path: Path, store: ModelStore, declared: str
) -> None:
    first = Scripted(SFT, tmp_path / "first", declared)
    fetch(first, store, Want.WEIGHTS)
    with gather(first.pin(), first, store, want=Want.HEADERS) as gathered:
        store.blob(gathered.sha256[WEIGHTS]).unlink()
    other = Scripted(SFT, tmp_path / "other", name="hf:other/model@" + "3" * 40)
    for source in (first, other):
        with gather(source.pin(), source, store, want=Want.HEADERS) as gathered:
            assert gathered.fetched_bytes == 0
            assert sum(gathered.missing.values()) == SIZE
            assert read_header(gathered.folder / WEIGHTS, "x") == read_header(SFT / WEIGHTS, "x")


@pytest.mark.parametrize("declared", DECLARED)
def test_whole_files_do_not_take_the_place_of_stubs(tmp_path: Path, store: ModelStore, declared: str) -> None:
    source = Scripted(SFT, tmp_path / "control", declared)
    fetch(source, store, Want.WEIGHTS)
    shutil.rmtree(store.folder / "headers")
    (store.folder / "headers").mkdir()
    with gather(source.pin(), source, store, want=Want.HEADERS) as gathered:
        assert (gathered.fetched_bytes, sum(gathered.missing.values())) == (0, 0)
        assert (gathered.folder / WEIGHTS).stat().st_blocks * 512 < HEADER + 16384


def test_a_header_of_a_file_without_a_tag_is_believed_for_a_while(tmp_path: Path, store: ModelStore) -> None:
    source = Scripted(SFT, tmp_path / "control", "nothing")
    fetch(source, store)
    impatient = ModelStore(store.folder, remember_s=0.0)
    assert fetch(source, impatient) > HEADER
    assert fetch(source, store) == 0
    assert fetch(replace(source, declared="tag"), store) > HEADER


def test_a_store_without_room_keeps_no_stub(tmp_path: Path) -> None:
    settings = sum(file.stat().st_size for file in SFT.iterdir() if file.name != WEIGHTS)
    source = Scripted(SFT, tmp_path / "control")
    store = ModelStore(tmp_path / "store", most_bytes=settings + 100)
    for _ in range(2):
        with gather(source.pin(), source, store, want=Want.HEADERS) as gathered:
            assert read_header(gathered.folder / WEIGHTS, "x") == read_header(SFT / WEIGHTS, "x")
        assert [entry for entry in (store.folder / "headers").rglob("*") if entry.is_file()] == []
