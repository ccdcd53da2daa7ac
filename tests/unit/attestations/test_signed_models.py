"""A signature that the tool of OpenSSF Model Signing made, and the files that it was made of."""

import hashlib
from pathlib import Path

import pytest

from spinal.attestations.keys import read_public_key
from spinal.attestations.signed_models import hold_to_signed, read_signature
from spinal.checkpoints.held import hold
from spinal.checkpoints.resolve import resolve_reference
from spinal.errors import ModelSignatureMismatch
from tests.conftest import EXAMPLES

RECORDED = Path(__file__).parents[2] / "support" / "signed_model"
SFT = EXAMPLES / "checkpoints" / "sft"


def test_what_the_tool_has_signed_holds_of_the_files_that_are_read() -> None:
    key = read_public_key((RECORDED / "ec.pub").read_bytes(), "ec.pub", of_models=True)
    signed = read_signature((RECORDED / "model.sig").read_bytes(), [key])
    assert signed.key == key.id
    with hold(resolve_reference(str(SFT), roots=None)) as held:
        assert held.file_digests() == ()
        held.digest()
        [found] = held.file_digests()
        beside = held.beside_digests()
        held.require_unchanged()
    assert found.files["model.safetensors"] == hashlib.sha256((SFT / "model.safetensors").read_bytes()).hexdigest()
    hold_to_signed(signed.files, found.files, beside=beside, others=())
    for name in found.files:
        with pytest.raises(ModelSignatureMismatch, match="is another one"):
            hold_to_signed(signed.files, found.files | {name: "0" * 64}, beside=beside, others=())
        fewer = {other: digest for other, digest in found.files.items() if other != name}
        with pytest.raises(ModelSignatureMismatch, match="is missing"):
            hold_to_signed(signed.files, fewer, beside=beside, others=())
    with pytest.raises(ModelSignatureMismatch, match="is not signed"):
        hold_to_signed(signed.files, found.files | {"more.safetensors": "0" * 64}, beside=beside, others=())


def test_weights_that_lie_there_unread_are_not_missing() -> None:
    read = {"config.json": "1" * 64, "model.safetensors": "2" * 64}
    signed = read | {"consolidated.safetensors": "3" * 64}
    hold_to_signed(signed, read, beside={}, others=("consolidated.safetensors",))
    with pytest.raises(ModelSignatureMismatch):
        hold_to_signed(signed, read, beside={}, others=())
