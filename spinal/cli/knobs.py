"""Knobs as a command line gives them: by the name of a profile, as JSON, and one by one."""

import json
import re
from typing import Any

from spinal.errors import ProfileInvalid, UsageError

NAME = re.compile(r"[a-z][a-z0-9-]*/\d+")
EXAMPLES = 'for example spinal/1, or {"max_tokens": 256}'


def profile_members(text: str | None) -> dict[str, Any]:
    """What ``--profile`` says: a profile by its name, or knobs as JSON; raises UsageError.

    Examples
    --------
    >>> profile_members("spinal/1"), profile_members('{"max_tokens": 256}'), profile_members(None)
    ({'name': 'spinal/1'}, {'max_tokens': 256}, {})
    """
    if text is None:
        return {}
    if NAME.fullmatch(text):
        return {"name": text}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--profile is neither the name of a profile nor JSON: {error}", hint=EXAMPLES) from error
    if not isinstance(found, dict):
        raise UsageError("--profile is neither the name of a profile nor a JSON object", hint=EXAMPLES)
    return found


def read_knobs(options: dict[str, Any], profile: str | None = None) -> dict[str, Any]:
    """The knobs that were given on the command line, those one by one over those of ``profile``; raises ProfileInvalid
    and UsageError."""
    given = {name: value for name, value in options.items() if value is not None}
    if "lens_positions" in given and given["lens_positions"] != "full":
        try:
            given["lens_positions"] = int(given["lens_positions"])
        except ValueError:
            raise ProfileInvalid(
                f"lens_positions: {given['lens_positions']!r} is neither a number nor 'full'", hint="for example 16"
            ) from None
    return profile_members(profile) | given
