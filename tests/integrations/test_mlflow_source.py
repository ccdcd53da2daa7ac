"""Registered models of a real ``mlflow server``, logged by MLflow itself."""

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spinal.checkpoints.identity import weights_digest
from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.sources.base import Listed, Pinned, RemoteSource, Setting, Timeouts
from spinal.checkpoints.sources.mlflow import MLFLOW, RegistrySettings
from spinal.errors import ModelChanged, ModelNotFound
from spinal.errors.sources import ModelAccessRefused, SourceRefused, SourceUnavailable
from tests.conftest import EXAMPLES, Without
from tests.support import mlflow_models
from tests.support.mlflow_server import HOW_TO_HAVE_IT, PASSWORD, USER, MlflowServer, is_there, served

pytestmark = pytest.mark.server
SFT = EXAMPLES / "checkpoints" / "sft"
PLAIN = "with space, @ and ü"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, without: Without) -> Iterator[MlflowServer]:
    if not is_there():
        without("the environment of an mlflow server", HOW_TO_HAVE_IT)
    with served(tmp_path_factory.mktemp("mlflow"), signed_in=True) as started:
        started.run(Path(mlflow_models.__file__), str(SFT))
        yield started


class Others:
    """The other sources: what they were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, reference: str) -> Pinned:
        self.asked.append(reference)
        return Pinned(reference, "elsewhere", None, (Listed("config.json", 2, "config.json"),), "hf")


@pytest.fixture
def others() -> Others:
    return Others()


def source(server: MlflowServer, others: Others, *, user: str = USER, password: str = PASSWORD) -> RemoteSource:
    settings = RegistrySettings.model_validate(
        {"url": server.url, "allow": ("*",), "username": user, "password": password, "private_hosts": (server.host,)}
    )
    made: RemoteSource = MLFLOW.make(Setting(settings, None, others, Timeouts(read=3.0)))  # type: ignore[assignment]  # kinds make sources of either kind
    return made


def fetched(made: RemoteSource, pinned: Pinned, folder: Path) -> Path:
    """Every file, in three pieces, as one that is fetched again after cuts."""
    folder.mkdir()
    for each in pinned.files or ():
        cuts = [0, each.size // 3, each.size // 2, each.size]
        with (folder / each.name).open("wb") as out:
            for start, end in itertools.pairwise(cuts):
                with made.read(pinned, each, start, None if end == each.size else end) as pieces:
                    out.writelines(pieces)
    return folder


def digest(folder: Path) -> str:
    return weights_digest(resolve_reference(f"local:{folder}", roots=None))


def tensors(file: Path) -> dict[str, tuple[str, list[int], bytes]]:
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    return {
        name: (told["dtype"], told["shape"], data[slice(*told["data_offsets"])])
        for name, told in header.items()
        if name != "__metadata__"
    }


@pytest.mark.parametrize("path", ["plain/1", "plain/2", "plain/3", f"{PLAIN}/1", "own/1"])
def test_files_that_were_logged_as_they_are_have_the_digest_of_their_folder(
    server: MlflowServer, others: Others, tmp_path: Path, path: str
) -> None:
    """By run, by address, by the root above them, and as a file of a model of one's own."""
    made = source(server, others)
    pinned = made.pin(path)
    assert pinned.name == f"mlflow:{path}"
    assert pinned == made.pin(path)
    assert digest(fetched(made, pinned, tmp_path / "found")) == digest(SFT)


def test_the_flavour_transformers_writes_the_same_model_with_a_tokenizer_of_its_own_words(
    server: MlflowServer, others: Others, tmp_path: Path
) -> None:
    """It loads and saves: the settings of the tokenizer are written anew, by whatever version of transformers is there,
    and the digest over all files is another one."""
    made = source(server, others)
    pinned = made.pin("whole/1")
    folder = fetched(made, pinned, tmp_path / "found")
    assert {path.name for path in folder.iterdir()} == {path.name for path in SFT.iterdir()}
    assert tensors(folder / "model.safetensors") == tensors(SFT / "model.safetensors")
    told, meant = (json.loads((place / "tokenizer.json").read_text()) for place in (folder, SFT))
    assert told == meant
    resolve_reference(f"local:{folder}", roots=None)
    assert {Path(each.at).parent.name for each in pinned.files or ()} == {"model", "tokenizer"}


def test_a_model_logged_by_name_is_left_to_the_hub_at_its_commit(server: MlflowServer, others: Others) -> None:
    pinned = source(server, others).pin("named/1")
    assert others.asked == [f"hf:acme/sft@{'a' * 40}"]
    assert (pinned.name, pinned.location, pinned.scheme) == ("mlflow:named/1", "elsewhere", "hf")


def test_an_alias_that_moves_does_not_move_what_was_pinned(
    server: MlflowServer, others: Others, tmp_path: Path
) -> None:
    made = source(server, others)
    server.ask("POST", "registered-models/alias", {"name": "plain", "alias": "champion", "version": "1"})
    pinned = made.pin("plain@champion")
    server.ask("POST", "registered-models/alias", {"name": "plain", "alias": "champion", "version": "3"})
    assert pinned.name == "mlflow:plain/1"
    assert pinned == made.pin("plain/1")
    assert made.pin("plain@champion").name == "mlflow:plain/3"
    assert digest(fetched(made, pinned, tmp_path / "found")) == digest(SFT)


def test_a_version_that_was_deleted_is_not_found_again_under_its_number(server: MlflowServer, others: Others) -> None:
    made = source(server, others)
    told = server.ask("GET", "model-versions/get?name=own&version=1", {})["model_version"]
    anew = {"name": "brief", "source": told["source"], "model_id": told["source"].removeprefix("models:/")}
    server.ask("POST", "registered-models/create", {"name": "brief"})
    server.ask("POST", "model-versions/create", anew)
    assert made.pin("brief/1").files
    server.ask("DELETE", "model-versions/delete", {"name": "brief", "version": "1"})
    with pytest.raises(ModelNotFound):
        made.pin("brief/1")
    assert server.ask("POST", "model-versions/create", anew)["model_version"]["version"] == "2"


@pytest.mark.parametrize("path", ["plain/99", "plain@nobody", "nobody/1", "nobody@champion", "Plain/1"])
def test_what_the_registry_does_not_have_is_not_found(server: MlflowServer, others: Others, path: str) -> None:
    with pytest.raises(ModelNotFound, match="knows no"):
        source(server, others).pin(path)


def test_wrong_credentials_and_missing_rights_are_no_missing_models(server: MlflowServer, others: Others) -> None:
    with pytest.raises(ModelAccessRefused) as said:
        source(server, others, password="not the password").pin("plain/1")
    assert "not the password" not in str(said.value)
    server.ask("POST", "users/create", {"username": "guest", "password": "another long password"})
    with pytest.raises(ModelAccessRefused):
        source(server, others, user="guest", password="another long password").pin("plain/1")


@pytest.mark.parametrize(("uri", "asked"), [("dbfs:/databricks/x", []), ("hf://acme/sft", []), ("wasbs://a@b/c", [])])
def test_places_that_the_server_takes_and_nobody_reads_are_refused(
    server: MlflowServer, others: Others, uri: str, asked: list[str]
) -> None:
    made: dict[str, Any] = {"name": uri.replace("/", "").replace(":", ""), "source": uri}
    server.ask("POST", "registered-models/create", {"name": made["name"]})
    server.ask("POST", "model-versions/create", made)
    with pytest.raises(SourceRefused, match="not read here"):
        source(server, others).pin(f"{made['name']}/1")
    assert others.asked == asked


def test_artifacts_written_over_after_they_were_pinned_are_noticed(
    server: MlflowServer, others: Others, tmp_path: Path
) -> None:
    """As large as before: only the etag tells."""
    made = source(server, others)
    pinned = made.pin("own/1")
    weights = next(each for each in pinned.files or () if each.name == "model.safetensors")
    stored = server.artifacts / weights.at
    before = stored.read_bytes()
    try:
        stored.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(ModelChanged), made.read(pinned, weights) as pieces:
            list(pieces)
        assert pinned.key_of(weights) not in {each.key_of(x) for each in [made.pin("own/1")] for x in each.files or ()}
    finally:
        stored.write_bytes(before)


def test_a_server_that_stalls_is_left_and_one_that_is_gone_is_away(
    server: MlflowServer, others: Others, tmp_path: Path
) -> None:
    made = source(server, others)
    pinned = made.pin("plain/1")
    os.killpg(server.process_group, signal.SIGSTOP)
    try:
        with pytest.raises(SourceUnavailable):
            made.pin("plain/1")
    finally:
        os.killpg(server.process_group, signal.SIGCONT)
    server.stop()
    try:
        with pytest.raises(SourceUnavailable):
            made.pin("plain/1")
        with pytest.raises(SourceUnavailable), made.read(pinned, (pinned.files or ())[0]) as pieces:
            list(pieces)
    finally:
        server.start()
    assert digest(fetched(made, pinned, tmp_path / "found")) == digest(SFT)
