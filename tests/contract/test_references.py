"""What code and documents point to is there: files, sections, commands, modules, tests."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

CODE = sorted(
    path
    for folder in ("spinal", "service", "worker", "devstack", "tests", "benchmarks", "tools", "migrations", "examples")
    for path in (ROOT / folder).rglob("*.py")
)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")])
HEADING = re.compile(r"^#+ (?:\d+\. )?(.+?)\s*$", flags=re.MULTILINE)
NUMBERED = re.compile(r"^## (\d+)\. ", flags=re.MULTILINE)
POINTER = re.compile(r"``((?:docs/)?[a-z_]+\.md)``(?:[\s\\]*\(\"([^\"]+)\"\))?([\s,]*sections? \d)?")
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"`([^`\n]+)`|^\s{0,4}((?:python3? |\.venv/bin/|spinal |pytest ).+)$", flags=re.MULTILINE)


@cache
def headings(path: Path) -> frozenset[str]:
    return frozenset(HEADING.findall(path.read_text(encoding="utf-8")))


def anchors(path: Path) -> set[str]:
    made = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _raw_headings(path))
    return set(made)


def _raw_headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.+?)\s*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_every_pointer_from_code_to_a_document_finds_its_section() -> None:
    wrong = []
    for path in CODE:
        for file, title, number in POINTER.findall(path.read_text(encoding="utf-8")):
            target = ROOT / file
            if not target.is_file():
                wrong.append(f"{path.relative_to(ROOT)}: no file {file}")
            elif number:
                wrong.append(f"{path.relative_to(ROOT)}: name the section of {file} by its title, numbers move")
            elif title and " ".join(title.split()) not in headings(target):
                wrong.append(f"{path.relative_to(ROOT)}: {file} has no section {title!r}")
    assert wrong == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_sections_in_documents_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{path.name} links to {link}"
    known = set(NUMBERED.findall(text))
    named = set(re.findall(r"\(sections? (\d+)", text))
    assert not known or named <= known, f"{path.name} names sections {sorted(named - known)}"


def _commands(path: Path) -> list[list[str]]:
    found = []
    for inline, block in COMMAND.findall(path.read_text(encoding="utf-8")):
        line = (inline or block).split("  #")[0].split(" -- ")[0].strip()
        try:
            words = shlex.split(line.replace("$", ""), comments=True)
        except ValueError:
            continue
        if len(words) > 1:
            found.append(words)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_documents_name_what_exists(path: Path) -> None:
    for words in _commands(path):
        program = words[0].removeprefix(".venv/bin/")
        if program in ("python", "python3") and words[1] == "-m":
            assert _module_exists(words[2]), " ".join(words)
        elif program in ("python", "python3") and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), " ".join(words)
            if words[1] == "dev.py" and len(words) > 2:
                assert words[2].split("|")[0] in _dev_commands(), " ".join(words)
        elif program == "pytest":
            pytest.fail(f"{path.name}: `{' '.join(words)}` works in no fresh clone; say python3 dev.py test ...")
        elif program == "spinal" and re.fullmatch(r"[a-z]+", words[1]):
            assert words[1] in _spinal_commands(), " ".join(words)
        for named in words[1:]:
            if named.startswith(("tests/", "examples/", "docs/")) and not re.search(r"[*{<]", named):
                assert (ROOT / named.split("::")[0]).exists(), " ".join(words)


def _module_exists(name: str) -> bool:
    base = ROOT / name.replace(".", "/")
    ours = base.with_suffix(".py").is_file() or (base / "__main__.py").is_file()
    return ours or name in ("uvicorn", "celery", "venv")


@cache
def _dev_commands() -> frozenset[str]:
    return frozenset(re.findall(r"add_parser\(\s*\"([a-z]+)\"", (ROOT / "dev.py").read_text(encoding="utf-8")))


@cache
def _spinal_commands() -> frozenset[str]:
    shown = subprocess.run(
        [sys.executable, "-m", "spinal.cli.main", "--help"], capture_output=True, text=True, check=True, cwd=ROOT,
        env={"COLUMNS": "200", "PATH": "", "TERM": "dumb"},
    ).stdout  # fmt: skip
    return frozenset(re.findall(r"^\W*([a-z]+) {2,}", shown, flags=re.MULTILINE))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_holds_what_a_merge_left(path: Path) -> None:
    assert not re.search(r"^(<{7} |={7}$|>{7} )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
