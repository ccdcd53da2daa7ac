"""The contract for people and programs: ``/docs`` and ``/openapi.json``."""
