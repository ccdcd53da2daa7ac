"""What is said of an audit: statements of in-toto (v1) under two types of predicates.

``test-result`` says of every audit that judged something what it found. ``svr`` says that it passed, and there is none
of any other: whoever asks for one is denied by its absence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spinal.documents.comparison import RuleOutcome, Verdict
from spinal.documents.files import FileDigests
from spinal.errors import NotAttestable, PassRestsOnWaiver, SpinalError, VerdictNotPass
from spinal.version import VERSION

STATEMENT = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
SVR = "https://in-toto.io/attestation/svr/v0.1"
PREDICATES = {"test-result": TEST_RESULT, "svr": SVR}
"""By the name under which the API and the command line know them."""
PASSED = "SPINAL_VERDICT_PASS"
"""The property of an audit that passed, with nothing waived."""
OWN = "spinal"
"""Member of a predicate with what its type does not know; readers of the type alone pass it over."""
RESULTS = {"pass": "PASSED", "warn": "WARNED", "fail": "FAILED", "inconclusive": "FAILED"}


@dataclass(frozen=True)
class Audited:
    """A finished audit, as far as statements say something of it."""

    audit: str
    finished_at: str
    """RFC 3339, UTC."""
    verifier: str
    """URI of the service."""
    candidate: str
    """What its tenant calls the checkpoint."""
    files: FileDigests
    verdict: Verdict | None
    """None where the audit failed."""
    error: str | None = None
    """The code of its error where it failed."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """What it was measured and judged under, by name, as sha256."""
    url: str | None = None
    signed_by: str | None = None
    """Id of the key that has signed the candidate's files, where a signature was asked for."""


def waived(verdict: Verdict) -> tuple[RuleOutcome, ...]:
    """Rules that found something and do not count."""
    return tuple(rule for rule in verdict.rules if rule.waived is not None)


def result_of(verdict: Verdict | None) -> str:
    """PASSED only where nothing at all was found. A pass that rests on a waiver is WARNED. What could not be told, and
    an audit that failed, is FAILED: there is no fourth word, and it has not passed."""
    if verdict is None:
        return "FAILED"
    found = RESULTS[verdict.outcome]
    return "WARNED" if found == "PASSED" and waived(verdict) else found


def why_no_svr(verdict: Verdict | None) -> SpinalError | None:
    """Why an audit has no statement that it passed; None where it has."""
    if verdict is None or verdict.outcome != "pass":
        found = "none, since the audit failed" if verdict is None else verdict.outcome
        return VerdictNotPass(
            f"the verdict is {found}, and only one that is pass is attested as passed",
            hint="ask for predicate=test-result, which says what was found",
            verdict=None if verdict is None else verdict.outcome,
        )
    if spared := waived(verdict):
        return PassRestsOnWaiver(
            f"the verdict passes because {_rules(spared)} waived; a waiver ends, and a statement does not",
            hint="ask for predicate=test-result, which names the waivers with their last days",
            waivers=[_waiver(rule) for rule in spared],
        )
    if not verdict.rules or verdict.policy_digest is None:
        return _of_before()
    return None


def _of_before() -> NotAttestable:
    return NotAttestable(
        "the verdict is of a release that did not keep its rules and the digest of its policy",
        hint="submit the audit again: nothing that is known is measured again",
    )


def svr(audited: Audited) -> dict[str, Any]:
    """The statement that an audit passed. Raises VerdictNotPass, PassRestsOnWaiver, NotAttestable."""
    verdict = audited.verdict
    why = why_no_svr(verdict)
    if why is not None or verdict is None or verdict.policy_digest is None:
        raise why or NotAttestable("no verdict")
    predicate = {
        "verifier": {
            "id": audited.verifier,
            "version": {"spinal": VERSION},
            "policy": {"name": verdict.policy, "digest": {"sha256": verdict.policy_digest}},
        },
        "timeCreated": audited.finished_at,
        "properties": [PASSED, policy_property(verdict.policy_digest)],
        OWN: _own(audited),
    }
    return _statement(audited, SVR, predicate)


def policy_property(digest: str) -> str:
    """The property that names the policy. Whoever enforces asks for it: a policy may be one that finds nothing."""
    return f"SPINAL_POLICY_{digest}"


def test_result(audited: Audited) -> dict[str, Any]:
    """The statement of what an audit found. Raises NotAttestable."""
    verdict = audited.verdict
    if verdict is not None and not verdict.rules:
        raise _of_before()
    rules = () if verdict is None else verdict.rules
    counted = [rule for rule in rules if rule.waived is None]
    predicate = {
        "result": result_of(verdict),
        "configuration": [{"name": name, "digest": {"sha256": it}} for name, it in sorted(audited.digests.items())],
        **({} if audited.url is None else {"url": audited.url}),
        "passedTests": [rule.rule for rule in counted if rule.outcome == "pass"],
        "warnedTests": [rule.rule for rule in counted if rule.outcome == "warn"],
        # A rule that could not tell has not passed, and the type has no other list for it.
        "failedTests": [rule.rule for rule in counted if rule.outcome in ("fail", "inconclusive")],
        OWN: _own(audited)
        | {
            "verdict": None if verdict is None else verdict.outcome,
            "policy": None if verdict is None else verdict.policy,
            "decidedBy": None if verdict is None else verdict.decided_by,
            "error": audited.error,
            "inconclusiveTests": [rule.rule for rule in counted if rule.outcome == "inconclusive"],
            "waivedTests": [_waiver(rule) for rule in rules if rule.waived is not None],
            "values": [_value(rule) for rule in rules if rule.value is not None],
        },
    }
    return _statement(audited, TEST_RESULT, predicate)


def statement_of(audited: Audited, predicate: str) -> dict[str, Any]:
    """The statement of one of ``PREDICATES``, by its name."""
    return {"test-result": test_result, "svr": svr}[predicate](audited)


def _statement(audited: Audited, kind: str, predicate: dict[str, Any]) -> dict[str, Any]:
    """Subjects are the weights files and no others. A statement holds of each of its subjects by itself, and
    configurations, tokenizers and the weights of an adapter's base are those of other models, too."""
    if audited.verdict is not None and audited.verdict.weights.get("candidate") != audited.files.weights_digest:
        raise NotAttestable("the verdict is not one of these files", hint="submit the audit again")
    subject = [{"name": name, "digest": {"sha256": it}} for name, it in sorted(audited.files.weights.items())]
    if not subject:
        raise NotAttestable("the checkpoint has no file of weights", hint="submit the audit again")
    return {"_type": STATEMENT, "subject": subject, "predicateType": kind, "predicate": predicate}


def _own(audited: Audited) -> dict[str, Any]:
    return {
        "audit": audited.audit,
        "finishedAt": audited.finished_at,
        "candidate": audited.candidate,
        "weightsDigest": audited.files.weights_digest,
        "files": dict(sorted(audited.files.files.items())),
        "base": audited.files.base,
        "digests": dict(sorted(audited.digests.items())),
        "signedBy": audited.signed_by,
    }


def _rules(rules: Sequence[RuleOutcome]) -> str:
    names = ", ".join(rule.rule for rule in rules)
    return f"the rule {names} is" if len(rules) == 1 else f"the rules {names} are"


def _waiver(rule: RuleOutcome) -> dict[str, Any]:
    waiver = rule.waived
    if waiver is None:
        raise ValueError(f"{rule.rule} is not waived")
    return {
        "test": rule.rule,
        "wouldBe": waiver.would_be,
        "reason": waiver.reason,
        "expires": waiver.expires.isoformat(),
    }


def _value(rule: RuleOutcome) -> dict[str, Any]:
    told = {
        "test": rule.rule,
        "path": rule.path,
        "of": rule.of,
        "value": rule.value,
        "confidenceInterval": None if rule.ci is None else {"low": rule.ci[0], "high": rule.ci[1], "level": 0.95},
        "unit": rule.unit or None,
        "bad": rule.bad,
        "limit": rule.limit,
        "outcome": rule.outcome if rule.waived is None else "waived",
    }
    return {name: value for name, value in told.items() if value is not None}
