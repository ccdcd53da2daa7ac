"""Folders in buckets: ``s3://bucket/prefix`` and ``gs://bucket/prefix``.

A prefix has no version of its own. It is pinned to a digest of what lies directly below it, and each object to its etag
and, where its bucket keeps versions, its version. An etag is no digest of the content: it only says whether the content
is still the same. No credentials are looked for: neither the environment nor a home folder nor a server for metadata is
asked, only what the settings name.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from spinal.checkpoints.sources.base import Listed, Made, Pinned, Setting, Timeouts, own_files
from spinal.checkpoints.sources.bucket_names import Place, parse
from spinal.checkpoints.sources.bucket_settings import BucketSettings, GSSettings, S3Settings
from spinal.documents.canonical import digest_of
from spinal.errors import ModelChanged, ModelNotFound, ModelReferenceInvalid, SpinalError, UsageError
from spinal.errors.faults import shown
from spinal.errors.sources import ModelAccessRefused, SourceRefused, SourceUnavailable
from spinal.net.http import Http, Reachable, retry_after_s
from spinal.net.objects import GS_DIALECT, S3_DIALECT, Bucket, Dialect, Object, Refusal, Sign, TooMany, Unreadable
from spinal.net.signing import aws_headers, google_token

MOST_FILES = 1000
"""Files of one checkpoint."""
HEADS_AT_ONCE = 8
READ_ONLY = "https://www.googleapis.com/auth/devstorage.read_only"
REJECTED = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"}
)
ELSEWHERE = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
GONE = frozenset({404, 410, 412, 416})
"""What a request for bytes on conditions is answered with when they are not there any more."""
CHANGED_HINT = "submit again when its files are final"


@dataclass(frozen=True)
class Buckets:
    """The buckets of one deployment or tenant behind one endpoint."""

    scheme: str
    settings: BucketSettings
    endpoint: str
    http: Http
    sign: Sign
    dialect: Dialect
    timeouts: Timeouts

    def pin(self, path: str) -> Pinned:
        place, pin = parse(self.scheme, path)
        self._require_allowed(place.bucket, place.folder)
        files = self._files(place, time.monotonic() + self.timeouts.pin)
        if not files and pin is None:
            raise ModelNotFound(
                f"no files directly below {place.name}", hint="name the folder that holds config.json and the weights"
            )
        found = digest_of([[each.name, str(each.size), each.tag] for each in files])[:32]
        if pin not in (None, found):
            raise ModelChanged(f"the objects below {place.name} are not those that were submitted", hint=CHANGED_HINT)
        # Each file carries its own tag. A revision of the folder would have all of them fetched again for one that
        # changed.
        return Pinned(f"{place.name}@{found}", self._location(place), None, files, self.scheme)

    @contextmanager
    def read(self, pinned: Pinned, listed: Listed, start: int = 0, end: int | None = None) -> Iterator[Iterator[bytes]]:
        end = listed.size if end is None else end
        if not 0 <= start <= end <= listed.size:
            raise ValueError(f"no bytes {start} to {end} in a file of {listed.size}")
        bucket = self._bucket(self._bucket_of(pinned, listed))
        if start == end:
            yield iter(())
            return
        etag, _, version = (listed.tag or "").partition(" ")
        span = None if (start, end) == (0, listed.size) else (start, end)
        name = f"{listed.name} of {pinned.name}"
        with self._told(name, reading=True), self._opened(bucket, listed.at, etag, version or None, span) as opened:
            answer, pieces = opened
            _require_asked(name, answer, etag, start, end, listed.size)
            yield _at_most(pieces, end - start)

    @contextmanager
    def _opened(
        self, bucket: Bucket, key: str, etag: str, version: str | None, span: tuple[int, int] | None
    ) -> Iterator[tuple[httpx.Response, Iterator[bytes]]]:
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(bucket.get(key, etag, version, span))
            except Refusal as refusal:
                if version is None or refusal.status != httpx.codes.FORBIDDEN:
                    raise
                # Who may read objects often may not read versions. The etag holds what is there to what was pinned.
                opened = stack.enter_context(bucket.get(key, etag, None, span))
            yield opened

    def _files(self, place: Place, deadline: float) -> tuple[Listed, ...]:
        bucket = self._bucket(place.bucket)
        with self._told(place.name):
            found = bucket.list_below(place.prefix, deadline)
            listed = {each.key[len(place.prefix) :]: each for each in found}
            own = own_files([Listed(name, each.size, each.key) for name, each in listed.items()])
            if len(own) > MOST_FILES:
                raise TooMany
            objects = [listed[each.name] for each in own]
            if not self.dialect.version_listed:
                objects = _described(place, bucket, objects, deadline)
        return tuple(
            Listed(file.name, each.size, each.key, each.sha256, None, _tag(each))
            for file, each in zip(own, objects, strict=True)
        )

    def _location(self, place: Place) -> str:
        return f"{self.endpoint}/{place.bucket}/{place.prefix}"

    def _bucket(self, name: str) -> Bucket:
        return Bucket(self.http, self.endpoint, name, self.sign, self.dialect)

    def _bucket_of(self, pinned: Pinned, listed: Listed) -> str:
        """Taken from where the files lie: what was asked for may be a name of a registry."""
        start = f"{self.endpoint}/"
        if not pinned.location.startswith(start):
            raise SourceRefused(f"{shown(pinned.name)} lies behind another endpoint than the one of this deployment")
        bucket = pinned.location[len(start) :].partition("/")[0]
        self._require_allowed(bucket, listed.at.rpartition("/")[0])
        return bucket

    def _require_allowed(self, bucket: str, folder: str) -> None:
        if not self.settings.allows(bucket, folder):
            raise SourceRefused(
                f"{Place(self.scheme, bucket, folder).name} is not among the buckets that may be used here",
                hint=f"the operator lists buckets under `allow` of the source {self.scheme}",
            )

    @contextmanager
    def _told(self, name: str, *, reading: bool = False) -> Iterator[None]:
        """Say what a store answered, in our words."""
        try:
            yield
        except Refusal as refusal:
            raise _error_of(name, refusal, reading) from None
        except Unreadable as error:
            raise SourceUnavailable(f"the store of {name} does not answer by its protocol: {error}") from None
        except TooMany:
            raise ModelReferenceInvalid(
                f"{name} holds more files than a checkpoint", hint="name the folder of one checkpoint"
            ) from None


def _described(place: Place, bucket: Bucket, listed: list[Object], deadline: float) -> list[Object]:
    """The same objects with versions and checksums, which no listing of S3 tells."""
    if not listed:
        return []
    pool = ThreadPoolExecutor(min(HEADS_AT_ONCE, len(listed)))
    try:
        found = list(pool.map(lambda each: bucket.head(each.key, deadline), listed))
    except Refusal as refusal:
        if refusal.status != httpx.codes.NOT_FOUND:
            raise
        found = []
    finally:
        pool.shutdown(cancel_futures=True)
    if [(each.size, each.etag) for each in found] != [(each.size, each.etag) for each in listed]:
        raise ModelChanged(f"the objects below {place.name} are being replaced", hint=CHANGED_HINT)
    return found


def _tag(each: Object) -> str:
    return each.etag if each.version is None else f"{each.etag} {each.version}"


def _require_asked(name: str, answer: httpx.Response, etag: str, start: int, end: int, size: int) -> None:
    """Not every store that speaks the protocol keeps to the conditions of a request: a byte of another content or place
    must not be taken for what was asked."""
    told = answer.headers.get("etag", "")
    if told != etag and told:
        raise _changed(name)
    whole = (start, end) == (0, size)
    places = {f"bytes {start}-{end - 1}/{size}", f"bytes {start}-{end - 1}/*"}
    partial = answer.status_code == httpx.codes.PARTIAL_CONTENT
    asked = answer.headers.get("content-range") in places if partial else whole
    if not told or not asked or answer.headers.get("content-length", str(end - start)) != str(end - start):
        raise SourceUnavailable(f"{name} was asked for, and the store sent something else")


def _at_most(pieces: Iterator[bytes], length: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[:length]
        length -= len(piece)
        if length <= 0:
            return


def _changed(name: str) -> ModelChanged:
    return ModelChanged(f"{name} is not what was submitted any more", hint=CHANGED_HINT)


def _error_of(name: str, refusal: Refusal, reading: bool) -> SpinalError:
    status, code = refusal.status, refusal.code
    said = f"{status} {code}".strip()
    if reading and status in GONE:
        return _changed(name)
    if status == httpx.codes.NOT_FOUND:
        return ModelNotFound(f"there is no bucket of {name}", hint="check the name of the bucket and its region")
    if code in ELSEWHERE or 300 <= status < 400:
        where = f" in {refusal.region}" if refusal.region else ""
        return SourceRefused(
            f"the bucket of {name} lies elsewhere{where} ({said})",
            hint="the operator sets the bucket's region, or its endpoint",
        )
    if code == "RequestTimeTooSkewed":
        return SourceUnavailable(f"the store of {name} has another time than this host", hint="set this host's clock")
    if code in REJECTED or status == httpx.codes.UNAUTHORIZED:
        return ModelAccessRefused(
            f"the store of {name} does not accept the credentials ({said})", hint="the operator sets others"
        )
    if status == httpx.codes.FORBIDDEN:
        return ModelAccessRefused(
            f"the credentials do not open {name} ({said})", hint="they have to list the folder and read its objects"
        )
    return SourceUnavailable(f"the store of {name} answered {said}", retry_after_s=retry_after_s(refusal.headers))


def make_s3(setting: Setting) -> Buckets:
    """Raises UsageError for settings without credentials, and files that cannot be read."""
    settings: S3Settings = setting.settings
    key = settings.access_key()

    def sign(method: str, host: str, path: str, query: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        if key is None:
            return headers
        return aws_headers(key, settings.region, method, host, path, query, headers, now=datetime.now(UTC))

    endpoint = settings.endpoint or f"https://s3.{settings.region}.amazonaws.com"
    return _made("s3", setting, endpoint, sign, S3_DIALECT)


def make_gs(setting: Setting) -> Buckets:
    """Raises UsageError for settings without credentials, files that cannot be read, and a missing library."""
    settings: GSSettings = setting.settings
    account = settings.service_account()

    def sign(method: str, host: str, path: str, query: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        if account is None:
            return headers
        token = google_token(account, scope=READ_ONLY, now=datetime.now(UTC))
        return {**headers, "authorization": f"Bearer {token}"}

    return _made("gs", setting, settings.endpoint or "https://storage.googleapis.com", sign, GS_DIALECT)


def _made(scheme: str, setting: Setting, endpoint: str, sign: Sign, dialect: Dialect) -> Buckets:
    settings: BucketSettings = setting.settings
    host = httpx.URL(endpoint).netloc.decode()
    # An endpoint that an operator names may lie in their own network; nobody else can name one.
    reachable = Reachable((host,), (host,) if settings.endpoint else ())
    timeouts = setting.timeouts
    try:
        http = Http(reachable, connect_s=timeouts.connect, read_s=timeouts.read, ca_file=settings.ca_file)
    except ValueError as error:
        raise UsageError(f"ca_file of the source {scheme}: {error}") from None
    return Buckets(scheme, settings, endpoint, http, sign, dialect, timeouts)


S3 = Made(make_s3, S3Settings)
GS = Made(make_gs, GSSettings)
