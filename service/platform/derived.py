"""Keys for several purposes from one pepper. What is made under one of them says nothing under another."""

import hmac
from hashlib import sha256

from service.settings import Settings


def derived_key(pepper: str, purpose: str) -> bytes:
    """32 bytes that follow from the pepper and the purpose, and tell neither."""
    return hmac.new(pepper.encode(), f"spinal/{purpose}".encode(), sha256).digest()


def key_for(settings: Settings, purpose: str) -> bytes | None:
    """The same with the pepper of the settings; None where they have none, which only a service without keys lacks."""
    pepper = settings.key_pepper.get_secret_value()
    return derived_key(pepper, purpose) if pepper else None


def mac(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 over parts that cannot be cut otherwise: each goes with its length."""
    return hmac.new(key, b"".join(len(part).to_bytes(8, "big") + part for part in parts), sha256).digest()
