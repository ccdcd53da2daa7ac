"""Ways to turn a value into bytes, each under a name, and bytes into an identity."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import rfc8785

RFC_8785 = "rfc8785/1"
"""The scheme of digests made today: JSON Canonicalization Scheme (RFC 8785)."""
PYTHON_JSON = "python-json/1"
"""The scheme of releases before: sorted keys and no white space, with numbers as Python prints them. Over values that
hold texts, whole numbers below 2**53, booleans and nulls alone, both schemes give the same bytes."""


def _rfc_8785(value: Any) -> bytes:
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise ValueError(str(error)) from error


def _python_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


SCHEMES: dict[str, Callable[[Any], bytes]] = {RFC_8785: _rfc_8785, PYTHON_JSON: _python_json}


def canonical_json(value: Any, scheme: str = RFC_8785) -> bytes:
    """Bytes that depend on the value alone, under the scheme of that name. Raises ValueError for what it cannot hold:
    NaN, infinity, and whole numbers beyond 2**53 under RFC 8785."""
    return SCHEMES[scheme](value)


def digest_of(value: Any, scheme: str = RFC_8785) -> str:
    """sha256 of the canonical JSON of ``value``, 64 lowercase hex digits."""
    return hashlib.sha256(canonical_json(value, scheme)).hexdigest()
