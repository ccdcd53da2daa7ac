"""Everything that is stored or handed on, as frozen values. Depends on nothing but numpy and pydantic."""
