"""What a report says, independent of how it is drawn: sections of sentences and tables of plain text."""

from collections.abc import Mapping

from spinal.documents.comparison import Comparison
from spinal.documents.series import Series
from spinal.documents.trace import Trace
from spinal.report.content.cells import Table, estimate, interval, number
from spinal.report.content.lead import headline, reasons, sentences_about, title
from spinal.report.content.origin import provenance_table, trace_table
from spinal.report.content.places import accounts_tables, contrast_table, localization_table, settings_table
from spinal.report.content.section import Section
from spinal.report.content.series.sections import sections as of_series
from spinal.report.content.strength import layers_table, nulls_table, scores_table
from spinal.report.content.works import damage_table, looked_table, prompts_table, rules_table, terms_table
from spinal.report.reported import Reported

__all__ = [
    "Section",
    "Table",
    "estimate",
    "headline",
    "interval",
    "number",
    "reasons",
    "sections",
    "title",
]


def sections(document: Reported, links: Mapping[str, str] | None = None) -> list[Section]:
    """All sections of a report, most important first; tables without rows and sections without content left out.
    ``links``: label -> address of what a table of the document lists."""
    if isinstance(document, Series):
        found = of_series(document, links)
    else:
        found = _of_trace(document) if isinstance(document, Trace) else _of_comparison(document)
    kept = [
        Section(one.about, one.title, one.said, tuple(table for table in one.tables if table.rows)) for one in found
    ]
    return [one for one in kept if one.said or one.tables]


def _of_trace(trace: Trace) -> list[Section]:
    return [
        Section("trace", "Depth trace", (), (trace_table(trace),)),
        Section("provenance", "Provenance", (), (provenance_table(trace),)),
    ]


def _of_comparison(result: Comparison) -> list[Section]:
    return [
        Section("changed", "What changed", sentences_about(result, "weights", "settings"), (settings_table(result),)),
        Section(
            "carries",
            "What carries the change",
            sentences_about(result, "margin", "kl", "refusal"),
            (*accounts_tables(result), contrast_table(result)),
        ),
        Section(
            "computes",
            "What computes something else",
            sentences_about(result, "block_swap"),
            (localization_table(result),),
        ),
        Section(
            "works",
            "Does it still work",
            (),
            (
                damage_table(result),
                terms_table(result),
                rules_table(result),
                looked_table(result),
                prompts_table(result),
            ),
        ),
        Section(
            "strength",
            "How strong the signature is",
            (),
            (scores_table(result), nulls_table(result), layers_table(result)),
        ),
        Section("provenance", "Provenance", (), (provenance_table(result),)),
    ]
