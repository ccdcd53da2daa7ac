"""The key that signs, opened when it is first needed: a key server is asked, and may be away when a service starts."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TypeVar

from anyio import CapacityLimiter, move_on_after, to_thread

from service.settings import Settings
from spinal.attestations.keys import Signer
from spinal.attestations.signers import open_signer
from spinal.errors import AttestationKeyFailed, NoAttestationKey, UsageError

FROM_FILE = "_file"
SERVER = "://"
AT_ONCE, PATIENCE_S = 4, 5.0
"""Requests that may ask a key server at once, and seconds for which another waits for its place."""
T = TypeVar("T")


class Signing:
    """The key of this process. Threads share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._signer: Signer | None = None
        self._places = CapacityLimiter(AT_ONCE)

    async def opened(self) -> Signer:
        """The key, which whoever asks for what was signed before has without waiting. Raises as :meth:`signer`."""
        known = self._signer
        return await self.apart(self.signer) if known is None else known

    async def apart(self, ask: Callable[[], T]) -> T:
        """``ask``, which may ask a key server, in one of a few threads: one that stalls keeps no thread from whoever
        needs no key. Raises AttestationKeyFailed where none comes free in time."""
        place = object()
        with move_on_after(PATIENCE_S) as waiting:
            await self._places.acquire_on_behalf_of(place)
        if waiting.cancelled_caught:
            raise AttestationKeyFailed("the key server keeps others waiting", hint="send the request again in a minute")
        try:
            return await to_thread.run_sync(ask)
        finally:
            self._places.release_on_behalf_of(place)

    def signer(self) -> Signer:
        """Raises NoAttestationKey where none is set, AttestationKeyFailed where it cannot be had now."""
        with self._lock:
            if self._signer is None:
                self._signer = _opened(self._settings)
            return self._signer


def require_usable_key(settings: Settings) -> None:
    """Raises UsageError for a key in a file that is none. Key servers are not asked."""
    named = settings.attestation_key.get_secret_value()
    if named and (SERVER not in named or named.lstrip().startswith("-----")):
        try:
            _opened(settings)
        except AttestationKeyFailed as error:
            raise UsageError(f"SPINAL_ATTESTATION_KEY: {error.detail}", hint=error.hint) from None


def _opened(settings: Settings) -> Signer:
    named = settings.attestation_key.get_secret_value()
    if not named:
        raise NoAttestationKey(
            "no key signs attestations here", hint="an operator sets SPINAL_ATTESTATION_KEY (docs/attestations.md)"
        )
    return open_signer(named, _options(settings.attestation_key_options.get_secret_value()))


def _options(told: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in json.loads(told or "{}").items():
        try:
            from_file = name.endswith(FROM_FILE)
            found[name.removesuffix(FROM_FILE)] = (
                Path(value).read_text(encoding="utf-8").removesuffix("\n") if from_file else str(value)
            )
        except (OSError, TypeError, ValueError) as error:
            raise AttestationKeyFailed(
                f"{name} of SPINAL_ATTESTATION_KEY_OPTIONS names a file that cannot be read ({type(error).__name__})",
                hint="set it right",
            ) from None
    return found
