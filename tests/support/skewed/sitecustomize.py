"""Shifts the clock of a Python process by ``SPINAL_TEST_CLOCK_OFFSET_S``: put this folder on its PYTHONPATH.

The monotonic clock stays: only what looks at the calendar is misled, as on a machine whose clock is wrong.
"""

import datetime
import os
import sys
import time
from typing import Self

_OFFSET = float(os.environ.get("SPINAL_TEST_CLOCK_OFFSET_S", "0"))
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _OFFSET
time.time_ns = lambda: _time_ns() + int(_OFFSET * 1e9)


class _Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        return super().now(tz) + datetime.timedelta(seconds=_OFFSET)

    @classmethod
    def utcnow(cls) -> Self:
        return cls.now(datetime.UTC).replace(tzinfo=None)


setattr(datetime, "datetime", _Shifted)  # noqa: B010  a plain assignment would redefine a type
sys.stderr.write(f"clock shifted by {_OFFSET:g}\n")
