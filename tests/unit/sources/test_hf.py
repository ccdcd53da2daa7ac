"""``hf:`` references: what is pinned, what is asked for it, what is refused. The hub is ``tests/support/hub.py``."""

import hashlib
import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from spinal.checkpoints.identity import weights_digest
from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.sources.base import Pinned, Setting, Timeouts
from spinal.checkpoints.sources.hf import HF, HubSettings
from spinal.documents.canonical import digest_of
from spinal.errors import ModelChanged, ModelNotFound, ModelReferenceInvalid, SpinalError, UsageError
from spinal.errors.sources import ModelAccessRefused, SourceRefused, SourceUnavailable
from tests.support.hub import Fault, Hub
from tests.support.hub_contents import Repository
from tests.unit.sources.hubs import NAME, SFT, SOON, TOKEN, content, file_of, settings_for, source_for

WEIGHTS = (SFT / "model.safetensors").read_bytes()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as started:
        started.add(NAME, SFT)
        started.tokens |= {TOKEN: ("acme/*",), "hf_other": ("other/*",)}
        yield started


@pytest.fixture
def repository(hub: Hub) -> Repository:
    return hub.repositories[NAME]


@pytest.fixture
def pinned(hub: Hub) -> Pinned:
    return source_for(hub).pin(NAME)


def test_a_pin_is_three_requests_and_no_byte_of_weights(hub: Hub, repository: Repository) -> None:
    sha = repository.refs["main"]
    assert source_for(hub).pin(NAME).name == f"hf:{NAME}@{sha}"
    assert [each.what for each in hub.requests()] == [
        f"hub GET /api/models/{NAME}/revision/main",
        f"hub GET /api/models/{NAME}/tree/{sha}",
        f"hub HEAD /{NAME}/resolve/{sha}/model.safetensors",
    ]
    assert hub.sent() < 2000


def test_a_list_has_every_size_and_every_digest(pinned: Pinned) -> None:
    assert pinned.files is not None
    assert {file.name: file.size for file in pinned.files} == {path.name: path.stat().st_size for path in SFT.iterdir()}
    for file in pinned.files:
        read = (SFT / file.name).read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(read) + read, usedforsecurity=False).hexdigest()
        sha256 = hashlib.sha256(read).hexdigest()
        assert (file.sha256, file.git_sha1) == ((sha256, None) if file.name.endswith(".safetensors") else (None, git))


def test_the_weights_digest_takes_the_list_and_the_small_files_alone(hub: Hub, pinned: Pinned) -> None:
    checkpoint = resolve_reference(str(SFT), roots=None)
    source, told = source_for(hub), {}
    hub.forget()
    for name in checkpoint.files.names:
        small = file_of(pinned, name).sha256 is None
        told[name] = (
            hashlib.sha256(content(source, pinned, name)).hexdigest() if small else file_of(pinned, name).sha256
        )
    assert digest_of({"files": told, "base": None}) == weights_digest(checkpoint)
    assert hub.requests("cdn *") == []


@pytest.mark.parametrize("page", [1, 2, 4, 5, 1000])
def test_a_list_is_whole_whatever_its_pages(hub: Hub, pinned: Pinned, page: int) -> None:
    hub.page = page
    assert source_for(hub).pin(NAME) == pinned


def test_the_checkpoint_is_the_top_folder(hub: Hub) -> None:
    hub.add(
        "acme/mixed",
        {"config.json": b"{}", "original/model.safetensors": b"x", ".gitattributes": b"", "a b+c.txt": b"y"},
    )
    source = source_for(hub)
    mixed = source.pin("acme/mixed")
    assert [file.name for file in mixed.files or ()] == ["a b+c.txt", "config.json"]
    assert content(source, mixed, "a b+c.txt") == b"y"


@pytest.mark.parametrize("revision", ["main", "v1", "refs/pr/1", "feature/ä=1", "the whole commit"])
def test_a_revision_is_a_branch_a_tag_or_a_whole_commit(hub: Hub, repository: Repository, revision: str) -> None:
    former, moved = repository.refs["main"], repository.commit({"config.json": b"{}"})
    repository.refs |= {"v1": former, "refs/pr/1": former, "feature/ä=1": former}
    asked = former if revision == "the whole commit" else revision
    found = source_for(hub).pin(f"{NAME}@{asked}")
    assert found.revision == (moved if revision == "main" else former)


def test_what_was_pinned_means_the_same_for_good(hub: Hub, repository: Repository, pinned: Pinned) -> None:
    repository.commit({"config.json": b"{}"})
    source = source_for(hub)
    assert source.pin(NAME).revision != pinned.revision
    assert source.pin(pinned.name.removeprefix("hf:")) == pinned
    assert content(source, pinned, "config.json") == (SFT / "config.json").read_bytes()


def test_keys_of_two_repositories_differ_and_those_of_two_pins_do_not(hub: Hub, pinned: Pinned) -> None:
    hub.add("acme/copy", SFT)
    copy, again = source_for(hub).pin("acme/copy"), source_for(hub).pin(NAME)
    file = file_of(pinned)
    assert pinned.key_of(file) == again.key_of(file_of(again)) != copy.key_of(file_of(copy))
    assert file.content == file_of(copy).content


def test_a_short_commit_is_no_revision(hub: Hub, pinned: Pinned) -> None:
    for revision in (str(pinned.revision)[:7], str(pinned.revision)[:39], "0" * 40, "v9"):
        with pytest.raises(ModelNotFound, match="no such revision") as refused:
            source_for(hub).pin(f"{NAME}@{revision}")
        assert refused.value.hint == "name a branch, a tag, or all 40 digits of a commit"


@pytest.mark.parametrize(
    "path",
    ["", "@main", "/x", "acme/", "a/b/c", "acme/tu ned", "acme/../tuned", "acme/..", "acme/tuned?x=1", "acme/tuned#1",
     "acme%2Ftuned", "acme/tuned\n", "ac\u202eme/tuned", "-acme/tuned", "acme/tuned-", "äcme/tuned", "acme/" + "n" * 97,
     f"{NAME}@", f"{NAME}@a b", f"{NAME}@a..b", f"{NAME}@../x", f"{NAME}@/x", f"{NAME}@x/", f"{NAME}@a//b",
     f"{NAME}@a\\b", f"{NAME}@a\n", f"{NAME}@a?b", f"{NAME}@\ud800", f"{NAME}@-x", f"{NAME}@" + "r" * 256],
)  # fmt: skip
def test_what_is_no_reference_is_not_asked_for(hub: Hub, path: str) -> None:
    with pytest.raises(ModelReferenceInvalid) as refused:
        source_for(hub, allow=("*",)).pin(path)
    assert refused.value.detail.isprintable()
    assert hub.requests() == []


@pytest.mark.parametrize(
    ("allow", "allowed", "refused"),
    [
        (("*",), ["acme/tuned", "gpt2"], []),
        (("acme/*",), ["acme/tuned"], ["acme-evil/tuned", "acme", "xacme/tuned", "Acme/tuned"]),
        (("acme/tuned",), ["acme/tuned"], ["acme/tuned2", "acme/tune", "acmextuned"]),
        (("*/tuned", "gpt*"), ["acme/tuned", "gpt2"], ["acme/other", "gpt/x", "tuned"]),
        (("a.me/*",), ["a.me/x"], ["acme/x"]),
    ],
)
def test_only_listed_repositories_are_asked_for(
    hub: Hub, allow: tuple[str, ...], allowed: list[str], refused: list[str]
) -> None:
    source = source_for(hub, allow=allow)
    for name in refused:
        with pytest.raises(SourceRefused, match="not among the repositories"):
            source.pin(name)
    assert hub.requests() == []
    for name in allowed:
        hub.add(name, {"config.json": b"{}"})
        assert source.pin(name).name.startswith(f"hf:{name}@")


def test_a_renamed_repository_has_its_present_name(hub: Hub, pinned: Pinned) -> None:
    hub.renamed |= {"tuned": NAME, "former/tuned": NAME}
    source = source_for(hub, allow=("*",))
    assert source.pin("tuned") == source.pin("former/tuned@main") == pinned


def test_a_present_name_has_to_be_allowed_as_well(hub: Hub) -> None:
    hub.add("elsewhere/tuned", SFT)
    hub.renamed["acme/former"] = "elsewhere/tuned"
    with pytest.raises(SourceRefused, match="is elsewhere/tuned now"):
        source_for(hub).pin("acme/former")
    assert len(hub.requests()) == 1
    hub.inject(Fault("hub *", status=200, body=b'{"id": "elsewhere/tuned", "sha": "%b"}' % (b"a" * 40)))
    with pytest.raises(SourceRefused, match="is elsewhere/tuned now"):
        source_for(hub).pin(NAME)


@pytest.mark.parametrize("token", [None, "hf_other"])
def test_a_gated_repository_is_refused_when_it_is_pinned(hub: Hub, repository: Repository, token: str | None) -> None:
    repository.gated = True
    with pytest.raises(ModelAccessRefused, match="gated") as refused:
        source_for(hub, token=token).pin(NAME)
    assert "ask for access" in str(refused.value.hint)
    source = source_for(hub, token=TOKEN)
    assert content(source, source.pin(NAME)) == WEIGHTS


@pytest.mark.parametrize("files", [{"config.json": b"{}"}, {"README.md": b""}])
def test_a_gated_repository_without_weights_is_refused_as_well(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("acme/gated", files, gated=True)
    with pytest.raises(ModelAccessRefused):
        source_for(hub).pin("acme/gated")


@pytest.mark.parametrize("token", [None, "hf_other"])
def test_private_and_missing_look_the_same(hub: Hub, repository: Repository, token: str | None) -> None:
    repository.private = True
    texts = set()
    for name in (NAME, "acme/absent"):
        with pytest.raises(ModelNotFound, match="or not visible with the credentials at hand") as refused:
            source_for(hub, token=token).pin(name)
        texts.add(refused.value.detail.replace(name, "NAME"))
    assert len(texts) == 1
    assert source_for(hub, token=TOKEN).pin(NAME).revision == repository.refs["main"]


def test_a_token_that_the_hub_does_not_know_is_told_apart(hub: Hub) -> None:
    with pytest.raises(ModelAccessRefused, match="does not know the token") as refused:
        source_for(hub, token="hf_false").pin(NAME)
    assert "hf_false" not in f"{refused.value!r} {refused.value.to_problem()}"


def test_a_disabled_repository_is_refused(hub: Hub, repository: Repository) -> None:
    answer = b'{"id": "acme/tuned", "sha": "%b", "disabled": true}' % repository.refs["main"].encode()
    hub.inject(Fault("hub *", times=1, status=200, body=answer))
    repository.disabled = True
    for _ in range(2):
        with pytest.raises(ModelAccessRefused, match="disabled"):
            source_for(hub).pin(NAME)


@pytest.mark.parametrize("request_", ["hub GET */revision/*", "hub GET */tree/*", "hub HEAD */resolve/*"])
@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (429, {"RateLimit": '"api";r=0;t=55'}, 55.0),
        (429, {"RateLimit": '"api";r=3;t=55'}, None),
        (503, {"Retry-After": "1000000"}, 3600.0),
        (500, {}, None),
        (418, {}, None),
    ],
)
def test_a_hub_at_its_limits_is_asked_later(
    hub: Hub, request_: str, status: int, headers: dict[str, str], wait: float | None
) -> None:
    hub.inject(Fault(request_, status=status, headers=headers))
    with pytest.raises(SourceUnavailable) as refused:
        source_for(hub).pin(NAME)
    assert (refused.value.retry_after_s, refused.value.retryable) == (wait, True)
    hub.heal()
    assert source_for(hub).pin(NAME)


@pytest.mark.parametrize("status", [403, 451])
def test_any_other_refusal_of_access_is_one(hub: Hub, status: int) -> None:
    hub.inject(Fault("hub *", status=status))
    with pytest.raises(ModelAccessRefused):
        source_for(hub).pin(NAME)


def test_a_hub_that_is_away_is_unavailable_and_comes_back(hub: Hub, pinned: Pinned) -> None:
    source = source_for(hub)
    hub.away()
    with pytest.raises(SourceUnavailable):
        source.pin(NAME)
    with pytest.raises(SourceUnavailable):
        content(source, pinned)
    hub.back()
    assert source.pin(NAME) == pinned
    assert content(source, pinned) == WEIGHTS


def test_one_time_bounds_all_requests_of_a_pin(hub: Hub) -> None:
    hub.page = 1
    # Each page comes in time, all of them do not.
    hub.inject(Fault("hub GET */tree/*", bytes_per_s=300))
    begun = time.monotonic()
    with pytest.raises(SourceUnavailable):
        source_for(hub, timeouts=Timeouts(pin=1.0)).pin(NAME)
    assert time.monotonic() - begun < 5.0
    assert len(hub.requests("hub GET */tree/*")) > 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_part_is_the_part_that_was_asked_for(hub: Hub, pinned: Pinned, name: str, ignored: bool) -> None:
    hub.inject(Fault("*", ignore_range=ignored))
    want, source = (SFT / name).read_bytes(), source_for(hub)
    edges = (0, 1, 100, len(want) - 1, len(want))
    for start, end in itertools.product(edges, (*edges, len(want) + 5)):
        assert content(source, pinned, name, start=start, end=end) == want[start:end]
    for start in edges:
        assert content(source, pinned, name, start=start) == want[start:]


def test_pieces_are_a_mebibyte_at_most(hub: Hub, pinned: Pinned) -> None:
    with source_for(hub).read(pinned, file_of(pinned)) as coming:
        sizes = [len(piece) for piece in coming]
    assert sum(sizes) == len(WEIGHTS)
    assert min(sizes) > 0
    assert max(sizes) <= 2**20


def test_what_was_cut_off_goes_on_where_it_was(hub: Hub, pinned: Pinned) -> None:
    hub.inject(Fault("cdn GET *", times=1, cut_after=1_000_000))
    source, got = source_for(hub), bytearray()

    def take() -> None:
        with source.read(pinned, file_of(pinned)) as coming:
            for piece in coming:
                got.extend(piece)

    with pytest.raises(SourceUnavailable):
        take()
    assert len(got) == 1_000_000
    got += content(source, pinned, start=len(got))
    assert got == WEIGHTS


def test_a_stall_is_noticed(hub: Hub, pinned: Pinned) -> None:
    hub.inject(Fault("cdn GET *", stall_after=1000))
    begun = time.monotonic()
    with pytest.raises(SourceUnavailable), source_for(hub, timeouts=SOON).read(pinned, file_of(pinned)) as coming:
        assert sum(len(piece) for piece in coming) == 1000
    assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("hub *", status=404, headers={"X-Error-Code": "EntryNotFound"}), ModelChanged),
        (Fault("hub *", status=404, headers={"X-Error-Code": "RepoNotFound"}), ModelChanged),
        (Fault("cdn *", status=404), ModelChanged),
        (Fault("cdn *", status=416), ModelChanged),
        (Fault("hub *", status=401, headers={"X-Error-Code": "RepoNotFound"}), ModelAccessRefused),
        (Fault("hub *", status=403, headers={"X-Error-Code": "GatedRepo"}), ModelAccessRefused),
        (Fault("cdn *", status=403), SourceUnavailable),
        (Fault("cdn *", status=500), SourceUnavailable),
        (Fault("hub *", status=429), SourceUnavailable),
        (Fault("cdn *", status=204), SourceUnavailable),
        (Fault("cdn *", status=200, body=b"short"), SourceUnavailable),
        (Fault("cdn *", status=206, body=b"no range"), SourceUnavailable),
        (Fault("cdn *", headers={"Content-Range": f"bytes 0-9/{len(WEIGHTS)}"}), SourceUnavailable),
        (Fault("cdn *", headers={"Content-Range": f"bytes 10-20/{len(WEIGHTS)}"}), SourceUnavailable),
        (Fault("cdn *", headers={"Content-Range": "bytes 10-19/20"}), SourceUnavailable),
        (Fault("cdn *", headers={"Content-Range": "bytes ten-19/*"}), SourceUnavailable),
        (Fault("cdn *", headers={"Content-Encoding": "gzip"}), SourceUnavailable),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_the_part_is_an_error(
    hub: Hub, pinned: Pinned, fault: Fault, expected: type[SpinalError]
) -> None:
    hub.inject(fault)
    with pytest.raises(SpinalError) as refused:
        content(source_for(hub), pinned, start=10, end=20)
    assert type(refused.value) is expected
    assert pinned.name in refused.value.detail or "127.0.0.1" in refused.value.detail


def test_a_range_without_a_total_is_one(hub: Hub, pinned: Pinned) -> None:
    hub.inject(Fault("cdn *", headers={"Content-Range": "bytes 10-19/*"}))
    assert content(source_for(hub), pinned, start=10, end=20) == WEIGHTS[10:20]


def test_more_than_was_listed_is_not_read(hub: Hub, pinned: Pinned) -> None:
    hub.inject(Fault("cdn *", status=200, body=lambda: itertools.repeat(b"x" * 65536)))
    assert content(source_for(hub), pinned) == b"x" * len(WEIGHTS)
    assert hub.sent("cdn *") < 4 * len(WEIGHTS)


def test_what_was_pinned_elsewhere_or_is_not_allowed_any_more_is_not_read(hub: Hub, pinned: Pinned) -> None:
    hub.forget()
    for other in (source_for(hub, endpoint="https://huggingface.co"), source_for(hub, allow=("other/*",))):
        with pytest.raises(SourceRefused):
            content(other, pinned)
    assert hub.requests() == []


def test_the_token_goes_to_the_hub_alone(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f" {TOKEN}\n")
    for given in ({"token": TOKEN}, {"token_file": tmp_path / "token"}):
        hub.forget()
        source = source_for(hub, **given)
        found = source.pin(NAME)
        for name in ("model.safetensors", "config.json"):
            content(source, found, name)
        assert {each.token for each in hub.requests("hub *")} == {TOKEN}
        assert {each.token for each in hub.requests("cdn *")} == {None}


def test_nothing_is_taken_from_the_surroundings(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = "http://127.0.0.1:9"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, "hf_ambient")
    for name in ("HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, away)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b")
    (tmp_path / "token").write_text("hf_ambient")
    for name in ("HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    source = source_for(hub)
    assert content(source, source.pin(NAME)) == WEIGHTS
    assert {each.token for each in hub.requests()} == {None}


def test_no_secret_is_shown(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    source = source_for(hub, token=TOKEN)
    found = source.pin(NAME)
    content(source, found)
    hub.inject(Fault("cdn *", cut_after=10))
    with pytest.raises(SourceUnavailable) as cut:
        content(source, found)
    hub.heal()
    hub.inject(Fault("cdn *", status=500))
    with pytest.raises(SourceUnavailable) as failed:
        content(source, found)
    texts = [caplog.text, repr(settings_for(hub, token=TOKEN)), repr(found)]
    texts += [f"{each.value!r} {each.value.to_problem()} {each.value.__cause__!r}" for each in (cut, failed)]
    for text in texts:
        assert TOKEN not in text
        assert "Signature" not in text


@pytest.mark.parametrize(
    "given",
    [
        {"allow": ()},
        {"allow": ("acme /x",)},
        {"allow": ("a/b/c",)},
        {"allow": ("acme/[a-z]",)},
        {"endpoint": "huggingface.co"},
        {"endpoint": "https://user:hf_secret@huggingface.co"},
        {"endpoint": "https://huggingface.co/"},
        {"endpoint": "https://huggingface.co?token=hf_secret"},
        {"endpoint": "https://huggingface.co:99999"},
        {"endpoint": "ftp://huggingface.co"},
        {"endpoint": "http://huggingface.co"},
        {"redirect_hosts": ("https://hf.co",)},
        {"private_hosts": ("10.0.0.1/8",)},
        {"token": "hf_secret", "token_file": "token"},
        {"tokens": "hf_secret"},
    ],
)
def test_settings_that_mean_nothing_are_refused_without_showing_secrets(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as refused:
        HubSettings.model_validate({"allow": ("*",), **given})
    assert "hf_secret" not in str(refused.value)


@pytest.mark.parametrize("content_", [None, b"", b" \n", b"two words", "ä".encode(), b"\xff", b"x" * 5000, b"a\nb"])
def test_a_token_file_that_holds_none_is_named_without_its_folder(
    hub: Hub, tmp_path: Path, content_: bytes | None
) -> None:
    if content_ is not None:
        (tmp_path / "hub-token").write_bytes(content_)
    with pytest.raises(UsageError) as refused:
        source_for(hub, token_file=tmp_path / "hub-token")
    assert str(tmp_path) not in f"{refused.value.detail} {refused.value.hint}"


def test_the_kind_makes_what_the_settings_say(hub: Hub, pinned: Pinned) -> None:
    def never(_: str) -> Pinned:
        raise AssertionError

    made = HF.make(Setting(settings_for(hub), roots=None, pin=never))
    assert made.pin(NAME) == pinned
    assert HF.settings is HubSettings
    assert HF.default is not None
    usual = HF.default()
    assert isinstance(usual, HubSettings)
    assert (usual.endpoint, usual.token, usual.private_hosts) == ("https://huggingface.co", None, ())
    assert usual.allows("any/thing")
    assert isinstance(settings_for(hub, token="x").token, SecretStr)


def test_an_endpoint_may_have_a_path(hub: Hub) -> None:
    """As behind a mirror of the house."""
    hub.add("api/models", {"config.json": b"{}"})
    with pytest.raises(ModelNotFound):
        source_for(hub, endpoint=f"{hub.url}/mirror/hub").pin(NAME)
    assert hub.requests()[0].path == f"/mirror/hub/api/models/{NAME}/revision/main"
