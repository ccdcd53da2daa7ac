"""Processes of the former release and of this one on one migrated database: a fleet in the middle of being replaced."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.processes import HOST, free_port, wait_until
from service.operations import migrate
from service.settings import Settings
from spinal.documents.editions import PRESENT
from spinal.documents.later import OF_COMPARISONS, OF_TRACES, take_out
from tests.support.fleet import Fleet
from tests.support.former import APP, ENGINE, HEAD, environment_of
from tests.support.waiting import until

RELEASES = ("former", "present")


@pytest.fixture
def start(fleet: Fleet, former_code: Path) -> Iterator[Callable[..., Any]]:
    """Starts a part of either release: ``api`` gives an HTTP client of it."""
    clients: list[httpx.Client] = []

    releases = {
        "present": fleet,
        "former": replace(
            fleet,
            code=former_code,
            environment=environment_of(former_code, fleet.environment) | {"SPINAL_ENGINE": ENGINE},
        ),
    }

    def begin(release: str, part: str) -> Any:
        name, of = f"{release}-{part}", releases[release]
        if part == "dispatcher":
            return of.start_dispatcher(name)
        if part == "worker":
            return of.start_worker(name)
        port = free_port()
        app = APP if release == "former" else "service.app:create_app"
        api = ("-m", "uvicorn", app, "--factory", "--no-access-log", "--host", HOST, "--port", str(port))
        child = of.start(name, *api, SPINAL_AUTH="disabled")
        client = httpx.Client(base_url=f"http://{HOST}:{port}", timeout=30.0)
        clients.append(client)
        wait_until(lambda: _answers(client), child, timeout=60.0)
        return client

    yield begin
    for client in clients:
        client.close()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def body(seed: int, **changes: Any) -> dict[str, Any]:
    return {
        "candidate": "local:dpo-short",
        "reference": "local:sft",
        "prompt_set": "hh-harmless-64",
        "profile": {"seed": seed, "bootstrap_draws": 200},
    } | changes


def submitted(api: httpx.Client, seed: int, **changes: Any) -> str:
    key = "-".join(map(str, (seed, *changes.values())))
    answer = api.post("/v1/audits", json=body(seed, **changes), headers={"Idempotency-Key": key})
    assert answer.status_code in (201, 202), answer.text
    return str(answer.json()["id"])


def ended(api: httpx.Client, audit: str) -> dict[str, Any]:
    until(
        lambda: api.get(f"/v1/audits/{audit}").json()["state"] in ("SUCCEEDED", "FAILED", "CANCELLED"),
        f"audit {audit} to end",
        timeout=90.0,
    )
    found: dict[str, Any] = api.get(f"/v1/audits/{audit}").json()
    return found


def shown(api: httpx.Client, audit: str) -> dict[str, Any]:
    """All that a caller reads of an audit, without what only this release says, and without the names, times and hosts
    that this release fills in for who reads and the former took from who had measured."""
    read = api.get(f"/v1/audits/{audit}").json()
    if "results" in read:
        named = {"candidate": "candidate_trace", "reference": "reference_trace", "compare": "comparison"}
        assert read["results"] == {role: read[member] for role, member in named.items() if read[member]}
    found = {"audit": read, "listed": [each for each in api.get("/v1/audits").json()["items"] if each["id"] == audit]}
    for name in ("scores", "report", "candidate_trace", "reference_trace"):
        if read["links"][name]:
            found[name] = api.get(read["links"][name]).json()
            _without_later(found[name])
    if read["links"]["diff"]:
        found["diff"] = api.get(read["links"]["diff"]).json()
        # Read alone, a comparison carries the verdict of the reader's own policy.
        found["diff"]["comparison"].pop("verdict")
        _without_later(found["diff"]["comparison"])
    for shown_audit in (read, *found["listed"]):
        for member in (
            "results",
            "weights",
            "policy",
            "decided_by",
            "former",
            "series",
            "registered",
            "pinned",
            "queue",
            "signed_by",
        ):
            shown_audit.pop(member, None)
        shown_audit["links"].pop("page", None)
        for run in shown_audit["progress"]["runs"].values():
            # What the former says of a run that ended is what it said last.
            del run["done"], run["total"], run["phase"]
    unnamed: dict[str, Any] = without_names(found)
    return unnamed


def _without_later(document: dict[str, Any]) -> None:
    """Take out of a trace, a comparison or its scores what the former does not know."""
    for member in ("rules", "weights", "policy_digest", "decided_by", "former"):
        document.get("verdict", {}).pop(member, None)
    for unknown in (OF_TRACES, OF_COMPARISONS):
        take_out(document, unknown)


def without_names(value: Any) -> Any:
    if isinstance(value, dict):
        own = ["source", "provenance", "revision", *(["name"] if "token_ids_digest" in value else [])]
        return {name: without_names(member) for name, member in value.items() if name not in own}
    if isinstance(value, list):
        return [without_names(item) for item in value]
    return value


def names(api: httpx.Client, audit: str) -> list[str]:
    """What the report calls both sides."""
    found = api.get(api.get(f"/v1/audits/{audit}").json()["links"]["report"]).json()
    return [found[side]["source"] for side in ("reference", "candidate")]


@pytest.mark.parametrize("works", RELEASES)
def test_what_the_former_accepts_either_carries_out_and_both_read(
    fleet: Fleet, start: Callable[..., Any], works: str
) -> None:
    apis = {release: start(release, "api") for release in RELEASES}
    start(works, "dispatcher")
    start(works, "worker")
    alone, pair = submitted(apis["former"], 1, reference=None), submitted(apis["former"], 1)
    for audit in (alone, pair):
        assert ended(apis["former"], audit)["state"] == "SUCCEEDED"
        assert shown(apis["former"], audit) == shown(apis["present"], audit)
    read = shown(apis["former"], pair)
    assert read["audit"]["verdict"] is not None
    # Under the edition of the release that accepted it, whoever does the work; and for the present's reader by name.
    assert (read["report"]["scorer_version"], read["candidate_trace"]["engine"]["version"]) == ("2", "2")
    assert names(apis["present"], pair) == ["local:sft", "local:dpo-short"]
    # A replayed key is the same request for both; a finished audit of the same is finished, for its own release.
    # Prompts that the former stored, it did not say for whom, and everybody who knows their digest has them.
    stored = apis["former"].post("/v1/prompt-sets", json={"prompts": [{"prompt": f"question {n}"} for n in range(32)]})
    digest = stored.json()["digest"]
    assert [submitted(apis[release], 1) for release in RELEASES] == [pair, pair]
    assert ended(apis["present"], submitted(apis["former"], 2, prompt_set=digest))["state"] == "SUCCEEDED"
    again = apis["former"].post("/v1/audits", json=body(1))
    assert (again.status_code, again.json()["state"]) == (201, "SUCCEEDED")


def test_what_the_present_accepts_the_former_leaves_alone_and_reads(fleet: Fleet, start: Callable[..., Any]) -> None:
    apis = {release: start(release, "api") for release in RELEASES}
    for part in ("dispatcher", "worker"):
        start("former", part)
    later, theirs = submitted(apis["present"], 1), submitted(apis["former"], 2)
    # The former works, and what it cannot do waits for who can: nothing is failed, and nothing charged.
    assert ended(apis["former"], theirs)["state"] == "SUCCEEDED"
    assert fleet.rows("SELECT DISTINCT state, attempt FROM runs WHERE spec_version > 3") == [("QUEUED", 0)]
    for part in ("dispatcher", "worker"):
        start("present", part)
    assert ended(apis["present"], later)["state"] == "SUCCEEDED"
    read = shown(apis["former"], later)
    assert read == shown(apis["present"], later)
    assert (read["report"]["scorer_version"], read["candidate_trace"]["engine"]["version"]) == (
        PRESENT.scorer,
        PRESENT.engine,
    )
    # Names belong to who reads: the former finds none in what this release stored.
    assert names(apis["present"], later) == ["local:sft", "local:dpo-short"]
    assert {name.partition(":")[0] for name in names(apis["former"], later)} == {"weights"}
    # Prompts of which the former knows only a part it refuses, instead of reading that part under their name.
    pairs = [{"prompt": f"question {n}", "continuation": " yes", "rejected": " no"} for n in range(32)]
    stored = apis["present"].post("/v1/prompt-sets", json={"name": "pairs", "prompts": pairs}).json()
    for named in ("pairs", stored["digest"]):
        refused = apis["former"].post("/v1/audits", json=body(3, prompt_set=named))
        assert refused.json()["code"] in ("prompt_set_empty", "prompt_set_not_found"), refused.text
    assert ended(apis["present"], submitted(apis["present"], 3, prompt_set=stored["digest"]))["state"] == "SUCCEEDED"
    # A replayed key is the same request, whichever release kept it.
    assert [submitted(apis[release], seed) for seed in (1, 2) for release in RELEASES] == [later, later, theirs, theirs]


def test_names_that_either_registers_mean_the_same_to_both(start: Callable[..., Any]) -> None:
    apis = {release: start(release, "api") for release in RELEASES}
    for release, api in apis.items():
        assert api.post("/v1/models", json={"name": release, "reference": "local:sft"}).status_code == 201
    for name in RELEASES:
        read = [api.get(f"/v1/models/{name}").json() for api in apis.values()]
        assert [each["reference"] for each in read] == ["local:sft", "local:sft"]
        assert read[1]["version"] == "1"
        added = {"version": "2", "reference": "local:dpo-short"}
        assert apis["present"].post(f"/v1/models/{name}/versions", json=added).status_code == 201
    # The newest version is what a name means; what names no version in the former's own words, it does not know.
    listed = [api.get("/v1/models").json()["items"] for api in apis.values()]
    assert [[each["reference"] for each in items] for items in listed] == [["local:dpo-short"] * 2] * 2
    assert apis["former"].post("/v1/audits", json={"candidate": "present"}).status_code == 202
    refused = apis["former"].post("/v1/audits", json={"candidate": "present:1"})
    assert refused.status_code == 422
    accepted = apis["present"].post("/v1/audits", json={"candidate": "former:1"})
    assert accepted.json()["registered"]["candidate"] == {
        "name": "former", "version": "1", "alias": None, "reference": "local:sft",
    }  # fmt: skip
    named = [api.post("/v1/audits", json={"candidate": "former"}).json()["id"] for api in apis.values()]
    assert apis["present"].get(f"/v1/audits/{named[0]}").json()["registered"] == {}
    assert apis["former"].get(f"/v1/audits/{named[1]}").json()["candidate"] == "former"


def test_both_work_side_by_side_and_the_former_goes_on_alone_after_the_way_back(
    fleet: Fleet, start: Callable[..., Any], settings: Settings
) -> None:
    apis = {release: start(release, "api") for release in RELEASES}
    for release in RELEASES:
        start(release, "dispatcher")
        start(release, "worker")
    audits = [submitted(apis[release], seed) for seed in range(6) for release in RELEASES]
    assert len(set(audits)) == 6
    # Held at work, so that there is something to cancel.
    fleet.hold()
    other = {"prompt_set": "hh-harmless-128"}
    given_up = {release: submitted(api, 7 + n, **other) for n, (release, api) in enumerate(apis.items())}
    for release, audit in given_up.items():
        assert apis[release].post(f"/v1/audits/{audit}/cancel").json()["state"] == "CANCELLED"
    fleet.go_on()
    everything = [*dict.fromkeys(audits), *given_up.values()]
    for audit in everything:
        expected = "CANCELLED" if audit in given_up.values() else "SUCCEEDED"
        assert ended(apis["present"], audit)["state"] == expected
    until(
        lambda: fleet.rows("SELECT count(*) FROM runs WHERE state IN ('QUEUED','RUNNING')") == [(0,)], "all runs to end"
    )
    # Not before all have ended: the difference of two traces shows their newest comparison.
    before = {audit: shown(apis["former"], audit) for audit in everything}
    assert {audit: shown(apis["present"], audit) for audit in everything} == before
    for name in [name for name in fleet.children if name.startswith("present")]:
        fleet.children[name].kill()
    migrate.downgrade(settings, HEAD)
    try:
        assert {audit: shown(apis["former"], audit) for audit in everything} == before
        late = submitted(apis["former"], 20)
        assert ended(apis["former"], late)["state"] == "SUCCEEDED"
    finally:
        migrate.upgrade(settings)
    present = start("present", "api")
    for audit in (*everything, late):
        assert shown(present, audit) == shown(apis["former"], audit)
