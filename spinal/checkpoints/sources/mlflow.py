"""Versions of registered models of an MLflow registry: ``mlflow:NAME/VERSION`` and ``mlflow:NAME@ALIAS``.

A version is a name for files that lie elsewhere: among the artifacts that the tracking server serves, which are read
here; in a bucket, on a hub or in a folder of this host, which the sources of those read, by their own rules.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from spinal.checkpoints.mlflow_server import ARTIFACTS, ID, NUMBER, Folder, Tracking, Version, until
from spinal.checkpoints.mlmodel import MLMODEL, MOST_BYTES, hub_reference
from spinal.checkpoints.sources.base import Listed, Made, Pinned, Setting, Timeouts
from spinal.checkpoints.sources.mlflow_folders import (
    COMPONENTS,
    MARKS,
    MODEL,
    OF_TOKENIZER,
    Found,
    checkpoint_in,
    filled_in,
    lacks_tokenizer,
    listed_in,
    no_checkpoint,
)
from spinal.checkpoints.sources.mlflow_settings import RegistrySettings, credentials_of
from spinal.errors import ModelChanged, ModelNotFound, ModelPathRefused, ModelReferenceInvalid, UsageError
from spinal.errors.faults import shown
from spinal.errors.sources import SourceRefused, SourceUnavailable
from spinal.net.http import Http, Reachable, pieces

SCHEME, EXAMPLE = "mlflow", "mlflow:NAME/VERSION"
ALIAS = re.compile(r"[\w-]{1,255}")
MOST_NAME = 256
"""What MLflow's own tables hold."""
MOST_URI = 2048
MOST_TAGGED = 64
"""Each etag takes a request: of checkpoints with more files none is asked for."""
ELSEWHERE = ("s3", "gs")
READABLE = (
    "artifacts that the registry serves, s3:// and gs:// where those sources are enabled, folders below the model roots"
)


class Mlflow:
    """The registered models of one server, for one caller."""

    def __init__(self, settings: RegistrySettings, setting: Setting, tracking: Tracking) -> None:
        self._settings = settings
        self._setting = setting
        self._tracking = tracking

    def pin(self, path: str) -> Pinned:
        """The version that ``NAME/VERSION`` or ``NAME@ALIAS`` means now, and the files that make it a checkpoint."""
        name, number, alias = _parts(path)
        if not self._settings.allows(name):
            raise SourceRefused(
                f"the registered model {shown(name)!r} is not among those that may be read here",
                hint="ask the operator to add it to allow of the source mlflow",
            )
        deadline = until(self._setting.timeouts.pin)
        if alias:
            number = self._tracking.aliased(name, alias, deadline)
        version = self._tracking.version(name, number, deadline)
        called = f"mlflow:{name}/{number}"
        uri = self._located(version, called, deadline)
        scheme, _, rest = uri.partition(":")
        served = self._served(uri, called)
        if served is not None:
            return self._pin_served(version, served, called, deadline)
        if scheme in ELSEWHERE and rest.startswith("//"):
            return replace(self._pin_bucket(uri.rstrip("/"), version, called, deadline), name=called)
        if uri.startswith("/") or scheme == "file":
            return replace(self._pin_folder(uri, called), name=called)
        raise SourceRefused(
            f"{shown(called)} keeps its files at an address of the form {shown(scheme)[:20]}:, which is not read here",
            hint=f"readable are {READABLE}",
        )

    @contextmanager
    def read(self, pinned: Pinned, listed: Listed, start: int = 0, end: int | None = None) -> Iterator[Iterator[bytes]]:
        """See :class:`spinal.checkpoints.sources.base.RemoteSource`. Where the server knows no ranges, as for what it
        passes on from a bucket, the bytes before ``start`` come, too, and are left out here."""
        stop = listed.size if end is None else min(end, listed.size)
        if start >= stop:
            yield iter(())
            return
        span = f"bytes={start}-{'' if end is None else stop - 1}" if (start, end) != (0, None) else None
        with self._tracking.opened(listed.at, span) as response:
            before = self._first_byte(response, pinned, listed, start)
            yield _span(pieces(response), start - before, None if end is None else stop - start)

    def _first_byte(self, response: httpx.Response, pinned: Pinned, listed: Listed, start: int) -> int:
        """Where in the file the answer begins; raises what its status, sizes and etag say."""
        called = f"{listed.name} of {pinned.name}"
        if response.status_code in (404, 416):
            raise _changed(called)
        if response.status_code not in (200, 206):
            raise self._tracking.refusal(response.status_code, response.headers, pinned.name)
        if listed.tag is not None and response.headers.get("etag") != listed.tag:
            raise _changed(called)
        if response.status_code == 200:
            length = response.headers.get("content-length", str(listed.size))
            if length != str(listed.size):
                raise _changed(called)
            return 0
        told = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", response.headers.get("content-range", ""))
        if told is None or int(told[1]) != start:
            raise SourceUnavailable(f"{shown(called)}: the registry sent other bytes than it was asked for")
        if told[3] not in ("*", str(listed.size)):
            raise _changed(called)
        return start

    def _located(self, version: Version, called: str, deadline: float) -> str:
        """The URI of the files themselves: what names a run or a logged model is looked up."""
        uri = version.source
        if uri.startswith("models:"):
            uri = self._tracking.download_uri(version, deadline)
        if uri.startswith("runs:"):
            run, _, below = uri.removeprefix("runs:").lstrip("/").partition("/")
            if not ID.fullmatch(run):
                raise _refused_place(called, "names a run by no id")
            uri = f"{self._tracking.run_root(run, called, deadline).rstrip('/')}/{below}"
        if len(uri) > MOST_URI or not uri.isprintable():
            raise _refused_place(called, "is no address")
        return uri

    def _served(self, uri: str, called: str) -> str | None:
        """The path among the served artifacts that ``uri`` names; None where it names another place."""
        own, address = self._tracking.place, f"{self._settings.url}{ARTIFACTS}/"
        if uri.startswith(address):
            rest = uri.removeprefix(address)
        elif uri.startswith("mlflow-artifacts:"):
            rest = uri.removeprefix("mlflow-artifacts:")
            if rest.startswith("//"):
                host, _, rest = rest[2:].partition("/")
                # With an empty host it is this server, too.
                if host not in ("", own.partition("/")[0]):
                    raise _refused_place(called, "lies on another server")
        else:
            return None
        parts = [part for part in rest.split("/") if part]
        if not parts or any(part in (".", "..") or re.search(r"[%\\?#;:]", part) for part in parts):
            raise _refused_place(called, "is no plain path")
        return "/".join(parts)

    def _pin_served(self, version: Version, root: str, called: str, deadline: float) -> Pinned:
        top = self._tracking.folder(root, called, deadline)
        found = checkpoint_in(self._tracking, Found(root, top), called, deadline)
        if found is None:
            return self._pin_named(root, top, called, deadline)
        beside = f"{root}/{OF_TOKENIZER}" if COMPONENTS in top.folders else None
        if self._settings.artifacts is not None:
            bucket = self._settings.artifacts.rstrip("/")
            pinned = self._setting.pin(f"{bucket}/{found.path}")
            return replace(self._with_tokenizer(pinned, beside and f"{bucket}/{beside}"), name=called)
        listed = listed_in(found)
        if beside is not None and lacks_tokenizer(listed):
            tokenizer = Found(beside, self._tracking.folder(beside, called, deadline))
            listed = filled_in(listed, listed_in(tokenizer))
        made_by = version.source.rpartition("/")[2] if version.source.startswith("models:/m-") else version.run
        return Pinned(
            name=called,
            location=f"{self._tracking.place}/{version.name}/{found.path}",
            revision=f"{version.number}/{made_by}" if made_by else version.number,
            files=self._tagged(listed, called, deadline),
            scheme=SCHEME,
        )

    def _pin_named(self, root: str, top: Folder, called: str, deadline: float) -> Pinned:
        """What MLmodel names where no weights were logged: a model of a hub, at a commit."""
        size = top.files.get(MLMODEL)
        if size is None or size > MOST_BYTES:
            raise no_checkpoint(called)
        raw = self._tracking.content(f"{root}/{MLMODEL}", called, most_bytes=MOST_BYTES, deadline=deadline)
        reference = hub_reference(raw, called)
        if reference is None:
            raise no_checkpoint(called)
        return replace(self._setting.pin(reference), name=called)

    def _tagged(self, files: tuple[Listed, ...], called: str, deadline: float) -> tuple[Listed, ...]:
        """The files with their etags. The configuration is asked for first: a server that passes on files of a bucket
        makes no etag, and would fetch all of the weights to say so."""
        if len(files) > MOST_TAGGED:
            return files
        first = next(each for each in files if each.name in MARKS)
        tag = self._tracking.tag(first.at, called, deadline)
        if tag is None:
            return files
        return tuple(
            replace(each, tag=tag if each is first else self._tracking.tag(each.at, called, deadline)) for each in files
        )

    def _pin_bucket(self, uri: str, version: Version, called: str, deadline: float) -> Pinned:
        """A bucket is listed by its own source, a folder at a time."""
        for below in ("", f"/{MODEL}"):
            try:
                found = self._setting.pin(uri + below)
            except ModelNotFound:
                continue
            if any(each.name in MARKS for each in found.files or ()):
                return self._with_tokenizer(found, f"{uri}/{OF_TOKENIZER}")
        raw = self._tracking.content_of(version, MLMODEL, most_bytes=MOST_BYTES, deadline=deadline)
        reference = None if raw is None else hub_reference(raw, called)
        if reference is None:
            raise no_checkpoint(called)
        return self._setting.pin(reference)

    def _with_tokenizer(self, found: Pinned, beside: str | None) -> Pinned:
        """The pinned folder of a bucket, with the tokenizer that was logged beside it where it has none."""
        if beside is None or not lacks_tokenizer(found.files or ()):
            return found
        try:
            tokenizer = self._setting.pin(beside)
        except ModelNotFound:
            return found
        return replace(found, files=filled_in(found.files or (), tokenizer.files or ()))

    def _pin_folder(self, uri: str, called: str) -> Pinned:
        place = urlsplit(uri) if uri.startswith("file:") else None
        if place is not None and (place.netloc not in ("", "localhost") or place.query or place.fragment):
            raise _refused_place(called, "lies on another host")
        path = (uri if place is None else place.path).rstrip("/")
        for below in ("", f"/{MODEL}"):
            try:
                found = self._setting.pin(f"local:{path}{below}")
            except ModelNotFound:
                continue
            except ModelPathRefused as error:
                # Its text names the folder, which is the server's affair.
                raise _refused_place(called, "is a folder that lies below no model root") from error
            if any((Path(found.location) / mark).is_file() for mark in MARKS):
                return found
        raise no_checkpoint(called)


def _parts(path: str) -> tuple[str, str, str]:
    """Name, and version or alias. Names of registered models hold no ``/`` and no ``:``; they may hold ``@``."""
    if "/" in path:
        name, _, number = path.rpartition("/")
        alias = ""
        sound = NUMBER.fullmatch(number) is not None
    else:
        name, _, alias = path.rpartition("@")
        number = ""
        sound = ALIAS.fullmatch(alias) is not None
    if not sound or not name.strip() or len(name) > MOST_NAME or re.search(r"[/:]", name) or not name.isprintable():
        raise ModelReferenceInvalid(
            f"mlflow:{shown(path)} names no version of a registered model",
            hint=f"give {EXAMPLE} or mlflow:NAME@ALIAS, for example mlflow:assistant/3 or mlflow:assistant@champion",
        )
    return name, number, alias


def _span(found: Iterator[bytes], skip: int, most: int | None) -> Iterator[bytes]:
    """What comes after ``skip`` bytes, ``most`` of them."""
    for piece in found:
        rest = piece[skip:]
        skip -= len(piece) - len(rest)
        if most is not None:
            rest = rest[:most]
            most -= len(rest)
        if rest:
            yield rest
        if most == 0:
            return


def _changed(called: str) -> ModelChanged:
    return ModelChanged(
        f"{shown(called)} is not the file any more that was listed", hint="submit again when its files are final"
    )


def _refused_place(called: str, why: str) -> SourceRefused:
    return SourceRefused(f"the place of the files of {shown(called)} {why}", hint=f"readable are {READABLE}")


def http_of(settings: RegistrySettings, timeouts: Timeouts) -> Http:
    """What asks the server, with its credentials. Raises UsageError."""
    host = urlsplit(settings.url).netloc
    try:
        reachable = Reachable(hosts=(host,), private=settings.private_hosts)
    except ValueError as error:
        # Without the entry, which the error shows: it may be a secret that stands in the wrong place.
        raise UsageError(
            "source mlflow: url or private_hosts holds what is no host and no network",
            hint="write example.org, 127.0.0.1:5000, [::1] or 10.1.0.0/16",
        ) from error
    try:
        return Http(
            reachable,
            origin=f"{urlsplit(settings.url).scheme}://{host}",
            credentials=credentials_of(settings),
            connect_s=timeouts.connect,
            read_s=timeouts.read,
        )
    except ValueError as error:
        raise UsageError(
            "source mlflow: its token is none that a header can hold", hint="check token or token_file"
        ) from error


def _make(setting: Setting) -> Mlflow:
    settings: RegistrySettings = setting.settings
    return Mlflow(settings, setting, Tracking(http_of(settings, setting.timeouts), settings.url))


MLFLOW = Made(_make, RegistrySettings)
