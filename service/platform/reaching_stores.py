"""How the file system behind an artifact URL is made, and what its errors mean.

Every library behind fsspec raises errors of its own; none of them leaves :mod:`service.platform.artifacts` as it is.
"""

import asyncio
import errno
import json
import os
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import sync
from fsspec.callbacks import Callback

from service.settings import Settings
from spinal.errors import SpinalError, StorageRefused, StorageUnavailable
from spinal.errors.faults import lacks_memory, reason, system_error_number

STORAGE_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ESTALE,
     errno.EFBIG}
)  # fmt: skip
ROOM = "make room on SPINAL_SCRATCH_DIR and the artifact store, and check who may write there"
SET_UP = "check SPINAL_ARTIFACT_URL and SPINAL_ARTIFACT_OPTIONS (docs/operations.md, Where captures lie)"
AWAY = "check that the artifact store is up and can be reached; workers go on by themselves when it is"
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs"})
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
ON_DISK = frozenset({"file", "local"})
CONNECT_S = 5.0
SET_UP_S = 30.0
"""For reading the descriptions of a service and finding credentials, before the first request of a client."""
TRIES = 2
"""Of one request. Who waits for a store asks again for much longer, and hears meanwhile that it is to stop."""
PIECE = 8 * 2**20
"""Bytes of one request with a part of a file. A part that has moved is the only sign of a store that goes on."""
AT_ONCE = 2
"""Parts."""
MOST_PARTS = 10_000
SLOWEST = 2**20
"""Bytes each second below which a line to a store is no line."""
FROM_FILE = "_file"
SHORTEST_SECRET = 4
NOT_LET_IN = re.compile(
    r"Credential|InvalidAccessKey|SignatureDoesNotMatch|AccessDenied|Forbidden|NoSuchBucket|ProfileNotFound|RefreshError"
)
"""In the name of an error, or in the code that a store gave it."""


def storage_problem(error: BaseException) -> StorageUnavailable | None:
    """The error as full or not writable storage of this machine, if that is what it is."""
    number = system_error_number(error)
    if number not in STORAGE_ERRORS:
        return None
    place = error.filename if isinstance(error, OSError) else None
    return StorageUnavailable(f"{os.strerror(number)}: {place or 'while writing a capture'}", hint=ROOM)


@dataclass(frozen=True)
class Reached:
    """A file system, the folder in it, and what must not be said of it."""

    fs: Any
    root: str
    protocol: str
    secrets: tuple[str, ...]
    timeout_s: float

    @property
    def local(self) -> bool:
        return self.protocol in ON_DISK

    @property
    def whole_writes(self) -> bool:
        """Whether a file appears with its last byte, or not at all."""
        return self.protocol in OBJECT_STORES

    def ask(
        self, verb: str, *args: object, moving: int = 0, callback: Callback | None = None, **options: object
    ) -> Any:
        """``fs.verb(*args, **options)``, ended with StorageUnavailable when the store says nothing. ``moving`` bytes
        are given time in addition.

        The timeouts of the libraries do not end every request: they begin when its body has been sent, and a server
        that was frozen takes none, nor says that it would (100-continue).
        """
        call = getattr(self.fs, f"_{verb}", None) if self.fs.async_impl else None
        if call is None:
            return getattr(self.fs, verb)(*args, **options)
        if callback is not None:
            options["callback"] = callback
        # A second try may follow a first.
        limit_s = TRIES * self.timeout_s + moving / SLOWEST
        return sync(self.fs.loop, _watched, self.fs, lambda: call(*args, **options), limit_s, callback or Callback())

    def send_file(self, local: Path, place: str) -> None:
        """Write a file of this machine there."""
        size = local.stat().st_size
        if not self.whole_writes:
            self.ask("put_file", str(local), place, moving=size)
            return
        piece = max(PIECE, -(-size // MOST_PARTS))
        options: dict[str, object] = {"chunksize": piece}
        if self.protocol in ("s3", "s3a"):
            options["max_concurrency"] = AT_ONCE
        self.ask("put_file", str(local), place, moving=min(size, AT_ONCE * piece), callback=Callback(), **options)

    def pieces(self, place: str) -> Iterator[bytes]:
        """The content of a file there."""
        size, start = int(self.ask("size", place)), 0
        while start < size:
            end = min(start + PIECE, size)
            yield bytes(self.ask("cat_file", place, start=start, end=end, moving=end - start))
            start = end

    @contextmanager
    def errors(self, *, absent: bool = False) -> Iterator[None]:
        """What is raised inside leaves as StorageUnavailable; FileNotFoundError passes where ``absent`` says that a
        file may not be there."""
        try:
            yield
        except SpinalError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if lacks_memory(error) or (absent and isinstance(error, FileNotFoundError) and not no_bucket(error)):
                raise
            raise self._problem(error) from error

    def _problem(self, error: BaseException) -> StorageUnavailable:
        on_disk = storage_problem(error) if self.local else None
        if on_disk is not None:
            return on_disk
        told = reason(error)
        for secret in self.secrets:
            told = told.replace(secret, "***")
        if not self.local and (isinstance(error, FileNotFoundError) or no_bucket(error)):
            return StorageRefused(f"the bucket of the artifact store is not there ({told})", hint=SET_UP)
        if not self.local and _not_let_in(error):
            return StorageRefused(f"the artifact store does not let this worker in ({told})", hint=SET_UP)
        return StorageUnavailable(f"the artifact store cannot be used ({told})", hint=ROOM if self.local else AWAY)


async def _watched(fs: Any, call: Callable[[], Coroutine[Any, Any, Any]], limit_s: float, callback: Callback) -> Any:
    """What ``call()`` brings; it is given up when nothing of it has moved for ``limit_s``."""
    if hasattr(fs, "set_session"):
        # Of s3fs, once for each client: work of this machine, whose time is not the store's.
        await asyncio.wait_for(fs.set_session(), SET_UP_S)
    task = asyncio.ensure_future(call())
    while True:
        moved = callback.value
        done, _ = await asyncio.wait({task}, timeout=limit_s)
        if done:
            return task.result()
        if callback.value == moved:
            # Not waited for: to be told that it is cancelled may take it another request.
            task.add_done_callback(_forget)
            task.cancel()
            raise StorageUnavailable(
                f"the artifact store cannot be used (it has said nothing for {limit_s:.1f} s)", hint=AWAY
            )


def _forget(task: "asyncio.Task[Any]") -> None:
    with suppress(asyncio.CancelledError):
        task.exception()


def reach(settings: Settings) -> Reached:
    """The file system of ``artifact_url``; no request is made. Raises StorageRefused where it cannot be made."""
    url = settings.artifact_url
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    options, secrets = _options(settings.artifact_options.get_secret_value(), protocol, settings.artifact_timeout_s)
    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        hint = f'pip install "spinal[{extra}]"' if extra else SET_UP
        raise StorageRefused(f"{protocol}:// needs a package that is not installed here", hint=hint) from error
    except Exception as error:
        # Made of the operator's own words: what a library says of them may repeat a secret.
        raise StorageRefused(f"the artifact store cannot be set up ({type(error).__name__})", hint=SET_UP) from error
    if protocol in ("s3", "s3a"):
        vars(fs)["retries"] = TRIES
    return Reached(fs, root, protocol, secrets, settings.artifact_timeout_s)


def _options(told: str, protocol: str, timeout_s: float) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What fsspec is told, and the secrets in it."""
    secrets: list[str] = []
    options = _from_files(json.loads(told or "{}"), secrets)
    secrets += [value for name in ("key", "secret", "token") if isinstance(value := options.get(name), str)]
    ambient = bool(options.pop("ambient", False))
    if protocol in ("s3", "s3a"):
        options = _of_s3(options, ambient, timeout_s)
    elif protocol in ("gs", "gcs"):
        options = _of_gcs(options, ambient, timeout_s)
    return options, tuple(sorted((each for each in secrets if len(each) >= SHORTEST_SECRET), key=len, reverse=True))


def _from_files(options: dict[str, Any], secrets: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict):
            found[name] = _from_files(value, secrets)
        elif name.endswith(FROM_FILE) and isinstance(value, str):
            try:
                content = Path(value).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise StorageRefused(
                    f"SPINAL_ARTIFACT_OPTIONS: the file of {name} cannot be read ({type(error).__name__})", hint=SET_UP
                ) from None
            secrets.append(content)
            found[name.removesuffix(FROM_FILE)] = content
        else:
            found[name] = value
    return found


def _of_s3(options: dict[str, Any], ambient: bool, timeout_s: float) -> dict[str, Any]:
    if not (ambient or options.get("anon") or "profile" in options or {"key", "secret"} <= options.keys()):
        raise _no_credentials("key_file and secret_file")
    region = options.pop("region", None)
    config = {
        "connect_timeout": min(CONNECT_S, timeout_s),
        "read_timeout": timeout_s,
        "retries": {"total_max_attempts": TRIES, "mode": "standard"},
        # Many servers that speak S3 do not know the checksums that came later; sha256 is checked here.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "ignore_configured_endpoint_urls": not ambient,
    }
    client = {"region_name": region} if region else {}
    return {
        # Another worker may have written what was not there a moment ago.
        "use_listings_cache": False,
        **options,
        "config_kwargs": config | options.get("config_kwargs", {}),
        "client_kwargs": client | options.get("client_kwargs", {}),
    }


def _of_gcs(options: dict[str, Any], ambient: bool, timeout_s: float) -> dict[str, Any]:
    if options.pop("anon", False):
        options["token"] = "anon"  # noqa: S105  a word of gcsfs
    if not (ambient or "token" in options):
        raise _no_credentials("token_file")
    if str(options.get("token", "")).startswith("{"):
        try:
            options["token"] = json.loads(options["token"])
        except ValueError:
            raise StorageRefused("SPINAL_ARTIFACT_OPTIONS: the token is no JSON", hint=SET_UP) from None
    session = {"timeout": _of_sockets(timeout_s)}
    return {"use_listings_cache": False, **options, "session_kwargs": session | options.get("session_kwargs", {})}


def _of_sockets(timeout_s: float) -> Any:
    """Not of whole requests: large files take as long as they take."""
    try:
        from aiohttp import ClientTimeout
    except ImportError:
        return None
    return ClientTimeout(total=None, sock_connect=min(CONNECT_S, timeout_s), sock_read=timeout_s)


def _no_credentials(names: str) -> StorageRefused:
    return StorageRefused(
        f"SPINAL_ARTIFACT_OPTIONS names no credentials: {names}",
        hint='or {"ambient": true} for those of the environment, or of the instance',
    )


def no_bucket(error: BaseException) -> bool:
    """Whether not a file is missing, but all that it could lie in."""
    return any("NoSuchBucket" in name for name in _names(error)) or "bucket does not exist" in str(error).lower()


def _not_let_in(error: BaseException) -> bool:
    if isinstance(error, PermissionError) or str(getattr(error, "code", "")) in ("401", "403"):
        return True
    return any(NOT_LET_IN.search(name) for name in _names(error)) or str(error).startswith("Forbidden")


def _names(error: BaseException | None) -> Sequence[str]:
    """Types of an error and its causes, and the codes in botocore's answers."""
    names: list[str] = []
    while error is not None and len(names) < 20:
        names.append(type(error).__name__)
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):
            names.append(str(answer.get("Error", {}).get("Code", "")))
        error = error.__cause__
    return names
