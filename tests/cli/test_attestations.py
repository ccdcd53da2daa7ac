"""``spinal verify`` as a process: its exit codes, and that it needs no server."""

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spinal.attestations.envelope import bundle_of, sealed
from spinal.attestations.keys import read_private_key
from spinal.attestations.statement import statement_of
from spinal.checkpoints.held import hold
from spinal.checkpoints.resolve import resolve_reference
from tests.cli.test_cli import SFT, spinal
from tests.support.signing import public_pem, to_pem
from tests.unit.attestations.test_statement import audited, rule, verdict


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder with a model, attestations of it and the key."""
    key = Ed25519PrivateKey.generate()
    shutil.copytree(SFT, tmp_path / "model")
    (tmp_path / "key.pem").write_text(public_pem(key))
    (tmp_path / "other.pem").write_text(public_pem(Ed25519PrivateKey.generate()))
    with hold(resolve_reference(SFT, roots=None)) as held:
        held.digest()
        files = held.file_digests()[0]
    weights = {"candidate": files.weights_digest}
    signer = read_private_key(to_pem(key).encode())
    passed = sealed(statement_of(audited(verdict(rule("r", "pass"), weights=weights), files=files), "svr"), signer)
    failed = statement_of(audited(verdict(rule("r", "fail"), weights=weights), files=files), "test-result")
    (tmp_path / "pass.json").write_text(json.dumps(passed))
    (tmp_path / "pass.sigstore.json").write_text(json.dumps(bundle_of(passed)))
    (tmp_path / "fail.json").write_text(json.dumps(sealed(failed, signer)))
    return tmp_path


def test_an_attestation_is_verified_offline(given: Path) -> None:
    key, model = ("--key", str(given / "key.pem")), ("--model", str(given / "model"))
    done = spinal("verify", str(given / "pass.sigstore.json"), *key, *model)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("SPINAL_VERDICT_PASS")
    told = json.loads(spinal("verify", str(given / "pass.json"), *key, *model, "--json").stdout)
    assert (told["holds"], told["verdict"], told["files_verified"]) == (True, "pass", True)

    failed = spinal("verify", str(given / "fail.json"), *key, *model, "--json")
    assert (failed.returncode, json.loads(failed.stderr)["code"]) == (1, "attestation_refused")
    assert spinal("verify", str(given / "fail.json"), *key, "--require", "any").returncode == 0
    assert spinal("verify", str(given / "pass.json"), "--key", str(given / "other.pem")).returncode == 1
    (given / "model" / "more.safetensors").write_bytes(b"")
    refused = spinal("verify", str(given / "pass.json"), *key, *model)
    assert refused.returncode == 1
    assert "more.safetensors is not attested" in refused.stderr


def test_what_is_no_attestation_ends_with_2(given: Path) -> None:
    key = ("--key", str(given / "key.pem"))
    for arguments in (
        (str(given / "key.pem"), *key),
        (str(given / "pass.json"), "--key", str(given / "pass.json")),
        (str(given / "pass.json"), *key, "--require", "everything"),
    ):
        assert spinal("verify", *arguments).returncode == 2
