"""Groups of ``spinal`` for operators: one command, one table of exit codes, nothing imported that is not called."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.keys.store import authenticate
from service.settings import Settings
from spinal.cli.operators import GROUPS, OPERATORS
from spinal.errors import ExitCode
from tests.cli.test_cli import DPO, SFT, spinal
from tests.support.waiting import until

AWAY = {"SPINAL_DATABASE_URL": "postgresql+psycopg://x:y@127.0.0.1:1/z", "SPINAL_KEY_PEPPER": "pepper"}
COMMANDS = (
    ("doctor",),
    ("retention", "--keys-days", "7"),
    ("keys", "create", "--tenant", "t"),
    ("keys", "list"),
    ("keys", "rotate", "0123"),
    ("keys", "revoke", "0123"),
    ("database", "upgrade", "--wait", "0"),
    ("database", "downgrade", "0001"),
    ("database", "current"),
)


def test_a_database_that_is_away_is_the_same_failure_everywhere() -> None:
    said = set()
    for command in COMMANDS:
        done = spinal(*command, **AWAY)
        assert (done.returncode, done.stdout) == (ExitCode.NOT_EVALUATED, ""), command
        said.add(done.stderr)
    (only,) = said
    cause, following = only.splitlines()
    assert cause.startswith("error: the database did not answer: ")
    assert "refused" in cause
    assert following == "next: check SPINAL_DATABASE_URL"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPINAL_DATABASE_URL", "nonsense"),
        ("SPINAL_DATABASE_URL", "postgresql://x:secret@host:port/z"),
        ("SPINAL_DATABASE_URL", "mysql://x:secret@host/z"),
        ("SPINAL_LEASE_S", "soon"),
    ],
)
def test_a_setting_that_is_not_understood_is_named_and_its_value_is_not(name: str, value: str) -> None:
    # Every other command: test_wrong_settings.py.
    done = spinal("database", "current", **{**AWAY, name: value})
    assert done.returncode == ExitCode.USAGE
    cause, following = done.stderr.splitlines()
    assert cause.startswith(f"error: {name}")
    assert following.startswith("next: ")
    assert value not in done.stderr
    assert "secret" not in done.stderr


def test_a_database_that_is_away_is_a_problem_object_where_json_is_asked_for() -> None:
    problem = json.loads(spinal("doctor", "--json", **AWAY).stderr)
    assert problem["code"] == "database_unavailable"


@pytest.mark.parametrize("name", [*GROUPS, *OPERATORS])
def test_each_group_has_help_and_refuses_what_it_does_not_know(name: str) -> None:
    shown = spinal(name, "--help")
    assert shown.returncode == 0
    assert f"spinal {name}" in shown.stdout
    refused = spinal(name, "--no-such-option")
    assert refused.returncode == ExitCode.USAGE
    assert refused.stderr.splitlines() == ["error: No such option: --no-such-option", f"next: spinal {name} --help"]
    problem = json.loads(spinal(name, "--no-such-option", "--json").stderr)
    assert (problem["code"], problem["hint"]) == ("usage", f"spinal {name} --help")


def test_a_key_opens_the_service_until_it_is_revoked(settings: Settings, ledger: Ledger) -> None:
    environment = {
        "SPINAL_DATABASE_URL": settings.database_url.get_secret_value(),
        "SPINAL_KEY_PEPPER": "pepper",
    }
    key = spinal("keys", "create", "--tenant", "t", "--scope", "read", **environment).stdout.strip()

    def opens() -> bool:
        with ledger.read() as session:
            return authenticate(session, key, pepper="pepper") is not None

    assert opens()
    key_id = key.split("_")[1]
    assert spinal("keys", "revoke", key_id, **environment).returncode == 0
    assert not opens()
    again = spinal("keys", "revoke", key_id, **environment)
    assert (again.returncode, again.stderr.splitlines()[0]) == (ExitCode.USAGE, f"error: no live key {key_id}")
    wrong = spinal("keys", "create", "--tenant", "t", "--scope", "root", **environment)
    assert wrong.returncode == ExitCode.USAGE
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM api_keys")).scalar_one() == 1


def test_no_key_is_made_without_a_pepper(settings: Settings) -> None:
    done = spinal("keys", "create", "--tenant", "t", SPINAL_DATABASE_URL=settings.database_url.get_secret_value())
    assert done.returncode == ExitCode.USAGE
    assert "SPINAL_KEY_PEPPER" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        ("audit", "--help"),
        ("prompts", "--help"),
        ("policies", "--help"),
        ("doctor", "--help"),
    ],
)
def test_what_does_not_compute_imports_nothing_that_does(arguments: tuple[str, ...]) -> None:
    heavy = {"torch", "transformers", "numpy"} | (set() if arguments[0] == "doctor" else {"sqlalchemy", "service"})
    watched = (
        "import sys\n"
        "from spinal.cli.main import main\n"
        f"sys.argv = ['spinal', *{list(arguments)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"assert not set(sys.modules) & {heavy!r}, set(sys.modules) & {heavy!r}\n"
    )
    done = subprocess.run([sys.executable, "-c", watched], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("missing", "says"), [("service", "in the service's image"), ("sqlalchemy", "pip install '.[service]'")]
)
def test_without_the_service_one_line_says_where_it_is(missing: str, says: str) -> None:
    blocked = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from spinal.cli.main import main\n"
        "sys.argv = ['spinal', 'doctor']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.USAGE
    cause, following = done.stderr.splitlines()
    assert cause.startswith("error: spinal doctor ")
    assert says in following


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        ("RuntimeError('two\\nlines')", "unexpected RuntimeError: two lines"),
        ("EOFError('cut')", "unexpected EOFError: cut"),
    ],
)
@pytest.mark.parametrize("writable", [True, False], ids=["", "nowhere to write"])
def test_what_nobody_expected_is_one_line_or_a_problem_object_and_its_traceback_is_kept(
    raised: str, says: str, writable: bool, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    if not writable:
        cache.write_text("no folder")
    broken = (
        "import sys\n"
        "import spinal.documents.schemas as schemas\n"
        "def load(path): raise " + raised + "\n"
        "schemas.load = load\n"
        "from spinal.cli.main import main\n"
        "sys.argv = ['spinal', 'report', 'x.json', *sys.argv[1:]]\n"
        "main()\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", broken, *more], capture_output=True, text=True, check=False,
            env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        )
        for more in ((), ("--json",))
    ]  # fmt: skip
    assert [done.returncode for done in runs] == [ExitCode.NOT_EVALUATED] * 2
    # The parser puts an empty line before what becomes of EOFError.
    kept = cache / "spinal" / "traceback.txt"
    report = "report it with the command line" + (f" and {kept}" if writable else "")
    assert runs[0].stderr.strip().splitlines() == [f"error: {says}", f"next: {report}"]
    problem = json.loads(runs[1].stderr)
    assert (problem["code"], problem["detail"], problem["hint"]) == ("internal_error", says, report)
    if writable:
        assert "in load" in kept.read_text(encoding="utf-8")


def test_ctrl_c_promises_nothing_of_what_lies_elsewhere() -> None:
    """A database that takes the connection and never answers: the command waits, and may have had an effect."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://x:y@127.0.0.1:{silent.getsockname()[1]}/z"
        running = subprocess.Popen(
            [sys.executable, "-m", "spinal.cli.main", "database", "current"], stderr=subprocess.PIPE, text=True,
            env=os.environ | {"SPINAL_DATABASE_URL": url}, start_new_session=True,
        )  # fmt: skip
        silent.settimeout(60.0)
        connection, _ = silent.accept()
        with connection:
            os.kill(running.pid, signal.SIGINT)
            said = running.communicate(timeout=60)[1]
    assert (running.returncode, said) == (130, "interrupted\n")


def test_ctrl_c_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    """At a terminal, once the bar says that blocks are walked: an interrupt before that may meet a library's import."""
    report = tmp_path / "report.json"
    ours, theirs = os.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "spinal.cli.main", "compare", SFT, DPO, "-o", str(report)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(theirs)
    said = Terminal(ours)
    try:
        until(lambda: ": walk" in said.text(), "a layer to be measured", timeout=120.0)
        os.kill(running.pid, signal.SIGINT)
        # CPython ends by the signal itself when the interrupt met an ``exec`` of a library: 130 in a shell either way.
        assert running.wait(60) in (130, -signal.SIGINT)
        assert said.text().splitlines()[-1].endswith("interrupted; nothing was written")
    finally:
        running.kill()
        running.wait()
        os.close(ours)
    assert not report.exists()


class Terminal:
    """What was written to a terminal so far; ``fd`` is its near end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.read = b""

    def text(self) -> str:
        while select.select([self.fd], [], [], 0.0)[0]:
            try:
                more = os.read(self.fd, 65536)
            except OSError:  # Linux says EIO when the far end is closed
                break
            if not more:
                break
            self.read += more
        return self.read.decode(errors="replace")
