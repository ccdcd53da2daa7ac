"""Pages for people: who is shown them, what a form has to carry, and what stands in them."""

import re
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.keys.store import create_key, revoke_key
from service.pages import sessions
from service.pages.sessions import LASTS_S, PURPOSE
from service.pages.visitors import led_to
from service.platform.derived import key_for
from service.settings import Settings

Drain = Callable[[], int]
Browse = Callable[..., TestClient]
HOSTILE = '</title><script>document.title="ran"</script><img src=x onerror=1>\'"\u202e{{ 7*7 }}'


@pytest.fixture
def api_settings(api_settings: Settings) -> Settings:
    return api_settings.model_copy(update={"auth": "required", "key_pepper": SecretStr("p")})


@pytest.fixture
def browse(api_settings: Settings) -> Iterator[Browse]:
    """``browse()``: a browser of its own, which keeps cookies."""
    with TestClient(create_app(api_settings), raise_server_exceptions=False) as first:

        def browser(**options: Any) -> TestClient:
            made = TestClient(first.app, raise_server_exceptions=False, **options)
            made.portal = first.portal
            return made

        yield browser


def put_key(ledger: Ledger, tenant: str = "ours", scopes: tuple[str, ...] = ("read", "write")) -> str:
    with ledger.begin() as session:
        return create_key(session, tenant=tenant, scopes=scopes, pepper="p")


def token_in(page: str) -> str:
    found = re.search(r'name="form" value="([0-9a-f]{64})"', page)
    assert found is not None, page
    return found[1]


def sign_in(browser: TestClient, key: str, following: str = "/") -> Any:
    form = {"form": token_in(browser.get("/").text), "key": key, "next": following}
    return browser.post("/ui/sign-in", data=form, follow_redirects=False)


def submitted(browser: TestClient, key: str, **members: Any) -> str:
    body = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"} | members
    answer = browser.post("/v1/audits", json=body, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code in (201, 202), answer.text
    return str(answer.json()["id"])


def private(audit: str) -> list[str]:
    return [
        f"/ui/audits/{audit}", f"/ui/audits/{audit}/report", "/ui/series", "/ui/compare",
        f"/ui/compare?left={audit}&right={audit}",
    ]  # fmt: skip


def test_who_is_not_signed_in_is_asked_to_and_led_back(browse: Browse, ledger: Ledger) -> None:
    browser, key = browse(), put_key(ledger)
    audit = submitted(browser, key)
    assert (browser.get("/").status_code, "Sign in" in browser.get("/").text) == (200, True)
    for path in private(audit):
        for headers in ({}, {"Authorization": f"Bearer {key}"}, {"Cookie": f"spinal_session={key}"}):
            answer = browser.get(path, headers=headers)
            assert (answer.status_code, "Sign in" in answer.text, audit in unescape(answer.text)) in (
                (401, True, False), (401, True, audit in path),
            )  # fmt: skip
    wanted = f"/ui/compare?left={audit}&right={audit}"
    page = browser.get(wanted).text
    following = re.search(r'name="next" value="([^"]*)"', page)
    assert following is not None
    led = sign_in(browser, key, unescape(following[1]))
    assert (led.status_code, led.headers["location"]) == (303, wanted)


def test_a_session_is_a_cookie_out_of_reach(browse: Browse, ledger: Ledger) -> None:
    browser, key = browse(), put_key(ledger)
    answer = sign_in(browser, key)
    cookie = answer.headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={LASTS_S}"):
        assert part in cookie
    assert "Secure" not in cookie, "over http a browser would drop it"
    assert key.split("_", 2)[2] not in cookie
    assert "Secure" in sign_in(browse(base_url="https://testserver"), key).headers["set-cookie"]
    page = browser.get("/")
    assert (page.status_code, '<div class="who">ours' in page.text) == (200, True)
    assert page.headers["cache-control"] == "private, no-store"
    # It opens pages, not the API: no form of another site can have a browser ask that.
    assert browser.get("/v1/audits").status_code == 401


def test_a_key_in_an_address_opens_nothing(browse: Browse, ledger: Ledger) -> None:
    key = put_key(ledger)
    for path in (f"/?key={key}", f"/ui/series?key={key}", f"/ui/sign-in?key={key}", f"/?api_key={key}"):
        answer = browse().get(path)
        assert answer.status_code in (401, 405, 422)
        assert key not in answer.text
    assert browse().get(f"/r/{key}").status_code == 404


def test_what_ends_a_session(browse: Browse, ledger: Ledger, monkeypatch: Any) -> None:
    def signed_in(tenant: str = "ours") -> tuple[TestClient, str]:
        browser, key = browse(), put_key(ledger, tenant)
        assert sign_in(browser, key).status_code == 303
        assert browser.get("/ui/series").status_code == 200
        return browser, key

    browser, key = signed_in()
    with ledger.begin() as session:
        revoke_key(session, key.split("_")[1])
    assert browser.get("/ui/series").status_code == 401
    for edit in ("tenant = 'theirs'", """scopes = '["read", "admin"]'"""):
        browser, key = signed_in()
        with ledger.begin() as session:
            session.execute(text(f"UPDATE api_keys SET {edit} WHERE id = :id"), {"id": key.split("_")[1]})
        assert browser.get("/ui/series").status_code == 401, edit
    browser, _ = signed_in()
    token = token_in(browser.get("/").text)
    assert browser.post("/ui/sign-out", data={"form": token}, follow_redirects=False).status_code == 303
    assert browser.get("/ui/series").status_code == 401
    browser, _ = signed_in()
    later = sessions.time.time() + LASTS_S + 1
    monkeypatch.setattr(sessions.time, "time", lambda: later)
    assert browser.get("/ui/series").status_code == 401


def test_no_altered_cookie_is_a_session(browse: Browse, ledger: Ledger) -> None:
    browser = browse()
    mine, theirs = put_key(ledger), put_key(ledger, "theirs", ("read", "admin"))
    assert sign_in(browser, mine).status_code == 303
    value = browser.cookies["spinal_session"]
    key_id, ends, signature = value.split(".")
    for altered in (
        f"{theirs.split('_')[1]}.{ends}.{signature}", f"{key_id}.{int(ends) + 1}.{signature}",
        f"{key_id}.{ends}.{signature[:-1]}0", f"{key_id}.{ends}.{'0' * 64}", f"{key_id}.{ends}.", "", "..", value + "0",
        f"{key_id}.{'9' * 13}.{signature}", "é.1." + "0" * 64,
    ):  # fmt: skip
        if altered == value:
            continue
        answer = browse().get("/ui/series", headers={b"Cookie": f"spinal_session={altered}".encode()})
        assert answer.status_code == 401, altered


def test_another_tenants_pages_are_not_there(browse: Browse, ledger: Ledger, drain: Drain) -> None:
    browser = browse()
    theirs = put_key(ledger, "theirs")
    audit = submitted(browser, theirs, labels={"of": "theirs"})
    series = browser.post(
        "/v1/series", json={"reference": "local:sft", "description": "their run"},
        headers={"Authorization": f"Bearer {theirs}"},
    ).json()["id"]  # fmt: skip
    drain()
    assert sign_in(browser, put_key(ledger)).status_code == 303
    home = browser.get("/").text
    form = token_in(home)
    mine, nobody = [audit, series], [str(uuid4()), str(uuid4())]
    for path in (
        "/ui/audits/{0}", "/ui/audits/{0}?wait=1", "/ui/audits/{0}/report", "/ui/series/{1}", "/ui/series/{1}/report",
        "/ui/compare?left={0}&right={0}",
    ):  # fmt: skip
        found = [browser.get(path.format(*ids)) for ids in (mine, nobody)]
        assert [answer.status_code for answer in found] == [404, 404], path
        assert found[0].text.replace(audit, "").replace(series, "") == found[1].text.replace(nobody[0], "").replace(
            nobody[1], ""
        )
    for path in ("/ui/audits/{0}/link", "/ui/series/{1}/link"):
        answer = browser.post(path.format(*mine), data={"form": form, "days": "7"})
        assert answer.status_code == 404
    for path in ("/", f"/?series={series}", "/ui/series", f"/ui/compare?left={audit}"):
        page = browser.get(path).text
        assert "theirs" not in page
        assert "their run" not in page
        assert f"/ui/audits/{audit}" not in page


def test_a_form_of_another_page_does_nothing(browse: Browse, ledger: Ledger, api_settings: Settings) -> None:
    browser, key = browse(), put_key(ledger)
    audit = submitted(browser, key)
    sign_in(browser, key)
    token = token_in(browser.get("/").text)
    other = browse()
    sign_in(other, put_key(ledger))
    path = f"/ui/audits/{audit}/link"
    refused = [
        browser.post(path, data={"days": "7"}),
        browser.post(path, data={"days": "7", "form": "0" * 64}),
        browser.post(path, data={"days": "7", "form": token_in(other.get("/").text)}),
        browser.post(path, data={"days": "7", "form": token}, headers={"Sec-Fetch-Site": "cross-site"}),
        browser.post(path, data={"days": "7", "form": token}, headers={"Sec-Fetch-Site": "same-site"}),
        browse().post("/ui/sign-in", data={"key": key, "form": token}),
        browser.post("/ui/sign-out", data={"form": "x"}),
    ]
    assert [answer.status_code for answer in refused] == [403] * len(refused)
    assert browser.post(path, json={"days": "7", "form": token}).status_code == 415
    assert browser.post(path, data={"days": "7", "form": token, "x": "y" * 10_000}).status_code == 413
    assert browser.post(path, data={"days": "1000", "form": token}).status_code == 422
    assert browser.get("/ui/series").status_code == 200, "and the session goes on"
    # The key of sessions signs what forms carry: neither is the other.
    assert key_for(api_settings, PURPOSE) is not None


def test_a_link_is_made_on_a_page_by_a_key_that_writes(browse: Browse, ledger: Ledger, drain: Drain) -> None:
    browser, key = browse(), put_key(ledger)
    audit = submitted(browser, key)
    drain()
    sign_in(browser, key)
    page = browser.get(f"/ui/audits/{audit}").text
    made = browser.post(f"/ui/audits/{audit}/link", data={"form": token_in(page), "days": "1"})
    assert made.status_code == 200
    link = re.search(r'<p class="url"><a href="(/r/[A-Za-z0-9_-]+)">', made.text)
    assert link is not None
    assert browse().get(link[1]).status_code == 200
    reader = browse()
    sign_in(reader, put_key(ledger, scopes=("read",)))
    page = reader.get(f"/ui/audits/{audit}").text
    assert "Make a link" not in page
    answer = reader.post(f"/ui/audits/{audit}/link", data={"form": token_in(page), "days": "1"})
    assert (answer.status_code, "lacks the scope" in answer.text) == (403, True)


@pytest.mark.parametrize(
    "given",
    ["//evil.example", "https://evil.example", "/\\evil.example", "/ui//../x\n", "/ui/x y", "/v1/audits",
     "javascript:x", "/r/x", "", "/ui/" + "x" * 3000, "/ui/audits@evil", "/ui/a\r\nSet-Cookie: x=y"],
)  # fmt: skip
def test_nobody_is_led_to_another_place(given: str) -> None:
    assert led_to(given) == "/"


def test_somebody_is_led_back_to_a_page() -> None:
    for path in (
        "/",
        "/?state=FAILED&model=local%3Aa",
        "/ui/series",
        f"/ui/audits/{uuid4()}",
        "/ui/compare?left=x&right=y",
    ):
        assert led_to(path) == path


def test_names_from_outside_are_text(browse: Browse, ledger: Ledger, drain: Drain) -> None:
    browser, key = browse(), put_key(ledger, tenant=HOSTILE)
    labels = {"name": HOSTILE.replace("\u202e", ""), "ansi": "a[31mb"}
    audit = submitted(browser, key, labels=labels)
    drain()
    headers = {"Authorization": f"Bearer {key}"}
    series = browser.post(
        "/v1/series", json={"reference": "local:sft", "description": labels["name"], "labels": {"run": labels["name"]}},
        headers=headers,
    ).json()["id"]  # fmt: skip
    sign_in(browser, key)
    pages = (
        "/", f"/ui/audits/{audit}", "/ui/series", f"/ui/series/{series}", f"/?model={HOSTILE}", "/ui/compare?left=<b>",
        f"/ui/compare?left={audit}&right={audit}", "/ui/<script>alert(1)</script>",
    )  # fmt: skip
    for path in pages:
        page = browser.get(path, headers={"Accept": "text/html"})
        assert page.headers["content-type"] == "text/html; charset=utf-8", path
        assert "<script>document" not in page.text
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        assert "\u202e" not in page.text, "what turns text around is written out"
        policy = page.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "base-uri 'none'" in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == "private, no-store"
        assert page.headers["referrer-policy"] == "no-referrer"


def test_unknown_paths_are_told_to_programs_and_to_people(browse: Browse) -> None:
    browser = browse()
    program = browser.get("/nowhere")
    assert (program.status_code, program.json()["code"]) == (404, "route_not_found")
    person = browser.get("/nowhere", headers={"Accept": "text/html,application/xhtml+xml"})
    assert (person.status_code, person.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert browser.get("/v1/nowhere", headers={"Accept": "text/html"}).json()["code"] == "route_not_found"
    assert browser.get("/ui/audits/not-an-id").status_code in (401, 404)


def test_sign_in_refuses_and_says_why(browse: Browse, ledger: Ledger) -> None:
    browser = browse()
    for key, status in ((put_key(ledger) + "x", 401), ("", 401), (put_key(ledger, scopes=("write",)), 403)):
        answer = sign_in(browser, key)
        assert answer.status_code == status
        assert not key or key not in answer.text
        assert "spinal_session" not in answer.headers.get("set-cookie", "")


def test_below_a_path_every_address_has_it(api_settings: Settings, ledger: Ledger, drain: Drain) -> None:
    below = api_settings.model_copy(update={"public_url": "https://audits.example/spinal", "root_path": "/spinal"})
    key = put_key(ledger)
    with TestClient(
        create_app(below), base_url="https://audits.example/spinal", raise_server_exceptions=False
    ) as browser:
        audit = submitted(browser, key)
        drain()
        answer = sign_in(browser, key, f"/ui/audits/{audit}")
        assert answer.headers["location"] == f"/spinal/ui/audits/{audit}"
        assert "Path=/spinal/" in answer.headers["set-cookie"]
        assert "Secure" in answer.headers["set-cookie"]
        for path in ("", f"ui/audits/{audit}", "ui/series", "ui/compare", f"ui/compare?left={audit}&right={audit}"):
            page = browser.get(f"/{path}")
            assert page.status_code == 200
            leads = re.findall(r'(?:href|action)="([^"#]+)"', page.text)
            wrong = [
                one for one in leads if not one.startswith(("/spinal/", "data:", "https://audits.example/spinal/"))
            ]
            assert wrong == [], path


def test_without_keys_nobody_signs_in(api_settings: Settings, ledger: Ledger) -> None:
    bare = api_settings.model_copy(update={"auth": "disabled", "key_pepper": SecretStr("")})
    with TestClient(create_app(bare), raise_server_exceptions=False) as browser:
        page = browser.get("/")
        assert (page.status_code, "Sign in" in page.text, "Sign out" in page.text) == (200, False, False)
        audit = browser.post("/v1/audits", json={"candidate": "local:sft", "prompt_set": "hh-harmless-64"}).json()["id"]
        answer = browser.post(f"/v1/audits/{audit}/links", json={})
        assert (answer.status_code, answer.json()["code"]) == (409, "links_unavailable")
        assert "Make a link" not in browser.get(f"/ui/audits/{audit}").text
