"""Registered models of MLflow, from a double whose answers a test writes (``tests/support/scripted_registry.py``)."""

import select
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from spinal.checkpoints.sources.base import Listed, Pinned, RemoteSource, Setting, Timeouts
from spinal.checkpoints.sources.mlflow import MLFLOW, MOST_TAGGED, RegistrySettings
from spinal.errors import ModelChanged, ModelNotFound, ModelPathRefused, ModelReferenceInvalid, SpinalError, UsageError
from spinal.errors.sources import ModelAccessRefused, SourceRefused, SourceUnavailable
from tests.support.scripted_registry import API, ARTIFACTS, Registry, Send, says, scripted, unknown

ROOT = "0/run1/artifacts"
SERVED = f"mlflow-artifacts:/{ROOT}"
WEIGHTS = bytes(range(256)) * 40
CHECKPOINT = {"config.json": b"{}", "model.safetensors": WEIGHTS}
TOKENIZER = {"tokenizer.json": b'{"a": 1}', "tokenizer_config.json": b"{}"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECRET = "s3cr3t-of-this-test"
PinOther = Callable[[str], Pinned]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with scripted() as made:
        made.register("assistant", "3", SERVED)
        yield made


def short(value: object) -> str:
    """What a test is called by."""
    return repr(value)[:40]


def nowhere(reference: str) -> Pinned:
    raise AssertionError(f"{reference} was asked for")


def source(
    registry: Registry, pin: PinOther = nowhere, *, allow: tuple[str, ...] = ("*",), pin_s: float = 10.0, **more: Any
) -> RemoteSource:
    settings = RegistrySettings(url=registry.url, allow=allow, private_hosts=(registry.host,), **more)
    made: RemoteSource = MLFLOW.make(Setting(settings, None, pin, Timeouts(connect=2.0, read=1.0, pin=pin_s)))  # type: ignore[assignment]  # kinds make sources of either kind
    return made


def put(registry: Registry, files: dict[str, bytes], folder: str = "") -> None:
    below = f"{ROOT}/{folder}" if folder else ROOT
    registry.files |= {f"{below}/{name}": content for name, content in files.items()}


def names(pinned: Pinned) -> list[str]:
    return [each.name for each in pinned.files or ()]


def content(made: RemoteSource, pinned: Pinned, listed: Listed, start: int = 0, end: int | None = None) -> bytes:
    with made.read(pinned, listed, start, end) as pieces:
        return b"".join(pieces)


# where the checkpoint lies


@pytest.mark.parametrize("folder", ["", "model", "checkpoint", "pipeline", "artifacts", "artifacts/sft", "peft"])
def test_the_checkpoint_is_found_wherever_a_flavour_put_it(registry: Registry, folder: str) -> None:
    put(registry, {"MLmodel": b"flavors: {}", "conda.yaml": b"x"})
    put(registry, CHECKPOINT, folder)
    made = source(registry)
    pinned = made.pin("assistant/3")
    assert {each.name: each.at for each in pinned.files or ()}["config.json"] == "/".join(
        part for part in (ROOT, folder, "config.json") if part
    )
    for each in pinned.files or ():
        assert content(made, pinned, each) == registry.files[each.at]


def test_an_adapter_is_a_checkpoint_of_its_own(registry: Registry) -> None:
    put(registry, {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, "peft")
    put(registry, TOKENIZER, "components/tokenizer")
    assert names(source(registry).pin("assistant/3")) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_tokenizer_that_was_logged_beside_the_model_is_part_of_it(registry: Registry) -> None:
    put(registry, CHECKPOINT, "model")
    put(registry, TOKENIZER | {"config.json": b"of the tokenizer"}, "components/tokenizer")
    made = source(registry)
    pinned = made.pin("assistant/3")
    assert names(pinned) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert content(made, pinned, (pinned.files or ())[0]) == b"{}"


def test_a_tokenizer_is_not_put_together_from_two(registry: Registry) -> None:
    put(registry, CHECKPOINT | {"tokenizer.json": b"own"}, "model")
    put(registry, TOKENIZER, "components/tokenizer")
    assert names(source(registry).pin("assistant/3")) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_of_two_folders_that_could_be_meant_none_is_taken(registry: Registry) -> None:
    for folder in ("base", "tuned"):
        put(registry, CHECKPOINT, folder)
    with pytest.raises(ModelNotFound, match="more than one checkpoint: base, tuned"):
        source(registry).pin("assistant/3")


@pytest.mark.parametrize("folders", [0, 1, 33])
def test_without_a_checkpoint_the_error_says_what_was_looked_for(registry: Registry, folders: int) -> None:
    for number in range(folders):
        put(registry, {"x.txt": b"x"}, f"folder{number}")
    with pytest.raises(ModelNotFound, match=r"config\.json|more than 32 folders"):
        source(registry).pin("assistant/3")
    assert len(registry.asked) < 40


# where the artifacts lie


@pytest.mark.parametrize(
    "uri",
    [
        f"mlflow-artifacts:/{ROOT}", f"mlflow-artifacts:///{ROOT}/", "mlflow-artifacts://HOST/" + ROOT,
        f"http://HOST{ARTIFACTS}/{ROOT}", "runs:/run1", "runs:/run1/", "models:/m-5cee6bb93ff5", "models:/other/1",
    ],
)  # fmt: skip
def test_every_name_of_served_artifacts_leads_to_them(registry: Registry, uri: str) -> None:
    put(registry, CHECKPOINT)
    registry.register("assistant", "3", uri.replace("HOST", registry.host))
    registry.roots = {"run1": SERVED, "assistant/3": SERVED}
    assert names(source(registry).pin("assistant/3")) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data", "https://example.org/model", "http://HOST/elsewhere", "ftp://x/y",
        "mlflow-artifacts://other.example:5000/0/run1/artifacts", "mlflow-artifacts:/../../etc", "mlflow-artifacts:/",
        "mlflow-artifacts:/0/%2e%2e/x", "mlflow-artifacts:/0/..\\x", "mlflow-artifacts:/0/a?path=../x",
        "mlflow-artifacts:/0/./x",
        "dbfs:/databricks/model", "hdfs://node/x", "abfss://x@y/z", "local:/etc", "hf:org/name@main", "hf://org/name",
        "runs:/../../etc", "runs:/run1/../../../etc", "runs:/", "models:/m-1", "s3:/x", "file://other.example/srv/x",
        "file:///srv/x?y=1", "mlflow-artifacts:/0/\x1b[31m", "x" * 3000, "javascript:alert(1)",
    ],
    ids=short,
)  # fmt: skip
def test_artifacts_anywhere_else_are_refused_before_anything_is_asked_for_there(registry: Registry, uri: str) -> None:
    registry.register("assistant", "3", uri.replace("HOST", registry.host))
    registry.roots = {"run1": SERVED, "assistant/3": "models:/m-1"}
    with pytest.raises(SourceRefused) as refused:
        source(registry).pin("assistant/3")
    assert len(registry.asked) <= 2
    assert str(refused.value).isprintable()
    assert "/etc" not in str(refused.value)


def test_a_folder_of_the_server_is_read_where_the_model_roots_allow_it(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    asked: list[str] = []

    def pin(reference: str) -> Pinned:
        asked.append(reference)
        return Pinned(reference, reference.removeprefix("local:"))

    for uri in (f"file://{tmp_path}", str(tmp_path)):
        registry.register("assistant", "3", uri)
        pinned = source(registry, pin).pin("assistant/3")
        assert (pinned.name, pinned.scheme, pinned.location) == ("mlflow:assistant/3", "local", f"{tmp_path}/model")
    assert set(asked) == {f"local:{tmp_path}", f"local:{tmp_path}/model"}


def test_a_folder_outside_the_model_roots_is_refused_and_not_named(registry: Registry) -> None:
    def pin(reference: str) -> Pinned:
        raise ModelPathRefused(f"{reference} does not lie below the model roots")

    registry.register("assistant", "3", "file:///etc/secrets")
    with pytest.raises(SourceRefused) as refused:
        source(registry, pin).pin("assistant/3")
    assert "/etc" not in f"{refused.value} {refused.value.hint}"


class Bucket:
    """What the source of buckets would say."""

    def __init__(self, **folders: dict[str, bytes]) -> None:
        self.folders = {name.replace("_", "/"): files for name, files in folders.items()}
        self.asked: list[str] = []

    def __call__(self, reference: str) -> Pinned:
        self.asked.append(reference)
        folder = reference.removeprefix("s3://bucket/run").strip("/")
        if reference.startswith("hf:"):
            return Pinned(reference, "hub", COMMIT, (), "hf")
        if folder not in self.folders:
            raise ModelNotFound(f"nothing below {reference}")
        files = tuple(Listed(name, len(raw), f"run/{folder}/{name}") for name, raw in self.folders[folder].items())
        return Pinned(f"{reference}@1234", "bucket", None, files, "s3")


@pytest.mark.parametrize("folder", ["", "model"])
def test_a_model_in_a_bucket_is_read_by_the_source_of_buckets(registry: Registry, folder: str) -> None:
    bucket = Bucket(**{folder: CHECKPOINT, "components_tokenizer": TOKENIZER})
    registry.register("assistant", "3", "s3://bucket/run/")
    pinned = source(registry, bucket).pin("assistant/3")
    assert (pinned.name, pinned.scheme, pinned.location) == ("mlflow:assistant/3", "s3", "bucket")
    assert names(pinned) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_a_hub_reference_in_a_bucket_is_read_through_the_server(registry: Registry) -> None:
    registry.register("assistant", "3", "s3://bucket/run")
    registry.files["assistant/3/MLmodel"] = mlmodel("org/name", COMMIT)
    pinned = source(registry, Bucket()).pin("assistant/3")
    assert (pinned.name, pinned.scheme) == ("mlflow:assistant/3", "hf")
    registry.files.clear()
    with pytest.raises(ModelNotFound, match="holds no checkpoint"):
        source(registry, Bucket()).pin("assistant/3")


def test_what_the_server_passes_on_from_a_bucket_can_be_read_there(registry: Registry) -> None:
    put(registry, CHECKPOINT, "model")
    put(registry, TOKENIZER, "components/tokenizer")
    files = {"config.json": b"{}"}
    bucket = Bucket(**{f"{ROOT}/model": files, f"{ROOT}/components/tokenizer": TOKENIZER})
    pinned = source(registry, bucket, artifacts="s3://bucket/run/").pin("assistant/3")
    assert (pinned.name, pinned.scheme) == ("mlflow:assistant/3", "s3")
    assert names(pinned) == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert registry.sent == 0


# a model of a hub, by name


def mlmodel(name: object, commit: object) -> bytes:
    return f"flavors:\n  transformers:\n    source_model_name: {name}\n    source_model_revision: {commit}\n".encode()


def test_a_model_that_was_logged_by_name_is_the_one_on_the_hub_at_that_commit(registry: Registry) -> None:
    put(registry, {"MLmodel": mlmodel("org/name", COMMIT)})
    put(registry, TOKENIZER, "components/tokenizer")
    asked: list[str] = []

    def pin(reference: str) -> Pinned:
        asked.append(reference)
        return Pinned(reference, "hub", COMMIT, (Listed("config.json", 2, "config.json"),), "hf")

    pinned = source(registry, pin).pin("assistant/3")
    assert asked == [f"hf:org/name@{COMMIT}"]
    assert pinned == Pinned("mlflow:assistant/3", "hub", COMMIT, (Listed("config.json", 2, "config.json"),), "hf")


@pytest.mark.parametrize(
    "raw",
    [
        mlmodel("org/name", "main"), mlmodel("org/name", "0123456"), mlmodel("org/name", "null"),
        mlmodel("/srv/models/base", COMMIT), mlmodel("../name", COMMIT), mlmodel("a/b/c", COMMIT),
        mlmodel("[org, name]", COMMIT), mlmodel("'org/name@main'", COMMIT), mlmodel("org/..", COMMIT),
        b"flavors: {transformers: 3}", b"- flavors", b"", b"\xff\xfe", b"{" * 5000, b"a: [" * 5000,
        b"!!python/object/apply:os.system ['true']", b"\x1b[31m: x", b"a: &x [1]\nb: [" + b"*x," * 5000 + b"]",
        b"x: " + b"a" * 2**20, b"x: 0o777\nflavors: {transformers: {source_model_name: 010}}",
        b"flavors: {transformers: {}}\nflavors: {}", b"a: b\n" * 50_000,
        b"".join(b"%d: 1\n" % number for number in range(100_000)),
    ],
    ids=short,
)  # fmt: skip
def test_what_mlmodel_says_otherwise_names_no_model(registry: Registry, raw: bytes) -> None:
    put(registry, {"MLmodel": raw})
    before = time.monotonic()
    with pytest.raises(ModelNotFound) as said:
        source(registry).pin("assistant/3")
    assert time.monotonic() - before < 8.0
    assert str(said.value).isprintable()


# references


@pytest.mark.parametrize(
    ("path", "name"),
    [("assistant@best", "assistant"), ("with space/3", "with space"), ("a@b/3", "a@b"), ("a@b@best", "a@b"),
     ("ünï.c-d?e&f%2F#g/3", "ünï.c-d?e&f%2F#g"), ("catalog.schema.name/3", "catalog.schema.name")],
)  # fmt: skip
def test_names_are_taken_as_the_registry_allows_them(registry: Registry, path: str, name: str) -> None:
    put(registry, CHECKPOINT)
    registry.register(name, "3", SERVED)
    registry.aliases[name, "best"] = "3"
    made = source(registry)
    pinned = made.pin(path)
    assert pinned.name == f"mlflow:{name}/3"
    assert made.pin(pinned.name.removeprefix("mlflow:")) == pinned


@pytest.mark.parametrize(
    "path",
    ["", "/", "@", "assistant", "assistant/", "assistant/0", "assistant/03", "assistant/-1", "assistant/3.0", "/3",
     "assistant/12345678901", "assistant/٣", "a/b/3", "a:b/3", " /3", "assistant@", "@best", "assistant@a b", "a/b@c",
     "assistant@best/3x", "x" * 300 + "/3", "a\x00b/3", "a\nb@c", "assistant@" + "y" * 300],
    ids=short,
)  # fmt: skip
def test_what_is_no_reference_is_refused_and_not_asked_for(registry: Registry, path: str) -> None:
    with pytest.raises(ModelReferenceInvalid) as refused:
        source(registry).pin(path)
    assert registry.asked == []
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("allow", "path", "open_"),
    [
        ("assistant", "assistant/3", True), ("assistant", "assistant2/3", False),
        ("assistant", "my assistant/3", False),
        ("team-*", "team-a/3", True), ("team-*", "ateam-a/3", False), ("*", "anything/3", True),
        ("a?c", "abc/3", False), ("a[bc]", "ab/3", False), ("a.c", "abc/3", False), ("ASSISTANT", "assistant/3", False),
    ],
)  # fmt: skip
def test_only_listed_models_are_asked_for(registry: Registry, allow: str, path: str, open_: bool) -> None:
    put(registry, CHECKPOINT)
    registry.register(path.rpartition("/")[0], "3", SERVED)
    made = source(registry, allow=("other", allow))
    if open_:
        assert made.pin(path).name == f"mlflow:{path}"
        return
    with pytest.raises(SourceRefused, match="not among those"):
        made.pin(path)
    assert registry.asked == []


def test_what_was_pinned_stays_when_its_alias_moves(registry: Registry) -> None:
    put(registry, CHECKPOINT)
    registry.register("assistant", "4", "mlflow-artifacts:/other")
    registry.files |= {f"other/{name}": raw[::-1] for name, raw in CHECKPOINT.items()}
    registry.aliases["assistant", "champion"] = "3"
    made = source(registry)
    pinned = made.pin("assistant@champion")
    registry.aliases["assistant", "champion"] = "4"
    assert content(made, pinned, (pinned.files or ())[1]) == WEIGHTS
    assert made.pin("assistant/3") == pinned
    moved = made.pin("assistant@champion")
    assert moved.name == "mlflow:assistant/4"
    assert {pinned.key_of(each) for each in pinned.files or ()}.isdisjoint(
        moved.key_of(each) for each in moved.files or ()
    )


def test_a_version_made_anew_under_the_same_number_is_another_one(registry: Registry) -> None:
    put(registry, CHECKPOINT)
    made = source(registry)
    before = made.pin("assistant/3")
    registry.register("assistant", "3", SERVED, run="run2")
    assert made.pin("assistant/3") != before


# what is not there, and what may not be read


@pytest.mark.parametrize("path", ["assistant/9", "nobody/1", "assistant@nobody"])
def test_what_the_registry_does_not_know_is_not_found(registry: Registry, path: str) -> None:
    with pytest.raises(ModelNotFound, match=f"knows no mlflow:{path}"):
        source(registry).pin(path)


@pytest.mark.parametrize("status", ["PENDING_REGISTRATION", "FAILED_REGISTRATION", None, 1])
def test_a_version_that_is_not_ready_is_not_read(registry: Registry, status: Any) -> None:
    put(registry, CHECKPOINT)
    registry.register("assistant", "3", SERVED, status=status)
    with pytest.raises(ModelNotFound, match="not ready"):
        source(registry).pin("assistant/3")


VERSION, ALIAS = f"{API}/model-versions/get", f"{API}/registered-models/alias"
HTML = b"<!doctype html><title>sign in</title>"


@pytest.mark.parametrize(
    ("send", "error"),
    [
        (says({}, 401), ModelAccessRefused), (says(HTML, 403), ModelAccessRefused), (says({}, 500), SourceUnavailable),
        (says(HTML, 404), SourceUnavailable), (says({"detail": "Not Found"}, 404), SourceUnavailable),
        (says([], 404), SourceUnavailable), (says(b"", 204), SourceUnavailable),
        (says(b"", 302, Location="http://169.254.169.254/"), SourceUnavailable),
        (says(b"", 307, Location="/api/2.0/mlflow/model-versions/get2"), SourceUnavailable),
        (says({}, 429, Retry_After="7"), SourceUnavailable), (unknown(), ModelNotFound),
    ],
)  # fmt: skip
def test_a_status_is_told_for_what_it_is(registry: Registry, send: Send, error: type[SpinalError]) -> None:
    registry.instead[VERSION] = send
    with pytest.raises(error) as said:
        source(registry, token=SECRET).pin("assistant/3")
    assert type(said.value) is error
    assert len(registry.asked) == 1
    assert SECRET not in f"{said.value} {said.value.hint}"


def test_a_registry_that_asks_to_wait_is_heard(registry: Registry) -> None:
    registry.instead[VERSION] = says({}, 429, Retry_After="7")
    with pytest.raises(SourceUnavailable) as said:
        source(registry).pin("assistant/3")
    assert said.value.retry_after_s == 7.0


def test_a_redirect_is_said_to_be_one_and_its_target_is_not(registry: Registry) -> None:
    registry.instead[VERSION] = says(b"", 302, Location="http://169.254.169.254/secret")
    with pytest.raises(SourceUnavailable, match="redirect, which is not followed") as said:
        source(registry).pin("assistant/3")
    assert "169.254" not in f"{said.value} {said.value.hint}"


def version(**other: Any) -> dict[str, Any]:
    told = {"name": "assistant", "version": "3", "source": SERVED, "run_id": "run1", "status": "READY"} | other
    return {"model_version": {name: value for name, value in told.items() if value is not ...}}


@pytest.mark.parametrize(
    "body",
    [
        HTML, b"", b"[]", b"null", b'"x"', b"[" * 100_000, b'{"model_version": NaN}', b'{"a": 1, "a": 2}', b"\xff", {},
        {"model_version": []}, {"model_version": "3"}, version(name="other"), version(name=...), version(version="4"),
        version(version=3), version(version="3/../4"), version(source=...), version(source=""), version(source=3),
        version(run_id=["x"]), version(run_id="a/b"), version(run_id="../x"), version(name="Assistant"),
        b"{" + b'"x": 1, ' * 200_000 + b'"y": 1}', b" " * (5 * 2**20),
    ],
    ids=short,
)  # fmt: skip
def test_an_answer_of_another_form_is_none(registry: Registry, body: Any) -> None:
    registry.instead[VERSION] = says(body)
    with pytest.raises(SourceUnavailable, match=r"did not answer as MLflow does|longer than") as said:
        source(registry).pin("assistant/3")
    assert str(said.value).isprintable()
    assert len(registry.asked) == 1


def test_an_alias_is_not_taken_from_the_answer_for_another_model(registry: Registry) -> None:
    registry.instead[ALIAS] = says(version(name="other"))
    with pytest.raises(SourceUnavailable, match="another model"):
        source(registry).pin("assistant@best")


def test_a_run_is_not_taken_from_the_answer_for_another_run(registry: Registry) -> None:
    registry.register("assistant", "3", "runs:/run1/x")
    registry.instead[f"{API}/runs/get"] = says({"run": {"info": {"run_id": "run2", "artifact_uri": SERVED}}})
    with pytest.raises(SourceUnavailable, match="another run"):
        source(registry).pin("assistant/3")


# lists


def entry(path: object, **other: object) -> dict[str, object]:
    told = {"path": path, "is_dir": False, "file_size": 2} | other
    return {name: value for name, value in told.items() if value is not ...}


@pytest.mark.parametrize(
    "files",
    [
        {"a": 1}, "x", 3, ["config.json"], [[]], [entry(3)], [entry(...)], [entry("config.json", file_size="2")],
        [entry("config.json", file_size=-1)], [entry("config.json", file_size=True)], [entry("x", file_size=2.5)],
        [entry("config.json", file_size=...)], [entry("config.json", file_size=10**30)],
        [entry("config.json"), entry("config.json")], [entry("config.json"), entry("config.json", is_dir=True)],
        [entry(f"f{number}") for number in range(10_001)],
    ],
    ids=short,
)  # fmt: skip
def test_a_list_of_another_form_is_none(registry: Registry, files: object) -> None:
    registry.instead[ARTIFACTS] = says({"files": files})
    with pytest.raises(SourceUnavailable, match="did not answer as MLflow does") as said:
        source(registry).pin("assistant/3")
    assert str(said.value).isprintable()


NAMES = [
    "/etc/passwd",
    "../config.json",
    "a/b",
    "..",
    ".",
    "",
    ".hidden",
    "a\x00b",
    "a\nb",
    "x" * 300,
    "C:\\x",
    "\x1b[31m",
]


@pytest.mark.parametrize("folders", [False, True])
def test_names_that_lead_elsewhere_are_no_part_of_a_checkpoint(registry: Registry, folders: bool) -> None:
    put(registry, CHECKPOINT)
    honest = [entry("config.json"), entry("model.safetensors", file_size=len(WEIGHTS))]
    registry.instead[ARTIFACTS] = says({"files": [*honest, *(entry(name, is_dir=folders) for name in NAMES)]})
    assert names(source(registry).pin("assistant/3")) == ["config.json", "model.safetensors"]
    registry.instead[ARTIFACTS] = says({"files": [entry(name, is_dir=True) for name in NAMES]})
    registry.asked.clear()
    with pytest.raises(ModelNotFound):
        source(registry).pin("assistant/3")
    assert len(registry.asked) == 2


def test_an_answer_without_end_is_cut_off(registry: Registry) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while True:
            handler.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")

    registry.instead[ARTIFACTS] = endless
    with pytest.raises(SourceUnavailable, match="longer than"):
        source(registry).pin("assistant/3")


def test_a_registry_that_drips_is_left_at_the_deadline(registry: Registry) -> None:
    def dripping(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while True:
            handler.wfile.write(b"1\r\n \r\n")
            select.select([handler.connection], [], [], 0.05)

    registry.instead[VERSION] = dripping
    before = time.monotonic()
    with pytest.raises(SourceUnavailable):
        source(registry, pin_s=0.5).pin("assistant/3")
    assert time.monotonic() - before < 3.0


# what is read while pinning


def test_no_weights_are_read_to_pin(registry: Registry) -> None:
    put(registry, CHECKPOINT | TOKENIZER)
    source(registry).pin("assistant/3")
    assert registry.sent == len(CHECKPOINT | TOKENIZER)


def test_a_server_that_passes_on_a_bucket_is_not_made_to_fetch_weights(registry: Registry) -> None:
    put(registry, CHECKPOINT | TOKENIZER)
    registry.passes_on = True
    pinned = source(registry).pin("assistant/3")
    assert [each.tag for each in pinned.files or ()] == [None] * 4
    assert not [path for path in registry.asked if "safetensors" in path]


def test_of_very_many_files_no_etags_are_asked_for(registry: Registry) -> None:
    put(registry, CHECKPOINT | {f"model-{number}.safetensors": b"x" for number in range(MOST_TAGGED)})
    pinned = source(registry).pin("assistant/3")
    assert {each.tag for each in pinned.files or ()} == {None}
    assert len(registry.asked) == 2


# reading


@pytest.mark.parametrize("passes_on", [False, True])
@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (1, None), (5000, None), (0, 10), (7, 8), (9000, 99_999), (3, 3), (20_000, None)]
)
def test_a_span_is_those_bytes_whether_or_not_the_server_knows_ranges(
    registry: Registry, passes_on: bool, start: int, end: int | None
) -> None:
    put(registry, CHECKPOINT)
    registry.passes_on = passes_on
    made = source(registry)
    pinned = made.pin("assistant/3")
    assert content(made, pinned, (pinned.files or ())[1], start, end) == WEIGHTS[start:end]


@pytest.mark.parametrize("passes_on", [False, True])
@pytest.mark.parametrize("now", [WEIGHTS[::-1], WEIGHTS[:-1], WEIGHTS + b"x", b"", None])
@pytest.mark.parametrize("start", [0, 100])
def test_another_file_in_its_place_is_noticed(
    registry: Registry, passes_on: bool, now: bytes | None, start: int
) -> None:
    """Of the same size it is noticed where the server makes etags."""
    put(registry, CHECKPOINT)
    registry.passes_on = passes_on
    made = source(registry)
    pinned = made.pin("assistant/3")
    if now is None:
        del registry.files[f"{ROOT}/model.safetensors"]
    else:
        put(registry, {"model.safetensors": now})
    weights = (pinned.files or ())[1]
    if passes_on and now is not None and len(now) == len(WEIGHTS):
        assert weights.tag is None
        return
    with pytest.raises(ModelChanged, match=r"model\.safetensors of mlflow:assistant/3"):
        content(made, pinned, weights, start)


@pytest.mark.parametrize(
    ("send", "error"),
    [
        (says(b"", 401), ModelAccessRefused), (says(b"", 403), ModelAccessRefused), (says(b"", 503), SourceUnavailable),
        (says(b"x", 302, Location="http://169.254.169.254/"), SourceUnavailable),
        (says(b"x" * 10, 206), SourceUnavailable), (says(b"x", 206, Content_Range="bytes 0-0/2"), SourceUnavailable),
        (says(b"x" * 10, 206, Content_Range="bytes 5-14/10240"), SourceUnavailable),
        (says(b"x" * 10, 206, Content_Range="bytes 100-109/99"), ModelChanged),
        (says(b"x" * 10, 206, Content_Range="bytes \u0661-2/3".encode().decode("latin-1")), SourceUnavailable),
        (says(b"", 206, Content_Range="bytes 100-10239/10240", Content_Length="10140"), SourceUnavailable),
        (says(WEIGHTS, Content_Encoding="gzip"), SourceUnavailable),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_the_file_is_not_taken_for_it(
    registry: Registry, send: Send, error: type[SpinalError]
) -> None:
    put(registry, CHECKPOINT)
    registry.passes_on = True
    made = source(registry, token=SECRET)
    pinned = made.pin("assistant/3")

    def sent(handler: BaseHTTPRequestHandler) -> None:
        send(handler)
        handler.close_connection = True

    registry.instead[f"{ARTIFACTS}/{ROOT}/model.safetensors"] = sent
    with pytest.raises(error) as said:
        content(made, pinned, (pinned.files or ())[1], 100)
    assert type(said.value) is error
    assert SECRET not in f"{said.value} {said.value.hint}"


def test_a_registry_that_is_away_is_said_to_be_away(registry: Registry) -> None:
    put(registry, CHECKPOINT)
    made = source(registry)
    pinned = made.pin("assistant/3")
    with scripted() as other:
        gone = replace(registry, host=other.host)
    away = source(gone)
    with pytest.raises(SourceUnavailable):
        away.pin("assistant/3")
    with pytest.raises(SourceUnavailable):
        content(away, pinned, (pinned.files or ())[1])


# settings


@pytest.mark.parametrize("by_file", [False, True])
def test_credentials_go_to_the_registry_and_stand_nowhere_else(
    registry: Registry, by_file: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    put(registry, CHECKPOINT)
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    for more, sent in (
        ({"token_file": file} if by_file else {"token": SECRET}, f"Bearer {SECRET}"),
        ({"username": "me", **({"password_file": file} if by_file else {"password": SECRET})},
         "Basic bWU6czNjcjN0LW9mLXRoaXMtdGVzdA=="),
    ):  # fmt: skip
        made = source(registry, **more)
        pinned = made.pin("assistant/3")
        content(made, pinned, (pinned.files or ())[0])
        assert {headers.get("authorization") for headers in registry.headers} == {sent}
        registry.headers.clear()
        settings = RegistrySettings(url=registry.url, allow=("*",), **more)
        assert SECRET not in f"{settings!r} {settings.model_dump()!r} {pinned!r} {made!r}"
    assert SECRET not in caplog.text
    assert "Basic" not in caplog.text


def test_without_credentials_none_are_found_elsewhere(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("default login me password x\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "DATABRICKS_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    put(registry, CHECKPOINT)
    source(registry).pin("assistant/3")
    assert not [headers for headers in registry.headers if "authorization" in headers]


@pytest.mark.parametrize(
    "more",
    [
        {"allow": ()}, {"allow": ("",)}, {"url": "ftp://x"}, {"url": "https://me:pw@x.example"}, {"url": "nothing"},
        {"url": "https://x.example/?a=b"}, {"url": "https://x.example:99999"}, {"token": "a", "password": "b"},
        {"token": "a", "token_file": "b"}, {"username": "a"}, {"password": "a"}, {"tokens": "a"},
        {"artifacts": "file:///srv"}, {"artifacts": "s3://"},
    ],
)  # fmt: skip
def test_settings_that_say_two_things_or_nothing_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RegistrySettings.model_validate({"url": "https://registry.example", "allow": ("*",)} | more)


@pytest.mark.parametrize("raw", [None, b"", b"\n", b"a\nb", b"\xff", "ü".encode()])
def test_a_file_without_a_secret_is_named_and_not_its_folder(
    registry: Registry, tmp_path: Path, raw: bytes | None
) -> None:
    file = tmp_path / "token.txt"
    if raw is not None:
        file.write_bytes(raw)
    with pytest.raises(UsageError) as said:
        source(registry, token_file=file)
    assert str(tmp_path) not in f"{said.value} {said.value.hint}"


def test_a_server_in_ones_own_network_has_to_be_listed(registry: Registry) -> None:
    settings = RegistrySettings(url=registry.url, allow=("*",))
    made = MLFLOW.make(Setting(settings, None, nowhere))
    with pytest.raises(SourceRefused):
        made.pin("assistant/3")
    assert registry.asked == []
