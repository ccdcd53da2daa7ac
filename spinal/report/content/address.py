"""Addresses that a report may lead to."""

import re

ADDRESS = re.compile(r"(?:https?://[^\s<>\"'|`\\]+|(?!//)[^\s<>\"'|`\\:?#]*[^\s<>\"'|`\\:]*)")


def is_address(text: str) -> bool:
    """Whether it is an absolute address of the web, or one relative to the report: a link that runs a script, or ends
    the text around it, is none.

    >>> [is_address(one) for one in ("https://x.example/a?b=1", "members/100.html", "javascript:alert(1)", "//x", "")]
    [True, True, False, False, False]
    """
    return bool(text) and ADDRESS.fullmatch(text) is not None and text.isprintable()
