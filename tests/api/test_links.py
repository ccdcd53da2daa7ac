"""Links to reports: what one opens, until when, for whom, and that nothing else opens."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.platform.links import LIFETIME, LONGEST, link_key, read_token, report_link, sign
from service.settings import Settings
from tests.cli.test_cli import spinal

NOW = datetime(2027, 1, 1, tzinfo=UTC)
PUBLIC = "https://audits.example/spinal"
KEY = b"k" * 32
Drain = Callable[[], int]
PLAIN = {
    "cache-control": "private, no-store", "referrer-policy": "no-referrer", "x-robots-tag": "noindex, nofollow",
    "x-content-type-options": "nosniff",
}  # fmt: skip


@pytest.fixture
def api_settings(api_settings: Settings) -> Settings:
    return api_settings.model_copy(
        update={"auth": "required", "key_pepper": SecretStr("p"), "public_url": PUBLIC, "log_level": "info"}
    )


@pytest.fixture
def api(api_settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(api_settings), raise_server_exceptions=False) as client:
        yield client


Asked = Callable[..., Any]


@pytest.fixture
def ask(api: TestClient, ledger: Ledger) -> Asked:
    """``ask(tenant, method, path, ...)`` with a key that may write."""
    with ledger.begin() as session:
        keys = {
            tenant: create_key(session, tenant=tenant, scopes=("read", "write"), pepper="p")
            for tenant in ("ours", "theirs")
        }

    def send(tenant: str, method: str, path: str, **options: Any) -> Any:
        return api.request(method, path, headers={"Authorization": f"Bearer {keys[tenant]}"}, **options)

    return send


@pytest.fixture
def audit(ask: Asked) -> str:
    body = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
    return str(ask("ours", "POST", "/v1/audits", json=body).json()["id"])


def opened(api: TestClient, url: str) -> Any:
    assert url.startswith(f"{PUBLIC}/r/")
    return api.get(url.removeprefix(PUBLIC))


def made(ask: Asked, path: str, **body: Any) -> str:
    answer = ask("ours", "POST", f"{path}/links", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["url"])


# the token


def test_a_token_says_what_was_signed() -> None:
    subject = uuid4()
    token = sign(KEY, "t", "series", subject, made_at=NOW, ends_at=NOW + LIFETIME)
    signed = read_token(KEY, token)
    assert signed is not None
    assert (signed.kind, signed.id, signed.made_at, signed.ends_at) == ("series", subject, NOW, NOW + LIFETIME)
    assert re.fullmatch(r"[A-Za-z0-9_-]{110}", token)


def test_no_altered_token_is_read() -> None:
    token = sign(KEY, "t", "audit", uuid4(), made_at=NOW, ends_at=NOW + LIFETIME)
    others = [token[:at] + other + token[at + 1 :] for at in range(len(token)) for other in "A_z" if token[at] != other]
    others += [token[:-1], token + "A", token + "=", "", token.replace(token[0], "é"), token[::-1], token * 2]
    assert [other for other in others if read_token(KEY, other) is not None] == []
    assert read_token(b"x" * 32, token) is None


def test_links_of_one_tenant_cannot_be_told_to_be_of_one() -> None:
    """Nothing of a tenant is in a token, not even something that two of its links share."""
    tags = set()
    for _ in range(2):
        signed = read_token(KEY, sign(KEY, "t", "audit", uuid4(), made_at=NOW, ends_at=NOW + LIFETIME))
        assert signed is not None
        tags.add(signed.tag)
    assert len(tags) == 2


def test_what_is_signed_for_something_else_is_no_link() -> None:
    settings = Settings.model_construct(key_pepper=SecretStr("p"))
    from service.platform.derived import derived_key

    assert link_key(settings) != derived_key("p", "session/1") != derived_key("p", "api-key/1")


def test_a_link_for_who_has_no_session_is_absolute_and_bounded() -> None:
    settings = Settings.model_construct(key_pepper=SecretStr("p"), public_url=PUBLIC)
    subject, key = uuid4(), link_key(settings)
    assert key is not None
    for lifetime, expected in ((None, LIFETIME), (3600.0, timedelta(hours=1)), (1e9, LONGEST)):
        link = report_link(settings, "t", subject, lifetime_s=lifetime, now=NOW)
        assert link is not None
        assert link.startswith(f"{PUBLIC}/r/")
        signed = read_token(key, link.rpartition("/")[2])
        assert signed is not None
        assert (signed.id, signed.ends_at - signed.made_at) == (subject, expected)
    assert report_link(Settings.model_construct(key_pepper=SecretStr("p"), public_url=None), "t", subject) is None
    bare = Settings.model_construct(key_pepper=SecretStr(""), public_url=PUBLIC)
    assert report_link(bare, "t", subject) == f"{PUBLIC}/ui/audits/{subject}/report"


# what it opens


def test_a_link_opens_one_report_without_a_key(api: TestClient, ask: Asked, audit: str, drain: Drain) -> None:
    url = made(ask, f"/v1/audits/{audit}")
    before = opened(api, url)
    assert (before.status_code, "not ended yet" in before.text) == (409, True)
    drain()
    answer = opened(api, url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == ask("ours", "GET", f"/v1/audits/{audit}/report?format=html").text
    for found in (answer, before):
        assert {name: found.headers[name] for name in PLAIN} == PLAIN
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "ratelimit" not in found.headers, "whoever has a link is told nothing of the tenant"
        assert "set-cookie" not in found.headers
    # For reading alone, and for this alone.
    assert api.post(url.removeprefix(PUBLIC)).status_code == 405
    token = url.rpartition("/")[2]
    for path in (f"/v1/audits/{audit}", f"/v1/audits/{audit}/report", f"/ui/audits/{audit}/report"):
        for headers in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"spinal_session={token}"}):
            assert api.get(path, headers=headers).status_code == 401


def test_a_link_to_a_series_opens_its_members_too(api: TestClient, ask: Asked, drain: Drain) -> None:
    body = {"reference": "local:sft", "members": [{"step": 10, "model": "local:dpo-short"}],
            "prompt_set": "hh-harmless-64"}  # fmt: skip
    series = ask("ours", "POST", "/v1/series", json=body).json()["id"]
    drain()
    report = opened(api, made(ask, f"/v1/series/{series}"))
    assert report.status_code == 200
    [member] = re.findall(r'href="(https://audits\.example/spinal/r/[A-Za-z0-9_-]+)"', report.text)
    assert opened(api, member).status_code == 200
    assert "/v1/audits/" not in report.text, "no link of it asks for a key"
    assert ask("ours", "POST", "/v1/links/revoke").status_code == 200
    assert opened(api, member).status_code == 410


def signed_for(settings: Settings, tenant: str, subject: str, made_at: datetime, ends_at: datetime) -> str:
    key = link_key(settings)
    assert key is not None
    return f"{PUBLIC}/r/{sign(key, tenant, 'audit', UUID(subject), made_at=made_at, ends_at=ends_at)}"


def test_what_opens_nothing_looks_the_same(
    api: TestClient, api_settings: Settings, ask: Asked, audit: str, drain: Drain
) -> None:
    drain()
    now = datetime.now(UTC)
    good = made(ask, f"/v1/audits/{audit}")
    cases = {
        "altered": good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
        "for another tenant": signed_for(api_settings, "theirs", audit, now, now + LIFETIME),
        "for an audit that is not there": signed_for(api_settings, "ours", str(uuid4()), now, now + LIFETIME),
        "from the future": signed_for(api_settings, "ours", audit, now + timedelta(hours=1), now + LIFETIME),
        "under another pepper": signed_for(
            api_settings.model_copy(update={"key_pepper": SecretStr("q")}), "ours", audit, now, now + LIFETIME
        ),
        "long": f"{PUBLIC}/r/{'A' * 5000}",
    }
    answers = {name: opened(api, url) for name, url in cases.items()}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(cases, 404)
    assert len({answer.text for answer in answers.values()}) == 1
    assert {name: answers["altered"].headers[name] for name in PLAIN} == PLAIN
    ended = opened(api, signed_for(api_settings, "ours", audit, now - LIFETIME, now - timedelta(seconds=1)))
    assert (ended.status_code, "has ended" in ended.text) == (410, True)
    assert opened(api, good).status_code == 200


def test_revoking_ends_all_links_of_the_tenant_and_of_no_other(
    api: TestClient, ask: Asked, audit: str, drain: Drain
) -> None:
    drain()
    url = made(ask, f"/v1/audits/{audit}")
    assert ask("theirs", "POST", "/v1/links/revoke").status_code == 200
    assert opened(api, url).status_code == 200
    assert ask("ours", "POST", "/v1/links/revoke").status_code == 200
    assert opened(api, url).status_code == 410
    assert opened(api, made(ask, f"/v1/audits/{audit}")).status_code == 200


def test_an_operator_ends_them_from_the_shell(
    api: TestClient, api_settings: Settings, ask: Asked, audit: str, drain: Drain
) -> None:
    drain()
    url = made(ask, f"/v1/audits/{audit}")
    database = api_settings.database_url.get_secret_value()
    done = spinal("links", "revoke", "--tenant", "ours", "--json", SPINAL_DATABASE_URL=database)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tenant"] == "ours"
    assert opened(api, url).status_code == 410


def test_a_deleted_tenant_has_no_links(api: TestClient, ask: Asked, audit: str, drain: Drain, ledger: Ledger) -> None:
    drain()
    url = made(ask, f"/v1/audits/{audit}")
    with ledger.begin() as session:
        # Deletion begins with this row; the audits go later.
        session.execute(text("INSERT INTO deleted_tenants (digest) VALUES (encode(sha256('ours'), 'hex'))"))
    assert opened(api, url).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [({"expires_in": 59}, 422), ({"expires_in": 90 * 86400 + 1}, 422), ({"expires_in": "7"}, 422),
     ({"expires_in": 3600.5}, 422), ({"forever": True}, 422), ({"expires_in": 60}, 201), ({}, 201)],
)  # fmt: skip
def test_how_long_a_link_may_open(ask: Asked, audit: str, body: dict[str, Any], status: int) -> None:
    answer = ask("ours", "POST", f"/v1/audits/{audit}/links", json=body)
    assert answer.status_code == status
    if status == 201:
        left = datetime.fromisoformat(answer.json()["expires_at"]) - datetime.now(UTC)
        assert abs(left.total_seconds() - body.get("expires_in", 7 * 86400)) < 30


def test_only_its_tenant_makes_a_link_and_only_with_a_key_that_writes(
    api: TestClient, ask: Asked, audit: str, ledger: Ledger
) -> None:
    assert ask("theirs", "POST", f"/v1/audits/{audit}/links", json={}).status_code == 404
    assert ask("ours", "POST", f"/v1/series/{audit}/links", json={}).status_code == 404
    with ledger.begin() as session:
        reads = create_key(session, tenant="ours", scopes=("read",), pepper="p")
    headers = {"Authorization": f"Bearer {reads}"}
    assert api.post(f"/v1/audits/{audit}/links", json={}, headers=headers).status_code == 403
    assert api.post("/v1/links/revoke", headers=headers).status_code == 403


def test_no_log_holds_what_opens_a_report(
    api: TestClient, ask: Asked, audit: str, drain: Drain, capfd: pytest.CaptureFixture[str]
) -> None:
    drain()
    url = made(ask, f"/v1/audits/{audit}")
    capfd.readouterr()
    path = url.removeprefix(PUBLIC)
    for tried in (path, path[:-1], f"{path}/", f"/{path}", f"/elsewhere{path}", f"/ui{path}", f"{path}/{path}"):
        api.get(f"http://testserver{tried}", follow_redirects=False)
    # Without what the client of this test says of itself.
    said = [line for line in "".join(capfd.readouterr()).splitlines() if "HTTP Request:" not in line]
    assert sum("/r/..." in line for line in said) == 7
    assert [line for line in said if url.rpartition("/")[2][:20] in line] == []


def test_a_token_that_nobody_made_costs_no_statement(api: TestClient) -> None:
    from sqlalchemy import event

    from tests.support.served import application

    said: list[str] = []
    engine = application(api).state.ledger.engine
    event.listen(engine, "before_cursor_execute", lambda *told: said.append(str(told[2])))
    assert opened(api, f"{PUBLIC}/r/{'A' * 110}").status_code == 404
    assert said == []


def test_who_has_a_link_uses_up_nothing_of_the_tenant(
    api_settings: Settings, ledger: Ledger, ask: Asked, audit: str, drain: Drain
) -> None:
    drain()
    url = made(ask, f"/v1/audits/{audit}").removeprefix(PUBLIC)
    with ledger.begin() as session:
        key = create_key(session, tenant="ours", scopes=("read",), pepper="p")
    few = api_settings.model_copy(update={"requests_per_minute": 3})
    with TestClient(create_app(few), raise_server_exceptions=False) as api:
        assert [api.get(url).status_code for _ in range(4)] == [200, 200, 200, 429]
        answer = api.get("/v1/audits", headers={"Authorization": f"Bearer {key}"})
        assert (answer.status_code, "r=2" in answer.headers["ratelimit"]) == (200, True)
