"""Reports as one HTML file: complete without script, no request to anywhere, readable in light and dark."""

from collections.abc import Iterator, Mapping

from spinal.report.formats.format import ANYBODY, Format, Reader
from spinal.report.reported import Judged, Reported


def render_html(document: Reported) -> str:
    return _page(document, ANYBODY)


def render_html_for(document: Judged, reader: Reader) -> str:
    """With links to what belongs to the document, where it is a list of what has pages of its own."""
    return _page(document, reader)


def _page(document: Reported, reader: Reader) -> str:
    # Here, so that asking which formats there are needs neither templates nor numpy.
    from spinal.report.page.render import render_page

    return render_page(document, reader.links)


class Headers(Mapping[str, str]):
    """What a server sends with a report, read when it is sent: importing this module opens no file."""

    NAME = "Content-Security-Policy"

    def __getitem__(self, name: str) -> str:
        if name != self.NAME:
            raise KeyError(name)
        from spinal.report.page.environment import content_policy

        # Only as a header: in the page itself browsers take no notice of it, and say so.
        return f"{content_policy()}; frame-ancestors 'none'"

    def __iter__(self) -> Iterator[str]:
        return iter((self.NAME,))

    def __len__(self) -> int:
        return 1


HTML = Format("html", (".html", ".htm"), "text/html; charset=utf-8", render_html, Headers(), render_for=render_html_for)
