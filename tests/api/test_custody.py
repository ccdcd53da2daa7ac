"""What was checked is what was hashed, loaded, measured and judged; and the doctor sees where it is not."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.operations.invariants import CAPTURES, violations
from service.platform.artifacts import ArtifactStore
from service.prompt_sets.store import store_prompt_set
from service.runs.demand import find_or_create_run
from service.settings import Settings, get_settings
from spinal.checkpoints.identity import content_snapshot, former_snapshot, host_identity, weights_digest
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.editions import FORMER
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from tests.api.conftest import clone
from tests.support import engine_double
from tests.support.waiting import until

Drain = Callable[[], int]
Act = Callable[[Path], None]
PROMPTS = "hh-harmless-64"


def submit(api: TestClient, candidate: str, reference: str | None = None, **more: Any) -> dict[str, Any]:
    body = {"candidate": candidate, "prompt_set": PROMPTS, **more}
    body |= {} if reference is None else {"reference": reference}
    answered = api.post("/v1/audits", json=body)
    assert answered.status_code in (201, 202), answered.text
    found: dict[str, Any] = answered.json()
    return found | {"status": answered.status_code}


def read(api: TestClient, audit: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/v1/audits/{audit['id']}").json()
    return found


def content(folder: Path) -> str:
    return weights_digest(resolve_reference(str(folder), roots=None))


def code(audit: dict[str, Any]) -> str | None:
    return None if audit["error"] is None else str(audit["error"]["code"])


def other_bytes(path: Path) -> bytes:
    """As many bytes, the last one another."""
    raw = path.read_bytes()
    return raw[:-1] + bytes([raw[-1] ^ 1])


def replace_file(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(other_bytes(path))
    new.replace(path)


def overwrite_in_place(path: Path) -> None:
    """The same size, and the old time of change put back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(other_bytes(path))

    def stamped() -> bool:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return path.stat().st_ctime_ns != before.st_ctime_ns

    until(stamped, "another time of change")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_link(path: Path) -> None:
    aside = path.with_name("aside")
    aside.write_bytes(other_bytes(path))
    path.unlink()
    path.symlink_to(aside)


ACTS: list[Act] = [replace_file, overwrite_in_place, truncate, Path.unlink, make_fifo, make_link]
FILES = ("model.safetensors", "config.json", "tokenizer.json")


@contextmanager
def during(monkeypatch: pytest.MonkeyPatch, what: str, act: Callable[[], None]) -> Iterator[None]:
    """``act`` once, in the middle of the engine's work ``what``."""
    real = getattr(engine_double, what)
    left = [act]

    def disturbed(*args: Any, **kwargs: Any) -> Any:
        if left:
            left.pop()()
        return real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(engine_double, what, disturbed)
        yield
    assert not left, f"{what} was not called"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("what", ["measure", "gather_evidence"])
def test_a_file_that_changes_under_a_measurement_ends_it(
    api: TestClient, drain: Drain, models: Path, monkeypatch: pytest.MonkeyPatch, what: str, act: Act, name: str
) -> None:
    audit = submit(api, "local:dpo-short", "local:sft")
    before = content(models / "dpo-short")

    def disturb() -> None:
        for side in ("dpo-short", "sft"):
            act(models / side / name)

    with during(monkeypatch, what, disturb):
        drain()
    found = read(api, audit)
    assert (found["state"], code(found)) == ("FAILED", "model_changed")
    traces = [found[role] for role in ("candidate_trace", "reference_trace") if found[role] is not None]
    for digest in traces:
        assert api.get(f"/v1/traces/{digest}").json()["model"]["weights_digest"] in (before, content_of_sft(models))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_a_file_that_changes_before_it_is_measured_ends_the_audit(
    api: TestClient, drain: Drain, models: Path, act: Act, name: str
) -> None:
    audit = submit(api, "local:dpo-short")
    act(models / "dpo-short" / name)
    drain()
    found = read(api, audit)
    assert (found["state"], code(found)) == ("FAILED", "model_changed")


def content_of_sft(models: Path) -> str:
    """Of the bundled checkpoint, whatever a test has done to its copy."""
    bundled = clone("sft", models / "untouched")
    try:
        return content(bundled)
    finally:
        shutil.rmtree(bundled)


def test_a_link_to_a_file_changes_nothing(
    api: TestClient, drain: Drain, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the time of change of anything moves; the bytes are read again, and they are the same."""
    audit = submit(api, "local:dpo-short")
    weights = models / "dpo-short" / "model.safetensors"
    with during(monkeypatch, "measure", lambda: os.link(weights, models / "another name")):
        drain()
    assert read(api, audit)["state"] == "SUCCEEDED"


def test_weights_that_were_overwritten_with_their_time_put_back_are_measured_anew(
    api: TestClient, drain: Drain, models: Path
) -> None:
    weights = models / "dpo-short" / "model.safetensors"
    first = submit(api, "local:dpo-short")
    drain()
    assert submit(api, "local:dpo-short")["status"] == 201
    overwrite_in_place(weights)
    again = submit(api, "local:dpo-short")
    assert again["status"] == 202
    drain()
    digests = [read(api, audit)["candidate_trace"] for audit in (first, again)]
    assert digests[0] != digests[1]
    assert api.get(f"/v1/traces/{digests[1]}").json()["model"]["weights_digest"] == content(models / "dpo-short")


def test_copies_at_another_place_with_other_times_are_one_content_and_one_trace(
    api: TestClient, drain: Drain, models: Path, double: Path
) -> None:
    copies = [Path(shutil.copytree(models / "sft", models / name)) for name in ("copy", "deep-copy")]
    (copies[1] / "README.md").write_text("another file, of no account")
    for number, folder in enumerate([models / "sft", *copies]):
        for file in folder.iterdir():
            os.utime(file, (number * 1e6, number * 1e6))
    looked = [resolve_reference(str(folder), roots=None) for folder in (models / "sft", *copies)]
    assert len({content_snapshot(each) for each in looked}) == 1
    assert len({host_identity(each) for each in looked}) == 3
    audits = [submit(api, f"local:{name}") for name in ("sft", "copy", "deep-copy")]
    drain()
    assert len({read(api, audit)["candidate_trace"] for audit in audits}) == 1
    assert len(engine_double.calls(double)) == 1


def test_a_worker_with_its_models_elsewhere_measures_what_was_submitted(
    api: TestClient, drain: Drain, models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    audit = submit(api, "local:dpo-short", "local:sft")
    there = tmp_path / "mounted" / "elsewhere"
    shutil.copytree(models, there)
    shutil.rmtree(models)
    monkeypatch.setenv("SPINAL_MODEL_ROOTS", str(there))
    get_settings.cache_clear()
    drain()
    assert read(api, audit)["state"] == "SUCCEEDED"


def test_a_worker_that_lacks_a_checkpoint_hands_its_run_back_uncharged_until_it_has_waited_long_enough(
    api: TestClient, drain: Drain, models: Path, ledger: Ledger
) -> None:
    audit = submit(api, "local:dpo-short")
    aside = models.with_name("aside")
    models.rename(aside)
    models.mkdir()
    drain()
    with ledger.begin() as session:
        [run] = session.execute(text("SELECT state, attempt, charged_attempts FROM runs")).all()
        assert tuple(run) == ("QUEUED", 1, 0)
        session.execute(text("UPDATE runs SET not_before = now()"))
    models.rmdir()
    aside.rename(models)
    drain()
    assert read(api, audit)["state"] == "SUCCEEDED"

    late = submit(api, "local:sft")
    shutil.rmtree(models / "sft")
    drain()
    assert read(api, late)["state"] == "QUEUED"
    with ledger.begin() as session:
        session.execute(text("UPDATE runs SET not_before = now() WHERE state = 'QUEUED'"))
        session.execute(text("ALTER TABLE run_attempts DISABLE TRIGGER USER"))
        session.execute(text("UPDATE run_attempts SET ended_at = now() - interval '1 hour' WHERE outcome = 'released'"))
        session.execute(text("ALTER TABLE run_attempts ENABLE TRIGGER USER"))
    drain()
    found = read(api, late)
    assert (found["state"], code(found)) == ("FAILED", "model_not_found")


def test_a_caller_may_say_what_it_expects(api: TestClient, drain: Drain, models: Path) -> None:
    right, wrong = content(models / "dpo-short"), "0" * 64
    passed = submit(api, "local:dpo-short", "local:sft", expected_weights_digest=right)
    refused = submit(api, "local:dpo-short", "local:sft", expected_weights_digest=wrong)
    drain()
    found = read(api, passed)
    assert found["state"] == "SUCCEEDED"
    assert found["weights"] == {"candidate": right, "reference": content(models / "sft")}
    ended = read(api, refused)
    assert (ended["state"], code(ended)) == ("FAILED", "weights_digest_mismatch")
    assert right in ended["error"]["detail"]
    malformed = api.post("/v1/audits", json={"candidate": "local:sft", "expected_weights_digest": "ABC"})
    assert malformed.status_code == 422


def test_every_format_of_a_report_shows_what_was_judged(api: TestClient, drain: Drain, models: Path) -> None:
    audit = submit(api, "local:dpo-short", "local:sft")
    drain()
    for kind in ("html", "md", "json"):
        report = api.get(f"/v1/audits/{audit['id']}/report", params={"format": kind})
        assert report.status_code == 200
        for side in ("sft", "dpo-short"):
            assert content(models / side)[:12] in report.text, kind


def test_what_was_read_is_known_for_a_while_and_then_read_again(
    api: TestClient, drain: Drain, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, models: Path
) -> None:
    from spinal.checkpoints import held

    hashed: list[int] = []
    real = held._pieces

    def counted(descriptor: int) -> Iterator[bytes]:
        hashed.append(descriptor)
        return real(descriptor)

    monkeypatch.setattr(held, "_pieces", counted)
    monkeypatch.setattr(held, "SETTLED_NS", 0)
    submit(api, "local:sft")
    drain()
    first = len(hashed)
    assert first > 0
    with ledger.begin() as session:
        # Another specification on the same files: the trace is there, and the content is known.
        session.execute(text("UPDATE snapshots SET created_at = now()"))
    submit(api, "local:sft", expected_weights_digest=content(models / "sft"))
    hashed.clear()
    drain()
    assert hashed == []
    with ledger.begin() as session:
        session.execute(text("UPDATE snapshots SET created_at = now() - interval '1 year'"))
    submit(api, "local:sft", expected_weights_digest="0" * 64)
    drain()
    assert len(hashed) == first


def test_the_content_of_files_that_are_too_new_is_not_remembered(
    api: TestClient, drain: Drain, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, models: Path
) -> None:
    from spinal.checkpoints import held

    monkeypatch.setattr(held, "SETTLED_NS", 3_600 * 10**9)
    first = submit(api, "local:sft")
    drain()
    again = submit(api, "local:sft", expected_weights_digest=content(models / "sft"))
    drain()
    assert [read(api, audit)["state"] for audit in (first, again)] == ["SUCCEEDED"] * 2
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM snapshots")).scalar() == 0


def exchanged(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def altered(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-8:] = bytes(byte ^ 1 for byte in raw[-8:])
    path.write_bytes(raw)


def trace_both(api: TestClient, drain: Drain, settings: Settings) -> ArtifactStore:
    """Trace both models; returns the store that has their captures."""
    submit(api, "local:dpo-short")
    submit(api, "local:sft")
    drain()
    return ArtifactStore(settings)


def test_an_altered_capture_is_seen_by_the_doctor_and_measured_again_before_it_is_used(
    api: TestClient, drain: Drain, ledger: Ledger, api_settings: Settings, double: Path, models: Path
) -> None:
    store = trace_both(api, drain, api_settings)
    with ledger.read() as session:
        digest, uri = session.execute(text("SELECT digest, capture_uri FROM traces ORDER BY digest LIMIT 1")).one()
        assert violations(session, sha256_of=store.sha256) == {}
    altered(Path(api_settings.artifact_url.removeprefix("file://")) / uri)
    with ledger.read() as session:
        assert violations(session, sha256_of=store.sha256) == {CAPTURES: [digest]}
    before = len(engine_double.calls(double))
    audit = submit(api, "local:dpo-short", "local:sft")
    drain()
    assert read(api, audit)["state"] == "SUCCEEDED"
    made = [what for _, what, _ in engine_double.calls(double)[before:]]
    assert sorted(made) == ["compare", "measure"]
    with ledger.read() as session:
        assert violations(session, sha256_of=store.sha256) == {}


def test_captures_that_were_exchanged_are_both_seen_and_both_made_again(
    api: TestClient, drain: Drain, ledger: Ledger, api_settings: Settings, double: Path, models: Path
) -> None:
    store = trace_both(api, drain, api_settings)
    with ledger.read() as session:
        kept = session.execute(text("SELECT digest, capture_uri FROM traces ORDER BY digest")).all()
    exchanged(*(Path(api_settings.artifact_url.removeprefix("file://")) / uri for _, uri in kept))
    with ledger.read() as session:
        assert set(violations(session, sha256_of=store.sha256)[CAPTURES]) == {digest for digest, _ in kept}
    before = len(engine_double.calls(double))
    audit = submit(api, "local:dpo-short", "local:sft")
    drain()
    assert read(api, audit)["state"] == "SUCCEEDED"
    assert sorted(what for _, what, _ in engine_double.calls(double)[before:]) == ["compare", "measure", "measure"]


def test_files_beside_a_checkpoint_are_named_to_whoever_named_it_and_to_nobody_else(
    api: TestClient, drain: Drain, models: Path, ledger: Ledger
) -> None:
    (models / "sft" / "model_ema.safetensors").write_bytes(b"not even safetensors")
    audit = submit(api, "local:sft")
    drain()
    found = read(api, audit)
    shown = api.get(f"/v1/traces/{found['candidate_trace']}").json()
    assert any("model_ema.safetensors" in warning for warning in shown["warnings"])
    with ledger.read() as session:
        documents = session.execute(text("SELECT document FROM traces")).scalars().all()
    assert "model_ema" not in json.dumps(documents)


@pytest.mark.parametrize(("stray", "ends"), [(None, "SUCCEEDED"), ("model_ema.safetensors", "FAILED")])
def test_what_the_release_before_would_have_read_otherwise_is_not_carried_out_under_its_name(
    api: TestClient, drain: Drain, models: Path, ledger: Ledger, stray: str | None, ends: str
) -> None:
    if stray is not None:
        (models / "sft" / stray).write_bytes(b"x")
    prompts = builtin_prompts(PROMPTS)
    profile = MeasurementProfile()
    spec = {
        "kind": "trace", "model": "local:sft", "prompt_set": prompts.digest, "engine_version": FORMER.engine,
        "snapshot": former_snapshot(resolve_reference("local:sft", roots=[models])),
        "profile": profile.model_dump(mode="json", include={"name", *profile.knobs("trace")}),
    }  # fmt: skip
    with ledger.begin() as session:
        store_prompt_set(session, prompts)
        run = find_or_create_run(session, spec, queue="cpu")
    drain()
    with ledger.read() as session:
        [found] = session.execute(
            text("SELECT state, error->>'code' AS code FROM runs WHERE id = :r"), {"r": run}
        ).all()
    assert tuple(found) == (ends, None if stray is None else "version_retired")


@pytest.mark.parametrize("name", [*FILES, "tokenizer_config.json"])
def test_a_file_that_leads_out_of_the_roots_is_refused(
    api: TestClient, models: Path, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    (models / "sft" / name).rename(outside)
    (models / "sft" / name).symlink_to(outside)
    answered = api.post("/v1/audits", json={"candidate": "local:sft", "prompt_set": PROMPTS})
    assert (answered.status_code, answered.json()["code"]) == (422, "model_path_refused")
    assert str(tmp_path) not in answered.text
    # As the cache of a hub keeps its files: links to others below the root.
    (models / "blobs").mkdir()
    outside.rename(models / "blobs" / "0123")
    (models / "sft" / name).unlink()
    (models / "sft" / name).symlink_to(Path("..") / "blobs" / "0123")
    assert submit(api, "local:sft")["status"] == 202
