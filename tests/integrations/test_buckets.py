"""Folders in buckets against a real object store (``tests/support/object_server.py``)."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from spinal.checkpoints.identity import weights_digest
from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.sources.base import Listed, Pinned, Setting, Timeouts
from spinal.checkpoints.sources.bucket_settings import S3Settings
from spinal.checkpoints.sources.buckets import Buckets, make_s3
from spinal.errors import ModelChanged, ModelNotFound, SpinalError
from spinal.errors.sources import ModelAccessRefused, SourceRefused, SourceUnavailable
from spinal.net.signing import AccessKey
from tests.conftest import EXAMPLES, Without
from tests.support.object_server import OWNER, STRANGER, ObjectServer, missing
from tests.support.proxy import Proxy

SFT = EXAMPLES / "checkpoints" / "sft"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, without: Without) -> Iterator[ObjectServer]:
    home = tmp_path_factory.mktemp("objects")
    if lacks := missing(home):
        without(*lacks)
    with ObjectServer(home) as running:
        running.make_bucket("models")
        running.put_folder("models", "team/sft/", SFT)
        running.put("models", "team/sft/eval/results.json", b"{}")
        running.make_bucket("kept", versioned=True)
        yield running


def source(server: ObjectServer, key: AccessKey = OWNER, *, port: int | None = None, **more: object) -> Buckets:
    said = {"allow": ("*",), "endpoint": f"http://127.0.0.1:{port or server.port}", "allow_http": True, **more}
    said |= {"access_key_id": key.id, "secret_access_key": key.secret}
    return make_s3(Setting(S3Settings.model_validate(said), None, lambda _: pytest.fail("asked"), Timeouts(read=3.0)))


def content(buckets: Buckets, pinned: Pinned, listed: Listed, start: int = 0, end: int | None = None) -> bytes:
    with buckets.read(pinned, listed, start, end) as pieces:
        return b"".join(pieces)


def file_of(pinned: Pinned, name: str) -> Listed:
    return next(each for each in pinned.files or () if each.name == name)


def test_a_folder_in_a_bucket_has_the_digest_of_the_folder_it_was_uploaded_from(
    server: ObjectServer, tmp_path: Path
) -> None:
    buckets = source(server)
    pinned = buckets.pin("//models/team/sft")
    assert [(each.name, each.size) for each in pinned.files or ()] == sorted(
        (path.name, path.stat().st_size) for path in SFT.iterdir()
    )
    for listed in pinned.files or ():
        (tmp_path / listed.name).write_bytes(content(buckets, pinned, listed))
    fetched, original = (resolve_reference(str(folder), roots=None) for folder in (tmp_path, SFT))
    assert weights_digest(fetched) == weights_digest(original)


def test_any_span_of_bytes_is_the_span_of_the_file(server: ObjectServer) -> None:
    buckets = source(server)
    pinned = buckets.pin("//models/team/sft")
    listed = file_of(pinned, "tokenizer.json")
    whole, size = (SFT / "tokenizer.json").read_bytes(), listed.size
    for start, end in [(0, None), (0, 1), (1, size), (size - 1, size), (size, size), (0, 0), (777, 70_000)]:
        assert content(buckets, pinned, listed, start, end) == whole[start : size if end is None else end]


def test_a_canonical_name_means_the_same_or_nothing(server: ObjectServer) -> None:
    buckets = source(server)
    server.put_folder("models", "moving/", SFT)
    pinned = buckets.pin("//models/moving/")
    assert pinned.name.startswith("s3://models/moving@")
    assert buckets.pin(pinned.name.removeprefix("s3:")) == pinned
    assert buckets.pin("//models/moving") == pinned
    server.put("models", "moving/config.json", b"{}")
    with pytest.raises(ModelChanged, match="not those that were submitted"):
        buckets.pin(pinned.name.removeprefix("s3:"))
    server.put_folder("models", "moving/", SFT)
    assert buckets.pin(pinned.name.removeprefix("s3:")).name == pinned.name
    server.put("models", "moving/more.safetensors", b"1")
    with pytest.raises(ModelChanged):
        buckets.pin(pinned.name.removeprefix("s3:"))
    for path in [*SFT.iterdir(), Path("more.safetensors")]:
        server.delete("models", f"moving/{path.name}")
    with pytest.raises(ModelChanged):
        buckets.pin(pinned.name.removeprefix("s3:"))


@pytest.mark.parametrize("span", [(0, None), (1, 3)])
def test_no_byte_of_a_replaced_object_is_taken_for_the_old(server: ObjectServer, span: tuple[int, int | None]) -> None:
    buckets = source(server)
    server.put("models", "replaced/config.json", b"before")
    pinned = buckets.pin("//models/replaced")
    listed = file_of(pinned, "config.json")
    server.put("models", "replaced/config.json", b"behind")
    with pytest.raises(ModelChanged, match=r"config\.json of s3://models/replaced@"):
        content(buckets, pinned, listed, *span)
    server.delete("models", "replaced/config.json")
    with pytest.raises(ModelChanged):
        content(buckets, pinned, listed, *span)


def test_a_bucket_with_versions_goes_on_giving_what_was_pinned(server: ObjectServer) -> None:
    buckets = source(server)
    server.put("kept", "run/config.json", b"before")
    pinned = buckets.pin("//kept/run")
    listed = file_of(pinned, "config.json")
    assert listed.tag is not None
    assert " " in listed.tag, "an etag alone, without a version"
    for change in (lambda: server.put("kept", "run/config.json", b"behind"), lambda: _delete(server)):
        change()
        assert content(buckets, pinned, listed) == b"before"
        assert content(buckets, pinned, listed, 2, 4) == b"fo"
        with pytest.raises(ModelChanged):
            buckets.pin(pinned.name.removeprefix("s3:"))


def _delete(server: ObjectServer) -> None:
    server.delete("kept", "run/config.json")


def test_the_same_bytes_put_again_are_another_version(server: ObjectServer) -> None:
    buckets = source(server)
    server.put("kept", "again/config.json", b"same")
    first = buckets.pin("//kept/again")
    server.put("kept", "again/config.json", b"same")
    assert buckets.pin("//kept/again").name != first.name


@pytest.mark.parametrize(
    "folder", ["plain", "with space", "a+b", "per%2Fcent", "größe/模型", "a@b", "x" * 800, "q?r#s&t=u"]
)
def test_any_name_of_a_folder_is_found_as_it_is_written(server: ObjectServer, folder: str) -> None:
    buckets = source(server)
    server.put("models", f"{folder}/config.json", folder.encode())
    pinned = buckets.pin(f"//models/{folder}")
    assert buckets.pin(pinned.name.removeprefix("s3:")) == pinned
    assert content(buckets, pinned, file_of(pinned, "config.json")) == folder.encode()


def test_a_listing_of_many_pages_is_whole(server: ObjectServer) -> None:
    names = {f"model-{number:05}-of-00011.safetensors" for number in range(1, 12)}
    for name in names:
        server.put("models", f"shards/{name}", name.encode())
        server.put("models", f"shards/{name}.d/below", b"")
    pinned = source(server).pin("//models/shards")
    assert {each.name for each in pinned.files or ()} == names


def test_an_object_that_was_uploaded_in_parts_is_pinned_and_read_like_any_other(server: ObjectServer) -> None:
    parts = [random.Random(1).randbytes(5 << 20), b"the last part"]
    server.put_in_parts("models", "parts/model.safetensors", parts)
    buckets = source(server)
    pinned = buckets.pin("//models/parts")
    listed = file_of(pinned, "model.safetensors")
    assert listed.tag is not None
    assert listed.tag.endswith('-2"'), "the etag of a whole object is the digest of its content here"
    assert content(buckets, pinned, listed) == b"".join(parts)
    assert content(buckets, pinned, listed, (5 << 20) - 3, (5 << 20) + 3) == parts[0][-3:] + b"the"
    server.put_in_parts("models", "parts/model.safetensors", [parts[0], b"another part"])
    with pytest.raises(ModelChanged):
        content(buckets, pinned, listed)


def test_reading_that_was_cut_off_goes_on_where_it_ended(server: ObjectServer) -> None:
    large = random.Random(0).randbytes(24 << 20)
    server.put("models", "large/model.safetensors", large)
    with Proxy(server.port) as proxy:
        buckets = source(server, port=proxy.port)
        pinned = buckets.pin("//models/large")
        listed, found = file_of(pinned, "model.safetensors"), b""
        for fault in (proxy.cut, proxy.half_open):
            before = len(found)
            with pytest.raises(SourceUnavailable), buckets.read(pinned, listed, len(found)) as pieces:  # noqa: PT012  the bytes before the fault count
                for piece in pieces:
                    found += piece
                    if len(found) == before + len(piece):
                        fault()
            assert before < len(found) < len(large)
        found += content(buckets, pinned, listed, len(found))
    assert hashlib.sha256(found).digest() == hashlib.sha256(large).digest()


@pytest.mark.parametrize(
    ("path", "key", "error", "says"),
    [
        ("//nowhere/sft", OWNER, ModelNotFound, "no bucket"),
        ("//models/team/sft2", OWNER, ModelNotFound, "no files directly below"),
        ("//models/team", OWNER, ModelNotFound, "no files directly below"),
        ("//models/team/sf", OWNER, ModelNotFound, "no files directly below"),
        ("//models/team/sft", AccessKey(OWNER.id, "wrong"), ModelAccessRefused, "does not accept the credentials"),
        ("//models/team/sft", AccessKey("nobody", "wrong"), ModelAccessRefused, "does not accept the credentials"),
        ("//models/team/sft", STRANGER, ModelAccessRefused, "do not open"),
    ],
)
def test_what_is_not_there_or_not_open_is_told_apart(
    server: ObjectServer, path: str, key: AccessKey, error: type[SpinalError], says: str
) -> None:
    with pytest.raises(error, match=says) as told:
        source(server, key).pin(path)
    assert "wrong" not in str(told.value) + str(told.value.hint)


def test_a_bucket_that_is_not_listed_is_never_asked_for(server: ObjectServer) -> None:
    with Proxy(server.port) as proxy:
        pinned = source(server, port=proxy.port).pin("//models/team/sft")
        narrow = source(server, port=proxy.port, allow=("models/other/*", "kept"))
        proxy.cut()
        with pytest.raises(SourceRefused, match="not among the buckets"):
            narrow.pin("//models/team/sft")
        with pytest.raises(SourceRefused), narrow.read(pinned, file_of(pinned, "config.json")):
            pytest.fail("read")
