"""Workers without processes, on an API with a fresh ledger."""

from tests.api.conftest import api, api_settings, double, drain, models

__all__ = ["api", "api_settings", "double", "drain", "models"]
