"""A step of GitHub Actions: its summary is appended to and stays small, annotations are few and the worst first."""

from pathlib import Path

import pytest

from spinal.cli.output import Shown
from spinal.cli.pipeline import (
    MARGIN,
    STEP_LIMIT,
    SUMMARY,
    check_pipeline,
    failures_told,
    pipeline_links,
    tell_failure,
    tell_github,
    web_address,
)
from spinal.errors import ServiceUnreachable, UsageError
from spinal.report.formats.format import Reader
from spinal.report.github import LARGEST, annotations, summary
from tests.support.fabricated import trace
from tests.support.verdicts import EVERY, LIMITED, PASSED, UNDECIDED, WAIVED, WARNED, verdict, with_verdict

GITHUB = Shown(github=True)


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a step, as GitHub names it: without an extension."""
    path = tmp_path / "step_summary_1f0c"
    monkeypatch.setenv(SUMMARY, str(path))
    return path


def test_the_summary_of_eighty_layers_is_small_and_holds_the_report() -> None:
    text = summary(with_verdict(verdict("fail", EVERY), blocks=80), Reader())
    assert len(text.encode()) < 200_000
    assert "| 80 |" in text, "the table of layers, to its end"
    assert text.endswith("</details>\n")


def test_a_summary_begins_with_verdict_reason_and_rules_the_worst_first() -> None:
    text = summary(with_verdict(verdict("fail", EVERY[::-1])), Reader(links={"report": "https://spinal.example/r"}))
    head = text.partition("<details>")[0]
    assert "**FAIL**: " in head
    rows = [line.split("|")[1:3] for line in head.splitlines() if line.startswith("|")][2:]
    assert [[cell.strip() for cell in row] for row in rows] == [
        [r"nll\_change", "fail"], ["refusals", "inconclusive"], ["length", "warn"],
        [r"code\_nll", "waived (fail)"], ["gap", "pass"],
    ]  # fmt: skip
    assert "3.87 nats/token" in head
    assert "[report](<https://spinal.example/r>)" in head


def test_what_is_too_long_is_cut_and_says_so() -> None:
    text = summary(with_verdict(verdict("fail", EVERY), blocks=80), Reader(), 8000)
    assert len(text.encode()) <= 8000
    assert "too long for a step summary" in text
    assert text.endswith("</details>\n")


def test_a_summary_is_appended_to(step: Path) -> None:
    step.write_text("# earlier step\n")
    tell_github(with_verdict(verdict("pass", (PASSED,))), GITHUB)
    tell_github(trace("sft", 4, 8), GITHUB)
    text = step.read_text()
    assert text.startswith("# earlier step\n\n## ")
    assert text.count("\n## local:sft → local:dpo") == 1
    assert "Depth trace of local:sft" in text


def test_a_full_summary_is_left_as_it_is(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step.write_text("x" * (STEP_LIMIT - MARGIN))
    tell_github(with_verdict(verdict("fail", EVERY)), GITHUB)
    tell_failure(GITHUB, {"detail": "gone"}, "sft → dpo")
    assert step.stat().st_size == STEP_LIMIT - MARGIN
    said = capsys.readouterr().err
    assert "step summary is full" in said
    assert "::error title=fail%3A nll_change::" in said


def test_a_summary_takes_what_room_is_left(step: Path) -> None:
    step.write_text("x" * (STEP_LIMIT - MARGIN - 5000))
    tell_github(with_verdict(verdict("fail", EVERY)), GITHUB)
    assert STEP_LIMIT - MARGIN - 2000 < step.stat().st_size < STEP_LIMIT
    assert LARGEST < 200_000


def test_annotations_are_the_worst_first_by_level() -> None:
    lines = annotations(with_verdict(verdict("fail", EVERY[::-1])), Reader())
    assert [line.split("::")[1] for line in lines] == [
        "error title=fail%3A nll_change", "error title=inconclusive%3A refusals", "warning title=warn%3A length",
        "notice title=fail%3A code_nll",
    ]  # fmt: skip
    assert "waived until 2030-01-31: known since the last release" in lines[3]
    strict = annotations(with_verdict(verdict("warn", (WARNED,))), Reader(fail_on="warn"))
    assert strict[0].startswith("::error ")


def test_beyond_ten_the_last_annotation_counts_the_rest() -> None:
    rules = tuple(LIMITED.model_copy(update={"rule": f"rule{number}"}) for number in range(25))
    lines = annotations(with_verdict(verdict("fail", (*[WARNED] * 3, UNDECIDED, WAIVED, *rules))), Reader())
    assert len(lines) == 10
    assert all("title=fail%3A" in line for line in lines[:9])
    assert "21 more findings" in lines[9]
    assert len(annotations(with_verdict(verdict("fail", rules[:10])), Reader())) == 10


def test_a_message_cannot_begin_another_command() -> None:
    sly = LIMITED.model_copy(update={"rule": "a,b:c%", "reasons": ("100% worse\n::stop-commands::x\r",)})
    (line,) = annotations(with_verdict(verdict("fail", (sly,))), Reader())
    assert line.startswith("::error title=fail%3A a%2Cb%3Ac%25::local:sft → local:dpo: 100%25 worse ::stop-commands::x")
    assert len(line.splitlines()) == 1


def test_without_the_variable_the_option_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(SUMMARY, raising=False)
    with pytest.raises(UsageError, match="GITHUB_STEP_SUMMARY is not set"):
        check_pipeline([], github=True)
    monkeypatch.setenv(SUMMARY, str(tmp_path / "nowhere" / "step"))
    with pytest.raises(UsageError, match="no file that can be written"):
        check_pipeline([], github=True)
    check_pipeline([], github=False)


@pytest.mark.parametrize("name", ["junit={}", "{}.md"])
def test_no_report_overwrites_the_summary_of_a_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / ("step" if name.startswith("junit") else "step.md")
    monkeypatch.setenv(SUMMARY, str(place))
    with pytest.raises(UsageError, match="would overwrite the step summary"):
        check_pipeline([Path(name.format(tmp_path / "step"))], github=True)


# errors


def test_a_failure_reaches_junit_and_the_step_and_nothing_else(
    step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [tmp_path / "x.xml", tmp_path / "x.sarif", tmp_path / "x.html"]
    outputs[2].write_text("of another day")
    shown = Shown(outputs=outputs, github=True)
    away = ServiceUnreachable("http://server did not answer", hint="is it running?")
    with pytest.raises(ServiceUnreachable), failures_told(shown, "sft → dpo"):
        raise away
    assert '<error type="service_unreachable" message="http://server did not answer">' in outputs[0].read_text()
    assert not outputs[1].exists()
    assert outputs[2].read_text() == "of another day"
    said = capsys.readouterr().err
    assert f"not written: {outputs[1]} (sarif cannot say that nothing was judged)" in said
    assert f"{outputs[2]} (html cannot say that nothing was judged; what lies there is older)" in said
    assert "::error title=not evaluated::sft → dpo: http://server did not answer" in said
    assert "## Not evaluated: sft → dpo" in step.read_text()


def test_a_crash_is_an_error_too(tmp_path: Path) -> None:
    shown = Shown(outputs=[tmp_path / "x.xml"])
    with pytest.raises(ZeroDivisionError), failures_told(shown, "sft → dpo"):
        _ = 1 / 0
    assert '<error type="internal_error"' in (tmp_path / "x.xml").read_text()


def test_a_report_that_cannot_be_written_hides_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown(outputs=[tmp_path / "gone" / "x.xml"])
    with pytest.raises(ServiceUnreachable), failures_told(shown, "sft → dpo"):
        raise ServiceUnreachable("away")
    assert "No such file" in capsys.readouterr().err


# links


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://spinal.example/a?b=c", "https://spinal.example/a?b=c"),
        ("http://user:secret@spinal.example:8000/a", "http://spinal.example:8000/a"),
        ("http://[::1]:8000/a", "http://[::1]:8000/a"),
        ("javascript:alert(1)", None),
        ("https://x/>evil", None),
        ("https://x/\n## evil", None),
        ("https://x:port/", None),
        ("", None),
    ],
)
def test_only_plain_addresses_stand_in_a_report_and_no_secret(given: str, expected: str | None) -> None:
    assert web_address(given) == expected


def test_a_job_of_gitlab_is_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI_JOB_URL", raising=False)
    assert pipeline_links() == {}
    monkeypatch.setenv("CI_JOB_URL", "https://gitlab.example/acme/chat/-/jobs/7")
    assert list(pipeline_links().values()) == ["https://gitlab.example/acme/chat/-/jobs/7/artifacts/browse"]
