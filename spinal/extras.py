"""What to say when a package of an optional extra is missing."""


def install_hint(extra: str) -> str:
    """The next step, without naming a place to download from: another package may have our name there.

    >>> install_hint("local")
    "install spinal with its extra 'local'; in a checkout: pip install '.[local]'"
    """
    return f"install spinal with its extra {extra!r}; in a checkout: pip install '.[{extra}]'"
