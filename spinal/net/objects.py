"""Objects in a bucket, by the requests that Amazon S3 and the XML API of Google Cloud Storage have in common.

Three requests are enough to read a checkpoint: what lies directly below a prefix, what one object is, and a part of its
bytes. Each is bounded; no redirect is followed, because the protocol needs none and a session token would travel along.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote_plus

# A document with a DTD is refused before it is parsed, and expat reads no other files.
from xml.etree import ElementTree

import httpx

from spinal.net.http import Http, pieces
from spinal.net.signing import encoded_path, encoded_query

MOST_PAGE = 8 << 20
"""Bytes of one page of a listing: a thousand keys of 1024 bytes, each byte as ``%XX``, take half of it."""
MOST_PAGES = 30
MOST_ENTRIES = 10_000
"""Objects and folders directly below one prefix."""
MOST_ERROR = 64 << 10
LARGEST = re.compile(r"[0-9]{1,15}")
"""Sizes: below a petabyte, and exact in any JSON."""
ETAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')
"""A strong one: only such a tag says that the bytes are the same (RFC 9110, section 8.8.1)."""
VERSION = re.compile(r"[\x21-\x7e]{1,1024}")
CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")
REGION = re.compile(r"[a-z0-9-]{1,40}")

Sign = Callable[[str, str, str, str, Mapping[str, str]], Mapping[str, str]]
"""From method, host, path, query and headers to the headers that are sent."""


@dataclass(frozen=True)
class Dialect:
    """What the two do differently."""

    version_parameter: str
    version_header: str
    listing: tuple[tuple[str, str], ...] = ()
    """More parameters of a listing."""
    head: tuple[tuple[str, str], ...] = ()
    """Headers that ask for more about an object."""
    reading: tuple[tuple[str, str], ...] = ()
    """Headers of every request for bytes."""
    version_listed: bool = False
    """Whether a listing tells the version of each object."""


S3_DIALECT = Dialect(
    "versionId",
    "x-amz-version-id",
    listing=(("encoding-type", "url"),),
    head=(("x-amz-checksum-mode", "ENABLED"),),
    reading=(("accept-encoding", "identity"),),
)
# An object that is kept compressed is unpacked for whoever does not accept gzip: other bytes than were listed.
GS_DIALECT = Dialect("generation", "x-goog-generation", reading=(("accept-encoding", "gzip"),), version_listed=True)


@dataclass(frozen=True)
class Object:
    """One object, as its store tells it."""

    key: str
    size: int
    etag: str
    """With its quotes."""
    version: str | None = None
    sha256: str | None = None
    """Of the whole content, where it was uploaded with this checksum, which the store computed, too."""


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str, headers: httpx.Headers) -> None:
        super().__init__(f"{status} {code}".strip())
        self.status = status
        self.code = code
        """In the words of the protocol; "" where it told none."""
        self.headers = headers

    @property
    def region(self) -> str | None:
        """Where the bucket lies, if the store said so."""
        told = self.headers.get("x-amz-bucket-region", "")
        return told if REGION.fullmatch(told) else None


class Unreadable(Exception):
    """An answer that is not of the protocol, or beyond every bound. Its text is ours."""


class TooMany(Exception):
    """More entries below a prefix than are looked at."""


@dataclass(frozen=True)
class Bucket:
    """One bucket behind an endpoint. Its methods raise Refusal, Unreadable, and what
    :meth:`spinal.net.http.Http.stream` raises."""

    http: Http
    endpoint: str
    name: str
    sign: Sign
    dialect: Dialect

    def list_below(self, prefix: str, deadline: float) -> list[Object]:
        """The objects directly below ``prefix`` ("" or with a slash at its end), by key. Raises TooMany."""
        found: dict[str, Object] = {}
        entries, token = 0, None
        for _ in range(MOST_PAGES):
            query = [("list-type", "2"), ("prefix", prefix), ("delimiter", "/"), *self.dialect.listing]
            query += [("continuation-token", token)] if token else []
            page = parse_page(self._page(query, deadline), self.dialect, prefix)
            entries += page.entries
            if entries > MOST_ENTRIES:
                raise TooMany
            if any(each.key in found for each in page.objects):
                raise Unreadable("its listing names an object twice")
            found |= {each.key: each for each in page.objects}
            token = page.next
            if token is None:
                return [found[key] for key in sorted(found)]
        raise TooMany

    def head(self, key: str, deadline: float) -> Object:
        """What the object is now."""
        with self._ask("HEAD", key, dict(self.dialect.head), deadline=deadline) as answer:
            if answer.status_code != httpx.codes.OK:
                raise Refusal(answer.status_code, "", answer.headers)
            return _described(key, answer.headers, self.dialect)

    @contextmanager
    def get(
        self, key: str, etag: str, version: str | None, span: tuple[int, int] | None
    ) -> Iterator[tuple[httpx.Response, Iterator[bytes]]]:
        """The answer with the bytes of ``span`` (first, behind the last), None for all, if the object still has this
        ``etag``, and its pieces as they come."""
        headers = {"if-match": etag, **dict(self.dialect.reading)}
        if span is not None:
            headers["range"] = f"bytes={span[0]}-{span[1] - 1}"
        query = [(self.dialect.version_parameter, version)] if version else []
        with self._ask("GET", key, headers, query) as answer:
            if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise Refusal(answer.status_code, _code(_start(answer)), answer.headers)
            yield answer, pieces(answer)

    def _page(self, query: Sequence[tuple[str, str]], deadline: float) -> bytes:
        url, headers = self._request("GET", "", {"accept-encoding": "identity"}, query)
        answer = self.http.read(url, most_bytes=MOST_PAGE, headers=headers, deadline=deadline)
        if answer.status != httpx.codes.OK:
            raise Refusal(answer.status, _code(answer.body), answer.headers)
        return answer.body

    @contextmanager
    def _ask(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str],
        query: Sequence[tuple[str, str]] = (),
        deadline: float | None = None,
    ) -> Iterator[httpx.Response]:
        url, signed = self._request(method, key, headers, query)
        with self.http.stream(url, method=method, headers=signed, deadline=deadline) as answer:
            yield answer

    def _request(
        self, method: str, key: str, headers: Mapping[str, str], query: Sequence[tuple[str, str]]
    ) -> tuple[str, Mapping[str, str]]:
        base = httpx.URL(self.endpoint)
        path = base.raw_path.decode().rstrip("/") + encoded_path(f"/{self.name}/{key}" if key else f"/{self.name}")
        sent = encoded_query(query)
        # As the header Host will say it: without the port that goes without saying.
        host = base.netloc.decode()
        return f"{base.scheme}://{host}{path}" + (f"?{sent}" if sent else ""), self.sign(
            method, host, path, sent, headers
        )


@dataclass(frozen=True)
class Page:
    """One page of a listing."""

    objects: tuple[Object, ...]
    entries: int
    """Objects and folders."""
    next: str | None


def parse_page(body: bytes, dialect: Dialect, prefix: str) -> Page:
    """A page of objects directly below ``prefix``. Raises Unreadable."""
    try:
        text = body.decode()
        if "<!DOCTYPE" in text or "\0" in text:  # a null byte: in UTF-16 a DTD would not be seen
            raise Unreadable("its listing is no plain XML")
        root = ElementTree.fromstring(text)  # noqa: S314  it is bounded and has no DTD
    except (ElementTree.ParseError, ValueError):
        raise Unreadable("its listing is no XML") from None
    space = root.tag[: root.tag.index("}") + 1] if root.tag.startswith("{") else ""
    if root.tag != f"{space}ListBucketResult":
        raise Unreadable("its answer is no listing")
    decoded = root.findtext(f"{space}EncodingType") == "url"
    contents = root.findall(f"{space}Contents")
    objects = [_listed(each, space, decoded, dialect) for each in contents]
    if any(not each.key.startswith(prefix) for each in objects):
        raise Unreadable("its listing names objects that were not asked for")
    more = root.findtext(f"{space}IsTruncated") == "true"
    token = root.findtext(f"{space}NextContinuationToken")
    if more and not token:
        raise Unreadable("its listing breaks off")
    direct = tuple(each for each in objects if each.key != prefix and "/" not in each.key[len(prefix) :])
    return Page(direct, len(contents) + len(root.findall(f"{space}CommonPrefixes")), token if more else None)


def _listed(entry: ElementTree.Element, space: str, decoded: bool, dialect: Dialect) -> Object:
    def told(name: str) -> str:
        return entry.findtext(f"{space}{name}") or ""

    key = unquote_plus(told("Key")) if decoded else told("Key")
    version = told("Generation") if dialect.version_listed else None
    return _object(key, told("Size"), told("ETag"), version, None)


def _described(key: str, headers: httpx.Headers, dialect: Dialect) -> Object:
    version = headers.get(dialect.version_header)
    # Buckets without versions, or with versions switched off again, call what is there "null": it can be overwritten.
    version = None if version == "null" else version
    return _object(key, headers.get("content-length", ""), headers.get("etag", ""), version, _whole_sha256(headers))


def _object(key: str, size: str, etag: str, version: str | None, sha256: str | None) -> Object:
    etag = etag if etag.startswith(('"', "W/")) else f'"{etag}"'
    if not (LARGEST.fullmatch(size) and ETAG.fullmatch(etag)):
        raise Unreadable("it does not tell size and etag of an object")
    if version is not None and not VERSION.fullmatch(version):
        raise Unreadable("it does not tell the version of an object")
    return Object(key, int(size), etag, version, sha256)


def _whole_sha256(headers: httpx.Headers) -> str | None:
    """A checksum of checksums of parts, which ends in ``-`` and their number, says nothing of the whole."""
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    try:
        raw = base64.b64decode(headers.get("x-amz-checksum-sha256", ""), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == 32 else None


def _start(answer: httpx.Response) -> bytes:
    found = b""
    for piece in pieces(answer):
        found += piece
        if len(found) >= MOST_ERROR:
            break
    return found[:MOST_ERROR]


def _code(body: bytes) -> str:
    found = CODE.search(body[:MOST_ERROR])
    return found[1].decode() if found else ""
