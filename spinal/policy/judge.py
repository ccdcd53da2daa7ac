"""A policy and a former comparison however they are given, for ``import spinal``."""

import os
from collections.abc import Mapping
from datetime import date
from typing import Any

from spinal.documents.comparison import Comparison
from spinal.documents.policy import Policy
from spinal.documents.schemas import load
from spinal.errors import DocumentInvalid

AnyPolicy = Policy | str | os.PathLike[str] | Mapping[str, Any]
"""A policy document, the name of one that ships, a file, or a policy's members."""
AnyComparison = Comparison | str | os.PathLike[str]
"""A comparison, or the file of one in JSON."""


def judge(
    comparison: AnyComparison,
    policy: AnyPolicy | None = None,
    *,
    former: AnyComparison | None = None,
    today: date | None = None,
) -> Comparison:
    """Judge a comparison, again, under a policy. Nothing is measured.

    Parameters
    ----------
    comparison : Comparison, str or path-like
        What :func:`spinal.compare` gave, or a file of ``spinal.comparison/1``.
    policy : Policy, str, path-like or mapping, optional
        The name of a policy that ships, a file in YAML or JSON, or the members of the document ``spinal.policy/1``
        (``docs/policies.md``); ``"spinal-default/2"`` where absent.
    former : Comparison, str or path-like, optional
        What rules on ``former.`` values are read against: a comparison with the same reference, prompts and knobs.
    today : datetime.date, optional
        The day on which waivers have to hold, in UTC; today where absent.

    Returns
    -------
    Comparison
        The same comparison with the verdict of that policy.

    Raises
    ------
    DocumentInvalid
        The policy is not understood: the error names the rule and the member. Or a file holds no comparison.
    UsageError
        There is no such file, or policy.

    Examples
    --------
    >>> import spinal
    >>> prompts = [f"Human: how do I plant tree number {n}?" for n in range(24)]
    >>> pair = "examples/checkpoints/sft", "examples/checkpoints/dpo-short"
    >>> found = spinal.compare(*pair, prompts=prompts, max_tokens=16, lens_positions=2, swap_prompts=8)
    >>> strict = {
    ...     "name": "acme-release/1",
    ...     "rules": [
    ...         {"name": "drift", "value": "damage.gap", "bad": "above", "limit": 0.01, "severity": "fail"},
    ...     ],
    ... }
    >>> verdict = spinal.judge(found, strict).verdict
    >>> verdict.outcome, verdict.policy, verdict.decided_by
    ('fail', 'acme-release/1', 'drift')
    >>> spinal.judge(found).verdict == found.verdict
    True
    """
    # Brings YAML and the rules along, which the names of this module do without.
    from spinal.policy.decide import judged

    asked = find_policy(policy)
    before = None if former is None else find_comparison(former)
    return judged(find_comparison(comparison), asked, former=before, today=today)


def find_policy(given: AnyPolicy | None) -> Policy | None:
    """The policy however it is given, checked whole; None for the default one. Raises UsageError, DocumentInvalid."""
    from spinal.policy.reading import check_policy, make_policy
    from spinal.policy.shipped import read_policy

    if given is None:
        return None
    if isinstance(given, Policy):
        check_policy(given, given.name)
        return given
    return make_policy(given, "policy") if isinstance(given, Mapping) else read_policy(given)


def find_comparison(given: AnyComparison) -> Comparison:
    """The comparison, or that of a file. Raises UsageError, DocumentInvalid."""
    found = given if isinstance(given, Comparison) else load(given)
    if not isinstance(found, Comparison):
        raise DocumentInvalid(
            f"{os.fspath(given)}: a {found.schema_} is no comparison",  # type: ignore[arg-type]  # a path
            hint="give one that compare -o wrote",
        )
    return found
