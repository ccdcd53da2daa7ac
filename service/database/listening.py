"""Where a process listens for notifications."""

from sqlalchemy import make_url

from service.settings import Settings


def listening_url(settings: Settings) -> str:
    """Address for a connection of psycopg that stays open and LISTENs: what pools transactions loses notifications."""
    found = make_url(settings.database_url.get_secret_value())
    return found.set(drivername="postgresql").render_as_string(hide_password=False)
