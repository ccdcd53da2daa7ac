"""What a registry of MLflow is asked beside the files of its models: which versions there are, and what is written to
one. Requests that change something are sent once."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from spinal.checkpoints.mlflow_server import API, ID, MOST_ANSWER, MOST_VALUES, NUMBER
from spinal.checkpoints.reading import Unreadable, parse_json
from spinal.checkpoints.sources.mlflow import http_of
from spinal.checkpoints.sources.mlflow_settings import RegistrySettings
from spinal.checkpoints.sources.reach import Reach
from spinal.errors import ModelAccessRefused, ModelNotFound, SourceRefused, SourceUnavailable
from spinal.errors.faults import shown
from spinal.net.http import Http, retry_after_s

PAGE = 200
MOST_VERSIONS = 20_000
"""Of one model, and models of one server: what has more is not listed by half, but refused."""


@dataclass(frozen=True)
class Listed:
    """A version with what a rule may look at."""

    number: str
    run: str
    """Id of the run that made it; empty where none is known."""
    stage: str
    tags: Mapping[str, str]


class Registry:
    """One server, with the credentials of one tenant. ``deadline`` is a time of ``time.monotonic``. Methods raise
    ModelNotFound, ModelAccessRefused, SourceRefused, SourceUnavailable."""

    def __init__(self, http: Http, settings: RegistrySettings) -> None:
        self._http = http
        self._settings = settings

    def close(self) -> None:
        self._http.close()

    def models(self, wanted: Callable[[str], bool], deadline: float) -> Iterator[tuple[str, dict[str, str]]]:
        """Models that may be read and are wanted, with the versions of their aliases."""
        for each in self._pages("registered-models/search", {}, "registered_models", deadline):
            name = each.get("name")
            if isinstance(name, str) and self._settings.allows(name) and wanted(name):
                aliases = each.get("aliases") or []
                yield name, {str(one["alias"]): str(one["version"]) for one in aliases if _is_alias(one)}

    def versions(self, model: str, deadline: float) -> Iterator[Listed]:
        """Versions of a model that can be read."""
        quote = '"' if "'" in model else "'"
        if quote in model:
            raise SourceRefused(f"the model {shown(model)!r} has a name that MLflow's search cannot be asked for")
        query = {"filter": f"name={quote}{model}{quote}"}
        for each in self._pages("model-versions/search", query, "model_versions", deadline):
            if each.get("name") == model and each.get("status") == "READY" and _is_number(each.get("version")):
                yield _listed(each)

    def version(self, model: str, number: str, deadline: float) -> Listed:
        """One version as it is now."""
        answer = self._get("model-versions/get", {"name": model, "version": number}, deadline)
        found = answer.get("model_version")
        if not isinstance(found, dict) or found.get("name") != model or found.get("version") != number:
            raise _unlike("it answered for another version")
        return _listed(found)

    def metrics(self, run: str, deadline: float) -> dict[str, float]:
        """The newest value of each metric of a run."""
        answer = self._get("runs/get", {"run_id": run}, deadline)
        data = (answer.get("run") or {}).get("data") or {}
        found = {}
        for each in data.get("metrics") or []:
            if isinstance(each, dict) and isinstance(each.get("key"), str):
                value = each.get("value")
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found[each["key"]] = float(value)
        return found

    def set_tag(self, model: str, number: str, key: str, value: str, deadline: float) -> None:
        told = {"name": model, "version": number, "key": key, "value": value}
        self._send("POST", "model-versions/set-tag", told, deadline)

    def delete_tag(self, model: str, number: str, key: str, deadline: float) -> None:
        told = {"name": model, "version": number, "key": key}
        self._send("DELETE", "model-versions/delete-tag", told, deadline)

    def log_metrics(self, run: str, values: Mapping[str, float], at_ms: int, deadline: float) -> None:
        told = [{"key": key, "value": value, "timestamp": at_ms, "step": 0} for key, value in values.items()]
        self._send("POST", "runs/log-batch", {"run_id": run, "metrics": told}, deadline)

    def _pages(self, route: str, query: Mapping[str, str], member: str, deadline: float) -> Iterator[dict[str, Any]]:
        token, seen = "", 0
        while True:
            asked = {**query, "max_results": str(PAGE)} | ({"page_token": token} if token else {})
            answer = self._get(route, asked, deadline)
            entries = answer.get(member) or []
            if not isinstance(entries, list):
                raise _unlike(f"its {member} are no list")
            seen += len(entries)
            if seen > MOST_VERSIONS:
                raise SourceRefused(f"the registry lists more than {MOST_VERSIONS:,} {member.replace('_', ' ')}")
            yield from (each for each in entries if isinstance(each, dict))
            token = answer.get("next_page_token") or ""
            if not isinstance(token, str) or not token:
                return

    def _get(self, route: str, query: Mapping[str, str], deadline: float) -> dict[str, Any]:
        url = f"{self._settings.url}{API}/mlflow/{route}?{urlencode(query)}"
        answer = self._http.read(url, most_bytes=MOST_ANSWER, deadline=deadline)
        self._check(answer.status, answer.body, retry_after_s(answer.headers))
        return _object(answer.body)

    def _send(self, method: str, route: str, members: Mapping[str, Any], deadline: float) -> None:
        answer = self._http.post(
            f"{self._settings.url}{API}/mlflow/{route}",
            json.dumps(members).encode(),
            headers={"Content-Type": "application/json"},
            most_bytes=MOST_ANSWER,
            deadline=deadline,
            method=method,
        )
        self._check(answer.status, answer.body, retry_after_s(answer.headers))

    def _check(self, status: int, body: bytes, wait_s: float | None) -> None:
        if status == 200:
            return
        if status in (401, 403):
            raise ModelAccessRefused(
                "the registry does not let in with the credentials of the source mlflow",
                hint="check its token, or username and password, and the rights of that user",
            )
        if status in (400, 404) and isinstance(_object(body).get("error_code"), str):
            raise ModelNotFound("the registry knows no such model, version or run", hint="was it deleted?")
        raise SourceUnavailable(f"the registry answered with status {status}", retry_after_s=wait_s)


@contextmanager
def opened(reach: Reach) -> Iterator[Registry]:
    """The registry of a tenant, with connections of its own."""
    server = registry_of(reach)
    try:
        yield server
    finally:
        server.close()


def registry_of(reach: Reach) -> Registry:
    """The registry of a tenant. Raises UsageError where a file with its secret is missing."""
    settings: Any = reach.settings["mlflow"]
    return Registry(http_of(settings, reach.timeouts), settings)


def _listed(found: Mapping[str, Any]) -> Listed:
    run, stage = found.get("run_id"), found.get("current_stage")
    return Listed(
        str(found["version"]),
        run if isinstance(run, str) and ID.fullmatch(run) else "",
        stage if isinstance(stage, str) else "",
        {str(each["key"]): str(each.get("value", "")) for each in found.get("tags") or [] if _is_tag(each)},
    )


def _is_number(found: object) -> bool:
    return isinstance(found, str) and NUMBER.fullmatch(found) is not None


def _is_alias(found: object) -> bool:
    return isinstance(found, dict) and isinstance(found.get("alias"), str) and _is_number(found.get("version"))


def _is_tag(found: object) -> bool:
    return isinstance(found, dict) and isinstance(found.get("key"), str)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = parse_json(body, "its answer", most_values=MOST_VALUES)
    except Unreadable as error:
        raise _unlike(str(error)) from error
    if not isinstance(found, dict):
        raise _unlike("its answer is no JSON object")
    return found


def _unlike(why: str) -> SourceUnavailable:
    return SourceUnavailable(
        f"the registry did not answer as MLflow does: {why}",
        hint="is url of the source mlflow the address of a tracking server?",
    )
