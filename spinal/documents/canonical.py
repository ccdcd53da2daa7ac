"""One way to turn a value into bytes, and bytes into an identity."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Bytes that depend on the value alone: sorted keys, no white space, UTF-8, no NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def digest_of(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``, 64 lowercase hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
