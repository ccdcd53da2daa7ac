"""``spinal keys`` as an operator meets it."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from rich.text import Text

from service.database.unit_of_work import Ledger
from service.keys.store import authenticate
from service.settings import Settings
from spinal.cli.server import print_table
from spinal.errors import ExitCode
from tests.cli.test_cli import spinal

Keys = Callable[..., str]


@pytest.fixture
def keys(settings: Settings) -> Keys:
    """``keys("create", ...)``: what the command says on stdout."""
    environment = {"SPINAL_DATABASE_URL": settings.database_url.get_secret_value(), "SPINAL_KEY_PEPPER": "pepper"}

    def call(*arguments: str, code: int = 0) -> str:
        done = spinal("keys", *arguments, **environment)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    return call


def test_a_key_is_made_listed_rotated_and_shown_once(keys: Keys, ledger: Ledger) -> None:
    before = datetime.now(UTC)
    made = json.loads(
        keys("create", "--tenant", "acme", "--expires", "90d", "--description", "release [red]gate[/]", "--json")
    )
    assert made["key"].split("_")[1] == made["id"]
    lives = datetime.fromisoformat(made["expires_at"]) - before
    assert abs(lives - timedelta(days=90)) < timedelta(hours=1)
    after = keys("rotate", made["id"], "--overlap", "24h").strip()
    (newer, older) = json.loads(keys("list", "--json"))
    assert (newer["id"], older["id"]) == (after.split("_")[1], made["id"])
    assert (older["state"], older["replaced_by"], older["tenant"]) == ("live", newer["id"], "acme")
    assert abs(datetime.fromisoformat(older["expires_at"]) - before - timedelta(hours=24)) < timedelta(hours=1)
    assert newer["expires_at"] is not None
    shown = keys("list")
    for told in (newer["id"], older["id"], "acme", "read,write", "live", "never", "release [red]gate[/]"):
        assert told in shown
    for secret in (made["key"], after):
        assert secret.split("_", 2)[2] not in shown + json.dumps([newer, older])
        with ledger.read() as session:
            assert authenticate(session, secret, pepper="pepper") is not None
    assert json.loads(keys("list", "--tenant", "nobody", "--json")) == []


def test_a_list_keeps_one_line_for_each_key(keys: Keys) -> None:
    ids = [json.loads(keys("create", "--tenant", "a" * 30, "--json"))["id"] for _ in range(2)]
    lines = keys("list").splitlines()
    assert [sum(key_id in line for line in lines) for key_id in ids] == [1, 1]


def test_a_row_is_one_line_however_long_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "description"), [("0123456789abcdef", "w" * 200), ("z", "short")], whole=("id",))
    lines = [line for line in capsys.readouterr().out.splitlines() if "w" in line]
    assert [line.split() for line in lines] == [["0123456789abcdef", "w" * 200]]


def test_on_a_narrow_terminal_an_id_is_never_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    row = ("0123456789abcdef", "live", "a" * 30, "read,write", "2026-11-28 13:00Z", "never", "never", "for CI \x1b[2K")
    print_table(("id", "state", "tenant", "scopes", "created", "last used", "ends", "description"), [row],
                whole=("id", "state"))  # fmt: skip
    shown = Text.from_ansi(capsys.readouterr().out).plain
    assert "0123456789abcdef" in shown
    assert max(map(len, shown.splitlines())) <= 60
    # Folded, and nothing of it left out.
    assert shown.count("a") - shown.splitlines()[0].count("a") >= 30
    assert "…" not in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "--tenant", "t", "--expires", "soon"), "--expires 'soon' is neither a duration nor a date"),
        (("create", "--tenant", "t", "--expires", "2020-01-01"), "past"),
        (("create", "--tenant", "t", "--description", "two\nlines"), "--description"),
        (("create", "--tenant", ""), "--tenant"),
        (("rotate", "0123"), "no live key 0123"),
        (("rotate", "0123", "--overlap", "-1h"), "--overlap"),
        (("revoke", "0123"), "no live key 0123"),
    ],
)
def test_a_mistake_makes_no_key(keys: Keys, arguments: tuple[str, ...], says: str) -> None:
    said = keys(*arguments, code=ExitCode.USAGE)
    assert says in said.splitlines()[0]
    assert json.loads(keys("list", "--json")) == []
