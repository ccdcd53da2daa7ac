"""Models that somebody has signed in the format of OpenSSF Model Signing (OMS): a bundle of Sigstore, ``model.sig``, in
which a statement lists sha256 of every file. What it is held to was hashed while the checkpoint was read: nothing is
read again.

References: "OpenSSF Model Signing (OMS) specification" 1.0; ``_signing/signing.py`` of ``model-signing`` 1.1.
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spinal.attestations.envelope import json_object, read_envelope
from spinal.attestations.keys import PublicKey
from spinal.attestations.statement import STATEMENT
from spinal.checkpoints.files import ADAPTER_CONFIG, BESIDE, CONFIG, INDEX, TOKENIZER_FILES
from spinal.documents.files import WEIGHTS_SUFFIX
from spinal.errors import AttestationInvalid, ModelSignatureInvalid, ModelSignatureMismatch, ModelSignatureUntrusted
from spinal.errors.faults import shown

SIGNATURE = "https://model_signing/signature/v1.0"
HEX = re.compile(r"[0-9a-f]{64}")
HINT = "sign it with a key: model_signing sign key FOLDER --private_key key.pem"
ALWAYS_READ = frozenset({CONFIG, ADAPTER_CONFIG, *TOKENIZER_FILES})
"""Files that are read wherever they are there."""
OF_CHECKPOINTS = ALWAYS_READ | {INDEX, *BESIDE}
MOST_NAMED = 3


@dataclass(frozen=True)
class SignedModel:
    """What a trusted key has signed."""

    files: Mapping[str, str]
    """sha256 by name, of the files that a checkpoint may consist of."""
    key: str
    """Id of the key."""


def read_signature(bundle: bytes | str, trusted: Sequence[PublicKey]) -> SignedModel:
    """The files that one of the ``trusted`` keys has signed. Raises ModelSignatureInvalid, ModelSignatureUntrusted."""
    try:
        envelope = read_envelope(bundle)
        key = envelope.signed_by(trusted)
        if key is None:
            raise ModelSignatureUntrusted(
                "none of the keys that are trusted here has signed this model",
                hint="an operator names keys in SPINAL_MODEL_SIGNERS; certificates and logs are not looked at",
            )
        statement = json_object(envelope.payload, "what was signed")
    except AttestationInvalid as error:
        raise ModelSignatureInvalid(f"the signature of the model: {error.detail}", hint=HINT) from error
    return SignedModel(_files(statement), key.id)


def hold_to_signed(
    signed: Mapping[str, str], found: Mapping[str, str], *, beside: Mapping[str, str], others: Collection[str]
) -> None:
    """Raise ModelSignatureMismatch unless the files of a checkpoint are those that were signed: each that was read
    (``found``, ``beside``) is one of them, and each of them that belongs to a checkpoint was read, or lies there unread
    (``others``)."""
    read = {**beside, **found}
    wrong = (
        [f"{name} is another one" for name in sorted(read.keys() & signed.keys()) if read[name] != signed[name]]
        + [f"{name} is not signed" for name in sorted(read.keys() - signed.keys())]
        + [f"{name} is missing" for name in sorted(signed.keys() - read.keys() - set(others)) if _needed(name, found)]
    )
    if wrong:
        more = f", and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise ModelSignatureMismatch(
            f"the files are not those that were signed: {', '.join(map(shown, wrong[:MOST_NAMED]))}{more}",
            hint="fetch the model again from whoever signed it, or have it signed as it is",
        )


def _needed(name: str, found: Mapping[str, str]) -> bool:
    if "/" in name:
        return False
    # Of an adapter the tokenizer and the configuration are those of its base.
    always = {ADAPTER_CONFIG} if ADAPTER_CONFIG in found else ALWAYS_READ
    return name in always or name.endswith(WEIGHTS_SUFFIX)


def _files(statement: dict[str, Any]) -> dict[str, str]:
    predicate, subject = statement.get("predicate"), statement.get("subject")
    if statement.get("_type") != STATEMENT or statement.get("predicateType") != SIGNATURE:
        raise _invalid(f"it is no {SIGNATURE}")
    if not isinstance(predicate, dict) or not isinstance(predicate.get("resources"), list):
        raise _invalid("it lists no files")
    way = predicate.get("serialization")
    if not isinstance(way, dict) or (way.get("method"), way.get("hash_type")) != ("files", "sha256"):
        raise _invalid("it does not list sha256 of whole files")
    files: dict[str, str] = {}
    whole = hashlib.sha256()
    for one in predicate["resources"]:
        told = one if isinstance(one, dict) else {}
        name, digest, by = told.get("name"), told.get("digest"), told.get("algorithm")
        if not isinstance(name, str) or not isinstance(digest, str) or by != "sha256" or name in files:
            raise _invalid("a file in it has no name, no sha256, or is there twice")
        if not HEX.fullmatch(digest) or not name.isprintable():
            raise _invalid("what it lists is no sha256, or of no file that has a plain name")
        files[name] = digest
        whole.update(bytes.fromhex(digest))
    if not isinstance(subject, list) or len(subject) != 1 or not isinstance(subject[0], dict):
        raise _invalid("it is not about one model")
    if subject[0].get("digest") != {"sha256": whole.hexdigest()}:
        raise _invalid("its files do not add up to the model that it names")
    return {name: it for name, it in files.items() if name in OF_CHECKPOINTS or name.endswith(WEIGHTS_SUFFIX)}


def _invalid(why: str) -> ModelSignatureInvalid:
    return ModelSignatureInvalid(f"the signature of the model: {why}", hint=HINT)
