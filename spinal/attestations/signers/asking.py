"""What key servers have in common: JSON is asked and answered, and what they sign is checked before it is given out."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spinal.attestations.keys import PublicKey
from spinal.errors import AttestationKeyFailed, SpinalError
from spinal.errors.faults import shown
from spinal.net.addresses import Reachable
from spinal.net.http import Answer, Http
from spinal.net.targets import target_of

HINT = "set SPINAL_ATTESTATION_KEY and SPINAL_ATTESTATION_KEY_OPTIONS right (docs/attestations.md)"
MOST_SAID = 200


@dataclass(frozen=True, eq=False)
class RemoteKey:
    """A key that never leaves its server."""

    public: PublicKey
    server: str
    _sign: Callable[[bytes], bytes] = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        signature = self._sign(message)
        if not self.public.verifies(message, signature):
            raise AttestationKeyFailed(
                f"{self.server} signed with another key than the one it shows", hint="was the key changed? Start again"
            )
        return signature


@dataclass(frozen=True)
class KeyServer:
    """One origin."""

    name: str
    origin: str

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> dict[str, Any]:
        """Its answer in JSON. Raises AttestationKeyFailed."""
        try:
            host = target_of(self.origin + "/")
            # An operator names it, so it may live in their own network, where alone it is asked in clear.
            own = f"[{host.host}]" if ":" in host.host else host.host
            listed = (f"{own}:{host.port}",)
            with Http(Reachable(listed, listed)) as http:
                url = self.origin + path
                answer = http.read(url, headers=headers) if body is None else http.post(url, body, headers=headers)
        except (SpinalError, ValueError) as error:
            said = error.detail if isinstance(error, SpinalError) else "its address or a header is not allowed"
            raise AttestationKeyFailed(f"{self.name} cannot be asked: {said}", hint=HINT) from None
        return self._understood(answer)

    def _understood(self, answer: Answer) -> dict[str, Any]:
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError):
            found = None
        if answer.status != 200 or not isinstance(found, dict):
            told = found if isinstance(found, dict) else {}
            said = str(told.get("errors") or told.get("__type") or told.get("error") or "")
            raise AttestationKeyFailed(
                f"{self.name} answered {answer.status} {shown(said)[:MOST_SAID]}".rstrip(), hint=HINT
            )
        return found


def option(options: Mapping[str, str], name: str, server: str) -> str:
    """One that has to be there."""
    found = options.get(name)
    if not found:
        raise AttestationKeyFailed(f"{server} needs the option {name!r}", hint=HINT)
    return found


def member(found: dict[str, Any], server: str, *path: str) -> Any:
    """A member of an answer. Raises AttestationKeyFailed."""
    value: Any = found
    for name in path:
        if not isinstance(value, dict) or name not in value:
            raise AttestationKeyFailed(f"{server} answered without {'.'.join(path)}", hint=HINT)
        value = value[name]
    return value


def from_base64(text: Any, server: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise AttestationKeyFailed(f"{server} answered with something that is not base64", hint=HINT) from None
