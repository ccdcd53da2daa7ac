"""Names made to deceive: of folders, files, tensors, labels and in messages of libraries, followed to every reader."""

import ast
import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from spinal.cli.output import report_error
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.errors import WeightsCorrupt
from spinal.report.formats import FORMATS
from spinal.report.formats.format import Reader
from spinal.report.formats.terminal import print_document
from tests.api.conftest import BUNDLED, clone
from tests.conftest import ROOT
from tests.support import engine_double
from tests.support.fabricated import changed_pair, trace

ERASE, C1, TURN, TITLE = "\x1b[2K\x1b[1A", "\x9b31m", "\u202egpj.exe\u2066", "\x1b]0;owned\x07"
NAMES = [
    ERASE,
    C1,
    TURN,
    TITLE,
    "a\rb",
    "a\nPASS",
    "\x7f\x08",
    "\u2028\u200b\ufeff",
    "\U000e0041",
    "&#x202e;<i>",
    "[/]",
]
"""What stands in names: the last two are harmless to a terminal, and not to HTML, Markdown and markup."""


LINKED = Reader(links={"report": "https://spinal.example/x"})
PLACES = 6


def safe(text: str) -> bool:
    """Whether a terminal obeys nothing in ``text`` and a reader sees all of it."""
    return text.replace("\n", "").isprintable()


def header(names: list[str]) -> bytes:
    """A safetensors file of tensors with these names, cut off where its data should begin."""
    ends = {name: 36 * number for number, name in enumerate(names, 1)}
    head = json.dumps(
        {name: {"dtype": "F32", "shape": [9], "data_offsets": [end - 36, end]} for name, end in ends.items()}
    ).encode()
    return struct.pack("<Q", len(head)) + head


def hostile_checkpoint(models: Path, name: str, number: int) -> str:
    """A folder with that text in one of its places; returns its reference. ``number`` says which, of ``PLACES``."""
    folder = models / f"m{number}"
    config = json.loads((BUNDLED / "sft" / "config.json").read_text())
    match number:
        case 0:
            folder = models / name.replace("/", "_").replace("\0", "")
            clone("sft", folder, model__safetensors=b"garbage")
        case 1:
            clone("sft", folder, model__safetensors=header([name, name + "2"]))
        case 2:
            clone("sft", folder, model__safetensors=None)
            (folder / f"model-{name.replace('/', '_')}.safetensors").write_bytes(b"garbage")
        case 3:
            config["architectures"] = [f"{name}ForConditionalGeneration"]
            clone("sft", folder, config__json=json.dumps(config | {"model_type": name}))
        case 4:
            index = {"weight_map": {name: f"../{name}.safetensors", "x": name}}
            clone("sft", folder, model__safetensors=None)
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        case _:
            clone("sft", folder, tokenizer__json=json.dumps({"model": {"type": name}, name: name}))
    return f"local:{folder.name}"


@pytest.mark.parametrize("name", [*NAMES, "\ud800", "\0"], ids=ascii)
def test_no_answer_repeats_a_hostile_name_or_names_a_place(api: TestClient, models: Path, name: str) -> None:
    for number in range(PLACES):
        if number in (0, 2) and not _is_a_file_name(name):
            continue
        reference = hostile_checkpoint(models, name, number)
        for path, body in (
            ("/v1/audits", {"candidate": reference, "reference": "local:sft", "prompt_set": "hh-harmless-64"}),
            ("/v1/models", {"name": f"m{number}", "reference": reference}),
        ):
            answer = api.post(path, json=body)
            assert answer.status_code < 500, answer.text
            assert safe(answer.content.decode()), answer.content
            assert str(models) not in answer.text
            assert str(models.parent.name) not in answer.text


def _is_a_file_name(name: str) -> bool:
    return "\0" not in name and "\ud800" not in name


def test_labels_and_descriptions_are_shown_as_text(api: TestClient) -> None:
    for number, name in enumerate((C1, TURN, "\u2028", "\U000e0041")):
        api.post("/v1/models", json={"name": f"m{number}", "reference": "local:sft", "description": name})
        body = {"candidate": "local:sft", "prompt_set": "hh-harmless-64", "labels": {"k": name}}
        made = api.post("/v1/audits", json=body)
        assert made.json()["labels"] == {"k": name}, "it is what was sent, written so that it is seen"
        for path in (f"/v1/audits/{made.json()['id']}", "/v1/audits", f"/v1/models/m{number}", "/v1/models"):
            answer = api.get(path)
            assert answer.status_code == 200
            assert safe(answer.content.decode()), answer.content


def test_what_a_library_said_about_a_place_is_not_told(
    api: TestClient, models: Path, drain: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f"no file named x\x1b[2J found in directory {models}/sft; seen '{models}/my own/a b.json'"
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-7.internal")

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(f"{said} on gpu-7.internal")

    monkeypatch.setattr(engine_double, "measure", fail)
    made = api.post("/v1/audits", json={"candidate": "local:sft", "prompt_set": "hh-harmless-64"}).json()
    drain()
    for path in (f"/v1/audits/{made['id']}", "/v1/audits", f"/v1/audits/{made['id']}/report"):
        answer = api.get(path)
        assert "no file named" in answer.text, "the cause is told"
        assert safe(answer.content.decode())
        for ours in (str(models), models.parent.name, "gpu-7"):
            assert ours not in answer.text


def test_shards_without_their_index_are_answered_without_a_place(
    api: TestClient, models: Path, drain: Callable[[], int]
) -> None:
    folder = clone("sft", models / "sharded")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    answers = [api.post("/v1/audits", json={"candidate": "local:sharded", "prompt_set": "hh-harmless-64"})]
    drain()
    answers.append(api.get("/v1/audits"))
    for answer in answers:
        assert answer.status_code < 500
        assert str(models) not in answer.text
        assert models.parent.name not in answer.text


def hostile_trace(name: str) -> Trace:
    made = trace(f"local:{name}", 4, 8)
    prompts = made.prompt_set.model_copy(update={"name": name})
    sent = made.model_dump() | {"prompt_set": prompts, "warnings": (f"{name}: not read: /srv/inside/{name}/x",)}
    return Trace.model_validate(sent | {"provenance": made.provenance.model_copy(update={"command": ["spinal", name]})})


def hostile_comparison(name: str) -> Comparison:
    made = changed_pair().compare()
    sides = {role: getattr(made, role).model_copy(update={"source": name}) for role in ("reference", "candidate")}
    verdict = made.verdict.model_copy(update={"reasons": (name,)})
    changed = {"warnings": (name,), "verdict": verdict, "weight_change_other": {name: 0.1}}
    return Comparison.model_validate(made.model_dump() | sides | changed)


@pytest.mark.parametrize("make", [hostile_trace, hostile_comparison])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_every_format_shows_hostile_names_as_text(name: str, make: Callable[[str], Trace | Comparison]) -> None:
    document = make(name)
    told = [made for made in FORMATS.values() if isinstance(document, Comparison) or not made.needs_verdict]
    drawn = {made.name: made.written(document, LINKED) for made in told}
    screen = StringIO()
    print_document(document, Console(file=screen, width=200, no_color=True, emoji=False))
    drawn["terminal"] = screen.getvalue()
    drawn["repr"] = repr(document)
    for format, text in drawn.items():
        assert safe(text), format
    assert type(document).model_validate_json(drawn["json"]) == document
    assert "<i>" not in drawn["html"]
    assert "&#x202e;" not in drawn["html"].replace("&amp;#x202e;", "")
    assert "&#x202e;" not in drawn["md"].replace("\\&\\#x202e;", "")
    assert "inside" not in "".join(document.warnings)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_line_says_hostile_text_so_that_it_is_seen(
    name: str, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    report_error(WeightsCorrupt(f"tensor {name}", hint=name, tensor=name), as_json=as_json)
    told = capsys.readouterr().err
    assert safe(told)
    assert len(told.splitlines()) == (1 if as_json else 2), "one line for the cause, one for the next step"


def test_hostile_files_through_the_command(tmp_path: Path) -> None:
    draw = random.Random(15)
    for name in draw.sample(NAMES, 2):
        folder = clone("sft", tmp_path / f"m{len(list(tmp_path.iterdir()))}-{name}".replace("/", "_"))
        (folder / "model.safetensors").write_bytes(header([name]))
        stored = folder / "trace.json"
        stored.write_text(hostile_trace(name).model_dump_json(by_alias=True))
        for arguments in (("trace", str(folder)), ("report", str(stored)), ("report", str(folder / "none"))):
            command = [sys.executable, "-m", "spinal.cli.main", *arguments]
            done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT)
            assert safe((done.stdout + done.stderr).decode()), (arguments, done.stderr)


def test_the_command_writes_to_a_terminal_in_one_place() -> None:
    """``say``, ``say_json`` and ``emit`` clean what they write; whatever wrote beside them would not."""
    writers = {
        path.name
        for path in (ROOT / "spinal" / "cli").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr"))
        or (isinstance(node, ast.Name) and node.id == "print")
    }  # fmt: skip
    others = {"main.py", "progress.py", "signals.py"}
    assert writers <= {"output.py"} | others
    for other in others - {"signals.py"}:  # whose last words are its own, written when nothing else can be called
        assert ".write" not in (ROOT / "spinal" / "cli" / other).read_text()
