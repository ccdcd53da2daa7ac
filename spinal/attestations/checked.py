"""Whether an attestation says what somebody asks for, and of which files. Pure: files are ``folder``'s."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spinal.attestations.envelope import json_object, read_envelope
from spinal.attestations.keys import PublicKey
from spinal.attestations.statement import PASSED, STATEMENT, SVR, TEST_RESULT
from spinal.documents.base import Digest
from spinal.documents.files import FileDigests
from spinal.errors import AttestationInvalid, AttestationRefused

Require = Literal["pass", "waived", "warn", "any"]
REQUIRES: tuple[Require, ...] = ("pass", "waived", "warn", "any")
"""What may be asked for: that nothing was found; that nothing was found but what a waiver still covers; that nothing
failed; nothing at all."""
OURS = "spinal verify reads the attestations of this service, and no others"


class _Read(BaseModel):
    """Members that are not known are passed over, as the framework asks of readers."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Digest(_Read):
    sha256: Digest


class _Subject(_Read):
    name: str
    digest: _Digest


class Waiver(_Read):
    test: str
    reason: str
    expires: date
    would_be: str = Field(alias="wouldBe")


class _Own(_Read):
    audit: str
    candidate: str
    weights_digest: Digest = Field(alias="weightsDigest")
    files: dict[str, Digest]
    base: Digest | None
    digests: dict[str, Digest]
    verdict: str | None = None
    waivers: list[Waiver] = Field(default=[], alias="waivedTests")


class _Predicate(_Read):
    result: Literal["PASSED", "WARNED", "FAILED"] | None = None
    properties: list[str] = []
    spinal: _Own


class _Statement(_Read):
    type: str = Field(alias="_type")
    subject: list[_Subject] = Field(min_length=1)
    predicate_type: str = Field(alias="predicateType")
    predicate: _Predicate


@dataclass(frozen=True)
class Checked:
    """An attestation that a key has signed, as far as it is understood."""

    key: str
    predicate_type: str
    audit: str
    candidate: str
    result: str | None
    """PASSED, WARNED or FAILED, of a ``test-result``."""
    verdict: str | None
    properties: tuple[str, ...]
    policy: str | None
    """sha256 of the policy document."""
    waivers: tuple[Waiver, ...]
    files: FileDigests
    statement: dict[str, Any]


def read_attestation(raw: bytes | str, keys: Sequence[PublicKey]) -> Checked:
    """An attestation that one of ``keys`` has signed. Raises AttestationInvalid, and AttestationRefused where none of
    them has."""
    envelope = read_envelope(raw)
    key = envelope.signed_by(keys)
    if key is None:
        raise AttestationRefused(
            "the attestation is not signed by the key that was given", hint="is it the key of the service that gave it?"
        )
    found = json_object(envelope.payload, "what was signed")
    try:
        statement = _Statement.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = "/".join(map(str, first["loc"]))
        raise AttestationInvalid(f"what was signed is no statement of an audit: {where}", hint=OURS) from error
    if statement.type != STATEMENT or statement.predicate_type not in (SVR, TEST_RESULT):
        raise AttestationInvalid("what was signed is no statement of a known type", hint=OURS)
    predicate, own = statement.predicate, statement.predicate.spinal
    files = FileDigests(files=own.files, base=own.base)
    subjects = {subject.name: subject.digest.sha256 for subject in statement.subject}
    if len(subjects) != len(statement.subject) or subjects != files.weights:
        raise AttestationInvalid("the subjects are not the weights files that it lists", hint=OURS)
    if files.weights_digest != own.weights_digest:
        raise AttestationInvalid("its files do not add up to the weights digest that it names", hint=OURS)
    passed = statement.predicate_type == SVR
    return Checked(
        key=key.id,
        predicate_type=statement.predicate_type,
        audit=own.audit,
        candidate=own.candidate,
        result=None if passed else predicate.result,
        verdict="pass" if passed and PASSED in predicate.properties else own.verdict,
        properties=tuple(predicate.properties) if passed else (),
        policy=own.digests.get("policy"),
        waivers=tuple(own.waivers),
        files=files,
        statement=found,
    )


def require_said(
    checked: Checked, *, require: Require, today: date, policy: str | None = None, properties: Collection[str] = ()
) -> None:
    """Raise AttestationRefused unless the attestation says as much as is asked for: the outcome, on ``today`` where it
    rests on waivers; the policy, by its sha256; properties."""
    if policy is not None and checked.policy != policy:
        raise _refused(f"it was judged by the policy {checked.policy or '(none)'}, not by {policy}")
    if lacking := sorted(set(properties) - set(checked.properties)):
        raise _refused(f"it does not have the property {lacking[0]}")
    if require == "any":
        return
    if expired := [waiver for waiver in checked.waivers if waiver.expires < today]:
        raise _refused(f"the waiver of {expired[0].test} ended on {expired[0].expires}")
    allowed = {"pass": _passed, "waived": _passed_or_waived, "warn": _not_failed}[require]
    if not allowed(checked):
        said = checked.result or ", ".join(checked.properties) or "nothing"
        rests = f", resting on the waiver of {checked.waivers[0].test}" if checked.waivers else ""
        raise _refused(f"it says {said} (verdict {checked.verdict or 'none'}{rests}), and {require!r} was asked for")


def _passed(checked: Checked) -> bool:
    if checked.predicate_type == SVR:
        return PASSED in checked.properties
    return checked.result == "PASSED" and checked.verdict == "pass" and not checked.waivers


def _passed_or_waived(checked: Checked) -> bool:
    return _passed(checked) or (checked.result == "WARNED" and checked.verdict == "pass")


def _not_failed(checked: Checked) -> bool:
    return _passed_or_waived(checked) or (checked.result == "WARNED" and checked.verdict == "warn")


def _refused(why: str) -> AttestationRefused:
    return AttestationRefused(f"the attestation does not say what was asked for: {why}", hint="docs/attestations.md")
