"""After which ids text ends, as a checkpoint says it."""

from typing import Any

from spinal.engine.session import Session


def end_ids(session: Session) -> tuple[int, ...]:
    """The ids that the model's configuration and its tokenizer call the end of text, among those that are read,
    ascending; empty where neither names one.

    ``generation_config.json`` is not asked: it is no part of a checkpoint's identity, and a trace may rest on nothing
    that its digest does not cover.
    """
    config = session.loaded.model.config
    named = [_listed(part.eos_token_id) for part in (config, config.get_text_config()) if hasattr(part, "eos_token_id")]
    named.append(_listed(session.loaded.tokenizer.end()))
    found = {int(index) for part in named for index in part}
    return tuple(sorted(index for index in found if 0 <= index < session.readout.vocabulary))


def _listed(value: Any) -> list[int]:
    """An id, or a list of them, as configurations have it; nothing where it is anything else."""
    several = value if isinstance(value, list | tuple) else [value]
    return [index for index in several if isinstance(index, int) and not isinstance(index, bool)]
