"""Signatures of webhooks are those of Standard Webhooks, and whatever somebody sends is judged, never an accident."""

import json
import re
import time
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from spinal import webhook_signing, webhooks
from spinal.errors import SignatureInvalid, UsageError
from spinal.webhook_signing import key_pair, shared_secret, sign
from tests.support.places import ROOT

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNS = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
VERIFIES = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNED = {
    SECRET: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    SIGNS: "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
}

keys = st.binary(min_size=24, max_size=64)
ids = st.text(st.characters(codec="ascii", min_codepoint=0x21, exclude_characters=".\x7f"), min_size=1, max_size=64)
texts = st.text(st.characters(codec="utf-8"))


def headers(signature: str, message_id: str = ID, at: object = AT) -> dict[str, str]:
    return {"webhook-id": message_id, "webhook-timestamp": str(at), "webhook-signature": signature}


@pytest.mark.parametrize("secret", SIGNED)
def test_the_vectors_of_the_specification(secret: str) -> None:
    assert sign(secret, ID, AT, BODY) == SIGNED[secret]
    check = VERIFIES if secret == SIGNS else secret
    webhook_signing.verify(check, ID, str(AT), SIGNED[secret], BODY, now=AT)


def test_a_pair_of_keys_is_what_its_seed_says() -> None:
    _, public = key_pair(b"\x01" * 32)
    assert key_pair(b"\x01" * 32) == key_pair(b"\x01" * 32)
    assert public != key_pair(b"\x02" * 32)[1]


@given(key=keys, message_id=ids, body=texts)
def test_the_library_of_the_standard_takes_what_we_sign(key: bytes, message_id: str, body: str) -> None:
    now = int(time.time())
    signature = sign(shared_secret(key), message_id, now, body.encode())
    Webhook(shared_secret(key)).verify(body, headers(signature, message_id, now), json_parse=False)


@given(key=keys, message_id=ids, body=texts)
def test_we_take_what_the_library_of_the_standard_signs(key: bytes, message_id: str, body: str) -> None:
    now = datetime.now(UTC)
    signature = Webhook(shared_secret(key)).sign(message_id, now, body)
    webhook_signing.verify(shared_secret(key), message_id, str(int(now.timestamp())), signature, body.encode())


@given(body=st.binary(), other=st.binary(), seed=st.binary(min_size=32, max_size=32))
def test_a_key_verifies_what_it_signed_and_nothing_else(body: bytes, other: bytes, seed: bytes) -> None:
    signs, verifies = key_pair(seed)
    signature = sign(signs, ID, AT, body)
    webhook_signing.verify(verifies, ID, str(AT), signature, body, now=AT)
    if other != body:
        with pytest.raises(SignatureInvalid):
            webhook_signing.verify(verifies, ID, str(AT), signature, other, now=AT)


@given(
    message_id=st.none() | st.text(),
    at=st.none() | st.text() | st.integers().map(str),
    signature=st.none() | st.text() | st.lists(st.text().map(lambda text: f"v1,{text}")).map(" ".join),
    body=st.binary(),
    secret=st.sampled_from([SECRET, VERIFIES, b"raw"]),
)
def test_whatever_is_sent_is_refused_in_words(
    message_id: str | None, at: str | None, signature: str | None, body: bytes, secret: str | bytes
) -> None:
    with pytest.raises(SignatureInvalid):
        webhook_signing.verify(secret, message_id, at, signature, body)


@pytest.mark.parametrize(
    "at",
    [AT - 301, AT + 301, "", "1614265330.0", " 1614265330", "+1614265330", "-5", "nan", "inf", "1e9", "१६१४२६५३३०",
     "9" * 400],
)  # fmt: skip
def test_a_time_that_is_none_or_far_away_is_refused(at: object) -> None:
    said = int(at) if isinstance(at, int) else AT
    with pytest.raises(SignatureInvalid):
        webhook_signing.verify(SECRET, ID, str(at), sign(SECRET, ID, said, BODY), BODY, now=AT)


@pytest.mark.parametrize("at", [AT - 300, AT, AT + 300])
def test_a_time_within_five_minutes_is_taken(at: int) -> None:
    webhook_signing.verify(SECRET, ID, str(at), sign(SECRET, ID, at, BODY), BODY, now=AT)


def test_what_another_time_and_id_would_make_of_the_same_bytes_is_no_message() -> None:
    """``a`` at 1 with the body ``2.x`` and ``a.1`` at 2 with the body ``x`` are signed alike."""
    signature = sign(SECRET, "a", 1, b"2.x")
    with pytest.raises(SignatureInvalid, match="id"):
        webhook_signing.verify(SECRET, "a.1", "2", signature, b"x", now=2)
    with pytest.raises(UsageError):
        sign(SECRET, "a.1", 2, b"x")


@pytest.mark.parametrize("others", ["v2,AAAA {}", "{} v1", "v1, {}", "v1,AAAA v1,=,= {}", "{} v1a,!!", "{}  v1,\xff"])
def test_one_signature_among_several_is_enough(others: str) -> None:
    webhook_signing.verify(SECRET, ID, str(AT), others.format(SIGNED[SECRET]), BODY, now=AT)


def test_only_so_many_signatures_are_looked_at() -> None:
    many = " ".join(["v1,AAAA"] * 16 + [SIGNED[SECRET]])
    with pytest.raises(SignatureInvalid):
        webhook_signing.verify(SECRET, ID, str(AT), many, BODY, now=AT)


def test_many_signatures_cost_whoever_verifies_them_one_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = Mock(wraps=webhook_signing._mac)
    monkeypatch.setattr(webhook_signing, "_mac", computed)
    with pytest.raises(SignatureInvalid):
        webhook_signing.verify(SECRET, ID, str(AT), " ".join(["v1,AAAA"] * 16), BODY, now=AT)
    assert computed.call_count == 1


def test_during_a_rotation_either_secret_is_enough() -> None:
    other = shared_secret(b"x" * 24)
    webhook_signing.verify([other, SECRET], ID, str(AT), SIGNED[SECRET], BODY, now=AT)
    both = f"{sign(other, ID, AT, BODY)} {SIGNED[SECRET]}"
    for secret in (other, SECRET):
        webhook_signing.verify(secret, ID, str(AT), both, BODY, now=AT)
    with pytest.raises(SignatureInvalid):
        webhook_signing.verify([], ID, str(AT), both, BODY, now=AT)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!!", "whsec_c2hvcnQ=", "secret", "whpk_AAAA", b"", SIGNS])
def test_a_malformed_secret_is_told_and_not_shown(secret: str | bytes) -> None:
    with pytest.raises(UsageError) as told:
        webhook_signing.verify(secret, ID, str(AT), SIGNED[SECRET], BODY, now=AT)
    assert not secret or str(secret) not in str(told.value.to_problem()) or secret in ("whsec_", "secret")


class TestForReceivers:
    def test_an_event_is_given_once_its_signature_holds(self) -> None:
        now, body = int(time.time()), json.dumps({"type": "webhook.test", "data": {}}).encode()
        sent = {name.title(): value for name, value in headers(sign(SECRET, ID, now, body), ID, now).items()}
        assert webhooks.verify(body, sent, SECRET)["type"] == "webhook.test"
        Webhook(SECRET).verify(body, sent)
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(body + b" ", sent)
        with pytest.raises(SignatureInvalid):
            webhooks.verify(body + b" ", sent, SECRET)

    def test_the_lines_of_the_documentation_take_an_event_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        [lines] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "webhooks.md").read_text(), re.DOTALL)
        known: set[str] = set()

        def seen(message_id: str) -> bool:
            before = message_id in known
            known.add(message_id)
            return before

        given: dict[str, Any] = {"secret": SECRET, "seen": seen}
        exec(lines, given)
        now, body = int(time.time()), b'{"type": "audit.failed", "data": {"verdict": null}}'
        for _ in range(2):
            given["receive"](body, headers(sign(SECRET, ID, now, body), ID, now))
        assert capsys.readouterr().out == "audit.failed None\n"
        with pytest.raises(SignatureInvalid):
            given["receive"](body + b" ", headers(sign(SECRET, ID, now, body), ID, now))

    @pytest.mark.parametrize("left_out", ["webhook-id", "webhook-timestamp", "webhook-signature"])
    def test_each_header_is_needed(self, left_out: str) -> None:
        sent = headers(SIGNED[SECRET])
        del sent[left_out]
        with pytest.raises(SignatureInvalid):
            webhooks.verify(BODY, sent, SECRET)

    def test_a_header_that_came_twice_is_refused(self) -> None:
        now = int(time.time())
        sent = headers(sign(SECRET, ID, now, BODY), ID, now) | {"Webhook-Id": "other"}
        with pytest.raises(SignatureInvalid, match="twice"):
            webhooks.verify(BODY, sent, SECRET)

    @pytest.mark.parametrize("body", [b"\xff", b"[]", b"1", b"", b"[" * 100_000], ids=range(5))
    def test_a_signed_body_that_is_no_object_is_refused(self, body: bytes) -> None:
        now = int(time.time())
        with pytest.raises(SignatureInvalid, match="JSON"):
            webhooks.verify(body, headers(sign(SECRET, ID, now, body), ID, now), SECRET)
