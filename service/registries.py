"""Registries that tell us of versions, as an operator writes them down (``docs/registries.md``).

Wrong settings end a process at its start with one line that names the member, and no value of it.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from spinal.checkpoints.sources.reach import MOST_SETTINGS, OF_VALIDATORS, SourceSettings
from spinal.documents.canonical import digest_of
from spinal.documents.policy import NAME as POLICY_NAME
from spinal.errors import UsageError
from spinal.errors.faults import shown
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import DEFAULT_SET
from spinal.webhook_signing import key_of

MOST_SECRETS = 4
MOST_SECRET = 1024
"""Bytes of a file with a secret."""
DIGEST = "^[0-9a-f]{64}$"
PREVIOUS = "previous"


@dataclass(frozen=True)
class Kind:
    """What is so of every registry of a kind."""

    name: str
    adapter: str
    """``module:name`` of its ``Adapter``."""
    scheme: str | None
    """The model source by which its versions are read; None where a rule says what the candidate is."""
    candidate: str | None = None
    aliased: str | None = None
    """Reference of what an alias names; None where references to a model's own aliases mean nothing."""
    numbered: bool = False
    """Whether versions are numbers, so that there is one before."""
    polled: bool = False
    written_to: bool = False
    key_of: Callable[[str], bytes] = str.encode
    """What a secret verifies by. Raises UsageError for what is none."""


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "mlflow",
            "service.integrations.adapters.mlflow:MLFLOW",
            scheme="mlflow",
            candidate="mlflow:{model}/{version}",
            aliased="mlflow:{model}@{alias}",
            numbered=True,
            polled=True,
            written_to=True,
        ),
        Kind(
            "huggingface",
            "service.integrations.adapters.huggingface:HUGGINGFACE",
            scheme="hf",
            candidate="hf:{model}@{version}",
            aliased="hf:{model}@{alias}",
            polled=True,
        ),
        Kind("generic", "service.integrations.adapters.generic:GENERIC", scheme=None, key_of=key_of),
    )
}
"""By name. A new kind is a module with its adapter, and an entry here."""

RuleName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$")]


class Rule(BaseModel):
    """Which versions are audited, and how. Without ``aliases``, ``tags`` and ``stage`` every new version is."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: RuleName
    model: Text
    """Name of the model; ``*`` is any text."""
    aliases: tuple[Text, ...] = ()
    """A version is audited when it gets one of these; of a hub, branches and tags."""
    tags: dict[Text, str] = Field(default_factory=dict)
    """A version is audited when one of these is set to this value."""
    stage: Text | None = None
    """A version is audited when a poll finds it in this stage: registries tell of no move."""
    candidate: Text | None = None
    """Of kind ``generic``: the reference of the candidate, with ``{model}`` and ``{version}``."""
    reference: Text
    """A reference or a registered name; ``@alias`` or ``/version`` of the same model; ``previous``."""
    policy: Annotated[str, StringConstraints(pattern=f"{POLICY_NAME}|{DIGEST}")] | None = None
    prompt_set: Text = DEFAULT_SET
    profile: MeasurementProfile = Field(default_factory=MeasurementProfile)
    labels: dict[Key, Text] = Field(default_factory=dict, max_length=29)
    priority: Annotated[int, Field(ge=-10, le=10, strict=True)] = 0

    @model_validator(mode="after")
    def _one_way(self) -> "Rule":
        if sum(map(bool, (self.aliases, self.tags, self.stage))) > 1:
            raise ValueError("give one of aliases, tags, stage; another rule can have another")
        if self.reference.removeprefix("@") in self.aliases and self.reference.startswith("@"):
            raise ValueError("the reference is an alias by which the candidate is chosen: a model against itself")
        return self

    @property
    def selection(self) -> str:
        """Digest of all that chooses versions; what is done with them is no part of it."""
        return digest_of([self.model, sorted(set(self.aliases)), self.tags, self.stage])

    def names(self, model: str) -> bool:
        """Whether the rule is about a model."""
        first, *others = self.model.split("*")
        if not others:
            return model == first
        # From left to right, each part where it comes first: a name that nearly fits is not gone through again.
        *between, last = others
        at = len(first) if model.startswith(first) else -1
        for part in between:
            found = model.find(part, at) if at >= 0 else -1
            at = found + len(part) if found >= 0 else -1
        return 0 <= at <= len(model) - len(last) and model.endswith(last)


class Registry(BaseModel):
    """One registry."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: str
    tenant: Text
    """Whose audits its versions' are."""
    secret_files: Annotated[tuple[Path, ...], Field(min_length=1, max_length=MOST_SECRETS)]
    """Files with the secret that its events are signed with; several while it is changed. Read for each event."""
    rules: Annotated[tuple[Rule, ...], Field(min_length=1, max_length=200)]
    write_back: bool = False
    report_link: Literal["page", "signed"] | None = None
    """What is written back of a report: a link that opens it without a key (``signed``, where nothing is said), or the
    page for whoever is signed in."""
    poll_every_s: Annotated[float, Field(ge=1.0, le=86_400.0)] | None = None
    """How often it is asked for what it never told; 300 where it can be asked at all."""
    backfill: bool = False
    """Whether the first poll audits versions that were there before."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"a kind is one of {', '.join(KINDS)}")
        return kind

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Registry":
        kind, names = KINDS[self.kind], [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("two rules have the same name")
        if self.write_back and not kind.written_to:
            raise ValueError(f"write_back: a registry of kind {self.kind} is not written to")
        if self.report_link is not None and not kind.written_to:
            raise ValueError(f"report_link: a registry of kind {self.kind} is not written to")
        if (self.poll_every_s is not None or self.backfill) and not kind.polled:
            raise ValueError(f"poll_every_s, backfill: a registry of kind {self.kind} cannot be asked")
        for rule in self.rules:
            if (rule.candidate is None) != (kind.candidate is not None):
                told = "says itself what the candidate is" if kind.candidate else "needs a candidate in each rule"
                raise ValueError(f"rules.{rule.name}: kind {self.kind} {told}")
            if kind.aliased is None and rule.reference.startswith(("@", "/")):
                raise ValueError(f"rules.{rule.name}.reference: kind {self.kind} knows references and names alone")
            if not kind.numbered and rule.reference == PREVIOUS:
                raise ValueError(f"rules.{rule.name}.reference: versions of kind {self.kind} are not numbered")
        return self

    @property
    def of(self) -> Kind:
        return KINDS[self.kind]

    @property
    def interval_s(self) -> float | None:
        """How often it is polled; None where it cannot be."""
        return (self.poll_every_s or 300.0) if self.of.polled else None

    @cached_property
    def by_name(self) -> dict[str, Rule]:
        return {rule.name: rule for rule in self.rules}

    def secrets(self) -> tuple[str, ...]:
        """What the files hold now. Raises UsageError that names the file's name and not its content."""
        found = []
        for file in self.secret_files:
            try:
                secret = file.read_bytes()[: MOST_SECRET + 1].decode("utf-8").removesuffix("\n").removesuffix("\r")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"the secret file {shown(file.name)} cannot be read ({type(error).__name__})",
                    hint="is it there, and readable for this process?",
                ) from None
            if not secret or len(secret) > MOST_SECRET or not secret.isprintable():
                raise UsageError(
                    f"the secret file {shown(file.name)} is empty, too long, or no single line",
                    hint="one line with the secret",
                )
            try:
                self.of.key_of(secret)
            except UsageError as error:
                raise UsageError(f"the secret file {shown(file.name)}: {error.detail}", hint=error.hint) from None
            found.append(secret)
        return tuple(found)

    def candidate_of(self, rule: Rule, model: str, version: str) -> str:
        """The reference of a version."""
        return _filled(rule.candidate or self.of.candidate or "", model=model, version=version)

    def reference_of(self, rule: Rule, model: str, version: str) -> str:
        """What a version is compared with."""
        kind, asked = self.of, rule.reference
        if kind.aliased is not None and asked.startswith("@"):
            return _filled(kind.aliased, model=model, alias=asked[1:])
        if kind.candidate is not None and asked.startswith("/"):
            return _filled(kind.candidate, model=model, version=asked[1:])
        if asked == PREVIOUS and kind.candidate is not None:
            before = str(int(version) - 1) if re.fullmatch("[0-9]+", version) else "0"
            return _filled(kind.candidate, model=model, version=before)
        return asked


@dataclass(frozen=True)
class Registries:
    """All of them, by name."""

    by_name: Mapping[str, Registry] = field(default_factory=dict)

    def of_kind(self, kind: str) -> dict[str, Registry]:
        return {name: each for name, each in self.by_name.items() if each.kind == kind}

    def of_tenant(self, tenant: str) -> dict[str, Registry]:
        return {name: each for name, each in sorted(self.by_name.items()) if each.tenant == tenant}

    def require_sources(self, sources: SourceSettings) -> None:
        """Raises UsageError where a tenant lacks the source by which its registry's versions are read."""
        for name, registry in self.by_name.items():
            scheme = registry.of.scheme
            if scheme is not None and scheme not in sources.of(registry.tenant):
                raise _wrong(f"{name}: its tenant has no model source {scheme!r}, by which its versions are read")

    def require_usable(self) -> None:
        """Read every secret. Raises UsageError where a file is missing, or two registries of a kind share a secret, so
        that nobody could tell which of them is meant."""
        known: dict[tuple[str, bytes], str] = {}
        for name, registry in self.by_name.items():
            try:
                secrets = registry.secrets()
            except UsageError as error:
                raise _wrong(f"{name}.secret_files: {error.detail}") from error
            for secret in secrets:
                other = known.setdefault((registry.kind, registry.of.key_of(secret)), name)
                if other != name:
                    raise _wrong(f"{name}.secret_files: registry {other} has the same secret")


def load_registries(text: str) -> Registries:
    """Registries in JSON or YAML, by name. Raises UsageError with the place of what is wrong, and no value of it."""
    if len(text.encode()) > MOST_SETTINGS:
        raise _wrong(f"longer than {MOST_SETTINGS:,} bytes")
    try:
        document: Any = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        raise _wrong("neither JSON nor YAML") from None
    if document is None:
        return Registries()
    if not isinstance(document, dict):
        raise _wrong("not a mapping of registries by name")
    found = {}
    for name, members in document.items():
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
            raise _wrong(f"{shown(str(name))[:80]} is no name: small letters, digits, . _ -, 64 at most")
        try:
            found[name] = Registry.model_validate(members)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join([name, *(str(part) for part in first["loc"])])
            raise _wrong(f"{shown(place)}: {first['msg'].removeprefix(OF_VALIDATORS)}") from None
    return Registries(found)


def _filled(form: str, **values: str) -> str:
    """Each place once, and nothing that stands in a value is a place again."""
    return re.sub(r"\{(\w+)\}", lambda place: values.get(place[1], place[0]), form)


def _wrong(detail: str) -> UsageError:
    return UsageError(f"settings of registries: {detail}", hint="docs/registries.md shows what they look like")
