"""Who looks at a page: the session of its cookie, and what a form of ours carries."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from fastapi import Request, Response

from service.database.unit_of_work import Reads
from service.http.addresses import local, shared
from service.http.context import ANONYMOUS, Asker
from service.keys.store import Caller
from service.pages.sessions import LASTS_S, caller_of, form_token, is_form_token, new_form_cookie
from service.settings import Settings
from spinal.errors import BodyTooLarge, Forbidden, MediaTypeUnsupported, Unauthorized

SESSION, FORM = "spinal_session", "spinal_form"
MOST_BYTES = 8192
HERE = re.compile(r"/(?:\?[\x21-\x7e]*|ui/[A-Za-z0-9/-]{1,200}(?:\?[\x21-\x7e]*)?)?\Z")
"""Paths of pages, to which somebody may be led who has signed in."""


def asker(request: Request, scope: str = "read") -> Asker:
    """Who asks for a page, found out with what it reads. Raises Unauthorized in there where nobody is signed in. A key
    in a header, or in the address, opens no page."""
    settings: Settings = request.app.state.settings

    def known(ledger: Reads) -> Caller:
        if settings.auth == "disabled":
            return ANONYMOUS
        caller = caller_of(ledger, settings, request.cookies.get(SESSION, ""))
        if caller is None:
            raise Unauthorized("nobody is signed in", hint="sign in with an API key")
        request.app.state.key_uses.add(caller)
        return caller

    return Asker(request, known, scope=scope)


@dataclass(frozen=True)
class FormCookie:
    """What forms of a browser without a session are held to."""

    value: str
    fresh: bool


def form_cookie(request: Request) -> FormCookie:
    kept = request.cookies.get(FORM, "")
    usable = 16 <= len(kept) <= 64 and kept.isascii() and kept.isprintable()
    return FormCookie(kept, False) if usable else FormCookie(new_form_cookie(), True)


def token_of(request: Request, cookie: FormCookie, *, signed_in: bool) -> str:
    """What a form on a page for this browser carries; it holds for this session alone where there is one."""
    return form_token(request.app.state.settings, _held_to(request, cookie.value, signed_in))


async def read_form(request: Request, *, signed_in: bool = True) -> dict[str, str]:
    """The members of a form of one of our own pages. Raises Forbidden for any other, MediaTypeUnsupported,
    BodyTooLarge."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise _not_ours()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise MediaTypeUnsupported("a form is sent as application/x-www-form-urlencoded", hint="send it from its page")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise BodyTooLarge("a form is shorter than that", hint="send it from its page")
    try:
        found = parse_qs(body.decode("utf-8", "replace"), max_num_fields=16)
    except ValueError:
        raise _not_ours() from None
    form = {name: values[-1] for name, values in found.items()}
    held_to = _held_to(request, request.cookies.get(FORM, ""), signed_in)
    if not is_form_token(request.app.state.settings, held_to, form.get("form", "")):
        raise _not_ours()
    return form


def _not_ours() -> Forbidden:
    return Forbidden(
        "this form did not come from a page of this browser", hint="open the page again, and send it there"
    )


def _held_to(request: Request, cookie: str, signed_in: bool) -> str:
    """The cookies that a form has to fit. One that signs in fits the first alone: a browser that comes from another
    site keeps that of its session to itself, and sends it along with the form."""
    return f"{cookie} {request.cookies.get(SESSION, '')}" if signed_in and cookie else cookie


def keep(request: Request, response: Response, name: str, value: str, seconds: int | None = None) -> None:
    """Have the browser keep a cookie for our own pages, out of reach of scripts and of other sites."""
    response.set_cookie(
        name, value, max_age=seconds, path=local("/"), secure=_is_secure(request), httponly=True, samesite="strict"
    )


def keep_session(request: Request, response: Response, value: str) -> None:
    keep(request, response, SESSION, value, LASTS_S)


def forget(request: Request, response: Response) -> None:
    """Have the browser forget its session."""
    response.delete_cookie(SESSION, path=local("/"), secure=_is_secure(request), httponly=True, samesite="strict")


def _is_secure(request: Request) -> bool:
    return urlsplit(shared("/")).scheme == "https" or request.url.scheme == "https"


def led_to(given: str | None) -> str:
    """Where somebody is led behind a form: a page of ours, and no other place."""
    return given if given is not None and len(given) <= 2048 and HERE.match(given) else "/"
