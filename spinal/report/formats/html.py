"""Reports as one HTML file: complete without script, no request to anywhere, readable in light and dark."""

from collections.abc import Iterator, Mapping

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report.formats.format import Format


def render_html(document: Trace | Comparison) -> str:
    # Here, so that asking which formats there are needs neither templates nor numpy.
    from spinal.report.page.render import render_page

    return render_page(document)


class Headers(Mapping[str, str]):
    """What a server sends with a report, read when it is sent: importing this module opens no file."""

    NAME = "Content-Security-Policy"

    def __getitem__(self, name: str) -> str:
        if name != self.NAME:
            raise KeyError(name)
        from spinal.report.page.environment import content_policy

        return content_policy()

    def __iter__(self) -> Iterator[str]:
        return iter((self.NAME,))

    def __len__(self) -> int:
        return 1


HTML = Format("html", (".html", ".htm"), "text/html; charset=utf-8", render_html, Headers())
