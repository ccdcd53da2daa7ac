"""How a document shows itself where a person works: one line in a shell, a report in a notebook, a table in pandas."""

from abc import abstractmethod
from collections.abc import Iterator
from html import escape
from importlib import import_module
from typing import Any

from spinal.documents.base import Document, Estimate
from spinal.errors import UsageError
from spinal.extras import install_hint
from spinal.text import visible

NAME_LENGTH = 80
DIGEST_LENGTH = 8


class ShownDocument(Document):
    """A document that is handed out whole. Its parts keep the representation of pydantic."""

    @abstractmethod
    def summary(self) -> str:
        """What the document is, on one line and without its numbers."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {visible(self.summary())}>"

    def __str__(self) -> str:
        return repr(self)

    def __rich_repr__(self) -> Iterator[Any]:
        # rich would print every number of it.
        yield visible(self.summary())


def short_name(source: str) -> str:
    """A reference as it stands in a summary; a very long one loses its middle."""
    half = NAME_LENGTH // 2
    return source if len(source) <= NAME_LENGTH else f"{source[:half]}…{source[-half:]}"


def short_digest(digest: str) -> str:
    return f"{digest[:DIGEST_LENGTH]}…"


def notebook_html(document: Document) -> str:
    """The document's HTML report in a frame of its own, for a notebook.

    The frame keeps the report's style sheet from the notebook's page and the page's from the report; ``sandbox`` takes
    scripts, forms and access to the notebook away from it. The renderer is looked up by name when a notebook asks:
    documents stand below reports, and most of their readers never draw one.
    """
    page = import_module("spinal.report").render(document, "html")
    return (
        f'<iframe sandbox="" srcdoc="{escape(page, quote=True)}" title="{escape(repr(document), quote=True)}" '
        'style="width:100%;height:40rem;border:0;resize:vertical"></iframe>'
    )


def data_frame(rows: list[dict[str, Any]]) -> Any:
    """``rows`` as a pandas DataFrame; raises UsageError where pandas is not installed."""
    try:
        pandas = import_module("pandas")
    except ModuleNotFoundError as error:
        raise UsageError("to_pandas() needs the package 'pandas'", hint=install_hint("notebook")) from error
    frame = pandas.DataFrame(rows)
    # A column of nulls alone has no type of its own, and a number was meant.
    return frame.astype({name: float for name in frame.columns if frame[name].isna().all()})


def estimate_columns(name: str, found: Estimate) -> dict[str, float | None]:
    """``name``, ``name_low`` and ``name_high``: a value and the ends of its 95% interval, None where there is none."""
    low, high = found.ci or (None, None)
    return {name: found.value, f"{name}_low": low, f"{name}_high": high}
