"""The fixtures of the API's tests: an application on a fresh ledger, and workers without processes."""

from tests.api.conftest import api, api_settings, double, drain, model_sources, models

__all__ = ["api", "api_settings", "double", "drain", "model_sources", "models"]
