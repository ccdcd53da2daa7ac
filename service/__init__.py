"""The HTTP API and the database. Never imports torch."""
