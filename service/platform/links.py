"""Addresses that people open."""

from uuid import UUID

from service.settings import Settings


def report_link(settings: Settings, tenant: str, audit_id: UUID, *, lifetime_s: float | None = None) -> str | None:
    """Where the report of an audit is read in a browser; None where the settings do not say under which address callers
    reach the API."""
    if settings.public_url is None:
        return None
    return f"{settings.public_url}/v1/audits/{audit_id}/report?format=html"
