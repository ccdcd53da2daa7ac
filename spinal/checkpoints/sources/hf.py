"""Repositories of a model hub: ``hf:org/name@revision``, on huggingface.co or a server that speaks its protocol.

Three requests pin a reference: which commit its revision is, the list of its files (a page for each thousand), and a
look at one of them, since a gated repository shows its list to everybody and refuses its first file. The list has the
sha256 of every large file and the git blob id of every small one, so what is read later can be verified whoever sends
it.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr, field_validator, model_validator

from spinal.checkpoints.sources.base import Listed, Made, Pinned, RemoteSource, Setting, Timeouts, own_files
from spinal.checkpoints.sources.hub_answers import (
    ASK,
    RANGE,
    REPOSITORY,
    Asked,
    Asking,
    following,
    led_to,
    read_commit,
    read_entry,
    require_same,
    telling,
    unavailable,
)
from spinal.errors import ModelChanged, ModelNotFound, ModelReferenceInvalid, UsageError
from spinal.errors.faults import shown
from spinal.errors.sources import ModelAccessRefused, SourceRefused, SourceUnavailable
from spinal.net.http import Answer, Http, Reachable, pieces
from spinal.net.targets import check, redirected, target_of

SCHEME, EXAMPLE = "hf", "hf:org/name@revision"
MAIN = "main"
MOST_ENTRIES, MOST_PAGES = 20_000, 64
"""Of the list of one folder."""
MOST_REDIRECTS = 3
"""Of a file: to its content in the hub's cache or at a CDN, and one more for a mirror."""
MOST_TOKEN = 4096
REVISION = re.compile(r"(?![/\-])(?!.*(?:\.\.|//|@\{))[^\s\\~^:?*\[\x00-\x20\x7f\ud800-\udfff]{1,255}(?<![/.])")
"""What git takes for the name of a branch or a tag."""
ALLOWED = re.compile(r"[A-Za-z0-9_.*\-]+(?:/[A-Za-z0-9_.*\-]+)?")
ENDPOINT = re.compile(r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~\-]+)*")
PORTS = {"http": 80, "https": 443}
REDIRECT = frozenset({301, 302, 303, 307, 308})


class HubSettings(BaseModel):
    """A hub, and what may be read there. Nothing comes from the surroundings: neither ``HF_TOKEN`` nor the files of
    other programs are looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    endpoint: str = "https://huggingface.co"
    allow: tuple[str, ...]
    """Repositories: ``org/*``, ``org/name``, ``name`` (one without an organisation), ``*`` (all). A star stands for any
    letters of one part."""
    token: SecretStr | None = None
    token_file: Path | None = None
    """A file with nothing but the token, read again every five minutes."""
    redirect_hosts: tuple[str, ...] = ("*.hf.co", "*.huggingface.co")
    """Where the hub may send us for the content of a file. The token never goes there."""
    private_hosts: tuple[str, ...] = ()
    """Of these hosts, those in one's own network; networks (``10.1.0.0/16``) as well. They alone may speak http."""

    @field_validator("endpoint")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not ENDPOINT.fullmatch(value):
            raise ValueError("an endpoint is https://host[:port][/path], without a slash at its end")
        return value

    @field_validator("allow")
    @classmethod
    def _are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("an empty list allows no repository: name some, as 'org/*'")
        for pattern in value:
            if not ALLOWED.fullmatch(pattern):
                # Without the pattern: it may be a secret that stands in the wrong place.
                raise ValueError("a pattern of repositories is org/*, org/name, name or *")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise ValueError("give the token or the file with it, not both")
        parts = urlsplit(self.endpoint)
        try:
            reachable = self.reachable
        except ValueError:
            # Without the entry, which its error shows.
            raise ValueError(
                "redirect_hosts and private_hosts hold example.org, *.example.org, 127.0.0.1:8080; private_hosts also "
                "networks, 10.1.0.0/16"
            ) from None
        port = parts.port or PORTS[parts.scheme]
        if parts.scheme == "http" and not reachable.is_private(parts.hostname or "", port):
            raise ValueError("http is for a hub in one's own network: name its host in private_hosts")
        return self

    @property
    def reachable(self) -> Reachable:
        return Reachable((_with_port(self.endpoint), *self.redirect_hosts), self.private_hosts)

    def allows(self, repository: str) -> bool:
        return any(_matches(pattern, repository) for pattern in self.allow)


def _with_port(endpoint: str) -> str:
    """Host and port of an endpoint: another port is another server."""
    parts = urlsplit(endpoint)
    return parts.netloc if parts.port is not None else f"{parts.netloc}:{PORTS[parts.scheme]}"


def _matches(pattern: str, repository: str) -> bool:
    return pattern == "*" or re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]*"), repository) is not None


class Hub:
    """One hub, as one caller may use it. Threads may share it."""

    def __init__(self, settings: HubSettings, timeouts: Timeouts) -> None:
        """Raises UsageError for a token that is not readable."""
        self._settings, self._timeouts = settings, timeouts
        parts = urlsplit(settings.endpoint)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        token = _token(settings)
        self._http = Http(
            settings.reachable,
            origin=self._origin,
            credentials={} if token is None else {"Authorization": f"Bearer {token}"},
            connect_s=timeouts.connect,
            read_s=timeouts.read,
        )

    def pin(self, path: str) -> Pinned:
        """As :meth:`spinal.checkpoints.sources.base.Source.pin`."""
        asked = _asked(path)
        self._require_allowed(asked, asked.repository)
        asking = Asking(self._http, asked, time.monotonic() + self._timeouts.pin)
        repository, commit = self._commit(asking)
        files = self._files(asking, repository, commit)
        self._require_access(asking, repository, commit, files)
        location = f"{self._settings.endpoint}/{repository}"
        return Pinned(f"{SCHEME}:{repository}@{commit}", location, commit, files, SCHEME)

    @contextmanager
    def read(self, pinned: Pinned, listed: Listed, start: int = 0, end: int | None = None) -> Iterator[Iterator[bytes]]:
        """As :meth:`spinal.checkpoints.sources.base.RemoteSource.read`."""
        url = self._url_of(pinned, listed)
        stop = listed.size if end is None else min(end, listed.size)
        if start >= stop:
            yield iter(())
            return
        whole = (start, stop) == (0, listed.size)
        ranged = {} if whole else {"Range": f"bytes={start}-{stop - 1}"}
        with self._http.stream(url, headers=ranged, redirects=MOST_REDIRECTS) as response:
            skipped = self._skipped(response, pinned, listed, start, stop)
            yield _between(pieces(response), skipped, stop - start)

    def _require_allowed(self, asked: Asked, repository: str) -> None:
        if not self._settings.allows(repository):
            renamed = "" if repository == asked.repository else f" is {shown(repository)} now, which"
            raise SourceRefused(
                f"{asked}{renamed} is not among the repositories that may be read here",
                hint="an operator lists them for the source hf (allow)",
            )

    def _commit(self, asking: Asking) -> tuple[str, str]:
        """The repository by its present name, and the commit of the revision."""
        asked = asking.asked
        url = self._revision_url(asked.repository, asked.revision)
        answer = asking.ask(url)
        if answer.status in REDIRECT:
            renamed = self._renamed(asked, url, answer)
            self._require_allowed(asked, renamed)
            answer = asking.ask(self._revision_url(renamed, asked.revision))
        repository, commit = read_commit(asking, asking.json(answer, "what it says of the revision"))
        self._require_allowed(asked, repository)
        return repository, commit

    def _revision_url(self, repository: str, revision: str) -> str:
        # What else there is to say of a model may be long.
        told = "expand=sha&expand=disabled"
        return f"{self._settings.endpoint}/api/models/{repository}/revision/{quote(revision, safe='')}?{told}"

    def _renamed(self, asked: Asked, url: str, answer: Answer) -> str:
        """The present name of a repository, out of a redirect to the same question under another name."""
        target = led_to(url, answer.headers.get("location", "")).partition("?")[0]
        before, after = f"{self._settings.endpoint}/api/models/", f"/revision/{quote(asked.revision, safe='')}"
        name = target.removeprefix(before).removesuffix(after)
        if target != f"{before}{name}{after}" or not REPOSITORY.fullmatch(name):
            raise SourceRefused(f"{asked}: the hub sends us elsewhere, which is not followed")
        return name

    def _files(self, asking: Asking, repository: str, commit: str) -> tuple[Listed, ...]:
        first = f"{self._settings.endpoint}/api/models/{repository}/tree/{commit}"
        url: str | None = f"{first}?recursive=false"
        entries: list[Any] = []
        for _ in range(MOST_PAGES):
            if url is None:
                break
            answer = asking.ask(url)
            page = asking.json(answer, "its list of files")
            if not isinstance(page, list):
                raise asking.odd("its list of files is none")
            entries += page
            url = following(asking, answer, first)
            if len(entries) > MOST_ENTRIES:
                break
        if url is not None or len(entries) > MOST_ENTRIES:
            raise ModelNotFound(
                f"{asking.asked}: no checkpoint, for it lists more than {MOST_ENTRIES} files or {MOST_PAGES} pages"
            )
        found = own_files([listed for entry in entries if (listed := read_entry(asking, entry)) is not None])
        if len({listed.name for listed in found}) < len(found):
            raise asking.odd("its list of files names one twice")
        return found

    def _require_access(self, asking: Asking, repository: str, commit: str, files: Sequence[Listed]) -> None:
        """Ask for the head of one file, and see whether it would be given."""
        file = telling(files)
        if file is None:
            return
        url = f"{self._settings.endpoint}/{repository}/resolve/{commit}/{quote(file.at)}"
        head = asking.ask(url, method="HEAD")
        if head.status not in {200, *REDIRECT}:
            raise asking.failure(head)
        require_same(asking, head, commit, file)
        if "location" in head.headers:
            # A host that is not listed is told to whoever asks, and not to the run that fetches.
            check(redirected(target_of(url), head.headers["location"]), self._settings.reachable)

    def _url_of(self, pinned: Pinned, listed: Listed) -> str:
        endpoint, repository = self._settings.endpoint, pinned.name.removeprefix(f"{SCHEME}:").partition("@")[0]
        name = pinned.location.removeprefix(f"{endpoint}/")
        if not REPOSITORY.fullmatch(name):
            raise SourceRefused(
                f"{shown(pinned.name)} was pinned at another hub than the one that is configured here",
                hint="submit it again",
            )
        self._require_allowed(Asked(repository, str(pinned.revision)), name)
        return f"{pinned.location}/resolve/{pinned.revision}/{quote(listed.at)}"

    def _skipped(self, response: httpx.Response, pinned: Pinned, listed: Listed, start: int, stop: int) -> int:
        """How many bytes of the body lie before ``start``."""
        what = f"{listed.name} of {shown(pinned.name)}"
        status = response.status_code
        if status == 200:
            length = response.headers.get("content-length")
            if length is not None and length != str(listed.size):
                raise SourceUnavailable(f"{what}: the hub sends another length than the one it listed")
            return start
        if status == 206:
            sent = RANGE.fullmatch(response.headers.get("content-range", ""))
            if sent is None or int(sent[1]) != start or int(sent[2]) >= stop or sent[3] not in (None, str(listed.size)):
                raise SourceUnavailable(f"{what}: the hub sends another part than the one that was asked for")
            return 0
        if status in (404, 410, 416):
            raise ModelChanged(f"{what} is not there any more, or not as it was listed", hint="submit it again")
        if status in (401, 403) and str(response.url).startswith(f"{self._origin}/"):
            raise ModelAccessRefused(f"{what}: the hub does not give it to the credentials at hand", hint=ASK)
        # A CDN refuses an address that has run out; the hub gives another one.
        raise unavailable(what, status, response.headers)


def _asked(path: str) -> Asked:
    repository, at, revision = path.partition("@")
    if not REPOSITORY.fullmatch(repository):
        raise ModelReferenceInvalid(
            f"{shown(repository)!r} is no name of a repository on a hub", hint=f"give {EXAMPLE}, as hf:org/name@main"
        )
    if at and not REVISION.fullmatch(revision):
        raise ModelReferenceInvalid(
            f"{SCHEME}:{repository}: {shown(revision)!r} is no revision", hint="give a branch, a tag or a whole commit"
        )
    return Asked(repository, revision if at else MAIN)


def _token(settings: HubSettings) -> str | None:
    if settings.token_file is not None:
        try:
            with settings.token_file.open("rb") as file:
                token = file.read(MOST_TOKEN + 1).decode("ascii").strip()
        except (OSError, ValueError):
            raise UsageError(
                f"the token file {shown(settings.token_file.name)!r} of the source hf is not readable text",
                hint="give a file that holds nothing but the token, readable for this process",
            ) from None
    elif settings.token is not None:
        token = settings.token.get_secret_value().strip()
    else:
        return None
    if not re.fullmatch(rf"[\x21-\x7e]{{1,{MOST_TOKEN}}}", token):
        raise UsageError(
            "the token of the source hf is empty, too long, or no plain word",
            hint="give the token as its hub showed it",
        )
    return token


def _between(coming: Iterator[bytes], skip: int, wanted: int) -> Iterator[bytes]:
    """``wanted`` bytes behind the first ``skip``. Whatever comes behind them is not read."""
    for piece in coming:
        if not wanted:
            return
        kept = piece[skip:][:wanted]
        skip, wanted = max(0, skip - len(piece)), wanted - len(kept)
        if kept:
            yield kept


def _make(setting: Setting) -> RemoteSource:
    return Hub(setting.settings, setting.timeouts)


def _all_of_it() -> HubSettings:
    """On a command line the caller names what is read, and reads it with no rights but those of anybody."""
    return HubSettings(allow=("*",))


HF = Made(_make, HubSettings, _all_of_it)
