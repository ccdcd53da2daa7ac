"""Identities follow from values: equal values have equal digests, under schemes that never change."""

from typing import Annotated, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from spinal.analysis.comparable import check_comparable, same_fingerprint
from spinal.documents.canonical import PYTHON_JSON, RFC_8785, canonical_json, digest_of
from spinal.documents.editions import FORMER, PRESENT
from spinal.documents.trace import Trace, stamp_profile, trace_digest
from spinal.errors import FingerprintMismatch
from spinal.profile import Knob, MeasurementProfile
from tests.support import fabricated

BEFORE = {
    "max_tokens": 512, "add_special_tokens": True, "lens_positions": 16, "dtype": "float32", "batch_size": 16,
    "rank_tolerance": 1e-7, "min_window_ranks": 16, "window_last": "bulk", "window_all": "body",
    "jackknife_groups": 16, "parity_tolerance": 1e-3, "continuation_prompts": 64, "swap_prompts": 128,
    "bootstrap_draws": 2000, "seed": 0, "terminal_fraction": 0.7, "weight_delta": 1 / 3, "weight_coherence": 1 / 3,
    "weight_footprint": 1 / 3, "noise_draws": 0,
}  # fmt: skip
SINCE = {"greedy_tokens": 64, "stitch_prompts": 64, "stitch_tokens": 128, "pair_tokens": 256}
DEFAULTS: dict[str, dict[str, Any]] = {
    "spinal/1": BEFORE | SINCE | {"sampling": "first", "continuation_walk": "apart", "greedy_prompts": 0},
    "spinal/2": BEFORE | SINCE | {"sampling": "stratified", "continuation_walk": "joint", "greedy_prompts": 32},
}
"""The defaults of each name. They never change: a fingerprint holds only what differs from them. A new knob adds a
line, with the default under which the numbers stay what they were."""

TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcXYZ_é", max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_of_a_name_never_change(name: Any) -> None:
    assert MeasurementProfile(name=name).model_dump() == DEFAULTS[name] | {"name": name}
    assert MeasurementProfile.defaults_of(name) == DEFAULTS[name]
    assert set(DEFAULTS[name]) == set(MeasurementProfile.table())
    assert MeasurementProfile(name=name).fingerprint == digest_of({"name": name})


def test_every_name_has_its_defaults_on_record_and_the_newest_is_what_is_measured_with() -> None:
    names = MeasurementProfile.model_fields["name"].annotation
    assert set(get_args(names)) == set(DEFAULTS)
    assert MeasurementProfile() == MeasurementProfile(name="spinal/2")
    assert MeasurementProfile().name == "spinal/2"


def test_fingerprints_on_record() -> None:
    other = MeasurementProfile(name="spinal/2", sampling="first", greedy_tokens=32, stitch_prompts=8)
    assert other.fingerprint == digest_of({"name": "spinal/2", "sampling": "first", "greedy_tokens": 32})
    plain = MeasurementProfile(name="spinal/1")
    other = MeasurementProfile(name="spinal/1", max_tokens=64, seed=3, weight_delta=0.5)
    assert plain.fingerprint == plain.comparison_fingerprint == digest_of({"name": "spinal/1"})
    assert other.fingerprint == digest_of({"name": "spinal/1", "max_tokens": 64})
    assert other.comparison_fingerprint == digest_of(
        {"name": "spinal/1", "max_tokens": 64, "seed": 3, "weight_delta": 0.5}
    )
    # As the release before made them.
    assert plain.fingerprint_under(PYTHON_JSON) == "473910acab96f7889b44a9ab4efa31322f96e901f48acf86510c9befb744156a"
    assert (
        plain.comparison_fingerprint_under(PYTHON_JSON)
        == "771da8d541ce3e0097269432d58a0d9f4ed97746f8dd116106ad5a21ae3636c5"
    )
    assert other.fingerprint_under(PYTHON_JSON) == "4e754b8878812bb8cc7594bce58101a06339358540c8382d110be4f966ae1e48"
    assert (
        other.comparison_fingerprint_under(PYTHON_JSON)
        == "6e1e31b5ad8fd88f987e5889ba85af63654bf907cb756424a0badc55a3650d04"
    )


def test_a_stored_profile_without_later_knobs_is_the_first_one() -> None:
    """As documents of the release before hold it, and those of before profiles had a name."""
    made = fabricated.trace("local:a", 4, 8)
    for stored in (BEFORE | {"name": "spinal/1"}, BEFORE):
        trace = made.model_copy(update={"profile": stored | {"fingerprint": "0" * 64}})
        assert trace.measurement_profile() == MeasurementProfile(name="spinal/1")
        assert not trace.measurement_profile().reads_behaviour
    assert MeasurementProfile().reads_behaviour


def test_a_name_with_the_knobs_of_another_is_not_that_other() -> None:
    """What a trace keeps goes by the name, too."""
    dressed = MeasurementProfile(name="spinal/1", sampling="stratified", continuation_walk="joint", greedy_prompts=32)
    assert dressed.differing_knobs(MeasurementProfile(name="spinal/2")) == {"name": ("spinal/1", "spinal/2")}
    assert dressed.fingerprint != MeasurementProfile(name="spinal/2").fingerprint


class Later(MeasurementProfile):
    """A profile of later code."""

    depth_of_field: Annotated[int, Field(ge=0), Knob("trace", since=9)] = 3


def test_a_new_knob_with_a_default_changes_no_identity() -> None:
    pairs = ((MeasurementProfile(), Later()), (MeasurementProfile(max_tokens=64, seed=3), Later(max_tokens=64, seed=3)))
    for before, after in pairs:
        for scheme in (RFC_8785, PYTHON_JSON):
            assert before.fingerprint_under(scheme) == after.fingerprint_under(scheme)
            assert before.comparison_fingerprint_under(scheme) == after.comparison_fingerprint_under(scheme)
    assert Later(depth_of_field=4).fingerprint != Later().fingerprint


@given(TEXTS)
def test_both_schemes_are_one_over_texts_and_whole_numbers(value: Any) -> None:
    """So digests of prompts, files, token ids and traces stay what they are."""
    try:
        assert canonical_json(value, RFC_8785) == canonical_json(value, PYTHON_JSON)
    except (ValueError, UnicodeEncodeError):
        with pytest.raises((ValueError, UnicodeEncodeError)):
            canonical_json(value, PYTHON_JSON)


def test_numbers_are_their_values_under_rfc_8785() -> None:
    assert canonical_json({"b": 1.0, "a": [1e-7, 1e21, -0.0]}) == b'{"a":[1e-7,1e+21,0],"b":1}'
    assert digest_of(1.0) == digest_of(1) != digest_of(1.0, PYTHON_JSON)
    for refused in (float("nan"), float("inf"), 2**60):
        with pytest.raises(ValueError, match=r"."):
            canonical_json(refused)


def under(trace: Trace, profile: MeasurementProfile, scheme: str) -> Trace:
    """The same measurement as a release of that scheme would call it."""
    edition = PRESENT if scheme == PRESENT.scheme else FORMER
    stamped = stamp_profile(profile, edition)
    digest = trace_digest(
        trace.model.weights_digest, trace.prompt_set.digest, str(stamped["fingerprint"]), trace.engine.version
    )
    return trace.model_copy(update={"profile": stamped, "digest": digest})


def test_digests_of_two_schemes_are_not_read_as_different_content() -> None:
    profile = MeasurementProfile(max_tokens=64)
    made = fabricated.trace("local:a", 4, 8)
    now, then = under(made, profile, RFC_8785), under(made, profile, PYTHON_JSON)
    assert (now.scheme, then.scheme) == (RFC_8785, PYTHON_JSON)
    assert now.fingerprint != then.fingerprint
    assert same_fingerprint(now, then)
    check_comparable(now, then)


def test_other_knobs_are_other_content_under_any_schemes() -> None:
    made = fabricated.trace("local:a", 4, 8)
    for scheme in (RFC_8785, PYTHON_JSON):
        now, then = (
            under(made, MeasurementProfile(), RFC_8785),
            under(made, MeasurementProfile(max_tokens=64), scheme),
        )
        with pytest.raises(FingerprintMismatch, match="max_tokens"):
            check_comparable(now, then)


def test_a_fingerprint_that_follows_under_no_scheme_is_not_taken_for_another() -> None:
    made = under(fabricated.trace("local:a", 4, 8), MeasurementProfile(), RFC_8785)
    forged = made.model_copy(update={"profile": made.profile | {"fingerprint": "0" * 64}})
    assert forged.scheme is None
    with pytest.raises(FingerprintMismatch, match="different versions"):
        check_comparable(made, forged)
