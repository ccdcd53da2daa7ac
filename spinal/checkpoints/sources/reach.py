"""What one caller may reach: folders, and sources with the caller's own credentials."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from spinal.checkpoints.sources import SOURCES, Kind, Pinned, RemoteSource, Setting, Source, Timeouts, reference_forms
from spinal.errors import ModelReferenceInvalid, UsageError
from spinal.errors.faults import shown

MOST_REFERENCE = 1024
MOST_SETTINGS = 256 * 1024
"""Bytes of a file of settings."""
TENANTS = "tenants"
MADE_ANEW_S = 300.0
"""So long a source is used before it is made again, and files of secrets are read again."""
OF_PATHS = re.compile(r"[/\\]|^[A-Za-z]$")
"""What stands before a colon in paths, and in no name of a source: a folder, or the letter of a drive."""
OF_VALIDATORS = "Value error, "
"""What pydantic puts before the words of a settings class."""

TIMEOUTS = Timeouts()
Settings = Mapping[str, BaseModel]
"""Scheme -> what an operator says of the source."""


@dataclass(frozen=True)
class Reach:
    """What one caller may reach. Safe to share between threads."""

    roots: tuple[Path, ...] | None = None
    """Folders below which ``local:`` references may point; None where any place will do."""
    settings: Settings = field(default_factory=dict)
    timeouts: Timeouts = TIMEOUTS

    def pin(self, reference: str) -> Pinned:
        """What ``reference`` means now; raises as :meth:`Source.pin`, and ModelReferenceInvalid for an unknown or
        disabled source."""
        kind, path = self._kind_of(reference)
        return self.source(kind.scheme).pin(path)

    def is_remote(self, reference: str) -> bool:
        """Whether a reference names a source over a network. Raises ModelReferenceInvalid for an unknown or disabled
        one."""
        return self._kind_of(reference)[0].remote

    def source(self, scheme: str) -> Source:
        """The source of a scheme, as this caller may use it. Raises ModelReferenceInvalid, UsageError."""
        kind = SOURCES[scheme]
        if not self._has(kind):
            raise self._not_here(scheme)
        period = int(time.monotonic() // MADE_ANEW_S)
        return _made(kind, self.roots, tuple(sorted(self.settings.items())), self.timeouts, period)

    def remote(self, scheme: str) -> RemoteSource:
        """The source that reads the files of what was pinned."""
        source: Any = self.source(scheme)
        found: RemoteSource = source
        return found

    def _kind_of(self, reference: str) -> tuple[Kind, str]:
        scheme, path = split(reference, paths=self.roots is None)
        if scheme not in SOURCES or not self._has(SOURCES[scheme]):
            raise self._not_here(scheme)
        return SOURCES[scheme], path

    def _has(self, kind: Kind) -> bool:
        return not kind.remote or kind.scheme in self.settings

    def _not_here(self, scheme: str) -> ModelReferenceInvalid:
        enabled = " or ".join(kind.example for kind in SOURCES.values() if self._has(kind))
        known = ""
        if scheme in SOURCES and self.roots is None:
            known = f"; or say in the file of --sources how {scheme} is reached (docs/sources.md)"
        elif scheme in SOURCES:
            known = f"; an operator can enable {scheme!r} (docs/sources.md)"
        return ModelReferenceInvalid(
            f"model source {shown(scheme)!r} is not configured here", hint=f"give {enabled}{known}"
        )


@lru_cache(maxsize=64)
def _made(
    kind: Kind,
    roots: tuple[Path, ...] | None,
    settings: tuple[tuple[str, BaseModel], ...],
    timeouts: Timeouts,
    _period: int,
) -> Source:
    """One source for all who may use it in the same way, for a while: its connections and certificates are worth
    keeping, and what stands in files of secrets may change."""
    reach = Reach(roots, dict(settings), timeouts)
    return kind.make(Setting(reach.settings.get(kind.scheme), roots, reach.pin, timeouts))


def split(reference: str, *, paths: bool = True) -> tuple[str, str]:
    """Scheme of a reference, and what it says to its source; a bare path is ``local``, with ``paths`` also one with a
    colon behind its first folder or drive: to a service that may be a registered name. Raises ModelReferenceInvalid.

    >>> split("hf:org/name"), split("runs/9:30/sft")
    (('hf', 'org/name'), ('local', 'runs/9:30/sft'))
    """
    if not reference or len(reference) > MOST_REFERENCE or not reference.isprintable():
        raise ModelReferenceInvalid(
            "a model reference is 1 to 1024 printable characters", hint="for example local:my-model"
        )
    scheme, colon, path = reference.partition(":")
    return (scheme, path) if colon and not (paths and OF_PATHS.search(scheme)) else ("local", reference)


def is_remote(reference: str) -> bool:
    """Whether a reference names a source over a network. Raises ModelReferenceInvalid."""
    scheme, _ = split(reference)
    if scheme not in SOURCES:
        raise ModelReferenceInvalid(
            f"model source {shown(scheme)!r} is not configured here", hint=f"give {reference_forms()}"
        )
    return SOURCES[scheme].remote


def is_elsewhere(text: str) -> bool:
    """Whether ``text``, which need be no reference at all, begins as one of a source over a network."""
    scheme, colon, _ = text.partition(":")
    return bool(colon) and scheme in SOURCES and SOURCES[scheme].remote


@dataclass(frozen=True)
class SourceSettings:
    """What an operator says of all sources: for everybody, and for tenants that have their own."""

    everybody: Settings = field(default_factory=dict)
    tenants: Mapping[str, Settings] = field(default_factory=dict)

    def of(self, tenant: str | None) -> Settings:
        """Those of a tenant: where it has its own of a source, these stand in place of everybody's."""
        return {**self.everybody, **(self.tenants.get(tenant, {}) if tenant is not None else {})}

    def enabled(self) -> str:
        """Which sources there are, and for which tenants apart, in one line without any setting of them."""
        always = [scheme for scheme, kind in SOURCES.items() if not kind.remote]
        parts = [", ".join([*always, *self.everybody])]
        return "; ".join([*parts, *(f"of {shown(tenant)}: {', '.join(own)}" for tenant, own in self.tenants.items())])

    def require_usable(self) -> None:
        """Make every source once, without asking any. Raises UsageError with one line that names the source, where a
        file with its secret is missing for example."""
        for tenant, own in ((None, self.everybody), *self.tenants.items()):
            for scheme in own:
                try:
                    Reach(settings=own).source(scheme)
                except UsageError as error:
                    place = scheme if tenant is None else f"{TENANTS}.{tenant}.{scheme}"
                    raise _wrong(f"{shown(place)}: {error.detail}") from error


def read_source_settings(document: object) -> SourceSettings:
    """Settings as they are written: scheme -> members, and under ``tenants`` the same by tenant.

    Raises UsageError with one line that names what is wrong, and no value of it.

    Examples
    --------
    >>> read_source_settings({}).of("team-a")
    {}
    """
    if not isinstance(document, dict):
        raise _wrong("not a mapping of sources")
    tenants = document.get(TENANTS, {})
    if not isinstance(tenants, dict):
        raise _wrong(f"{TENANTS} is not a mapping of tenants")
    everybody = {name: each for name, each in document.items() if name != TENANTS}
    return SourceSettings(
        _read(everybody, ""), {str(tenant): _read(own, f"{TENANTS}.{tenant}.") for tenant, own in tenants.items()}
    )


def default_settings() -> SourceSettings:
    """What a command line uses where nothing is said: sources that anybody may ask without credentials."""
    kinds = {name: kind.load() for name, kind in SOURCES.items()}
    return SourceSettings({name: made.default() for name, made in kinds.items() if made.default is not None})


def load_source_settings(text: str) -> SourceSettings:
    """Settings in JSON or YAML; raises UsageError."""
    if len(text.encode()) > MOST_SETTINGS:
        raise _wrong(f"longer than {MOST_SETTINGS:,} bytes")
    try:
        document = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        # The error's text may show what stands there.
        raise _wrong("neither JSON nor YAML") from None
    return read_source_settings({} if document is None else document)


def _read(written: object, where: str) -> dict[str, BaseModel]:
    if not isinstance(written, dict):
        raise _wrong(f"{where.rstrip('.')} is not a mapping of sources")
    found = {}
    for scheme, members in written.items():
        kind = SOURCES.get(scheme)
        model = None if kind is None else kind.load().settings
        if model is None:
            known = ", ".join(name for name, each in SOURCES.items() if each.remote)
            raise _wrong(f"{where}{shown(str(scheme))} is no source; known are {known}")
        try:
            found[scheme] = model.model_validate(members)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join([f"{where}{scheme}", *(str(part) for part in first["loc"])])
            raise _wrong(f"{shown(place)}: {first['msg'].removeprefix(OF_VALIDATORS)}") from None
    return found


def _wrong(detail: str) -> UsageError:
    return UsageError(f"settings of model sources: {detail}", hint="docs/sources.md shows what they look like")
