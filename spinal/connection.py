"""How requests reach the service (httpx): where it is, who asks, what is sent again and until when, and what of all
that comes back is an answer of the service."""

import json
import math
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from typing import Any

import httpx

from spinal.errors import (
    AnswerNotUnderstood,
    InternalError,
    ServiceUnreachable,
    SpinalError,
    UsageError,
    all_errors,
)

JsonObject = dict[str, Any]


class Calls(ABC):
    """What the calls of every noun send their requests by: :class:`spinal.Client` has all three."""

    @abstractmethod
    def _json(self, method: str, path: str, **options: Any) -> JsonObject: ...

    @abstractmethod
    def _pages(self, path: str, filters: JsonObject) -> Iterator[JsonObject]: ...

    @abstractmethod
    def _send(self, method: str, path: str, **options: Any) -> Any: ...


RETRY_STATUS = frozenset({429, 502, 503, 504})
FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_ASKED_S = 0.25, 5.0, 30.0
SHORTEST_ATTEMPT_S = 0.5
"""Seconds that an attempt is given at least: one that begins at the deadline may still be answered."""
MOST_BYTES = 256 * 2**20
"""Of one answer, unpacked. Documents are far smaller."""
ADDRESS_HINT = "give the service's address, for example http://127.0.0.1:8000 (--server, SPINAL_SERVER)"
KEY_HINT = "give the key as it was made, spk_<id>_<secret> (--api-key, SPINAL_API_KEY)"
OTHER_HINT = "check that the address is that of the service, and that no login page or proxy answers"
NEVER_BETTER = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER")
"""Signs of TLS failures that no later attempt mends."""


def read_key(given: str | None) -> str | None:
    """The key without the whitespace that files and variables leave around it; None for nothing. Raises UsageError,
    which never shows it."""
    key = (given or "").strip()
    if any(not "!" <= letter <= "~" for letter in key):
        raise UsageError("the API key holds a space, a control character or a letter outside ASCII", hint=KEY_HINT)
    return key or None


def read_address(given: str) -> httpx.URL:
    """The address of the service; raises UsageError, which shows no user, no password and no query."""
    address = given.strip()
    if "@" in address:
        raise UsageError("the service's address holds a user or password", hint=ADDRESS_HINT)
    shown = repr(re.split(r"[?#]", address)[0][:200])
    try:
        url = httpx.URL(address)
        if re.search(r"\s", address) or (url.port or 0) > 65535:
            raise ValueError(address)
    except (httpx.InvalidURL, ValueError, TypeError):
        raise UsageError(f"the service's address {shown} is not understood", hint=ADDRESS_HINT) from None
    if url.scheme not in ("http", "https"):
        raise UsageError(f"the service's address {shown} begins neither with http:// nor https://", hint=ADDRESS_HINT)
    if not url.host or url.query or url.fragment:
        raise UsageError(f"the service's address {shown} is not a host with a path at most", hint=ADDRESS_HINT)
    return url


class Connection:
    """Sends requests; what cannot be answered now is sent again until a deadline."""

    def __init__(
        self,
        address: str,
        key: str | None,
        *,
        timeout: float,
        patience: float,
        transport: httpx.BaseTransport | None,
        on_away: Callable[[str], None] | None,
    ) -> None:
        self.address = read_address(address)
        key = read_key(key)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=self.address, headers=headers, timeout=timeout, transport=transport)
        self.timeout = timeout
        self._patience = patience
        self._until: float | None = None
        self._on_away = on_away

    @contextmanager
    def trying_until(self, deadline: float) -> Iterator[None]:
        """Inside, requests are sent again until this moment (of the monotonic clock), whatever the patience."""
        before, self._until = self._until, deadline
        try:
            yield
        finally:
            self._until = before

    def send(self, method: str, path: str, *, timeout: float | None = None, **options: Any) -> httpx.Response:
        """The answer, whose body is read; raises the error that it carries, ServiceUnreachable where none came,
        AnswerNotUnderstood where something else answered."""
        deadline = self._until if self._until is not None else time.monotonic() + self._patience
        pause, told = FIRST_PAUSE_S, False
        while True:
            response, failure = None, ""
            most = max(SHORTEST_ATTEMPT_S, min(timeout or self.timeout, deadline - time.monotonic()))
            try:
                response = self._attempt(method, path, most, options)
            except httpx.TransportError as error:
                failure = self._failure(error)
            if response is not None and not _passing(response):
                return _checked(response)
            asked = _retry_after(response) if response is not None else 0.0
            left = deadline - time.monotonic()
            if left <= 0.0 or asked > left or any(sign in failure for sign in NEVER_BETTER):
                if response is not None:
                    return _checked(response)
                raise ServiceUnreachable(
                    f"{self.address} did not answer ({failure})", hint="check the address and that the service runs"
                )
            if not told and self._on_away is not None:
                self._on_away(failure if response is None else f"it answered {response.status_code}")
            told = True
            time.sleep(min(max(pause, asked), left))
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _failure(self, error: httpx.TransportError) -> str:
        """What an attempt failed with. A request that cannot be sent at all is a mistake, and its text may hold the
        key."""
        if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
            raise UsageError(f"the request cannot be sent ({type(error).__name__})", hint=ADDRESS_HINT) from None
        return f"{type(error).__name__}: {error}"

    def _attempt(self, method: str, path: str, most: float, options: JsonObject) -> httpx.Response:
        """One attempt of at most ``most`` seconds, whatever it hangs in: looking up a name and an answer that comes
        drop by drop know no timeout of their own. It runs in a thread, which is left to itself where it takes longer;
        the thread that waits can be interrupted."""
        done: SimpleQueue[httpx.Response | BaseException] = SimpleQueue()

        def attempt() -> None:
            try:
                done.put(self._read(method, path, most, options))
            except BaseException as error:  # noqa: BLE001  raised again where it is waited for
                done.put(error)

        threading.Thread(target=attempt, daemon=True, name="spinal-request").start()
        try:
            found = done.get(timeout=most)
        except Empty:
            raise httpx.ReadTimeout(f"no answer within {most:.1f} s") from None
        if isinstance(found, BaseException):
            raise found
        return found

    def _read(self, method: str, path: str, most: float, options: JsonObject) -> httpx.Response:
        over = time.monotonic() + most
        with self.http.stream(method, path, timeout=most, **options) as response:
            body = bytearray()
            try:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MOST_BYTES:
                        raise AnswerNotUnderstood(
                            f"{_asked(response)} is larger than {MOST_BYTES} bytes", hint=OTHER_HINT
                        )
                    if time.monotonic() > over:
                        raise httpx.ReadTimeout("the answer did not end in time")
            except httpx.DecodingError as error:
                raise AnswerNotUnderstood(f"{_asked(response)} cannot be unpacked", hint=OTHER_HINT) from error
            headers = [(name, value) for name, value in response.headers.multi_items() if name != "content-encoding"]
            return httpx.Response(response.status_code, headers=headers, content=bytes(body), request=response.request)


def json_of(response: httpx.Response, needs: Sequence[str] = ()) -> JsonObject:
    """The JSON object that an answer holds, with at least the members it ``needs``; raises AnswerNotUnderstood."""
    found = _parsed(response)
    if not isinstance(found, dict):
        raise AnswerNotUnderstood(f"{_asked(response)} is not a JSON object{_kind(response)}", hint=OTHER_HINT)
    lacking = [name for name in needs if name not in found]
    if lacking:
        raise AnswerNotUnderstood(f"{_asked(response)} lacks {', '.join(lacking)}", hint=OTHER_HINT)
    return found


def report_of(response: httpx.Response, *, html: bool) -> str:
    """The text of a report; raises AnswerNotUnderstood for what is none."""
    page = response.headers.get("Content-Type", "text/html").lower().startswith("text/html")
    # Reports never change and say so, in every release of the service; a login page with 200 does not.
    if page != html or "immutable" not in response.headers.get("Cache-Control", "") or not response.content:
        raise AnswerNotUnderstood(f"{_asked(response)} is not a report{_kind(response)}", hint=OTHER_HINT)
    try:
        return response.content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AnswerNotUnderstood(f"{_asked(response)} is not UTF-8", hint=OTHER_HINT) from error


def not_understood(path: str, why: str) -> AnswerNotUnderstood:
    return AnswerNotUnderstood(f"the answer to {path} {why}", hint=OTHER_HINT)


def error_of(problem: JsonObject) -> SpinalError:
    """The error class behind a problem object; an unknown code becomes InternalError with that code in ``extra``."""
    code = str(problem.get("code", ""))
    known = all_errors().get(code)
    extra = {
        str(name): value
        for name, value in problem.items()
        if name not in ("type", "title", "status", "code", "detail", "hint", "unknown_code")
    }
    detail, hint = str(problem.get("detail", "")), problem.get("hint")
    hint = None if hint is None else str(hint)
    if known is None:
        made: SpinalError = InternalError(detail, hint=hint, unknown_code=code, **extra)
    else:
        made = known(detail, hint=hint, **extra)
    made.from_service = True
    return made


def _passing(response: httpx.Response) -> bool:
    """Whether the service says that the same request may succeed soon; of the conflicts only one in flight does."""
    return response.status_code in RETRY_STATUS or (response.status_code == 409 and "Retry-After" in response.headers)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the service asks for: a number, or a date. They are 30 at most, unless it is a limit of the caller
    that has been reached: to ask sooner would be in vain."""
    most = LONGEST_ASKED_S if response.status_code != 429 else math.inf
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), most)
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), most)


def _checked(response: httpx.Response) -> httpx.Response:
    """The response, or the error it carries."""
    if response.is_success:
        return response
    problem = None if response.is_redirect else _parsed(response)
    if isinstance(problem, dict) and isinstance(problem.get("code"), str):
        raise error_of(problem)
    if response.status_code in RETRY_STATUS:
        raise ServiceUnreachable(
            f"{_asked(response)} was {response.status_code} {response.reason_phrase}, which is not the service's own",
            hint="check the proxy before the service, and that the service runs",
        )
    what = "a redirect" if response.is_redirect else "no problem object"
    raise AnswerNotUnderstood(f"{_asked(response)} was {response.status_code} with {what}", hint=OTHER_HINT)


def _parsed(response: httpx.Response) -> Any:
    sent = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if sent != "application/json" and not sent.endswith("+json"):
        return None
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def _asked(response: httpx.Response) -> str:
    request = response.request
    return f"the answer to {request.method} {request.url.copy_with(query=None)}"


def _kind(response: httpx.Response) -> str:
    sent = response.headers.get("Content-Type", "")
    return f" ({response.status_code}, {sent[:60]})" if sent else f" ({response.status_code}, without a content type)"
