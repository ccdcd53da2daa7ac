"""Versions of registered models of an MLflow registry: ``mlflow:NAME/VERSION`` and ``mlflow:NAME@ALIAS``.

A version is a name for files that lie elsewhere: among the artifacts that the tracking server serves, which are read
here; in a bucket, on a hub or in a folder of this host, which the sources of those read, by their own rules.
"""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from spinal.checkpoints.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    INDEX,
    TOKENIZER,
    WEIGHTS,
)
from spinal.checkpoints.mlflow_server import ARTIFACTS, ID, NUMBER, Folder, Tracking, Version, until
from spinal.checkpoints.mlmodel import MLMODEL, MOST_BYTES, hub_reference
from spinal.checkpoints.sources.base import Kind, Listed, Pinned, Setting, own_files
from spinal.errors import ModelChanged, ModelNotFound, ModelPathRefused, ModelReferenceInvalid, UsageError
from spinal.errors.faults import shown
from spinal.errors.sources import SourceRefused, SourceUnavailable
from spinal.net.http import Http, Reachable, pieces

EXAMPLE = "mlflow:NAME/VERSION"
ALIAS = re.compile(r"[\w-]{1,255}")
MOST_NAME = 256
"""What MLflow's own tables hold."""
MOST_URI = 2048
MARKS = (CONFIG, ADAPTER_CONFIG)
"""One of them lies in the folder of every checkpoint."""
MODEL, COMPONENTS, OF_TOKENIZER, OF_PYFUNC = "model", "components", "components/tokenizer", "artifacts"
"""Where MLflow's flavours put weights, what stands beside them, the tokenizer, and files of one's own."""
NOT_FILLED_IN = frozenset({*MARKS, WEIGHTS, INDEX, ADAPTER_WEIGHTS})
MOST_FOLDERS = 32
"""So many folders below an artifact root are looked into."""
MOST_TAGGED = 64
"""Each etag takes a request: of checkpoints with more files none is asked for."""
ELSEWHERE = ("s3", "gs")
READABLE = (
    "artifacts that the registry serves, s3:// and gs:// where those sources are enabled, folders below the model roots"
)


class RegistrySettings(BaseModel):
    """A tracking server, and what of it may be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    """Address of the tracking server, with the path below which it answers, if any."""
    allow: tuple[str, ...] = Field(min_length=1)
    """Names of registered models that may be read; ``*`` stands for anything."""
    token: SecretStr | None = None
    token_file: Path | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    private: tuple[str, ...] = ()
    """The server, as host or host:port, or networks that it lies in, where its address is not a public one."""

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018  raises ValueError for what is no port
        except ValueError as error:
            raise ValueError("url is no address") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
            raise ValueError("url is the address of a tracking server: https://HOST[:PORT][/PATH]")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("url holds no credentials, query or fragment: give token, or username and password")
        return url.rstrip("/")

    @field_validator("allow")
    @classmethod
    def _patterns(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        if not all(allow):
            raise ValueError("allow holds names of registered models, or patterns with *")
        return allow

    @model_validator(mode="after")
    def _one_way_in(self) -> "RegistrySettings":
        tokens = [each for each in (self.token, self.token_file) if each is not None]
        passwords = [each for each in (self.password, self.password_file) if each is not None]
        if len(tokens) + len(passwords) > 1:
            raise ValueError("give one of token, token_file, password, password_file")
        if (self.username is None) != (not passwords):
            raise ValueError("username and password (or password_file) belong together")
        return self


@dataclass(frozen=True)
class Found:
    """The folder of a checkpoint among the artifacts that a server serves."""

    path: str
    files: Folder


class Mlflow:
    """The registered models of one server, for one caller."""

    def __init__(self, settings: RegistrySettings, setting: Setting, tracking: Tracking) -> None:
        self._settings = settings
        self._setting = setting
        self._tracking = tracking

    def pin(self, path: str) -> Pinned:
        """The version that ``NAME/VERSION`` or ``NAME@ALIAS`` means now, and the files that make it a checkpoint."""
        name, number, alias = _parts(path)
        if not any(_matches(name, pattern) for pattern in self._settings.allow):
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
            return replace(self._pin_bucket(uri, called), name=called)
        if uri.startswith("/") or scheme == "file":
            return replace(self._pin_folder(uri, called), name=called)
        raise SourceRefused(
            f"{shown(called)} keeps its files at an address of the form {shown(scheme)[:20]}:, which is not read here",
            hint=f"readable are {READABLE}",
        )

    @contextmanager
    def read(
        self, pinned: Pinned, listed: Listed, start: int = 0, end: int | None = None
    ) -> Iterator[Iterator[bytes]]:
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
        found = self._checkpoint_in(Found(root, top), called, deadline)
        if found is None:
            return self._pin_named(root, top, called, deadline)
        files = {name: (size, f"{found.path}/{name}") for name, size in found.files.files.items()}
        if COMPONENTS in top.folders and CONFIG in files and TOKENIZER not in files:
            beside = f"{root}/{OF_TOKENIZER}"
            for name, size in self._tracking.folder(beside, called, deadline).files.items():
                if name not in NOT_FILLED_IN:
                    files.setdefault(name, (size, f"{beside}/{name}"))
        listed = own_files([Listed(name, size, at) for name, (size, at) in files.items()])
        made_by = version.source.rpartition("/")[2] if version.source.startswith("models:/m-") else version.run
        return Pinned(
            name=called,
            location=f"{self._tracking.place}/{version.name}/{found.path}",
            revision=f"{version.number}/{made_by}" if made_by else version.number,
            files=self._tagged(listed, called, deadline),
            scheme=MLFLOW.scheme,
        )

    def _checkpoint_in(self, top: Found, called: str, deadline: float) -> Found | None:
        """The folder of the checkpoint: the root, ``model``, or the only other one that holds a configuration. Of a
        model with files of its own (pyfunc) these lie a folder further down."""
        if _is_checkpoint(top.files):
            return top
        if MODEL in top.files.folders:
            found = Found(f"{top.path}/{MODEL}", self._tracking.folder(f"{top.path}/{MODEL}", called, deadline))
            if _is_checkpoint(found.files):
                return found
        seen = self._below(top, called, deadline, (MODEL, COMPONENTS))
        looked = [each for each in seen if _is_checkpoint(each.files)]
        if not looked:
            for each in seen:
                if each.path.endswith(f"/{OF_PYFUNC}"):
                    looked += [x for x in self._below(each, called, deadline) if _is_checkpoint(x.files)]
        if len(looked) > 1:
            names = ", ".join(shown(each.path.removeprefix(f"{top.path}/")) for each in looked[:5])
            raise ModelNotFound(
                f"{shown(called)} holds more than one checkpoint: {names}", hint="register the folder of one of them"
            )
        return looked[0] if looked else None

    def _below(self, top: Found, called: str, deadline: float, without: tuple[str, ...] = ()) -> list[Found]:
        names = [name for name in top.files.folders if name not in without]
        if len(names) > MOST_FOLDERS:
            raise ModelNotFound(
                f"{shown(called)} has more than {MOST_FOLDERS} folders and no checkpoint at its root",
                hint="register the folder of the checkpoint",
            )
        paths = [f"{top.path}/{name}" for name in names]
        return [Found(path, self._tracking.folder(path, called, deadline)) for path in paths]

    def _pin_named(self, root: str, top: Folder, called: str, deadline: float) -> Pinned:
        """What MLmodel names where no weights were logged: a model of a hub, at a commit."""
        size = top.files.get(MLMODEL)
        if size is None or size > MOST_BYTES:
            raise _no_checkpoint(called)
        raw = self._tracking.content(f"{root}/{MLMODEL}", called, most_bytes=MOST_BYTES, deadline=deadline)
        reference = hub_reference(raw, called)
        if reference is None:
            raise _no_checkpoint(called)
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
            replace(each, tag=tag if each is first else self._tracking.tag(each.at, called, deadline))
            for each in files
        )

    def _pin_bucket(self, uri: str, called: str) -> Pinned:
        for below in ("", f"/{MODEL}"):
            try:
                found = self._setting.pin(uri.rstrip("/") + below)
            except ModelNotFound:
                continue
            if any(each.name in MARKS for each in found.files or ()):
                return found
        raise _no_checkpoint(called)

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
        raise _no_checkpoint(called)


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


def _matches(name: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None


def _is_checkpoint(folder: Folder) -> bool:
    return any(mark in folder.files for mark in MARKS)


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


def _no_checkpoint(called: str) -> ModelNotFound:
    return ModelNotFound(
        f"{shown(called)} holds no checkpoint: {CONFIG} or {ADAPTER_CONFIG} was looked for at its root, in {MODEL}/ and "
        f"in its only other folder that has one, and a model of a hub in {MLMODEL}",
        hint="log the model with the flavour transformers, or log_artifacts() of the folder that save_pretrained() wrote",
    )


def _credentials(settings: RegistrySettings) -> dict[str, str]:
    token = _secret(settings.token, settings.token_file)
    if token is not None:
        return {"Authorization": f"Bearer {token}"}
    password = _secret(settings.password, settings.password_file)
    if password is None:
        return {}
    pair = base64.b64encode(f"{settings.username}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def _secret(given: SecretStr | None, file: Path | None) -> str | None:
    secret = None if given is None else given.get_secret_value()
    if file is not None:
        try:
            secret = file.read_text().strip()
        except (OSError, UnicodeError) as error:
            raise UsageError(
                f"source mlflow: the file {shown(file.name)} with its secret cannot be read",
                hint="is it there, and readable for this process?",
            ) from error
    if secret is not None and not (secret.isascii() and secret.isprintable() and secret):
        raise UsageError("source mlflow: its secret is empty, or no line of ASCII", hint="check token or password")
    return secret


def _make(setting: Setting) -> Mlflow:
    settings: RegistrySettings = setting.settings
    host = urlsplit(settings.url).netloc
    try:
        reachable = Reachable(hosts=(host,), private=settings.private)
    except ValueError as error:
        raise UsageError(f"source mlflow: {error}", hint="check url and private of the source mlflow") from error
    http = Http(
        reachable,
        origin=f"{urlsplit(settings.url).scheme}://{host}",
        credentials=_credentials(settings),
        connect_s=setting.timeouts.connect,
        read_s=setting.timeouts.read,
    )
    return Mlflow(settings, setting, Tracking(http, settings.url))


MLFLOW = Kind("mlflow", EXAMPLE, _make, RegistrySettings)
