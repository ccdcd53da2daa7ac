"""What verifying refuses: another key, another policy, less than was asked for, a waiver that ended, other files."""

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spinal.attestations.checked import Checked, Require, read_attestation, require_said
from spinal.attestations.envelope import bundle_of, sealed
from spinal.attestations.folder import require_files
from spinal.attestations.keys import read_private_key
from spinal.attestations.statement import PASSED, statement_of
from spinal.checkpoints.held import hold
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.comparison import Verdict
from spinal.documents.files import FileDigests
from spinal.errors import AttestationInvalid, AttestationRefused, SpinalError, UsageError
from tests.conftest import EXAMPLES
from tests.support.signing import to_pem
from tests.unit.attestations.test_statement import audited, rule, verdict

SFT = EXAMPLES / "checkpoints" / "sft"
SIGNER = read_private_key(to_pem(Ed25519PrivateKey.generate()).encode())
OTHER = read_private_key(to_pem(Ed25519PrivateKey.generate()).encode())
TODAY = date(2026, 12, 1)
"""Waivers of these tests hold until the first of 2027."""


@pytest.fixture(scope="module")
def files() -> FileDigests:
    with hold(resolve_reference(str(SFT), roots=None)) as held:
        held.digest()
        return held.file_digests()[0]


def made(found: Verdict | None, predicate: str = "test-result", **changes: Any) -> Checked:
    envelope = sealed(statement_of(audited(found, **changes), predicate), SIGNER)
    return read_attestation(json.dumps(envelope), [OTHER.public, SIGNER.public])


PASS, WARN, FAIL = verdict(rule("r", "pass")), verdict(rule("r", "warn")), verdict(rule("r", "fail"))
UNKNOWN, SPARED = verdict(rule("r", "inconclusive")), verdict(rule("r", "pass", "fail"))
ALLOWED: dict[Require, tuple[Verdict | None, ...]] = {
    "pass": (PASS,),
    "waived": (PASS, SPARED),
    "warn": (PASS, SPARED, WARN),
    "any": (PASS, SPARED, WARN, FAIL, UNKNOWN, None),
}


@pytest.mark.parametrize("require", ALLOWED)
def test_no_more_is_let_through_than_was_asked_for(require: Require) -> None:
    for found in ALLOWED["any"]:
        checked = made(found)
        if found in ALLOWED[require]:
            require_said(checked, require=require, today=TODAY)
        else:
            with pytest.raises(AttestationRefused):
                require_said(checked, require=require, today=TODAY)


@pytest.mark.parametrize("require", ["waived", "warn"])
def test_a_waiver_that_ended_lets_nothing_through(require: Require) -> None:
    require_said(made(SPARED), require=require, today=date(2027, 1, 1))
    with pytest.raises(AttestationRefused, match="ended on 2027-01-01"):
        require_said(made(SPARED), require=require, today=date(2027, 1, 2))


def test_a_pass_has_the_policy_and_the_properties_that_are_asked_for() -> None:
    checked = made(PASS, "svr")
    require_said(checked, require="pass", today=TODAY, policy="4" * 64, properties=[PASSED])
    for asked in ({"policy": "5" * 64}, {"properties": ["SLSA_BUILD_LEVEL_3"]}):
        with pytest.raises(AttestationRefused):
            require_said(checked, require="pass", today=TODAY, **asked)
    with pytest.raises(AttestationRefused):
        require_said(made(PASS), require="pass", today=TODAY, properties=[PASSED])


def test_nobody_elses_signature_counts() -> None:
    envelope = sealed(statement_of(audited(PASS), "svr"), OTHER)
    for written in (envelope, bundle_of(envelope)):
        with pytest.raises(AttestationRefused, match="not signed"):
            read_attestation(json.dumps(written), [SIGNER.public])


def without(path: str) -> dict[str, Any]:
    statement = statement_of(audited(PASS), "svr")
    *parts, last = path.split("/")
    inner = statement
    for part in parts:
        inner = inner[part]
    del inner[last]
    return statement


STRANGE: dict[str, dict[str, Any]] = {
    **{path: without(path) for path in ("_type", "subject", "predicate", "predicate/spinal", "predicate/spinal/files")},
    "type": statement_of(audited(PASS), "svr") | {"_type": "https://in-toto.io/Statement/v0.1"},
    "predicate type": statement_of(audited(PASS), "svr") | {"predicateType": "https://slsa.dev/provenance/v1"},
    "no subject": statement_of(audited(PASS), "svr") | {"subject": []},
    "one subject of two": statement_of(audited(PASS), "svr")
    | {"subject": statement_of(audited(PASS), "svr")["subject"][:1]},
    "another subject": statement_of(audited(PASS), "svr")
    | {"subject": [{"name": "a.safetensors", "digest": {"sha256": "9" * 64}}]},
}


@pytest.mark.parametrize("statement", STRANGE.values(), ids=STRANGE.keys())
def test_a_signed_statement_of_another_kind_is_not_understood(statement: dict[str, Any]) -> None:
    with pytest.raises(AttestationInvalid):
        read_attestation(json.dumps(sealed(statement, SIGNER)), [SIGNER.public])


def test_the_folder_that_was_audited_holds_and_every_other_does_not(files: FileDigests, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(SFT, folder)
    attested = made(verdict(rule("r", "pass"), weights={"candidate": files.weights_digest}), "svr", files=files)
    require_files(folder, attested.files.files)
    (folder / "README.md").write_text("what else lies there is nobody's weights")
    (folder / "training_args.bin").write_text("nor is this")
    require_files(folder, attested.files.files)

    for name in files.files:
        kept = (folder / name).read_bytes()
        changed = bytearray(kept)
        changed[len(changed) // 2] ^= 1
        (folder / name).write_bytes(changed)
        with pytest.raises(AttestationRefused, match="is another one"):
            require_files(folder, attested.files.files)
        (folder / name).unlink()
        with pytest.raises(AttestationRefused, match="is missing"):
            require_files(folder, attested.files.files)
        (folder / name).mkdir()
        with pytest.raises(SpinalError, match="not a regular file"):
            require_files(folder, attested.files.files)
        (folder / name).rmdir()
        (folder / name).write_bytes(kept)
    for name in (
        "model-2.safetensors", "pytorch_model.bin", "adapter_config.json", "chat_template.jinja", "m.gguf",
        "optimizer.safetensors", "rng_state.gguf", "MODEL.SafeTensors", "model.safetensors.index.json",
    ):  # fmt: skip
        (folder / name).write_bytes(b"x")
        with pytest.raises(AttestationRefused, match="is not attested"):
            require_files(folder, attested.files.files)
        (folder / name).unlink()
    require_files(folder, attested.files.files)
    with pytest.raises(UsageError, match="no folder"):
        require_files(tmp_path / "nowhere", attested.files.files)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/../../b"])
def test_no_name_of_a_statement_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(AttestationRefused, match="no name of a file"):
        require_files(tmp_path, {name: "0" * 64})
