"""The double of the hub says what the hub says: its own client is the judge."""

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from tests.conftest import Without
from tests.support.hub import Fault, Hub
from tests.support.hub_process import HubProcess
from tests.unit.sources.hubs import NAME, SFT, TOKEN, source_for


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as started:
        started.add(NAME, SFT)
        started.tokens[TOKEN] = ("acme/*",)
        yield started


@pytest.fixture
def client(without: Without, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``huggingface_hub``, silent and without what it would find in its surroundings."""
    try:
        import huggingface_hub
        from huggingface_hub import constants, file_download
    except ImportError:
        without("huggingface_hub", "pip install -e '.[local]'")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Of the second that it waits before it asks again.
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    return huggingface_hub


@pytest.fixture
def api(client: ModuleType, hub: Hub) -> Any:
    return client.HfApi(endpoint=hub.url, token=False)


@pytest.fixture
def download(client: ModuleType, hub: Hub, tmp_path: Path) -> Callable[..., Path]:
    def take(name: str = "model.safetensors", repository: str = NAME, **given: Any) -> Path:
        given = {"token": False, "cache_dir": tmp_path / "cache", **given}
        return Path(client.hf_hub_download(repository, name, endpoint=hub.url, **given))

    return take


def test_ids_are_those_that_git_gives(hub: Hub, tmp_path: Path, without: Without) -> None:
    files = {"config.json": b"{}", "b/c.txt": b"c", "b.txt": b"b", "b/d/e.txt": b"e"}
    try:
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
    except FileNotFoundError:
        without("git", "apt-get install git")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    who = {"NAME": "someone", "EMAIL": "someone@example.org", "DATE": "1700000000 +0000"}
    settings = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in who.items()}
    git = ["git", "-C", str(tmp_path), "-c", "core.autocrlf=false", "-c", "commit.gpgsign=false"]
    ids = []
    made = hub.add("acme/plain", files)
    for _ in range(2):
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "files"], check=True, env=settings)
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        ids.append(head.stdout.strip())
    made.commit(files)
    assert list(made.commits) == ids


def test_a_model_and_its_files_are_told(hub: Hub, api: Any) -> None:
    repository = hub.repositories[NAME]
    sha = repository.refs["main"]
    repository.tag("v1", sha)
    repository.commit({"config.json": b"{}", "data/a.txt": b"a", "data/b/c.txt": b"c"})
    moved = repository.refs["main"]
    assert api.model_info(NAME).sha == api.model_info(NAME, revision="main").sha == moved != sha
    assert {api.model_info(NAME, revision=each).sha for each in ("v1", sha)} == {sha}
    short = api.model_info(NAME, revision="v1", expand=["sha", "disabled"])
    assert (short.id, short.sha, short.disabled, short.siblings) == (NAME, sha, False, None)
    files = {each.path: each for each in api.list_repo_tree(NAME, revision="v1")}
    assert set(files) == {path.name for path in SFT.iterdir()}
    for path in SFT.iterdir():
        content = path.read_bytes()
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        told = files[path.name]
        assert told.size == len(content)
        if path.suffix == ".safetensors":
            assert told.lfs.sha256 == hashlib.sha256(content).hexdigest()
        else:
            assert (told.lfs, told.blob_id) == (None, blob)
    assert [each.path for each in api.list_repo_tree(NAME)] == ["data", "config.json"]
    assert {each.path for each in api.list_repo_tree(NAME, recursive=True)} == {
        "data", "data/b", "config.json", "data/a.txt", "data/b/c.txt",
    }  # fmt: skip


@pytest.mark.parametrize("revision", ["main", "v1", "refs/pr/1"])
def test_a_pin_says_what_the_hubs_own_client_says(hub: Hub, api: Any, revision: str) -> None:
    repository = hub.repositories[NAME]
    repository.refs |= {"v1": repository.refs["main"], "refs/pr/1": repository.refs["main"]}
    repository.commit({**repository.commits[repository.refs["main"]].contents, "extra.txt": b"x", "deep/er.txt": b"y"})
    found = source_for(hub).pin(f"{NAME}@{revision}")
    assert found.revision == api.model_info(NAME, revision=revision).sha
    told = {each.path: each for each in api.list_repo_tree(NAME, revision=revision) if hasattr(each, "blob_id")}
    assert {file.name: (file.size, file.sha256 or file.git_sha1) for file in found.files or ()} == {
        name: (each.size, each.lfs.sha256 if each.lfs else each.blob_id) for name, each in told.items()
    }


def test_a_large_tokenizer_is_kept_beside_git_a_small_one_is_not(hub: Hub, api: Any) -> None:
    hub.add("acme/two", {"small/tokenizer.json": b" " * 100, "tokenizer.json": b" " * (10 * 2**20 + 1)})
    found = {each.path: each for each in api.list_repo_tree("acme/two", recursive=True)}
    assert found["tokenizer.json"].lfs is not None
    assert found["small/tokenizer.json"].lfs is None


def test_a_list_comes_in_pages(hub: Hub, api: Any) -> None:
    hub.page = 2
    assert {each.path for each in api.list_repo_tree(NAME)} == {path.name for path in SFT.iterdir()}
    assert len(hub.requests("hub GET */tree/*")) == 3


def test_files_come_whole_over_the_cdn_and_the_token_stays_with_the_hub(
    hub: Hub, download: Callable[..., Path]
) -> None:
    for path in SFT.iterdir():
        got = download(path.name, token=TOKEN)
        assert got.read_bytes() == path.read_bytes()
        # Where the client keeps a commit.
        assert got.parent.name == hub.repositories[NAME].refs["main"]
    assert {each.token for each in hub.requests("hub *")} == {TOKEN}
    assert {each.token for each in hub.requests("cdn *")} == {None}
    assert [each.status for each in hub.requests("cdn GET *")] == [200]
    assert hub.requests("hub GET /api/resolve-cache/*")


def test_the_cdn_takes_no_token_and_no_forged_address(hub: Hub) -> None:
    asked = httpx.get(f"{hub.url}/{NAME}/resolve/main/model.safetensors").headers["location"]
    assert httpx.get(asked).status_code == 200
    assert httpx.get(asked, headers={"Authorization": "Bearer x"}).status_code == 400
    assert httpx.get(asked.replace("Signature=", "Signature=0")).status_code == 403


def test_a_cut_download_goes_on_where_it_was(
    hub: Hub, download: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pieces of which it keeps the whole ones.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    hub.inject(Fault("cdn GET *", times=2, cut_after=1000))
    assert download().read_bytes() == (SFT / "model.safetensors").read_bytes()
    assert [each.range for each in hub.requests("cdn GET *")] == [None, "bytes=1000-", "bytes=2000-"]
    assert hub.sent("cdn *") == (SFT / "model.safetensors").stat().st_size


def test_the_client_does_not_see_other_bytes_of_the_same_length(hub: Hub, download: Callable[..., Path]) -> None:
    """Why what is fetched is verified here."""
    hub.inject(Fault("cdn GET *", corrupt=True))
    got, want = download().read_bytes(), (SFT / "model.safetensors").read_bytes()
    assert got != want
    assert got[1:] == want[1:]


def test_a_whole_snapshot_comes(hub: Hub, client: ModuleType, tmp_path: Path) -> None:
    got = Path(client.snapshot_download(NAME, endpoint=hub.url, token=False, cache_dir=tmp_path))
    assert {path.name: path.read_bytes() for path in got.iterdir()} == {
        path.name: path.read_bytes() for path in SFT.iterdir()
    }


def test_gated_files_are_refused_at_the_first_file_and_not_before(
    hub: Hub, client: ModuleType, api: Any, download: Callable[..., Path], tmp_path: Path
) -> None:
    from huggingface_hub.errors import GatedRepoError

    hub.repositories[NAME].gated = True
    hub.tokens["hf_other"] = ()
    assert api.model_info(NAME).gated == "manual"
    assert list(api.list_repo_tree(NAME))
    for token in (False, "hf_other"):
        with pytest.raises(GatedRepoError):
            download("config.json", token=token)
        with pytest.raises(GatedRepoError):
            client.snapshot_download(NAME, endpoint=hub.url, token=token, cache_dir=tmp_path)
    assert download("config.json", token=TOKEN).is_file()


def test_what_is_private_looks_as_if_it_were_not_there(hub: Hub, api: Any, download: Callable[..., Path]) -> None:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    hub.repositories[NAME].private = True
    hub.tokens["hf_other"] = ("other/*",)
    for name in (NAME, "acme/missing"):
        for token, status in ((False, 401), ("hf_other", 404)):
            with pytest.raises(RepositoryNotFoundError) as refused:
                api.model_info(name, token=token)
            assert not isinstance(refused.value, GatedRepoError)
            assert refused.value.response.status_code == status
            with pytest.raises(RepositoryNotFoundError):
                download("config.json", name, token=token)
    assert api.model_info(NAME, token=TOKEN).private


def test_a_short_sha_and_what_nobody_named_are_no_revisions(hub: Hub, api: Any, download: Callable[..., Path]) -> None:
    from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError

    sha = hub.repositories[NAME].refs["main"]
    for revision in (sha[:7], sha[:39], "0" * 40, "v9"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info(NAME, revision=revision)
        with pytest.raises(RevisionNotFoundError):
            download(revision=revision)
    with pytest.raises(RemoteEntryNotFoundError):
        download("missing.json")


def test_a_branch_moves_and_a_commit_does_not(hub: Hub, download: Callable[..., Path]) -> None:
    repository = hub.repositories[NAME]
    former = repository.refs["main"]
    repository.commit({"config.json": b"{}"})
    repository.commit({"config.json": b"[]"}, branch="refs/pr/1")
    assert download("config.json").read_bytes() == b"{}"
    assert download("config.json", revision="refs/pr/1").read_bytes() == b"[]"
    assert download("config.json", revision=former).read_bytes() == (SFT / "config.json").read_bytes()


def test_a_renamed_repository_answers_at_its_former_name(hub: Hub, api: Any, download: Callable[..., Path]) -> None:
    hub.renamed["tuned"] = NAME
    assert httpx.get(f"{hub.url}/api/models/tuned/revision/main").status_code == 307
    assert api.model_info("tuned", revision="main").id == NAME
    assert download("config.json", "tuned").read_bytes() == (SFT / "config.json").read_bytes()
    assert download("model.safetensors", "tuned").read_bytes() == (SFT / "model.safetensors").read_bytes()


def test_disabled_repositories_and_false_tokens_are_told_apart(hub: Hub, api: Any) -> None:
    from huggingface_hub.errors import DisabledRepoError, HfHubHTTPError, RepositoryNotFoundError

    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as refused:
        api.model_info(NAME, token="hf_false")
    assert not isinstance(refused.value, RepositoryNotFoundError)
    hub.repositories[NAME].disabled = True
    with pytest.raises(DisabledRepoError):
        api.model_info(NAME)


def test_too_many_requests_say_when_to_come_back(hub: Hub, api: Any) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    hub.inject(Fault("hub *", times=1, status=429, headers={"Retry-After": "7", "RateLimit": '"api";r=0;t=7'}))
    with pytest.raises(HfHubHTTPError, match="Retry after 7 seconds"):
        api.model_info(NAME)
    assert api.model_info(NAME).id == NAME


def test_a_range_is_answered_as_asked(hub: Hub) -> None:
    whole = (SFT / "model.safetensors").read_bytes()
    at = f"{hub.url}/{NAME}/resolve/main/model.safetensors"

    def ask(asked: str) -> httpx.Response:
        return httpx.get(at, headers={"Range": asked}, follow_redirects=True)

    assert ask("bytes=10-19").content == whole[10:20]
    assert ask("bytes=10-19").headers["content-range"] == f"bytes 10-19/{len(whole)}"
    assert ask(f"bytes={len(whole) - 3}-").content == whole[-3:]
    assert ask(f"bytes={len(whole)}-").status_code == 416
    hub.inject(Fault("cdn *", ignore_range=True))
    ignored = ask("bytes=10-19")
    assert (ignored.status_code, ignored.content) == (200, whole)


def test_a_stall_ends_when_it_is_released(hub: Hub) -> None:
    fault = hub.inject(Fault("cdn GET *", stall_after=100))
    at = f"{hub.url}/{NAME}/resolve/main/model.safetensors"
    with httpx.stream("GET", at, follow_redirects=True, timeout=0.5) as answer:
        pieces = answer.iter_raw(100)
        assert next(pieces) == (SFT / "model.safetensors").read_bytes()[:100]
        with pytest.raises(httpx.ReadTimeout):
            next(pieces)
    with httpx.stream("GET", at, follow_redirects=True) as answer:
        fault.released.set()
        assert answer.read() == (SFT / "model.safetensors").read_bytes()


def test_a_hub_that_went_away_refuses_and_comes_back_at_its_ports(hub: Hub, api: Any) -> None:
    before = api.model_info(NAME).sha
    hub.away()
    for url in (hub.url, hub.cdn_url):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
    hub.back()
    assert api.model_info(NAME).sha == before


def test_as_a_process_it_can_be_frozen_killed_and_started_again(tmp_path: Path, client: ModuleType) -> None:
    folder = tmp_path / "hub" / NAME
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with HubProcess(tmp_path / "hub", tmp_path) as process:
        api = client.HfApi(endpoint=process.url, token=False)
        sha = api.model_info(NAME).sha
        process.inject(Fault("hub GET *", times=1, status=503))
        assert [httpx.get(f"{process.url}/api/models/{NAME}").status_code for _ in range(2)] == [503, 200]
        assert [each["status"] for each in process.tell(seen="hub GET *")] == [200, 503, 200]
        process.freeze()
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{process.url}/api/models/{NAME}", timeout=0.2)
        process.thaw()
        assert api.model_info(NAME).sha == sha
        process.kill()
        with pytest.raises(httpx.ConnectError):
            httpx.get(process.url)
        process.start()
        assert api.model_info(NAME).sha == sha
        other = tmp_path / "other"
        other.mkdir()
        (other / "config.json").write_text("[]")
        moved = process.tell(commit={"name": NAME, "folder": str(other)})
        assert api.model_info(NAME).sha == moved != sha
