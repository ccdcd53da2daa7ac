"""Where the key that signs attestations is: a file, or a key server. One file and one line for each server."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from spinal.attestations.keys import Signer, read_private_key
from spinal.errors import AttestationKeyFailed
from spinal.extras import install_hint

Options = Mapping[str, str]
"""What a key server is to know, secrets among it."""
Open = Callable[[str, Options], Signer]
SERVERS = {
    "awskms": "spinal.attestations.signers.awskms",
    "gcpkms": "spinal.attestations.signers.gcpkms",
    "hashivault": "spinal.attestations.signers.hashivault",
}
"""Scheme of a URI -> the module whose ``open_key`` takes what follows it."""
PEM = "-----BEGIN"


def open_signer(named: str, options: Options) -> Signer:
    """The key: a PEM file, its content, or ``scheme://`` of a key server. Raises AttestationKeyFailed."""
    if find_spec("cryptography") is None:
        raise AttestationKeyFailed("attestations need the package 'cryptography'", hint=install_hint("attest"))
    scheme, found, rest = named.partition("://")
    if named.lstrip().startswith(PEM):
        return read_private_key(named.encode())
    if found:
        if scheme not in SERVERS:
            raise AttestationKeyFailed(
                f"keys of {scheme[:40]!r} are not known", hint=f"a file, or one of {', '.join(SERVERS)}"
            )
        return cast(Open, import_module(SERVERS[scheme]).open_key)(rest, options)
    try:
        return read_private_key(Path(named).read_bytes())
    except OSError as error:
        raise AttestationKeyFailed(
            f"the key of attestations cannot be read ({type(error).__name__})", hint="set SPINAL_ATTESTATION_KEY right"
        ) from None
