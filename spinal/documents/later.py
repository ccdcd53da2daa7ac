"""Members of documents that the release before does not know, and would refuse: kept apart from the rest of a stored
document, and put back into it for who reads."""

from typing import Any

Tree = dict[str, Any]
"""Member -> None where the whole member is unknown, or the tree of what is unknown below it; ``*`` stands for every
member of an object and for every item of a list."""

OF_TRACES: Tree = {"reading": None, "vocabulary": None, "prompt_set": {"continuation_ids_digest": None}}
OF_COMPARISONS: Tree = {
    "accounts": None,
    "control_accounts": None,
    "noise_accounts": None,
    "account_contrasts": None,
    "settings": None,
    "frame": None,
    "unchanged_blocks": None,
    "statements": None,
    "prompt_changes": None,
    "looked_at": None,
    "curves": None,
    "by_prompt": None,
    "damage": {"signals": {"*": {"n": None, "se": None, "ci": None, "of": None, "fails_alone": None}}},
}


def take_out(document: Any, unknown: Tree) -> dict[str, Any]:
    """Take out of a document (JSON, changed in place) what is ``unknown``; returns it, as JSON. Items of a list are
    called by their place.

    Examples
    --------
    >>> document = {"a": 1, "b": 2, "c": {"x": {"d": 3, "e": 4}}, "f": [{"d": 5}]}
    >>> taken = take_out(document, {"b": None, "c": {"*": {"e": None}}, "f": {"*": {"d": None}}, "missing": None})
    >>> document
    {'a': 1, 'c': {'x': {'d': 3}}, 'f': [{}]}
    >>> taken
    {'b': 2, 'c': {'x': {'e': 4}}, 'f': {'0': {'d': 5}}}
    >>> put_back(document, taken)
    {'a': 1, 'c': {'x': {'d': 3, 'e': 4}}, 'f': [{'d': 5}], 'b': 2}
    """
    taken: dict[str, Any] = {}
    for name, below in unknown.items():
        for key in _keys(document) if name == "*" else [name] if name in document else []:
            if below is None:
                taken[str(key)] = document.pop(key)
            elif document[key] is not None and (part := take_out(document[key], below)):
                taken[str(key)] = part
    return taken


def put_back(document: Any, later: dict[str, Any]) -> Any:
    """The document with what was taken out of it; items that are not there any more are left out."""
    if isinstance(document, list):
        return [
            put_back(item, later[str(place)]) if str(place) in later else item for place, item in enumerate(document)
        ]
    whole = dict(document)
    for name, part in later.items():
        whole[name] = put_back(whole[name], part) if name in whole else part
    return whole


def _keys(document: Any) -> list[Any]:
    return list(range(len(document))) if isinstance(document, list) else list(document)
