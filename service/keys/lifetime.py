"""How long a key lives: a duration or a date, as somebody at a shell writes it."""

import re
from datetime import UTC, date, datetime, timedelta

from spinal.errors import UsageError

DURATION = re.compile(r"(\d{1,6})(m|h|d|w)\Z", re.ASCII)
UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
LONGEST = timedelta(days=36_525)
"""A century: beyond, dates have five digits, and somebody has mistyped."""


def read_duration(given: str, option: str) -> timedelta:
    """``30m``, ``24h``, ``90d`` or ``12w``; raises UsageError that names the option.

    Examples
    --------
    >>> read_duration("24h", "--overlap")
    datetime.timedelta(days=1)
    """
    found = DURATION.match(given)
    if found is None or (length := int(found[1]) * UNITS[found[2]]) > LONGEST:
        raise UsageError(f"{option} {given!r} is not a duration", hint="for example 30m, 24h, 90d or 12w")
    return length


def read_expiry(given: str) -> timedelta | datetime:
    """A duration, a date (as it begins, in UTC) or a time with its offset; raises UsageError.

    Examples
    --------
    >>> read_expiry("2027-02-01").isoformat()
    '2027-02-01T00:00:00+00:00'
    """
    return read_duration(given, "--expires") if DURATION.match(given) else _moment(given)


def end_of(expiry: timedelta | datetime, now: datetime) -> datetime:
    """When a key ends that is made ``now``; raises UsageError where that is not in the future.

    Examples
    --------
    >>> end_of(timedelta(days=90), datetime(2027, 1, 1, tzinfo=UTC)).isoformat()
    '2027-04-01T00:00:00+00:00'
    """
    end = now + expiry if isinstance(expiry, timedelta) else expiry
    if not now < end <= now + LONGEST:
        raise UsageError(
            f"a key cannot end at {end:%Y-%m-%d %H:%MZ}, which is "
            + ("past" if end <= now else "more than a century away"),
            hint="for example --expires 90d, or a date to come",
        )
    return end


def _moment(given: str) -> datetime:
    try:
        day = date.fromisoformat(given)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(given)
        # Beside the ends of the calendar an offset leads out of it.
        moment = found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise UsageError(
            f"--expires {given!r} is neither a duration nor a date",
            hint="for example 90d, 2027-01-31 or 2027-01-31T12:00:00Z",
        )
    return moment
