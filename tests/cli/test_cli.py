"""The ``spinal`` command as a user meets it: a process, its exit code, stdout and stderr."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.text import Text

from spinal.cli.main import app
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from tests.conftest import EXAMPLES

SFT = str(EXAMPLES / "checkpoints" / "sft")
DPO = str(EXAMPLES / "checkpoints" / "dpo-short")
QUICK = ("--max-tokens", "32", "--lens-positions", "4")


def spinal(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spinal.cli.main", *arguments], capture_output=True, text=True, check=False,
        env=os.environ | environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("".join(f"Human: question number {n} about gardens?\n" for n in range(24)))
    return str(path)


def _helps(command: Any, context: Any) -> Iterator[str]:
    yield command.help or ""
    yield from (getattr(parameter, "help", None) or "" for parameter in command.params)
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from _helps(command.get_command(context, name), context)


def test_no_help_text_loses_words_to_markup() -> None:
    command = typer.main.get_command(app)
    helps = [text for text in _helps(command, command.make_context("spinal", [], resilient_parsing=True)) if text]
    assert len(helps) > 40
    assert [Text.from_markup(text).plain for text in helps] == helps


@pytest.mark.model
def test_trace_prints_a_document_when_piped_and_writes_what_is_asked(prompts: str, tmp_path: Path) -> None:
    out = [tmp_path / f"trace.{suffix}" for suffix in ("json", "html", "md")]
    options = [part for path in out for part in ("-o", str(path))]
    done = spinal("trace", SFT, "--prompts", prompts, "--json", *QUICK, *options)
    assert done.returncode == 0, done.stderr
    trace = Trace.model_validate_json(done.stdout)
    assert trace.model.n_layers == 24
    assert Trace.model_validate_json(out[0].read_text()) == trace
    assert out[1].read_text().startswith("<!doctype html>")
    assert out[2].read_text().startswith("# ")
    again = spinal("report", str(out[0]), "--json")
    assert Trace.model_validate_json(again.stdout) == trace


@pytest.mark.model
def test_compare_finds_a_model_equal_to_itself(prompts: str) -> None:
    done = spinal("compare", SFT, SFT, "--prompts", prompts, "--json", *QUICK, "--swap-prompts", "8")
    assert done.returncode == 0, done.stderr
    result = Comparison.model_validate_json(done.stdout)
    assert result.identical
    assert result.scores.delta_align == 0.0


@pytest.mark.model
@pytest.mark.parametrize(
    ("profile", "options", "expected"),
    [
        ("spinal/1", ("--stitch-prompts", "0"), {"name": "spinal/1", "sampling": "first", "stitch_prompts": 0}),
        ('{"name": "spinal/2", "greedy_prompts": 0, "swap_prompts": 4}', ("--swap-prompts", "8"),
         {"name": "spinal/2", "sampling": "stratified", "greedy_prompts": 0, "swap_prompts": 8}),
    ],
)  # fmt: skip
def test_a_profile_is_named_or_written_out_and_options_go_before_it(
    prompts: str, profile: str, options: tuple[str, ...], expected: dict[str, object]
) -> None:
    done = spinal("compare", SFT, SFT, "--prompts", prompts, "--json", *QUICK, "--profile", profile, *options)
    assert done.returncode == 0, done.stderr
    told = Comparison.model_validate_json(done.stdout).profile
    assert {knob: told[knob] for knob in expected} == expected
    assert told["max_tokens"] == 32


@pytest.mark.model
def test_controls_stand_beside_the_scores(prompts: str) -> None:
    done = spinal("compare", SFT, DPO, "--prompts", prompts, "--json", *QUICK, "--swap-prompts", "8", "--control", SFT,
                  "--noise-draws", "2")  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = Comparison.model_validate_json(done.stdout)
    assert len(result.nulls["matched_noise"].values) == 2
    # The reference as its own control moved by nothing, so the contrast is the candidate's own score.
    assert result.nulls["control"].contrast["delta_align"].value == pytest.approx(result.scores.delta_align)
    assert not any("no control" in warning for warning in result.warnings)


@pytest.mark.model
@pytest.mark.parametrize("kind", ["jsonl", "pairs"])
def test_every_format_of_prompts_is_read(kind: str, tmp_path: Path) -> None:
    lines = [{"prompt": f"question {n} about trees"} for n in range(20)]
    if kind == "pairs":
        lines = [
            {"chosen": f"\n\nHuman: why {n}?\n\nAssistant: so.", "rejected": f"\n\nHuman: why {n}?\n\nAssistant: no."}
            for n in range(20)
        ]
    path = tmp_path / "prompts.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    done = spinal("trace", SFT, "--prompts", str(path), "--json", *QUICK)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prompt_set"]["count"] == 20


REFUSED: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no such model": (("trace", "nowhere"), 2, "model_not_found"),
    "no such prompts": (("trace", SFT, "--prompts", "nowhere.txt"), 2, "prompt_file_not_found"),
    "bad extension": (("trace", SFT, "-o", "x.pdf"), 2, "usage"),
    "no folder": (("trace", SFT, "-o", "no/such/x.json"), 2, "usage"),
    "bad knob": (("trace", SFT, "--max-tokens", "1"), 2, "profile_invalid"),
    "bad lens": (("trace", SFT, "--lens-positions", "some"), 2, "profile_invalid"),
    "no such profile": (("trace", SFT, "--profile", "spinal/0"), 2, "profile_invalid"),
    "bad profile": (("compare", SFT, DPO, "--profile", "quick"), 2, "usage"),
    "profile of no kind": (("audit", "local:x", "--profile", "[1]"), 2, "usage"),
    "bad document": (("report", "pyproject.toml"), 2, "document_invalid"),
    "bad duration": (("audit", "local:x", "--wait", "soon"), 2, "usage"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mistakes_end_in_a_cause_and_a_next_step(name: str) -> None:
    arguments, code, problem = REFUSED[name]
    done = spinal(*arguments, "--json")
    assert done.returncode == code, done.stderr
    assert json.loads(done.stderr)["code"] == problem
    assert done.stdout == ""
    plain = spinal(*arguments).stderr.splitlines()
    assert plain[0].startswith("error: ")
    assert plain[-1].startswith(("error: ", "next: "))
    assert len(plain) <= 2
    assert not any("Traceback" in line for line in plain)


@pytest.mark.parametrize(("content", "code"), [(b"", "prompt_set_empty"), (b"\n \n", "prompt_set_empty"),
                                               (b"\xff\xfe\x00", "prompt_set_invalid")])  # fmt: skip
def test_prompt_files_without_prompts(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    done = spinal("trace", SFT, "--prompts", str(path), "--json")
    assert json.loads(done.stderr)["code"] == code
    assert done.returncode == 2


def test_a_mismatched_pair_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(DPO).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    e, t = vocabulary["e"], vocabulary["t"]
    vocabulary |= {"e": t, "t": e}
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    done = spinal("compare", SFT, str(other), "--json")
    assert json.loads(done.stderr)["code"] == "tokenizer_mismatch"
