"""What goes wrong with links to reports."""

from spinal.errors.base import SpinalError


class LinkNotFound(SpinalError):
    """Nobody made such a link, or what it led to is gone."""

    code, title, status = "link_not_found", "No such link", 404


class LinkEnded(SpinalError):
    """The link is past its end, or was revoked."""

    code, title, status = "link_ended", "Link has ended", 410


class LinksUnavailable(SpinalError):
    """The service has nothing to sign links with."""

    code, title, status = "links_unavailable", "Links cannot be made", 409
