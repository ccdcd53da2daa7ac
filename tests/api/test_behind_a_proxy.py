"""Below a path, behind a proxy: every address in an answer leads somewhere, and none is made of the Host header."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit
from xml.etree.ElementTree import fromstring

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings, strategies
from starlette.types import Scope

from service.app import bare_app, create_app
from service.database.unit_of_work import Ledger
from service.http.addresses import Reached, inner_path, reached_by
from service.settings import Settings
from spinal.cli.told import linked
from spinal.client import Client
from tests.support.hooks import put_webhook
from tests.support.prefix_proxy import Behind, below_a_path
from tests.support.served import at_work, served

PAIR = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
EVIL = "evil.example"
Drain = Callable[[], int]
WAYS = {
    "a trusted proxy strips and says so": (Behind(), {"trusted_proxies": "127.0.0.0/8,::1"}),
    "one leaves the prefix": (Behind(strips=False, tells=False), {"root_path": "/spinal/"}),
    "the public address is known": (Behind(tells=False), {"public_url": "https://audits.example/spinal"}),
    "one leaves the prefix and says so": (Behind(strips=False), {"trusted_proxies": "127.0.0.1"}),
}


def with_settings(base: Settings, **changed: Any) -> Settings:
    """Validated, as those of the environment are."""
    return Settings.model_validate({**base.model_dump(), **changed})


@pytest.fixture(params=WAYS)
def behind(request: pytest.FixtureRequest, api_settings: Settings) -> Iterator[tuple[str, str]]:
    """The way, and the address at which a proxy serves the API."""
    how, changed = WAYS[request.param]
    with served(with_settings(api_settings, **changed)) as inner, below_a_path(inner, how) as outer:
        yield request.param, outer


def links_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            if name == "links":
                yield from (link for link in each.values() if link is not None)
            else:
                yield from links_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from links_in(each)


def test_everything_can_be_followed(behind: tuple[str, str], drain: Drain) -> None:
    way, outer = behind
    with httpx.Client(timeout=60) as client, at_work(drain):
        made = client.post(f"{outer}/v1/audits", json=PAIR)
        address = urljoin(str(made.url), made.headers["Location"])
        audit = client.get(address, params={"wait": 30}).json()
        while audit["state"] not in ("SUCCEEDED", "FAILED"):
            audit = client.get(address, params={"wait": 30}).json()
        assert audit["state"] == "SUCCEEDED"
        gone = set()
        for link in links_in(audit):
            assert link.startswith(("/spinal/v1/", "/spinal/ui/")), link
            method = "POST" if link.endswith("/cancel") else "GET"
            answer = client.request(method, urljoin(address, link))
            assert answer.status_code == 200, (link, answer.text)
            gone.add(link)
        assert len(gone) >= 6
        # the next page, until there is none
        for candidate in ("local:sft", "local:dpo-short"):
            client.post(f"{outer}/v1/audits", json={"candidate": candidate, "prompt_set": "hh-harmless-64"})
        page = client.get(f"{outer}/v1/audits", params={"limit": 2, "candidate": "x"})
        assert page.status_code == 422, "a misspelt filter is refused below a path, too"
        page, seen = client.get(f"{outer}/v1/audits", params={"limit": 2}), 0
        while True:
            seen += len(page.json()["items"])
            if "next" not in page.links:
                break
            page = client.get(urljoin(str(page.url), page.links["next"]["url"]))
            assert page.status_code == 200
        assert seen == 3
        slash = client.get(f"{outer}/v1/audits/", params={"limit": 1})
        assert (slash.status_code, slash.headers["Location"]) == (307, "/spinal/v1/audits?limit=1")
        assert client.get(urljoin(str(slash.url), slash.headers["Location"])).status_code == 200
        contract = client.get(
            urljoin(f"{outer}/docs", re.findall('href="(openapi[^"]*)"', client.get(f"{outer}/docs").text)[0])
        ).json()
        base = contract["servers"][0]["url"]
        assert client.get(urljoin(f"{outer}/", urlsplit(base).path + "/livez")).status_code == 200
        told = fromstring(client.get(f"{address}/report?format=junit").text)
        link = next(one.attrib["value"] for one in told.iter("property") if one.attrib["name"] == "link.report")
    path = f"/spinal/ui/audits/{audit['id']}/report"
    known = "says so" in way or "public" in way
    assert link == ("https://audits.example" if known else "") + path
    assert base == ("https://audits.example" if known else "") + "/spinal"


def test_our_own_client_takes_an_address_with_a_path(api_settings: Settings, drain: Drain) -> None:
    with (
        served(with_settings(api_settings, root_path="/spinal")) as inner,
        below_a_path(inner, Behind()) as outer,
        at_work(drain),
        Client(outer) as client,
    ):
        audit = client.submit("local:dpo-short", "local:sft", prompt_set="hh-harmless-64")
        done = client.wait(audit["id"], timeout=60)
        assert done["state"] == "SUCCEEDED"
        assert client.report(audit["id"], "md").startswith("# ")
        assert httpx.get(linked(outer, done["links"]["report"])).status_code == 200
        assert client.ready()


def test_links_lead_on_from_services_that_do_not_name_their_path() -> None:
    server = "http://h:1/spinal/"
    assert linked(server, "/spinal/v1/audits/1") == linked(server, "/v1/audits/1") == "http://h:1/spinal/v1/audits/1"
    assert linked("http://h:1", "/v1/audits/1") == "http://h:1/v1/audits/1"


# nobody is believed who is not trusted


def asked_of(peer: str | None, **headers: str) -> Scope:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "scheme": "http", "client": None if peer is None else (peer, 1), "headers": named}


@pytest.mark.parametrize(
    ("peer", "headers", "found"),
    [
        ("10.0.0.7", {"x_forwarded_prefix": "/a", "x_forwarded_host": "h"}, Reached("/a", "http://h/a")),
        ("::ffff:10.0.0.7", {"x_forwarded_prefix": "/a"}, Reached("/a", None)),
        ("10.0.1.7", {"x_forwarded_prefix": "/a", "x_forwarded_host": "h"}, Reached("/own", None)),
        (None, {"x_forwarded_host": "h"}, Reached("/own", None)),
        ("testclient", {"x_forwarded_host": "h"}, Reached("/own", None)),
        ("10.0.0.7", {"x_forwarded_host": "h:1", "x_forwarded_proto": "https"}, Reached("/own", "https://h:1/own")),
        # the nearest proxy's word, which it adds to what came
        ("10.0.0.7", {"x_forwarded_host": "evil.example, h"}, Reached("/own", "http://h/own")),
        *(
            ("10.0.0.7", {"x_forwarded_prefix": bad, "x_forwarded_host": "h", "x_forwarded_proto": "javascript"},
             Reached("/own", None))
            for bad in ("//evil.example", "evil", "/a/../b", "/a?b", "/%2f", "/v1", "/a\\b", "/.")
        ),
        *(
            ("10.0.0.7", {"x_forwarded_host": bad}, Reached("/own", None))
            for bad in ("h/evil", "a@b", "h h", "h:x", "<h>", "-", "h\"", "[::1")
        ),
    ],
)  # fmt: skip
def test_forwarded_headers_count_from_trusted_peers_alone(
    peer: str | None, headers: dict[str, str], found: Reached
) -> None:
    chosen = Settings.model_validate({"root_path": "/own", "trusted_proxies": "10.0.0.0/24"})
    assert reached_by(asked_of(peer, **headers), chosen) == found


@given(strategies.text("/ab.v1:e", max_size=12), strategies.sampled_from(["", "/a", "/a/b"]))
@settings(max_examples=300, derandomize=True)
def test_the_inside_sees_one_form_of_a_path(rest: str, prefix: str) -> None:
    path = f"/{rest}"
    assert inner_path(f"{prefix}{path}", prefix) == path
    assert inner_path(f"http://{EVIL}{prefix}{path}", prefix) == path
    assert inner_path(path, prefix).startswith("/")


@pytest.mark.parametrize(
    "wrong",
    [
        {"root_path": "spinal"}, {"root_path": "/v1"}, {"root_path": "//x"}, {"root_path": "/a/../b"},
        {"root_path": "/docs/x"}, {"public_url": "audits.example"}, {"public_url": "ftp://h"},
        {"public_url": "https://u:p@h"}, {"public_url": "https://h/?a"}, {"public_url": "https://h:x/a"},
        {"public_url": "https://h/a", "root_path": "/b"}, {"trusted_proxies": "proxy"},
        {"trusted_proxies": "10.0.0.1/8"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  of pydantic, with the setting's name
        Settings.model_validate(wrong)


def operations() -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, found in bare_app().openapi()["paths"].items() for method in found]


def test_no_answer_names_the_host_header(api: TestClient, drain: Drain, ledger: Ledger, api_settings: Settings) -> None:
    """Whatever is asked, of whatever route, with an audit there and a page behind the first."""
    audit = api.post("/v1/audits", json=PAIR).json()
    api.post("/v1/audits", json={"candidate": "local:sft", "prompt_set": "hh-harmless-64"})
    series = api.post(
        "/v1/series", json={"reference": "local:sft", "members": [{"step": 1, "model": "local:dpo-short"}]}
    )
    assert series.status_code == 201, series.text
    drain()
    audit = api.get(audit["links"]["self"]).json()
    values = {
        "audit_id": audit["id"], "series_id": series.json()["id"], "digest": audit["candidate_trace"],
        "reference": audit["reference_trace"], "candidate": audit["candidate_trace"], "name": "hh-harmless-64",
        "version": "1", "alias": "a", "registry": "none",
    } | put_webhook(ledger, api_settings)  # fmt: skip
    formats = ("html", "junit", "gitlab-annotations", "md", "sarif", "json")
    paths = [path.format(**values) for _, path in operations()] + ["/", "/docs", "/openapi.json", "/redoc", "/metrics"]
    paths += [
        f"/v1/{noun}/report?format={name}"
        for noun in (f"audits/{audit['id']}", f"series/{values['series_id']}")
        for name in formats
    ]
    paths += ["/v1/audits?limit=1", f"//{EVIL}/v1/audits/", f"//{EVIL}//", "/v1/audits//", "/\\" + EVIL]
    checked = 0
    hosts = {"Host": EVIL, "X-Forwarded-Host": EVIL, "X-Forwarded-Proto": "https", "Forwarded": f"host={EVIL}",
             "X-Forwarded-Prefix": f"//{EVIL}", "X-Original-URL": f"//{EVIL}/"}  # fmt: skip
    for path in dict.fromkeys(paths):
        for asked, methods in ((path, ("GET", "POST")), (path.split("?")[0] + "/", ("GET", "OPTIONS"))):
            for method in methods:
                answer = api.request(
                    method, f"http://testserver{asked}", headers=hosts, json={}, follow_redirects=False
                )
                # The path that was asked for may be told back, in a problem and never as a link.
                told = [*answer.headers.values(), answer.text if EVIL not in asked else ""]
                assert not any(EVIL in text for text in told), (method, asked, told)
                location = answer.headers.get("Location", "/v1")
                assert re.match("/(?!/)", location), location
                checked += 1
    assert checked > 250


def test_a_target_with_a_host_is_taken_by_its_path(api_settings: Settings) -> None:
    """As bytes, since clients do not send such."""
    with served(api_settings) as address:
        port = urlsplit(address).port
        for target, status in ((f"http://{EVIL}/v1/audits", b"200"), (f"http://{EVIL}/v1/audits/", b"307"),
                               (f"//{EVIL}/v1/audits/", b"404"), (f"http://{EVIL}", b"200")):  # fmt: skip
            with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
                line.sendall(f"GET {target} HTTP/1.1\r\nHost: {EVIL}\r\nConnection: close\r\n\r\n".encode())
                said = b"".join(iter(lambda: line.recv(65536), b""))
            head, _, body = said.partition(b"\r\n\r\n")
            assert head.split(b" ")[1] == status, said
            assert EVIL.encode() not in head
            if status == b"307":
                assert b"location: /v1/audits\r\n" in head.lower() + b"\r\n"
            assert EVIL.encode() not in body or status == b"404"
            if target.endswith("/v1/audits"):
                assert json.loads(body)["items"] == []


def test_the_application_itself_redirects_nobody(api_settings: Settings) -> None:
    app = create_app(api_settings)
    assert not app.router.redirect_slashes
    assert app.docs_url is app.redoc_url is app.openapi_url is None
