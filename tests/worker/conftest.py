"""Workers without processes, on an API with a fresh ledger."""

from tests.api.conftest import api, api_settings, double, drain, model_sources, models

__all__ = ["api", "api_settings", "double", "drain", "model_sources", "models"]
