"""How a series of checkpoints is refused, and what its client meets."""

from spinal.errors.base import ExitCode, SpinalError
from spinal.errors.measuring import DeadlineExceeded


class SeriesNotFound(SpinalError):
    code, title, status, exit_code = "series_not_found", "Series not found", 404, ExitCode.USAGE


class SeriesStepTaken(SpinalError):
    code, title, status, exit_code = "series_step_taken", "Step stands for another checkpoint", 409, ExitCode.USAGE


class SeriesClosed(SpinalError):
    code, title, status, exit_code = "series_closed", "Series is closed", 409, ExitCode.USAGE


class SeriesFull(SpinalError):
    code, title, status, exit_code = "series_full", "Series has as many members as it may", 409, ExitCode.USAGE


class SeriesFolderInvalid(SpinalError):
    code, title, status, exit_code = "series_folder_invalid", "Folder gives no steps", 422, ExitCode.USAGE


class SeriesReferenceChanged(SpinalError):
    code, title, status = "series_reference_changed", "Reference of the series holds other files", 409


class SeriesStillRunning(DeadlineExceeded):
    """What a client waited for goes on: the time to wait is over, not that of the series."""

    code, title, status, exit_code = "series_still_running", "Series goes on after the wait", 504, ExitCode.TIMED_OUT
