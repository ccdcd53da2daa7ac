"""Whom an event is told, by values alone; and whose secret is whose."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.deliveries.events import TYPES
from service.webhooks.filters import EVERY, PATTERNS, TEST, Facts, covers, wants
from service.webhooks.secrets import secrets_of
from spinal.errors import WebhooksNotConfigured

AUDIT = Facts({"release": "7", "of": "us"}, ("local:new", "local:base"), "fail")
SERIES = Facts({"release": "7"}, ("local:base",))

types = st.sampled_from(sorted(TYPES))
labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)
models = st.lists(st.sampled_from(["local:a", "local:b", "hf:c"]), max_size=3)
verdicts = st.none() | st.sampled_from(["pass", "warn", "fail", "inconclusive"])
facts = st.builds(Facts, labels, models, verdicts)
filters = st.fixed_dictionaries(
    {}, optional={"verdicts": st.lists(verdicts.filter(bool), max_size=2), "labels": labels, "models": models}
)


@pytest.mark.parametrize(
    ("filters", "audit", "series"),
    [
        ({}, True, True),
        ({"verdicts": [], "labels": {}, "models": []}, True, True),
        ({"verdicts": ["fail", "warn"]}, True, True),
        ({"verdicts": ["pass"]}, False, True),
        ({"labels": {"release": "7"}}, True, True),
        ({"labels": {"of": "us", "release": "7"}}, True, False),
        ({"labels": {"release": "8"}}, False, False),
        ({"models": ["local:base"]}, True, True),
        ({"models": ["local:new", "other"]}, True, False),
        ({"models": ["local:ne"]}, False, False),
        ({"models": ["local:new"], "verdicts": ["pass"]}, False, False),
    ],
)
def test_what_filters_narrow(filters: dict[str, Any], audit: bool, series: bool) -> None:
    assert wants(["*"], filters, "audit.succeeded", AUDIT) is audit
    assert wants(["*"], filters, "series.status", SERIES) is series


def test_an_audit_without_a_verdict_has_none_of_them() -> None:
    failed = Facts(verdict=None)
    assert wants(["audit.*"], {}, "audit.failed", failed)
    assert not wants(["audit.*"], {"verdicts": ["fail"]}, "audit.failed", failed)


def test_every_type_can_be_asked_for_by_name_group_and_star() -> None:
    for kind in set(TYPES) - {TEST}:
        assert [pattern for pattern in PATTERNS if covers(pattern, kind)] == [kind, f"{kind.partition('.')[0]}.*", "*"]
    assert TEST not in PATTERNS
    assert not covers("audit.*", "audits.failed")


@given(kind=types, facts=facts, filters=filters, more=filters)
def test_another_condition_never_brings_another_event(
    kind: str, facts: Facts, filters: dict[str, Any], more: dict[str, Any]
) -> None:
    """Each condition by itself, all of them together."""
    told = wants([EVERY], filters, kind, facts)
    assert told == all(wants([EVERY], {name: value}, kind, facts) for name, value in filters.items())
    if told is False:
        assert not wants([EVERY], {**more, **filters}, kind, facts)


@given(kind=types, patterns=st.lists(st.sampled_from(PATTERNS), max_size=4))
def test_an_event_is_told_where_one_pattern_names_it(kind: str, patterns: list[str]) -> None:
    assert wants(patterns, {}, kind, Facts()) == any(covers(pattern, kind) for pattern in patterns)


class TestSecrets:
    ID = UUID(int=7)

    def test_the_same_is_derived_again(self) -> None:
        assert secrets_of("p", "t", self.ID, 1, "v1") == secrets_of("p", "t", self.ID, 1, "v1")

    def test_each_tenant_webhook_generation_and_kind_has_its_own(self) -> None:
        made = [
            secrets_of(pepper, tenant, webhook, generation, signature).signs
            for pepper in ("p", "q")
            for tenant in ("t", "t2", "", "t\n")
            for webhook in (self.ID, uuid4())
            for generation in (1, 2, 11)
            for signature in ("v1", "v1a")
        ]
        assert len(set(made)) == len(made)

    def test_a_key_that_signs_is_not_what_is_shown(self) -> None:
        made = secrets_of("p", "t", self.ID, 1, "v1a")
        assert made.signs.startswith("whsk_")
        assert made.verifies.startswith("whpk_")

    def test_without_a_pepper_there_is_none(self) -> None:
        with pytest.raises(WebhooksNotConfigured, match="SPINAL_KEY_PEPPER"):
            secrets_of("", "t", self.ID, 1, "v1")
