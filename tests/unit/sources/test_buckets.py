"""Buckets: what references mean, what may be used, and what a store can do to us.

The stores here are doubles (``tests/support/scripted_buckets.py``), for Google's as well, of which none installs. A
real store speaks S3 in ``tests/integrations/test_buckets.py``.
"""

import base64
import hashlib
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from spinal.checkpoints.sources.base import Listed, Made, Pinned, Setting, Timeouts
from spinal.checkpoints.sources.bucket_names import parse
from spinal.checkpoints.sources.bucket_settings import GSSettings, S3Settings
from spinal.checkpoints.sources.buckets import GS, S3, Buckets
from spinal.errors import ModelChanged, ModelNotFound, ModelReferenceInvalid, SpinalError, UsageError
from spinal.errors.sources import ModelAccessRefused, SourceRefused, SourceUnavailable
from spinal.net.objects import LARGEST, MOST_ENTRIES, MOST_PAGE, S3_DIALECT, parse_page
from spinal.net.signing import EMPTY_BODY, AccessKey, aws_headers, encoded_query
from tests.support.places import ROOT
from tests.support.scripted_buckets import (
    Asked,
    Content,
    ScriptedServer,
    Told,
    claims_of,
    entry,
    etag_of,
    listing,
    refusal,
)

KEY = {"access_key_id": "AKID", "secret_access_key": "sEcReTsEcReT", "session_token": "tOkEnToKeN"}
BODY = b"0123456789" * 20_000
HEX = "0123456789abcdef" * 2


def setting(settings: BaseModel, **timeouts: float) -> Setting:
    return Setting(settings, None, lambda reference: pytest.fail(f"asked for {reference}"), Timeouts(**timeouts))


def s3(server: ScriptedServer, **said: object) -> Buckets:
    timeouts = {name: said.pop(name) for name in ("read", "pin") if name in said}
    settings = {"allow": ("*",), "endpoint": server.endpoint, "allow_http": True, **KEY, **said}
    return S3.make(setting(S3Settings.model_validate(settings), **timeouts))  # type: ignore[return-value,arg-type]  # a port makes sources


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(Content({"run/config.json": b"{}", "run/model.safetensors": BODY})) as running:
        yield running


def content(buckets: Buckets, pinned: Pinned, listed: Listed, start: int = 0, end: int | None = None) -> bytes:
    with buckets.read(pinned, listed, start, end) as pieces:
        return b"".join(pieces)


def pinned_file(buckets: Buckets, name: str = "model.safetensors") -> tuple[Pinned, Listed]:
    pinned = buckets.pin("//buck/run")
    return pinned, next(each for each in pinned.files or () if each.name == name)


# What references mean


@pytest.mark.parametrize(
    ("path", "bucket", "folder", "pin"),
    [
        ("//buck", "buck", "", None),
        ("//buck/", "buck", "", None),
        (f"//buck@{HEX}", "buck", "", HEX),
        ("//buck/a/b", "buck", "a/b", None),
        ("//buck/a/b/", "buck", "a/b", None),
        (f"//buck/a@{HEX}", "buck", "a", HEX),
        (f"//buck/a@{HEX}/", "buck", f"a@{HEX}", None),
        (f"//buck/a@{HEX}@{HEX}", "buck", f"a@{HEX}", HEX),
        (f"//buck/a@{HEX.upper()}", "buck", f"a@{HEX.upper()}", None),
        (f"//buck/a@{HEX[1:]}", "buck", f"a@{HEX[1:]}", None),
        ("//buck/a@b", "buck", "a@b", None),
        ("//buck/%2e%2e/x", "buck", "%2e%2e/x", None),
        ("//buck/größe 模型", "buck", "größe 模型", None),
        ("//buck/...", "buck", "...", None),
        ("//my.bucket-1/" + "x" * 823, "my.bucket-1", "x" * 823, None),
    ],
)
def test_a_reference_names_a_folder_and_perhaps_its_pin(path: str, bucket: str, folder: str, pin: str | None) -> None:
    place, found = parse("s3", path)
    assert (place.bucket, place.folder, found) == (bucket, folder, pin)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "//", "///", "buck", "buck/a", "/buck/a", "///buck", "//Buck/a", "//b/a", "//-buck/a", "//buck-/a"),
        *("//bu..ck/a", "//buck:1/a", "//user@buck/a", "//bu ck/a", "//../a", "//buck%2f/a", "//bück/a", "//buck?a"),
        *(
            "//buck//a",
            "//buck/a//b",
            "//buck//",
            "//buck/..",
            "//buck/../x",
            "//buck/a/../b",
            "//buck/./a",
            "//buck/a/.",
        ),
        *("//buck/a\x00b", "//buck/a\nb", "//buck/a\x1b[2K", "//buck/a\u202eb", "//buck/a\ud800", "//buck/a\x7f"),
        *("//buck/" + "x" * 824, "//buck/" + "ä" * 412, f"@{HEX}", f"//@{HEX}", "//buck/a\u200b"),
    ],
)
def test_what_names_no_folder_is_refused_without_asking(server: ScriptedServer, path: str) -> None:
    with pytest.raises(ModelReferenceInvalid) as told:
        s3(server).pin(path)
    assert str(told.value).isprintable()
    assert server.asked == []


@given(st.text(max_size=60), st.none() | st.text("0123456789abcdef", min_size=32, max_size=32))
def test_a_canonical_name_is_read_as_what_it_names(folder: str, pin: str | None) -> None:
    try:
        place, _ = parse("s3", f"//buck/{folder}/")
    except ModelReferenceInvalid:
        return
    canonical = f"{place.name}@{pin}" if pin else f"{place.name}/"
    again, found = parse("s3", canonical.removeprefix("s3:"))
    assert (again, found) == (place, pin)


@pytest.mark.parametrize(
    ("patterns", "inside", "outside"),
    [
        (["buck"], ["buck", "buck/a", "buck/a/b"], ["buck2", "abuck", "other/buck"]),
        (["team-*"], ["team-a/x", "team-"], ["team", "ateam-a", "other/team-a"]),
        (["buck/models/*"], ["buck/models/a", "buck/models/a/b"], ["buck", "buck/models", "buck/models2", "buck/mode"]),
        (["buck/run*"], ["buck/run", "buck/run-1/x"], ["buck/other", "buck/a/run"]),
        (["buck/a.b"], ["buck/a.b"], ["buck/aXb", "buck/a.b/c"]),
        (["one", "two/x"], ["one/y", "two/x"], ["two/y", "two"]),
        (["*/public"], ["any/public"], ["any", "any/public/x"]),
    ],
)
def test_only_what_a_pattern_covers_may_be_used(patterns: list[str], inside: list[str], outside: list[str]) -> None:
    settings = S3Settings(allow=tuple(patterns))
    for allowed, names in ((True, inside), (False, outside)):
        for name in names:
            bucket, _, folder = name.partition("/")
            assert settings.allows(bucket, folder) is allowed, name


# What an operator says


@pytest.mark.parametrize(
    ("kind", "said", "says"),
    [
        (S3, {}, "no credentials"),
        (S3, {"access_key_id": "AKID"}, "no credentials"),
        (S3, {"secret_access_key": "x"}, "no credentials"),
        (S3, {"anonymous": True, "access_key_id": "AKID"}, "anonymous and has credentials"),
        (S3, {"anonymous": True, "session_token": "x"}, "anonymous and has credentials"),
        (S3, {"access_key_id": "AKID", "secret_access_key": "x\ny"}, "secret_access_key is empty, or holds"),
        (S3, {"access_key_id": "AKID", "secret_access_key": ""}, "secret_access_key is empty, or holds"),
        (
            S3,
            {"access_key_id": "AKID", "secret_access_key_file": "/nowhere/key"},
            "secret_access_key_file key cannot be",
        ),
        (S3, {**KEY, "secret_access_key_file": "/nowhere/key"}, "both set"),
        (S3, {**KEY, "ca_file": "/nowhere/ca.pem"}, "ca.pem"),
        (GS, {}, "no credentials"),
        (GS, {"service_account_file": "/nowhere/account.json"}, "service_account_file account.json cannot be read"),
        (GS, {"anonymous": True, "service_account_file": "/nowhere/account.json"}, "anonymous and has credentials"),
    ],
)
def test_a_source_without_its_credentials_is_not_made(kind: Made, said: dict[str, object], says: str) -> None:
    assert kind.settings is not None
    settings = kind.settings.model_validate({"allow": ("buck",), **said})
    with pytest.raises(UsageError, match=says) as told:
        kind.make(setting(settings))
    assert "/nowhere" not in str(told.value)


@pytest.mark.parametrize(
    "said",
    [
        {"allow": ()},
        {"allow": ("",)},
        {"allow": ("/models",)},
        {"allow": ("s3://buck",)},
        {"allow": ("buck",), "other": 1},
        {"allow": ("buck",), "endpoint": "http://store.example"},
        {"allow": ("buck",), "endpoint": "store.example"},
        {"allow": ("buck",), "endpoint": "ftp://store.example"},
        {"allow": ("buck",), "endpoint": "https://key:secret@store.example"},
        {"allow": ("buck",), "endpoint": "https://store.example/"},
        {"allow": ("buck",), "endpoint": "https://store.example?x=1"},
        {"allow": ("buck",), "endpoint": "https://127.1"},
        {"allow": ("buck",), "region": "eu-west-1.evil.example/"},
        {"allow": ("buck",), "secret_access_key": ["tOkEn"]},
    ],
)
def test_settings_that_mean_nothing_are_refused(said: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as told:
        S3Settings.model_validate(said)
    assert not any(secret in str(told.value) for secret in ("key:secret", "tOkEn"))


def test_secrets_come_from_files_and_stand_in_no_text(server: ScriptedServer, tmp_path: Path) -> None:
    for name, value in KEY.items():
        (tmp_path / name).write_text(value + "\n")
    said = {f"{name}_file": tmp_path / name for name in KEY} | dict.fromkeys(KEY)
    buckets = s3(server, **said)
    buckets.pin("//buck/run")
    assert server.asked[0].headers["x-amz-security-token"] == KEY["session_token"]
    assert "Credential=AKID/" in server.asked[0].headers["authorization"]
    plain = s3(server)
    texts = [
        repr(buckets),
        repr(plain),
        repr(plain.settings),
        plain.settings.model_dump_json(),
        repr(S3Settings.model_validate({"allow": ("b",), **KEY})),
    ]
    assert not any(KEY[name] in text for name in ("secret_access_key", "session_token") for text in texts)


# How requests are signed


@pytest.mark.parametrize(
    ("query", "signature"),
    [
        ([("lifecycle", "")], "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ([("prefix", "J"), ("max-keys", "2")], "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_signatures_are_those_of_amazons_own_examples(query: list[tuple[str, str]], signature: str) -> None:
    key = AccessKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    when = datetime(2013, 5, 24, tzinfo=UTC)
    host = "examplebucket.s3.amazonaws.com"
    headers = aws_headers(key, "us-east-1", "GET", host, "/", encoded_query(query), {}, now=when)
    assert headers["authorization"].endswith(f",Signature={signature}")
    assert headers["x-amz-content-sha256"] == EMPTY_BODY


# What is pinned


def test_a_checksum_of_the_whole_content_is_declared_and_one_of_parts_is_not(server: ScriptedServer) -> None:
    digest = hashlib.sha256(b"{}")
    whole = base64.b64encode(digest.digest()).decode()
    cases: list[tuple[dict[str, str], str | None]] = [
        ({"x-amz-checksum-sha256": whole, "x-amz-checksum-type": "FULL_OBJECT"}, digest.hexdigest()),
        ({"x-amz-checksum-sha256": whole}, digest.hexdigest()),
        ({"x-amz-checksum-sha256": whole, "x-amz-checksum-type": "COMPOSITE"}, None),
        ({"x-amz-checksum-sha256": f"{whole}-3"}, None),
        ({"x-amz-checksum-sha256": whole[:-4]}, None),
        ({"x-amz-checksum-sha256": "*" * 44}, None),
        ({"x-amz-meta-sha256": digest.hexdigest(), "x-amz-checksum-crc32": "AAAAAA=="}, None),
        ({}, None),
    ]
    for headers, sha256 in cases:
        server.answer = Content({"run/config.json": b"{}"}, headers=headers)
        _, listed = pinned_file(s3(server), "config.json")
        assert listed.sha256 == sha256, headers
    assert {asked.headers.get("x-amz-checksum-mode") for asked in server.asked if asked.method == "HEAD"} == {"ENABLED"}


def test_pins_differ_wherever_size_tag_or_name_does(server: ScriptedServer) -> None:
    contents = [{"run/a": b"1"}, {"run/a": b"2"}, {"run/a": b"11"}, {"run/b": b"1"}, {"run/a": b"1", "run/b": b"1"}]
    names = set()
    for objects in contents:
        server.answer = Content(objects)
        names.add(s3(server).pin("//buck/run").name)
        server.answer = Content(objects, headers={"x-amz-version-id": "v1"})
        names.add(s3(server).pin("//buck/run").name)
        server.answer = Content(objects, headers={"x-amz-version-id": "null"})
        names.add(s3(server).pin("//buck/run").name)
    assert len(names) == 2 * len(contents), "a version that is none counts, or one that is there does not"


def test_what_is_no_file_of_a_checkpoint_is_neither_listed_nor_pinned(server: ScriptedServer) -> None:
    server.answer = Content({"run/config.json": b"{}"})
    name = s3(server).pin("//buck/run").name
    server.answer = Content(
        {"run/config.json": b"{}", "run/": b"", "run/.hidden": b"1", "run/a\tb": b"1", "run/ä": b"1"}
    )
    assert s3(server).pin("//buck/run").name == name


def _two_looks(first: Content, later: Content, asked: Asked) -> Told:
    return (later if asked.method == "HEAD" else first)(asked)


def test_a_file_is_told_apart_by_what_is_known_of_its_content_and_place(server: ScriptedServer) -> None:
    keys, objects = [], {"run/model.safetensors": BODY, "run/README.md": b"1", "copy/model.safetensors": BODY}
    server.answer = Content(objects)
    pinned, listed = pinned_file(s3(server))
    keys.append(pinned.key_of(listed))
    objects["run/README.md"] = b"2"
    pinned, listed = pinned_file(s3(server))
    assert pinned.key_of(listed) == keys[0], "weights are fetched again for another file"
    objects["run/model.safetensors"] = OTHER
    pinned, listed = pinned_file(s3(server))
    keys.append(pinned.key_of(listed))
    copied = s3(server).pin("//buck/copy")
    keys.append(copied.key_of((copied.files or ())[0]))
    with ScriptedServer(Content({"run/model.safetensors": BODY})) as elsewhere:
        pinned, listed = pinned_file(s3(elsewhere))
        keys.append(pinned.key_of(listed))
    assert len(set(keys)) == len(keys)


def test_a_page_holds_what_lies_directly_below_with_its_keys_as_they_are() -> None:
    keys = ["run/", "run/a", "run/sub/b", "run/c+d e"]
    encoded = ["run/", "run/a", "run/sub%2Fb", "run/c%2Bd+e"]
    for written, more in ((keys, ""), (encoded, "<EncodingType>url</EncodingType>")):
        page = parse_page(listing("".join(entry(key, 1, '"e"') for key in written), more), S3_DIALECT, "run/")
        assert [each.key for each in page.objects] == ["run/a", "run/c+d e"]
        assert page.entries == 4


def test_objects_that_change_between_two_looks_are_not_pinned(server: ScriptedServer) -> None:
    first, second = Content({"run/config.json": b"{}"}), Content({"run/config.json": b"[]"})
    for later in (second, Content({})):
        server.answer = partial(_two_looks, first, later)
        with pytest.raises(ModelChanged, match="are being replaced"):
            s3(server).pin("//buck/run")


# What a store may answer


def _drip() -> Iterator[bytes]:
    pause = threading.Event()
    while True:
        pause.wait(0.1)
        yield b" "


def _deep() -> bytes:
    return listing("<a>" * 100_000 + "</a>" * 100_000)


BILLION = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><ListBucketResult>&a;</ListBucketResult>"""
TRUNCATED = "<IsTruncated>true</IsTruncated>"
MORE = f"{TRUNCATED}<NextContinuationToken>t</NextContinuationToken>"
HOSTILE: dict[str, tuple[Callable[[], Told], type[SpinalError], str]] = {
    "no XML": (lambda: Told(body=b"<html><p>hello"), SourceUnavailable, "no XML"),
    "empty": (lambda: Told(body=b""), SourceUnavailable, "no XML"),
    "another document": (lambda: Told(body=b"<html/>"), SourceUnavailable, "no listing"),
    "entities": (lambda: Told(body=BILLION), SourceUnavailable, "no plain XML"),
    "entities in UTF-16": (lambda: Told(body=BILLION.decode().encode("utf-16")), SourceUnavailable, "no XML"),
    "entities in UTF-16 without a mark": (
        lambda: Told(body=BILLION.decode().encode("utf-16-le")),
        SourceUnavailable,
        "no plain XML",
    ),
    "deep": (lambda: Told(body=_deep()), ModelNotFound, "no files"),
    "too large": (lambda: Told(body=b" " * (MOST_PAGE + 1)), SourceUnavailable, "longer than"),
    "without end": (lambda: Told(pieces=itertools.repeat(b" " * 65536)), SourceUnavailable, "longer than"),
    "dripping": (lambda: Told(pieces=_drip()), SourceUnavailable, "127.0.0.1"),
    "a key elsewhere": (lambda: Told(body=listing(entry("other/a", 1, '"e"'))), SourceUnavailable, "not asked for"),
    "a key twice": (lambda: Told(body=listing(entry("run/a", 1, '"e"'), MORE)), SourceUnavailable, "twice"),
    "pages without end": (lambda: Told(body=listing("", MORE)), ModelReferenceInvalid, "more files"),
    "no next page": (lambda: Told(body=listing("", TRUNCATED)), SourceUnavailable, "breaks off"),
    "too many folders": (
        lambda: Told(body=listing("<CommonPrefixes/>" * (MOST_ENTRIES + 1))),
        ModelReferenceInvalid,
        "more files",
    ),
    "too many files": (
        lambda: Told(body=listing("".join(entry(f"run/{n}", 1, '"e"') for n in range(1001)))),
        ModelReferenceInvalid,
        "more files",
    ),
    "negative size": (lambda: Told(body=listing(entry("run/a", -1, '"e"'))), SourceUnavailable, "size and etag"),
    "huge size": (lambda: Told(body=listing(entry("run/a", 10**15, '"e"'))), SourceUnavailable, "size and etag"),
    "size in words": (lambda: Told(body=listing(entry("run/a", "٣", '"e"'))), SourceUnavailable, "size and etag"),
    "no etag": (lambda: Told(body=listing(entry("run/a", 1, ""))), SourceUnavailable, "size and etag"),
    "weak etag": (lambda: Told(body=listing(entry("run/a", 1, 'W/"e"'))), SourceUnavailable, "size and etag"),
    "etag of two lines": (lambda: Told(body=listing(entry("run/a", 1, '"e\nx"'))), SourceUnavailable, "size and etag"),
    "escape in a code": (lambda: refusal(500, "\x1b[2Kboo"), SourceUnavailable, "answered 500$"),
    "redirect": (lambda: Told(302, {"Location": "http://127.0.0.1:1/"}), SourceRefused, "elsewhere"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_no_listing_hangs_fills_memory_or_is_believed(server: ScriptedServer, case: str) -> None:
    answer, error, says = HOSTILE[case]
    server.answer = lambda _: answer()
    began = time.monotonic()
    with pytest.raises(error, match=says) as told:
        s3(server, pin=2.0, read=1.0).pin("//buck/run")
    assert time.monotonic() - began < 6.0
    assert str(told.value).isprintable()
    assert len(server.asked) <= 30


@pytest.mark.parametrize(
    ("told", "pinning", "reading"),
    [
        (refusal(404, "NoSuchBucket"), ModelNotFound, ModelChanged),
        (refusal(412, "PreconditionFailed"), SourceUnavailable, ModelChanged),
        (refusal(416, "InvalidRange"), SourceUnavailable, ModelChanged),
        (refusal(403, "AccessDenied"), ModelAccessRefused, ModelAccessRefused),
        (refusal(403, "InvalidAccessKeyId"), ModelAccessRefused, ModelAccessRefused),
        (refusal(400, "ExpiredToken"), ModelAccessRefused, ModelAccessRefused),
        (refusal(401, ""), ModelAccessRefused, ModelAccessRefused),
        (refusal(403, "RequestTimeTooSkewed"), SourceUnavailable, SourceUnavailable),
        (refusal(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1"), SourceRefused, SourceRefused),
        (refusal(400, "AuthorizationHeaderMalformed"), SourceRefused, SourceRefused),
        (refusal(503, "SlowDown", Retry_After="7"), SourceUnavailable, SourceUnavailable),
        (refusal(500, "InternalError"), SourceUnavailable, SourceUnavailable),
        (refusal(429, ""), SourceUnavailable, SourceUnavailable),
    ],
)
def test_an_answer_is_told_in_our_words(
    server: ScriptedServer, told: Told, pinning: type[SpinalError], reading: type[SpinalError]
) -> None:
    buckets = s3(server)
    pinned, listed = pinned_file(buckets)
    server.answer = lambda _: told
    with pytest.raises(pinning) as first:
        buckets.pin("//buck/run")
    with pytest.raises(reading) as second:
        content(buckets, pinned, listed)
    for raised in (first.value, second.value):
        if isinstance(raised, SourceUnavailable):
            assert raised.retry_after_s == (7.0 if told.status == 503 else None)
    assert "eu-west-1" in str(first.value) or "x-amz-bucket-region" not in told.headers


def test_words_of_a_store_are_not_repeated(server: ScriptedServer) -> None:
    server.answer = lambda asked: refusal(403, "SignatureDoesNotMatch", asked.headers["authorization"])
    with pytest.raises(ModelAccessRefused) as told:
        s3(server).pin("//buck/run")
    assert "Signature=" not in str(told.value.to_problem())


# What is read


ETAG = etag_of(BODY)
OTHER = bytes(reversed(BODY))
RIGHT = {"ETag": ETAG, "Content-Range": f"bytes 10-19/{len(BODY)}"}


@pytest.mark.parametrize(
    ("told", "error"),
    [
        # Conditions ignored, and another content sent.
        (Told(206, {"ETag": etag_of(OTHER), "Content-Range": f"bytes 10-19/{len(BODY)}"}, OTHER[10:20]), ModelChanged),
        # Conditions ignored, without a word on what was sent.
        (Told(206, {"Content-Range": f"bytes 10-19/{len(BODY)}"}, OTHER[10:20]), SourceUnavailable),
        # A weak tag does not say that the bytes are the same.
        (Told(206, {"ETag": f"W/{ETAG}", "Content-Range": f"bytes 10-19/{len(BODY)}"}, BODY[10:20]), ModelChanged),
        # The range ignored: these bytes lie at another place.
        (Told(200, {"ETag": ETAG}, BODY), SourceUnavailable),
        (Told(206, {"ETag": ETAG, "Content-Range": f"bytes 0-9/{len(BODY)}"}, BODY[:10]), SourceUnavailable),
        (Told(206, {"ETag": ETAG, "Content-Range": f"bytes 10-19/{len(BODY) + 1}"}, BODY[10:20]), SourceUnavailable),
        (Told(206, {"ETag": ETAG}, BODY[10:20]), SourceUnavailable),
        (Told(206, RIGHT, BODY[10:30]), SourceUnavailable),
        (Told(206, {**RIGHT, "Content-Encoding": "gzip"}, BODY[10:20]), SourceUnavailable),
        (Told(204, {"ETag": ETAG}), SourceUnavailable),
    ],
)  # fmt: skip
def test_bytes_that_were_not_asked_for_are_not_given(
    server: ScriptedServer, told: Told, error: type[SpinalError]
) -> None:
    buckets = s3(server)
    pinned, listed = pinned_file(buckets)
    server.answer = lambda _: told
    with pytest.raises(error):
        content(buckets, pinned, listed, 10, 20)


def test_no_more_is_given_than_was_asked_for_and_what_is_missing_is_seen(server: ScriptedServer) -> None:
    buckets = s3(server)
    pinned, listed = pinned_file(buckets)
    server.answer = lambda _: Told(206, RIGHT, pieces=iter([BODY[10:15], BODY[15:40]]))
    assert content(buckets, pinned, listed, 10, 20) == BODY[10:20]
    assert server.asked[-1].headers["if-match"] == ETAG
    server.answer = lambda _: Told(206, {**RIGHT, "Content-Length": "10", "Connection": "close"}, BODY[10:15])
    with pytest.raises(SourceUnavailable):
        content(buckets, pinned, listed, 10, 20)


def test_a_stalled_read_ends_within_its_timeout(server: ScriptedServer) -> None:
    buckets = s3(server, read=0.5)
    pinned, listed = pinned_file(buckets)
    stop = threading.Event()

    def stalled() -> Iterator[bytes]:
        yield BODY[:1000]
        stop.wait(30.0)

    server.answer = lambda _: Told(200, {"ETag": ETAG, "Content-Length": str(len(BODY))}, pieces=stalled())
    began, seen = time.monotonic(), b""
    with pytest.raises(SourceUnavailable), buckets.read(pinned, listed) as pieces:  # noqa: PT012  the bytes before the stall count
        for piece in pieces:
            seen += piece
    stop.set()
    assert time.monotonic() - began < 5.0
    assert seen == BODY[:1000]


def test_who_may_not_read_versions_reads_what_still_has_the_etag(server: ScriptedServer) -> None:
    inner = Content({"run/model.safetensors": BODY}, headers={"x-amz-version-id": "v1"})

    def answer(asked: Asked) -> Told:
        return refusal(403, "AccessDenied") if "versionId" in asked.query else inner(asked)

    server.answer = answer
    buckets = s3(server)
    pinned, listed = pinned_file(buckets)
    assert listed.tag == f"{ETAG} v1"
    assert content(buckets, pinned, listed) == BODY
    assert [asked.query.get("versionId") for asked in server.asked[-2:]] == ["v1", None]
    inner.objects["run/model.safetensors"] = OTHER
    with pytest.raises(ModelChanged):
        content(buckets, pinned, listed)


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2), (0, len(BODY) + 1)])
def test_a_span_outside_the_file_is_a_mistake_of_the_caller(server: ScriptedServer, start: int, end: int) -> None:
    buckets = s3(server)
    pinned, listed = pinned_file(buckets)
    with pytest.raises(ValueError, match="no bytes"):
        content(buckets, pinned, listed, start, end)


def test_files_that_another_source_names_are_read_and_told_under_its_name(server: ScriptedServer) -> None:
    buckets = s3(server, allow=("buck/run",))
    pinned, listed = pinned_file(buckets)
    registered = replace(pinned, name="mlflow:credit/3")
    assert content(buckets, registered, listed, 3, 9) == BODY[3:9]
    server.answer = lambda _: refusal(412, "PreconditionFailed")
    with pytest.raises(ModelChanged, match="of mlflow:credit/3 is not what"):
        content(buckets, registered, listed)
    with pytest.raises(SourceRefused, match="not among the buckets"):
        content(s3(server, allow=("buck/other",)), registered, listed)


def test_files_behind_another_endpoint_are_not_read_from_this_one(server: ScriptedServer) -> None:
    pinned, listed = pinned_file(s3(server))
    with ScriptedServer(server.answer) as other, pytest.raises(SourceRefused, match="another endpoint"):
        content(s3(other), pinned, listed)


# What nobody else learns


def _same(told: Told, _: Asked) -> Told:
    return told


def test_no_redirect_is_followed_with_or_without_the_session_token(server: ScriptedServer) -> None:
    buckets = s3(server)
    pinned, listed = pinned_file(buckets)
    with ScriptedServer(lambda _: Told(200, {"ETag": ETAG}, BODY)) as other:
        for status in (301, 302, 303, 307, 308):
            redirect = Told(status, {"Location": f"{other.endpoint}/buck/run"})
            server.answer = partial(_same, redirect)
            with pytest.raises(SourceRefused):
                content(buckets, pinned, listed)
            with pytest.raises(SourceRefused):
                buckets.pin("//buck/run")
        assert other.asked == []


def test_only_a_named_endpoint_may_have_a_private_address(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers for the names of Amazon or Google does not lead requests into the network of the operator."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    for kind, said in ((S3, KEY), (GS, {"anonymous": True})):
        assert kind.settings is not None
        source = kind.make(setting(kind.settings.model_validate({"allow": ("buck",), **said})))
        with pytest.raises(SourceRefused):
            source.pin("//buck/run")
    assert server.asked == []


def test_nothing_secret_is_logged(server: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    buckets = s3(server)
    pinned, listed = pinned_file(buckets)
    content(buckets, pinned, listed)
    server.answer = lambda _: refusal(500, "InternalError")
    with pytest.raises(SourceUnavailable):
        content(buckets, pinned, listed)
    said = "\n".join(record.getMessage() + str(record.args) for record in caplog.records)
    assert not any(word in said for word in (*KEY.values(), "Signature="))


AMBIENT = """
import json, sys
from spinal.checkpoints.sources.base import Setting
from spinal.checkpoints.sources.buckets import S3, GS
from spinal.errors import UsageError

def made(kind, **said):
    settings = kind.settings.model_validate({"allow": ["buck"], **said})
    return kind.make(Setting(settings, None, None))

print(made(S3, access_key_id="AKID", secret_access_key="given").endpoint, made(GS, anonymous=True).endpoint)
for scheme, kind in (("s3", S3), ("gs", GS)):
    try:
        made(kind)
        print("made without credentials")
    except UsageError as error:
        print(scheme, "refused:", error.hint)
told = {"endpoint": sys.argv[1], "allow_http": True}
print(made(S3, **told, access_key_id="AKID", secret_access_key="given").pin("//buck/run").name)
print(made(S3, **told, anonymous=True).pin("//buck/run").name)
print(made(GS, **told, anonymous=True).pin("//buck/run").name)
"""


def test_nothing_is_taken_from_the_environment_or_the_home_folder(tmp_path: Path, server: ScriptedServer) -> None:
    inner = Content({"run/config.json": b"{}"}, google=True)
    server.answer = inner
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".config" / "gcloud").mkdir(parents=True)
    with ScriptedServer(inner) as trap:
        (tmp_path / ".aws" / "credentials").write_text(
            "[default]\naws_access_key_id=FROMFILE\naws_secret_access_key=x\n"
        )
        (tmp_path / ".aws" / "config").write_text(f"[default]\nendpoint_url={trap.endpoint}\nregion=trap-1\n")
        account = {"type": "authorized_user", "client_id": "trap", "client_secret": "x", "refresh_token": "x"}
        for place in (tmp_path / ".config/gcloud/application_default_credentials.json", tmp_path / "adc.json"):
            place.write_text(json.dumps(account))
        host = trap.endpoint.removeprefix("http://")
        env = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
            **{f"AWS_{name}": trap.endpoint for name in (
                "ENDPOINT", "ENDPOINT_URL", "ENDPOINT_URL_S3", "METADATA_ENDPOINT", "EC2_METADATA_SERVICE_ENDPOINT",
                "CONTAINER_CREDENTIALS_FULL_URI", "STS_ENDPOINT", "PROXY_URL")},
            "AWS_ACCESS_KEY_ID": "FROMENV", "AWS_SECRET_ACCESS_KEY": "fromenv", "AWS_SESSION_TOKEN": "fromenv",
            "AWS_REGION": "trap-1", "AWS_DEFAULT_REGION": "trap-1", "AWS_PROFILE": "default", "AWS_ALLOW_HTTP": "true",
            "AWS_SKIP_SIGNATURE": "true", "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / ".aws/credentials"),
            "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "adc.json"), "GOOGLE_BASE_URL": trap.endpoint,
            "GOOGLE_BEARER_TOKEN": "fromenv", "GCE_METADATA_HOST": host, "GCE_METADATA_IP": host,
            "GCE_METADATA_ROOT": host, "STORAGE_EMULATOR_HOST": trap.endpoint,
            **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"), trap.endpoint),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", AMBIENT, server.endpoint], env=env, capture_output=True, text=True, timeout=60
        )
        assert trap.asked == []
    assert done.returncode == 0, done.stderr
    endpoints, *lines = done.stdout.splitlines()
    assert endpoints == "https://s3.us-east-1.amazonaws.com https://storage.googleapis.com"
    assert [line.split("refused")[0] for line in lines[:2]] == ["s3 ", "gs "], lines
    assert all("nothing is taken from the environment" in line for line in lines[:2])
    authorized = {asked.headers.get("authorization", "").partition("/")[0] for asked in server.asked}
    assert authorized == {"AWS4-HMAC-SHA256 Credential=AKID", ""}
    assert not any("fromenv" in str(asked.headers).lower() or "trap-1" in str(asked.headers) for asked in server.asked)


# Google's


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """A key file of a service account, and its public key."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    told = {
        "type": "service_account",
        "private_key_id": "k1",
        "client_email": "spinal@p.iam.example",
        "private_key": pem,
    }
    path = tmp_path_factory.mktemp("account") / "account.json"
    path.write_text(json.dumps(told))
    return path, key.public_key()


def gs(server: ScriptedServer, path: Path) -> Buckets:
    said = {"allow": ("buck",), "endpoint": server.endpoint, "allow_http": True, "service_account_file": path}
    return GS.make(setting(GSSettings.model_validate(said)))  # type: ignore[return-value]  # a port makes sources


def test_a_bucket_of_google_is_pinned_to_generations_and_read_with_a_token_of_its_own(
    account: tuple[Path, object],
) -> None:
    path, public_key = account
    inner = Content({"run/model.safetensors": BODY}, google=True, generations={"run/model.safetensors": 1700})
    with ScriptedServer(inner) as server:
        buckets = gs(server, path)
        pinned, listed = pinned_file(buckets)
        assert pinned.name.startswith("gs://buck/run@")
        assert listed.tag == f"{ETAG} 1700"
        assert buckets.pin(pinned.name.removeprefix("gs:")) == pinned
        assert content(buckets, pinned, listed, 5, 15) == BODY[5:15]
        assert server.asked[-1].query == {"generation": "1700"}
        for asked in server.asked:
            head, claims = claims_of(asked.headers["authorization"].removeprefix("Bearer "), public_key)
            assert head == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
            assert (claims["iss"], claims["sub"]) == ("spinal@p.iam.example",) * 2
            assert claims["scope"].endswith("devstorage.read_only")
            assert 0 < claims["exp"] - time.time() <= 3600
        inner.generations["run/model.safetensors"] = 1701
        with pytest.raises(ModelChanged):
            content(buckets, pinned, listed)
        with pytest.raises(ModelChanged):
            buckets.pin(pinned.name.removeprefix("gs:"))


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[" * 50_000, '{"client_email": 1, "private_key_id": "k", "private_key": "x"}', "null", '"x"',
     '{"client_email": "a@b", "private_key_id": "k", "private_key": "--BEGIN PRIVATE KEY-----\\nsEcReT\\n--END"}'],
    ids=range(7),
)  # fmt: skip
def test_a_key_file_that_is_none_is_refused_without_repeating_it(
    server: ScriptedServer, tmp_path: Path, text: str
) -> None:
    (tmp_path / "account.json").write_text(text)
    with pytest.raises(UsageError, match=r"account\.json: no key file") as told:
        gs(server, tmp_path / "account.json")
    assert "sEcReT" not in str(told.value)
    assert told.value.__cause__ is None


def test_google_without_its_library_says_what_to_install(
    server: ScriptedServer, account: tuple[Path, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(UsageError) as told:
        gs(server, account[0])
    assert told.value.hint == "pip install 'spinal[buckets]'"


def test_sizes_stay_exact_in_any_json() -> None:
    assert LARGEST.fullmatch("9" * 15)
    assert not LARGEST.fullmatch("9" * 16)
    assert int("9" * 15) < 2**53
