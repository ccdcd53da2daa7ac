"""``spinal trace``, ``compare`` and ``series`` of models of a hub: a process, what it says, what it leaves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from spinal.errors import ExitCode
from tests.cli.test_cli import DPO, QUICK, SFT
from tests.cli.test_cli import spinal as command
from tests.support.hub import Hub
from tests.support.hub_serving import Fault
from tests.support.places import ROOT
from tests.support.waiting import until

TOKEN = "hf_tell_nobody_of_this"
MEMBERS = ("--swap-prompts", "4", "--stitch-prompts", "0")
SOON_S = 5.0
"""An interrupted command is gone by then, also on a busy machine."""


@dataclass
class Desk:
    """Somebody at a shell, with a cache and a folder for temporary files of their own."""

    home: Path
    hub: Hub
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("cache", "temporary", "here"):
            (self.home / name).mkdir()
        prompts = "".join(f"Human: question number {n} about gardens?\n" for n in range(24))
        (self.home / "prompts.txt").write_text(prompts)
        here = {"private_hosts": ["127.0.0.1"], "redirect_hosts": ["127.0.0.1"]}
        self.settings = {"hf": {"endpoint": self.hub.url, "allow": ["acme/*"], **here}}
        self.configure(self.settings)

    def configure(self, settings: object) -> None:
        self.sources.write_text(json.dumps(settings))

    @property
    def sources(self) -> Path:
        return self.home / "sources.json"

    @property
    def environment(self) -> dict[str, str]:
        places = {"XDG_CACHE_HOME": str(self.home / "cache"), "TMPDIR": str(self.home / "temporary")}
        return places | {"PYTHONPATH": str(ROOT), "HF_TOKEN": "of_the_surroundings"}

    def words(self, *arguments: str) -> tuple[str, ...]:
        return (*arguments, "--sources", str(self.sources), "--prompts", str(self.home / "prompts.txt"), *QUICK)

    def calls(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return command(*self.words(*arguments), **self.environment)

    def begins(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "spinal.cli.main", *self.words(*arguments)], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | self.environment,
        )  # fmt: skip

    def left(self) -> list[str]:
        """Ours, of the temporary files; torch leaves a folder of its own."""
        return sorted(path.name for path in (self.home / "temporary").iterdir() if path.name.startswith("spinal"))

    def kept(self, area: str) -> list[Path]:
        below = self.home / "cache" / "spinal" / "models" / area
        return [path for path in below.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as made:
        made.tokens[TOKEN] = ("acme/*",)
        made.add("acme/sft", Path(SFT))
        made.add("acme/dpo", Path(DPO))
        made.add("acme/secret", Path(SFT), private=True)
        made.add("acme/gated", Path(SFT), gated=True)
        yield made


@pytest.fixture
def desk(hub: Hub, tmp_path: Path) -> Iterator[Desk]:
    hub.forget()
    yield Desk(tmp_path, hub)
    hub.heal()


def adapter(folder: Path, settings: dict[str, Any]) -> Path:
    """One on every block's queries, of which nothing is changed."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    tensors = {}
    for block in range(24):
        name = f"base_model.model.model.layers.{block}.self_attn.q_proj.lora_"
        tensors[f"{name}A.weight"] = np.ones((2, 96), np.float32)
        tensors[f"{name}B.weight"] = np.zeros((96, 2), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def without_names(document: Any) -> Any:
    """The document but for what its sides are called, and what belongs to one measurement."""
    if isinstance(document, list):
        return [without_names(each) for each in document]
    if not isinstance(document, dict):
        return document
    left_out = {"source", "revision", "provenance", "created_at"}
    return {name: without_names(each) for name, each in document.items() if name not in left_out}


def refusal(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """Cause and next step of a command that failed, which says nothing else."""
    cause, following = done.stderr.splitlines()
    assert (done.stdout, cause[:7], following[:6]) == ("", "error: ", "next: "), done.stderr
    return cause[7:], following[6:]


# the same thing, wherever it lives


@pytest.mark.model
def test_a_pair_of_the_hub_is_the_pair_in_folders_but_for_names_and_is_fetched_once(desk: Desk, hub: Hub) -> None:
    apart = desk.calls("compare", SFT, DPO, "--json", "--no-cache", *MEMBERS)
    found = desk.calls("compare", "hf:acme/sft", "hf:acme/dpo", "--json", *MEMBERS)
    assert (apart.returncode, found.returncode) == (0, 0), apart.stderr + found.stderr
    there = json.loads(found.stdout)
    assert without_names(there) == without_names(json.loads(apart.stdout))
    commit = hub.repositories["acme/sft"].refs["main"]
    assert there["reference"]["source"] == f"hf:acme/sft@{commit}"
    hub.forget()
    again = desk.calls("compare", f"hf:acme/sft@{commit}", "hf:acme/dpo", "--json", *MEMBERS)
    assert without_names(json.loads(again.stdout)) == without_names(there)
    assert hub.requests("* GET */resolve/*") == hub.requests("cdn *") == []
    assert desk.left() == []


@pytest.mark.model
def test_a_series_of_the_hub_fetches_each_checkpoint_and_its_adapters_find_their_base_there(
    desk: Desk, hub: Hub, tmp_path: Path
) -> None:
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    hub.add("acme/lora", adapter(tmp_path / "lora", lora | {"base_model_name_or_path": "acme/dpo"}))
    done = desk.calls("series", "hf:acme/sft", "10=hf:acme/dpo", "20=hf:acme/lora", "30=hf:acme/none", "--json",
                      *MEMBERS)  # fmt: skip
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "hf:acme/none@main is not found" in done.stderr
    done = desk.calls("series", "hf:acme/sft", "10=hf:acme/dpo", "20=hf:acme/lora", "--json", *MEMBERS)
    assert done.returncode == ExitCode.INCONCLUSIVE, done.stderr
    members = json.loads(done.stdout)["members"]
    assert [(one["step"], one["state"], one["model"].partition("@")[0]) for one in members] == [
        (10, "measured", "hf:acme/dpo"), (20, "measured", "hf:acme/lora"),
    ]  # fmt: skip
    assert "40=hf:acme/dpo" in refusal(desk.calls("series", "hf:acme/sft", "hf:acme/dpo"))[1]


@pytest.mark.model
def test_without_the_cache_nothing_stays_and_tokenizers_and_series_come_from_the_hub_too(
    desk: Desk, tmp_path: Path
) -> None:
    bare = tmp_path / "run" / "checkpoint-10"
    bare.mkdir(parents=True)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (bare / name).write_bytes((Path(DPO) / name).read_bytes())
    done = desk.calls(
        "series", "hf:acme/sft", str(bare.parent), "--tokenizer", "hf:acme/sft", "--json", "--no-cache", *MEMBERS
    )
    assert done.returncode == ExitCode.INCONCLUSIVE, done.stderr
    series = json.loads(done.stdout)
    assert series["reference"].startswith("hf:acme/sft@")
    assert [(one["step"], one["state"]) for one in series["members"]] == [(10, "measured")]
    assert (desk.left(), list((desk.home / "cache").iterdir())) == ([], [])


def test_a_service_gets_references_as_they_were_given(desk: Desk) -> None:
    references = {"candidate": "s3://bucket//odd/../x", "reference": "hf:acme/none@main", "control": "mlflow:a@b"}
    heard: list[dict[str, Any]] = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps(
                {"code": "source_unavailable", "detail": "away", "hint": "POST /v1/audits again"}
            ).encode()
            self.send_response(422)
            self.send_header("Content-Type", "application/problem+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = command(
            "audit", references["candidate"], "--reference", references["reference"], "--control",
            references["control"], "--server", f"http://127.0.0.1:{server.server_port}", **desk.environment,
        )  # fmt: skip
        server.shutdown()
    assert [{role: body[role] for role in references} for body in heard] == [references]
    assert refusal(done) == ("away", "try again in a minute")
    assert desk.hub.requests() == []


# what ends before anything is measured


@pytest.mark.parametrize(
    ("reference", "code", "says", "advises"),
    [
        ("hf:acme/none", 2, "hf:acme/none@main is not found", "check the name"),
        ("hf:acme/gated", 2, "hf:acme/gated@main is gated", "token_file"),
        ("hf:acme/sft@of_nobody", 2, "no such revision", "a branch, a tag"),
        ("hf:other/model", 2, "hf:other/model@main is not among the repositories", "--sources"),
        ("s3://bucket/folder", 2, "'s3' is not configured here", "--sources"),
        ("mlflow:name/3", 2, "'mlflow' is not configured here", "--sources"),
        ("ftp:somewhere", 2, "'ftp' is not configured here", "hf:org/name@revision"),
        ("hf:", 2, "no name of a repository", "hf:org/name@main"),
        ("./hf:acme/sft", 2, "hf:acme/sft", ""),
        ("C:\\models\\sft", 2, "C:\\models\\sft", ""),
    ],
)
def test_what_cannot_be_had_is_one_line_and_what_to_do(
    desk: Desk, reference: str, code: int, says: str, advises: str
) -> None:
    done = desk.calls("trace", reference)
    cause, following = refusal(done)
    assert done.returncode == code
    assert says in cause
    assert advises in following
    told = json.loads(desk.calls("trace", reference, "--json").stderr)
    assert (told["detail"], told["hint"]) == (cause, following)


@pytest.mark.parametrize("option", ["--base", "--tokenizer", "--control"])
def test_other_parts_are_references_too_and_no_paths(desk: Desk, option: str) -> None:
    # A path would lose one of the slashes, and with it what it names.
    pair = ("compare", SFT, DPO) if option == "--control" else ("trace", SFT)
    cause, _ = refusal(desk.calls(*pair, option, "s3://bucket/folder"))
    assert "'s3' is not configured here" in cause
    cause, _ = refusal(desk.calls(*pair, option, "hf:acme/none"))
    assert "hf:acme/none@main is not found" in cause


def test_a_hub_that_is_away_is_no_answer_and_no_fault_of_the_caller(desk: Desk, hub: Hub) -> None:
    hub.away()
    try:
        done = desk.calls("compare", "hf:acme/sft", "hf:acme/dpo")
    finally:
        hub.back()
    cause, following = refusal(done)
    assert done.returncode == ExitCode.NOT_EVALUATED
    assert "hf:acme/sft" in cause or "127.0.0.1" in cause
    assert following == "check the connection, and try again"


@pytest.mark.model
def test_folders_and_files_with_the_form_of_a_reference_are_named_with_a_dot(
    desk: Desk, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = desk.home / "here" / "hf:acme"
    odd.mkdir()
    (odd / "sft").write_text("no document")
    (odd / "9:30").symlink_to(SFT)
    environment = desk.environment
    monkeypatch.chdir(desk.home / "here")
    for name in ("./hf:acme/9:30", str(odd / "9:30")):
        done = command(*desk.words("trace", name, "--brief"), **environment)
        assert done.returncode == 0, done.stderr
    assert hub.requests() == []
    cause, _ = refusal(command(*desk.words("compare", "hf:acme/sft", "hf:acme/none"), **environment))
    assert "hf:acme/none@main is not found" in cause
    assert hub.requests("hub GET */acme/sft/*")


# settings and secrets


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("SECRET", "not a mapping of sources"),
        ("{SECRET", "neither JSON nor YAML"),
        ("a: b: SECRET", "neither JSON nor YAML"),
        ("[SECRET]", "not a mapping of sources"),
        ('{"hf": "SECRET"}', "hf: "),
        ('{"hf": ["SECRET"]}', "hf: "),
        ('{"hf": {"token": "SECRET"}}', "hf.allow: "),
        ('{"hf": {"allow": "SECRET"}}', "hf.allow: "),
        ('{"hf": {"allow": []}}', "hf.allow: "),
        ('{"hf": {"allow": ["Bearer SECRET"]}}', "hf.allow: "),
        ('{"hf": {"allow": ["*"], "token": ["SECRET"]}}', "hf.token: "),
        ('{"hf": {"allow": ["*"], "password": "SECRET"}}', "hf.password: "),
        ('{"hf": {"allow": ["*"], "token": "SECRET", "token_file": "x"}}', "hf: "),
        ('{"hf": {"allow": ["*"], "endpoint": "https://me:SECRET@hub.example"}}', "hf.endpoint: "),
        ('{"hf": {"allow": ["*"], "redirect_hosts": ["Bearer SECRET"]}}', "hf: "),
        ('{"hf": {"allow": ["*"], "private_hosts": ["10.0.0.0/SECRET"]}}', "hf: "),
        ('{"mlflow": {"allow": ["*"], "url": "https://me:SECRET@registry.example"}}', "mlflow.url: "),
        ('{"mlflow": {"allow": ["*"], "url": "SECRET"}}', "mlflow.url: "),
        ('{"mlflow": {"allow": ["*"], "url": "https://x", "artifacts": "SECRET"}}', "mlflow.artifacts: "),
        ('{"s3": {"allow": ["b"], "region": "SECRET SECRET"}}', "s3.region: "),
        ('{"s3": {"allow": ["b"], "endpoint": "https://SECRET@store"}}', "s3: "),
        ('{"tenants": {"team-a": {"hf": {"allow": ["Bearer SECRET"]}}}}', "tenants.team-a.hf.allow: "),
        ('{"tenants": ["SECRET"]}', "tenants is not a mapping"),
        ('{"local": {"x": "SECRET"}}', "local is no source"),
        ('{"hf": {"allow": ["*"], "token": "SECRET \\u00e9"}}', "token of the source hf"),
        ('{"hf": {"allow": ["*"], "token_file": "/nowhere/token"}}', "'token'"),
        ('{"mlflow": {"allow": ["*"], "url": "https://x", "private_hosts": ["Bearer SECRET"]}}', "mlflow: "),
    ],
)
def test_each_mistake_in_the_settings_is_one_line_that_names_the_place_and_no_value(
    desk: Desk, written: str, place: str
) -> None:
    desk.sources.write_text(written)
    reference = "mlflow:name/3" if "private_hosts" in written and "mlflow" in written else "hf:acme/sft"
    done = desk.calls("trace", reference)
    cause, _ = refusal(done)
    assert done.returncode == ExitCode.USAGE
    assert place in cause
    assert "SECRET" not in done.stderr
    assert desk.hub.requests() == []


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"#" * 262_145], ids=["none", "binary", "long"])
def test_a_file_of_settings_that_cannot_be_read_is_named(desk: Desk, content: bytes | None) -> None:
    desk.sources.unlink()
    if content is not None:
        desk.sources.write_bytes(content)
    done = desk.calls("trace", "hf:acme/sft")
    assert done.returncode == ExitCode.USAGE
    assert "settings of model sources" in refusal(done)[0]


@pytest.mark.model
def test_a_token_opens_what_is_private_and_is_never_told(desk: Desk, hub: Hub, tmp_path: Path) -> None:
    assert "not visible with the credentials" in refusal(desk.calls("trace", "hf:acme/secret"))[0]
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    desk.configure({"hf": desk.settings["hf"] | {"token_file": str(tmp_path / "token")}})
    files = [tmp_path / f"trace.{suffix}" for suffix in ("json", "html", "md")]
    done = desk.calls("trace", "hf:acme/secret", "--json", *(part for file in files for part in ("-o", str(file))))
    assert done.returncode == 0, done.stderr
    assert "--sources" in json.loads(done.stdout)["provenance"]["command"]
    written = [path for path in desk.home.rglob("*") if path.is_file() and path.name != "token"]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in done.stdout + done.stderr
    # Of the surroundings nothing is taken, and the CDN gets no token.
    assert {seen.token for seen in hub.requests("hub *")} == {None, TOKEN}
    assert {seen.token for seen in hub.requests("cdn *")} == {None}


# while it is fetched


def stalled(desk: Desk, *arguments: str) -> subprocess.Popen[str]:
    """A command in the middle of a fetch from which nothing comes any more."""
    fault = desk.hub.inject(Fault("cdn GET *", stall_after=1_000_000))
    made = desk.begins(*arguments)
    until(lambda: fault.hits and any(seen.sent >= 900_000 for seen in desk.hub.requests("cdn *")), "the stall")
    return made


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_fetch_that_is_stopped_ends_soon_and_says_what_is_kept(desk: Desk, number: int, word: str) -> None:
    process = stalled(desk, "trace", "hf:acme/sft")
    until(lambda: any(part.stat().st_size for part in desk.kept("parts")), "a part")
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < SOON_S
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == (
        f"{word}; nothing was written; what was fetched is kept: run it again to go on from there"
    )
    assert all(path.stat().st_size < 1_000_000 for path in desk.kept("blobs"))
    assert desk.left() == []


def test_a_fetch_without_the_cache_that_is_stopped_leaves_nothing(desk: Desk) -> None:
    process = stalled(desk, "trace", "hf:acme/sft", "--no-cache")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert said.splitlines()[-1] == "interrupted; nothing was written"
    assert (desk.left(), list((desk.home / "cache").iterdir())) == ([], [])


def test_a_slow_fetch_tells_a_log_how_many_bytes_are_there(desk: Desk) -> None:
    desk.hub.inject(Fault("cdn GET *", bytes_per_s=200_000))
    process = desk.begins("trace", "hf:acme/sft")
    assert process.stderr is not None
    line = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert line.startswith("hf:acme/sft: fetching the checkpoint ")
    assert " of 4.0 MB" in line
