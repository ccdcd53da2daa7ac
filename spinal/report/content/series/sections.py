"""The sections of a training run's report, most important first."""

from collections.abc import Mapping

from spinal.documents.series import Series
from spinal.report.content.section import Section
from spinal.report.content.series.tables import (
    alarms_table,
    digests_table,
    members_table,
    provenance_table,
    shares_table,
    signals_table,
    values_table,
)


def sections(series: Series, links: Mapping[str, str] | None = None) -> list[Section]:
    """``links``: label -> address, as a reader of a report has them."""
    return [
        Section("alarms", "What alarmed", (), (alarms_table(series),)),
        Section("signals", "Signals over the steps", (), (signals_table(series), values_table(series))),
        Section("members", "Checkpoints", (), (members_table(series, links),)),
        Section("carries", "What carries the change", (), (shares_table(series),)),
        Section("provenance", "Provenance", (), (provenance_table(series), digests_table(series))),
    ]
