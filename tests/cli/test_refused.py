"""What the command line says where a page answers, a package is missing or a device is not there: no file."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spinal.cli.output import write_atomically
from spinal.cli.signals import last_words_of, written
from spinal.errors import ExitCode
from spinal.extras import EXTRAS
from tests.cli.test_cli import SFT, spinal
from tests.support.places import ROOT
from tests.support.scripted_service import AUDIT_ID

KEY = "spk_0123_hushhush"


class LoginPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>Log in</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def login_page() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), LoginPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "arguments",
    [("audit", "local:x", "--reference", "local:y", "--wait", "1m", "-o", "r.html"), ("list",), ("list", "--all"),
     ("show", AUDIT_ID), ("wait", AUDIT_ID), ("cancel", AUDIT_ID), ("link", AUDIT_ID), ("models", "list"),
     ("models", "register", "a", "local:x"),
     ("prompts", "list"), ("prompts", "show", "x"), ("policies", "list"), ("policies", "show", "x/1"),
     ("webhooks", "list"), ("webhooks", "create", "https://x.example"), ("webhooks", "deliveries", AUDIT_ID)],
)  # fmt: skip
def test_a_login_page_is_refused_and_nothing_is_written(
    login_page: str, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = spinal(*arguments, "--server", login_page, "--json", SPINAL_API_KEY=KEY, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout) == (ExitCode.NOT_EVALUATED, "")
    assert json.loads(done.stderr)["code"] == "answer_not_understood"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", [f"{KEY}\x07{KEY}", f"{KEY}é", f"{KEY}\n{KEY}"])
def test_a_key_that_cannot_be_sent_is_never_shown(login_page: str, key: str) -> None:
    for more in ((), ("--json",)):
        done = spinal("list", "--server", login_page, *more, SPINAL_API_KEY=key)
        assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
        assert "hush" not in done.stderr
        assert len(done.stderr.splitlines()) == (1 if more else 2)


def blocked(package: str, folder: Path) -> dict[str, str]:
    """An environment in which a package is not installed."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("torch", ("trace", SFT, "--no-cache"), "local"),
        ("transformers", ("trace", SFT, "--no-cache"), "local"),
        ("sqlalchemy", ("doctor",), "service"),
        ("sqlalchemy", ("keys", "create", "--tenant", "t"), "service"),
        ("alembic", ("database", "upgrade"), "service"),
        ("pydantic_settings", ("retention",), "service"),
        ("psycopg", ("database", "current"), "service"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    package: str, arguments: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    environment = blocked(package, tmp_path) | {
        "SPINAL_DATABASE_URL": "postgresql+psycopg://x:y@127.0.0.1:1/z", "SPINAL_KEY_PEPPER": "p",
    }  # fmt: skip
    done = spinal(*arguments, **environment)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, ""), done.stderr
    cause, following = done.stderr.splitlines()
    assert cause.startswith("error: ")
    assert package in cause
    assert f"pip install '.[{extra}]'" in following
    if arguments[0] != "trace":
        assert json.loads(spinal(*arguments, "--json", **environment).stderr)["code"] == "usage"


def test_extras_name_what_the_project_names() -> None:
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) <= set(declared)

    def brings(extra: str) -> str:
        """Its requirements, and those of the extras that it names."""
        own = " ".join(declared[extra])
        named = [other for names in re.findall(r"spinal\[([a-z0-9,]+)\]", own) for other in names.split(",")]
        return " ".join([own, *map(brings, named)])

    for extra, packages in EXTRAS.items():
        brought = brings(extra).replace("-", "_")
        # Starlette and kombu come with FastAPI and Celery.
        assert [name for name in packages if name not in brought and name not in ("starlette", "kombu")] == []


@pytest.mark.model
@pytest.mark.parametrize(("device", "says"), [("nonsense", "no device that torch knows"), ("meta", "cannot be used")])
def test_a_device_that_is_not_there_is_one_line(device: str, says: str) -> None:
    done = spinal("trace", SFT, "--device", device)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    cause, following = done.stderr.splitlines()
    assert says in cause
    assert "--device" in following


@pytest.mark.model
def test_cuda_without_cuda_is_one_line() -> None:
    done = spinal("trace", SFT, "--device", "cuda", "--json", CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert json.loads(done.stderr)["detail"].startswith("no CUDA device")


def stopped(folder: Path, number: signal.Signals, meanwhile: str, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command that is sent a signal while it imports torch, which takes as long as the code
    ``meanwhile``, which may wait for its standard input: nothing comes there."""
    (folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Long:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            sys.stderr.write('long\\n'); sys.stderr.flush()\n"
        f"            {meanwhile}\n"
        "sys.meta_path.insert(0, Long())\n"
    )
    nothing, opened = os.pipe()
    running = subprocess.Popen(
        [sys.executable, "-m", "spinal.cli.start", *arguments], stdin=nothing, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    try:
        os.close(nothing)
        assert running.stderr is not None
        assert running.stderr.readline() == "long\n"
        running.send_signal(number)
        said = running.communicate(timeout=60)[1]
    finally:
        running.kill()
        os.close(opened)
    return running.returncode, said


LONG = "os.read(0, 1)"
"""An import that waits for what never comes."""
DEAF = (
    "exec('while True:\\n    try:\\n        os.read(0, 1)\\n        break\\n    except BaseException:\\n        pass')"
)
"""An import that looks at no signal."""


@pytest.mark.model
@pytest.mark.parametrize(("number", "word"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_a_measurement_that_is_stopped_says_so_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, word: str
) -> None:
    """Stopped in the midst of an import that looks at no signal, where the last words are said for it."""
    report = tmp_path / "out" / "report.json"
    report.parent.mkdir()
    code, said = stopped(tmp_path, number, DEAF, "trace", SFT, "-o", str(report))
    assert (code, said) == (128 + number, f"{word}; nothing was written\n")
    assert list(report.parent.iterdir()) == []


@pytest.mark.model
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_comparison_that_is_stopped_leaves_an_error_for_a_pipeline(
    number: signal.Signals, word: str, tmp_path: Path
) -> None:
    report = tmp_path / "junit.xml"
    code, said = stopped(tmp_path, number, LONG, "compare", SFT, SFT, "-o", str(report))
    assert code == 128 + number
    assert said == f"{word}; nothing was judged\nwrote {report} (an error, no verdict)\n"
    assert f'<error type="{word}"' in report.read_text()


def test_once_a_file_is_written_nobody_says_that_none_was(tmp_path: Path) -> None:
    """Stopped between two reports."""
    # Other tests of this process may have written files.
    written.clear()
    try:
        assert last_words_of(signal.SIGINT, "nothing was written") == "interrupted; nothing was written"
        write_atomically(tmp_path / "report.json", "{}")
        assert last_words_of(signal.SIGINT, "nothing was written") == "interrupted"
    finally:
        written.clear()


def test_an_output_that_nobody_reads_is_no_verdict(login_page: str) -> None:
    """Exit code 1 says that a check failed; a reader that has gone says nothing of the kind."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "spinal.cli.main", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == ExitCode.NOT_EVALUATED
    assert "Traceback" not in done.stderr
