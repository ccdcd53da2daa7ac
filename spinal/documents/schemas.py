"""Every document by the schema it names, and reading one from a file."""

import json
import os
from pathlib import Path

from pydantic import ValidationError

from spinal.documents.comparison import Comparison
from spinal.documents.diff import TraceDiff
from spinal.documents.policy import Policy
from spinal.documents.series import Series
from spinal.documents.trace import Trace
from spinal.errors import DocumentInvalid, UsageError

AnyDocument = Trace | Comparison | TraceDiff | Policy | Series
SCHEMAS: dict[str, type[AnyDocument]] = {
    "spinal.trace/1": Trace,
    "spinal.comparison/1": Comparison,
    "spinal.diff/1": TraceDiff,
    "spinal.policy/1": Policy,
    "spinal.series/1": Series,
}
"""Schema, as the document's member ``schema`` names it -> its class."""


def load(path: str | os.PathLike[str]) -> AnyDocument:
    """Read a stored document: a trace, a comparison, a diff, a policy or a series, whichever its ``schema`` says.

    Needs neither torch nor a server.

    Parameters
    ----------
    path : str or path-like
        A JSON file, as ``spinal trace -o``, ``spinal compare -o`` or the service write it.

    Returns
    -------
    Trace, Comparison, TraceDiff, Policy or Series
        Of a policy, its form is checked; :func:`spinal.judge` checks that its values exist, too.

    Raises
    ------
    UsageError
        The file cannot be read.
    DocumentInvalid
        It is no JSON, names a schema that is not known here, or does not fit the one it names.

    Examples
    --------
    >>> import spinal, tempfile
    >>> prompts = [f"Human: how do I plant tree number {n}?" for n in range(24)]
    >>> found = spinal.trace("examples/checkpoints/sft", prompts=prompts, max_tokens=16, lens_positions=2)
    >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    ...     _ = file.write(found.model_dump_json())
    ...     file.flush()
    ...     spinal.load(file.name)  # doctest: +ELLIPSIS
    <Trace local:sft, 24 blocks, 24 prompts, digest ...>
    """
    path = Path(path)
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise DocumentInvalid(f"{path} is not JSON: {error}") from error


def parse(text: str, source: str) -> AnyDocument:
    """The document that the JSON ``text`` holds, whichever its ``schema`` says; ``source`` names it in errors. Raises
    DocumentInvalid."""
    try:
        raw = json.loads(text)
        schema = raw.get("schema") if isinstance(raw, dict) else None
        if not isinstance(schema, str) or schema not in SCHEMAS:
            raise DocumentInvalid(f"{source}: schema {schema!r} is not known", hint=f"known: {', '.join(SCHEMAS)}")
        return SCHEMAS[schema].model_validate(raw)
    except ValidationError as error:
        raise DocumentInvalid(f"{source}: {error.error_count()} members do not fit the schema") from error
    except ValueError as error:
        raise DocumentInvalid(f"{source} is not JSON: {error}") from error
