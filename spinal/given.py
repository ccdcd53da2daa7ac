"""Knobs and prompts however they are given, and what of them the sides of a comparison settle."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from spinal.documents.trace import Trace
from spinal.errors import DocumentInvalid, ProfileInvalid, TracesNotComparable, UsageError
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import BUILTIN_SETS, DEFAULT_SET
from spinal.prompts.gathered import Gathered
from spinal.prompts.load import load_prompts
from spinal.prompts.records import read_entry
from spinal.prompts.sets import PromptSet
from spinal.sides import PathName

Prompts = PathName | Sequence[str | Mapping[str, Any]] | Sequence[Sequence[Mapping[str, str]]] | PromptSet
"""A built-in set by name, a file, prompts as text, as records or as the messages of chats, or a prompt set."""


def make_profile(knobs: Mapping[str, Any]) -> MeasurementProfile:
    """A profile from the knobs that are given; raises ProfileInvalid naming the first that does not fit."""
    try:
        return MeasurementProfile(**knobs)
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0] if first["loc"] else "profile"
        raise ProfileInvalid(f"{name}: {first['msg']}", hint="`spinal trace --help` lists the knobs") from error


def read_prompts(prompts: Prompts) -> PromptSet:
    """Prompts however they are given; raises PromptFileNotFound, PromptSetInvalid, PromptSetEmpty."""
    if isinstance(prompts, PromptSet):
        return prompts
    if isinstance(prompts, str | os.PathLike):
        return load_prompts(os.fspath(prompts))
    found = Gathered()
    for number, entry in enumerate(prompts, start=1):
        found.add(read_entry(entry, f"prompt {number}"))
    return found.prompt_set(name=None, origin="the sequence of prompts")


def profile_of_sides(documents: Sequence[Trace], knobs: Mapping[str, Any]) -> MeasurementProfile:
    """The knobs that were given; those of the measurement are settled where a side was measured already."""
    given = make_profile(knobs)
    if not documents:
        return given
    try:
        measured = documents[0].measurement_profile()
    except ValidationError as error:
        source = documents[0].model.source
        raise DocumentInvalid(f"the trace of {source} names a profile that is not known here") from error
    for name in sorted(knobs.keys() - MeasurementProfile.knobs("compare")):
        if getattr(given, name) != getattr(measured, name):
            raise ProfileInvalid(
                f"{name}: the trace of {documents[0].model.source} was measured with {getattr(measured, name)}",
                hint="leave the knob out, or trace the checkpoint again with it",
            )
    return measured.model_copy(update={name: getattr(given, name) for name in MeasurementProfile.knobs("compare")})


def prompts_of_sides(documents: Sequence[Trace], prompts: Prompts | None, *, measuring: bool) -> PromptSet | None:
    """The prompts of all sides; None where every side was measured already and none were given."""
    known = documents[0].prompt_set if documents else None
    if prompts is not None:
        chosen = read_prompts(prompts)
    elif not measuring:
        return None
    elif known is None:
        chosen = load_prompts(DEFAULT_SET)
    elif known.name in BUILTIN_SETS:
        chosen = load_prompts(known.name)
    else:
        raise UsageError(
            f"the prompts of {documents[0].model.source} are not known here", hint="give the prompts it was traced on"
        )
    if known is not None and chosen.digest != known.digest:
        raise TracesNotComparable(
            f"the trace of {documents[0].model.source} was measured on other prompts",
            hint="trace both on one prompt set",
        )
    return chosen
