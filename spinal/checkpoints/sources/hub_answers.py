"""What a model hub answers, believed in nothing: each value is checked, each refusal becomes an error of ours."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import httpx

from spinal.checkpoints.reading import Unreadable, parse_json
from spinal.checkpoints.sources.base import Listed
from spinal.errors import ModelNotFound, SpinalError
from spinal.errors.faults import shown
from spinal.errors.sources import ModelAccessRefused, SourceRefused, SourceUnavailable
from spinal.net.http import Answer, Http, retry_after_s

MOST_BYTES = 32 * 2**20
"""Of all answers to one ``pin``. A list of ten thousand shards takes 4 MiB."""
MOST_VALUES = 500_000
"""Of one answer: a page has a thousand entries of ten."""
MOST_SIZE = 2**50
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?"
REPOSITORY = re.compile(rf"(?!.*\.\.)(?:{PART}/)?{PART}")
COMMIT, SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
NEXT = re.compile(r"<([^<>]*)>\s*;\s*rel=\"?next\"?")
RANGE = re.compile(r"bytes ([0-9]{1,16})-([0-9]{1,16})/(?:([0-9]{1,16})|\*)")
USED_UP = re.compile(r"\br=0;t=([0-9]{1,4})(?![0-9])")
"""Of the header ``RateLimit``: nothing is left, for so many seconds."""
DISABLED, BAD_TOKEN = "Access to this resource is disabled.", "Invalid credentials in Authorization header"
ASK = "ask for access on its page, and give the source hf a token that has it (token_file)"


@dataclass(frozen=True)
class Asked:
    """A reference as it was given."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return shown(f"hf:{self.repository}@{self.revision}")


@dataclass
class Asking:
    """The requests of one ``pin``: all together within their time (``time.monotonic``) and their bytes."""

    http: Http
    asked: Asked
    ends: float
    bytes_left: int = MOST_BYTES

    def ask(self, url: str, *, method: str = "GET") -> Answer:
        answer = self.http.read(url, method=method, most_bytes=self.bytes_left, deadline=self.ends)
        self.bytes_left -= len(answer.body)
        return answer

    def json(self, answer: Answer, what: str) -> Any:
        """The content of an answer. Raises the error of one that is a refusal, or no JSON."""
        if answer.status != 200:
            raise self.failure(answer)
        try:
            return parse_json(answer.body, what, most_values=MOST_VALUES)
        except Unreadable as error:
            raise self.odd(str(error)) from error

    def odd(self, why: str) -> SourceUnavailable:
        return SourceUnavailable(
            f"{self.asked}: the hub does not answer as a hub does: {why}",
            hint="check that the endpoint of the source hf is a hub of models",
        )

    def failure(self, answer: Answer) -> SpinalError:
        """What a refusal means. The hub tells causes apart in headers: its statuses hide what is private."""
        asked, status = self.asked, answer.status
        code, message = (answer.headers.get(f"x-error-{what}", "") for what in ("code", "message"))
        if status in (401, 403) and code == "GatedRepo":
            return ModelAccessRefused(f"{asked} is gated, and the credentials at hand do not open it", hint=ASK)
        if message == DISABLED:
            return ModelAccessRefused(f"{asked}: the hub has disabled it")
        if status == 401 and message == BAD_TOKEN:
            return ModelAccessRefused(
                f"{asked}: the hub does not know the token that it was asked with",
                hint="an operator gives the source hf a token that holds",
            )
        if status == 404 and code == "RevisionNotFound":
            return ModelNotFound(
                f"{asked}: the repository has no such revision",
                hint="name a branch, a tag, or all 40 digits of a commit",
            )
        if status == 404 and code == "EntryNotFound":
            return self.odd("it does not have a file that it listed")
        if status in (401, 404, 410):
            return ModelNotFound(
                f"{asked} is not found, or not visible with the credentials at hand", hint="check the name"
            )
        if status in (403, 451):
            return ModelAccessRefused(f"{asked}: the hub refuses access (status {status})", hint=ASK)
        return unavailable(str(asked), status, answer.headers)


def unavailable(what: str, status: int, headers: httpx.Headers) -> SourceUnavailable:
    wait = retry_after_s(headers)
    if wait is None and (used_up := USED_UP.search(headers.get("ratelimit", ""))) is not None:
        wait = float(used_up[1])
    why = "too many requests" if status == 429 else f"status {status}"
    return SourceUnavailable(f"{what}: the hub gave no answer ({why})", retry_after_s=wait)


def read_commit(asking: Asking, told: Any) -> tuple[str, str]:
    """The repository by its present name and the commit of the revision, as the hub tells them."""
    asked = asking.asked
    if not isinstance(told, dict):
        raise asking.odd("what it says of the revision is no JSON object")
    commit, repository = told.get("sha"), told.get("id")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise asking.odd("it names no commit")
    if COMMIT.fullmatch(asked.revision.lower()) and commit != asked.revision.lower():
        raise asking.odd("it answers with another commit")
    if not isinstance(repository, str) or not REPOSITORY.fullmatch(repository):
        raise asking.odd("it does not say which repository it is")
    if told.get("disabled") is True:
        raise ModelAccessRefused(f"{asked}: the hub has disabled it")
    return repository, commit


def read_entry(asking: Asking, entry: Any) -> Listed | None:
    """A file of a list; None for a folder and what else there may be."""
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str) or not isinstance(entry.get("path"), str):
        raise asking.odd("its list has an entry without type or path")
    if entry["type"] != "file":
        return None
    name, size, oid, lfs = (entry.get(member) for member in ("path", "size", "oid", "lfs"))
    if type(size) is not int or not 0 <= size <= MOST_SIZE:
        raise asking.odd("its list has a file whose size is none")
    if not isinstance(oid, str) or not COMMIT.fullmatch(oid):
        raise asking.odd("its list has a file whose id is none")
    if lfs is None:
        return Listed(str(name), size, at=str(name), git_sha1=oid)
    # The blob that git has of a large file is a pointer to it.
    if not isinstance(lfs, dict) or not isinstance(lfs.get("oid"), str) or not SHA256.fullmatch(lfs["oid"]):
        raise asking.odd("its list has a large file whose sha256 is none")
    if lfs.get("size") != size:
        raise asking.odd("its list has a large file with two sizes")
    return Listed(str(name), size, at=str(name), sha256=lfs["oid"])


def following(asking: Asking, answer: Answer, first: str) -> str | None:
    """The next page of a list, which is the same list (``first``) at the same server."""
    found = NEXT.search(answer.headers.get("link", ""))
    if found is None:
        return None
    url = led_to(answer.url, found[1])
    if url.partition("?")[0] != first:
        raise SourceRefused(f"{asking.asked}: the hub's list of files goes on elsewhere, which is not followed")
    return url


def led_to(url: str, location: str) -> str:
    """What a link or redirect says, as a whole URL; empty for what is none."""
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def telling(files: Sequence[Listed]) -> Listed | None:
    """The file whose head tells whether files are given at all: weights, where there are any."""
    weights = [file for file in files if file.name.endswith(".safetensors")]
    configuration = [file for file in files if file.name == "config.json"]
    return next(iter([*weights, *configuration, *files]), None)


def require_same(asking: Asking, head: Answer, commit: str, file: Listed) -> None:
    """Hold the head of a file against what the list says of it."""
    told = head.headers
    if told.get("x-repo-commit") != commit:
        raise asking.odd(f"it has {file.name} of another commit than the one it listed")
    if told.get("x-linked-size", str(file.size)) != str(file.size):
        raise asking.odd(f"it has another size of {file.name} than the one it listed")
    if "x-linked-etag" in told:
        etag = told["x-linked-etag"].removeprefix("W/").strip('"')
        if etag != (file.sha256 or file.git_sha1):
            raise asking.odd(f"it has another content of {file.name} than the one it listed")
