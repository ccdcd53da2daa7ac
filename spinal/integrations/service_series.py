"""A series that the service measures: checkpoints are named to it, and it reads them below its model roots."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from spinal.integrations.port import Standing, standing_of
from spinal.integrations.spool import Queued, Spool


class SeriesClient(Protocol):
    """What is needed of :class:`spinal.client.Client`."""

    def create_series(
        self,
        reference: str,
        *,
        prompt_set: str | None,
        profile: dict[str, Any] | None,
        policy: str | None,
        labels: dict[str, str] | None,
        idempotency_key: str,
    ) -> Mapping[str, Any]: ...

    def add_members(self, series_id: str, members: Mapping[int, str]) -> Any: ...

    def series_document(self, series_id: str) -> Any: ...

    def close_series(self, series_id: str) -> Any: ...

    def close(self) -> None: ...


class ServiceSeries:
    """Talks HTTP. The series is made when the first member is handed over, once: its id is kept in the spool,
    and before there is one, the key that it is asked for by."""

    longest_pause_s = 15.0

    def __init__(self, spool: Spool, connect: Callable[[], SeriesClient]) -> None:
        self._spool = spool
        self._connect = connect
        self._client: SeriesClient | None = None

    def open(self) -> None:
        run = self._spool.run()
        if run.series is None:
            made = self._connected().create_series(
                run.reference,
                prompt_set=run.prompts,
                profile=run.knobs or None,
                policy=run.policy,
                labels=run.labels or None,
                idempotency_key=run.key,
            )
            self._spool.change_run(series=str(made["id"]))

    def add(self, members: Sequence[Queued]) -> None:
        name = self._spool.run().name
        sent = {member.step: f"{name}/checkpoint-{member.step}" for member in members}
        self._connected().add_members(self._series(), sent)

    def standing(self) -> Standing:
        found = self._connected().series_document(self._series())
        return standing_of(found if isinstance(found, Mapping) else found.model_dump(mode="json"))

    def close(self) -> None:
        self._connected().close_series(self._series())

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()

    def _connected(self) -> SeriesClient:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _series(self) -> str:
        found = self._spool.run().series
        if found is None:
            raise ValueError("no series was opened")
        return found
