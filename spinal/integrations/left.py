"""Sending what a training run left behind."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from spinal.errors import UsageError
from spinal.integrations.feeder import Feeder
from spinal.integrations.port import SeriesPort
from spinal.integrations.spool import Spool, spools_in
from spinal.integrations.telling import Telling

PATIENCE_S = 5.0
"""Seconds for which one request is sent again: between them somebody may have to stop."""


def send_spooled(
    spool: str | os.PathLike[str], *, server: str | None = None, api_key: str | None = None, wait: float = 3600.0
) -> Mapping[str, int]:
    """Send the checkpoints that wait in a spool, and wait until they are settled.

    Everything needed stands in the spool, apart from the key. Not while the run goes on: its own process sends.

    Parameters
    ----------
    spool : str or path-like
        The folder that ``SpinalCallback`` was given.
    server : str, optional
        Address of the service, where it is another one than then.
    api_key : str, optional
        Key of the caller.
    wait : float, default 3600.0
        Seconds to wait at most; whatever is left then stays in the spool.

    Returns
    -------
    mapping of str to int
        How many members stand where: ``copying``, ``waiting``, ``sent``, ``settled``, ``refused``.

    Raises
    ------
    UsageError
        There is no run in the folder, or another process looks after it now.
    """
    spools = spools_in(Path(spool))
    if not spools:
        raise UsageError(f"{os.fspath(spool)} holds no run", hint="give the folder that SpinalCallback was given")
    for each in spools:
        with each.locked() as free:
            if not free:
                raise UsageError(f"another process looks after {each.folder}", hint="it sends what waits there")
        if server is not None:
            each.change_run(server=server)
    feeder = Feeder(spools, port_maker(api_key), Telling())
    feeder.start()
    try:
        feeder.wait_quiet(wait)
    finally:
        feeder.stop(PATIENCE_S)
    stages = [member.stage for each in spools for member in each.members()]
    return {stage: stages.count(stage) for stage in ("copying", "waiting", "sent", "settled", "refused")}


def port_maker(api_key: str | None) -> Callable[[Spool], SeriesPort]:
    """From a spool to the series that its members go to."""

    def port_of(spool: Spool) -> SeriesPort:
        server = spool.run().server
        if server is None:
            from spinal.integrations.local_series import LocalSeries

            return LocalSeries(spool)
        from spinal.client import Client
        from spinal.integrations.service_series import SeriesClient, ServiceSeries

        return ServiceSeries(spool, lambda: cast(SeriesClient, Client(server, api_key, patience=PATIENCE_S)))

    return port_of


def seconds_left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
