"""How documents show themselves: one line in a shell, a report in a notebook, a table in pandas."""

import sys
from html.parser import HTMLParser

import pytest
from rich.pretty import pretty_repr

from spinal.analysis.diff import diff_traces
from spinal.documents.comparison import Comparison
from spinal.documents.diff import TraceDiff
from spinal.documents.trace import Trace
from spinal.errors import UsageError
from spinal.extras import install_hint
from spinal.report import render
from tests.support.fabricated import changed_pair, trace

HOSTILE = 'local:<script>alert("x")</script>\n\x1b[31m' + "x" * 500


@pytest.fixture(scope="module")
def documents() -> tuple[Trace, Comparison, TraceDiff]:
    pair = changed_pair()
    return pair.reference, pair.compare(), diff_traces(pair.reference, pair.candidate)


def hostile() -> Trace:
    made = trace("sft", 4, 8)
    return made.model_copy(update={"model": made.model.model_copy(update={"source": HOSTILE})})


def test_a_document_shows_itself_on_one_line(documents: tuple[Trace, Comparison, TraceDiff]) -> None:
    one, result, diff = documents
    assert repr(one) == f"<Trace local:sft, 10 blocks, 32 prompts, digest {one.digest[:8]}…>"
    assert repr(result) == (
        f"<Comparison local:sft → local:dpo, 10 blocks, verdict {result.verdict.outcome}, digest {result.digest[:8]}…>"
    )
    assert repr(diff) == f"<TraceDiff {diff.reference[:8]}… → {diff.candidate[:8]}…, 10 blocks>"
    for document in documents:
        assert str(document) == repr(document)
        assert len(pretty_repr(document)) < 300


def test_a_name_from_outside_cannot_leave_the_line() -> None:
    shown = repr(hostile())
    assert shown.isprintable()
    assert len(shown) < 200


def test_a_document_inside_a_container_stays_short(documents: tuple[Trace, Comparison, TraceDiff]) -> None:
    assert len(repr(list(documents))) < 600


class Frame(HTMLParser):
    """The attributes of the elements met, and what stands between them."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("which", [0, 1])
def test_a_notebook_gets_the_report_in_a_frame_without_rights(
    documents: tuple[Trace, Comparison, TraceDiff], which: int
) -> None:
    document = documents[which]
    assert isinstance(document, Trace | Comparison)
    parser = Frame()
    parser.feed(document._repr_html_())
    ((tag, attributes),) = parser.elements
    assert tag == "iframe"
    assert parser.text == ""
    assert attributes["sandbox"] == ""
    assert attributes["srcdoc"] == render(document, "html")


def test_a_hostile_name_stays_text_in_a_notebook() -> None:
    parser = Frame()
    parser.feed(hostile()._repr_html_())
    ((_, attributes),) = parser.elements
    inside = Frame()
    inside.feed(attributes["srcdoc"] or "")
    assert [tag for tag, _ in inside.elements].count("script") == 1, (
        "none but the report's own, which the frame holds back"
    )


def test_a_trace_as_a_table_has_a_row_for_each_layer_and_positions(
    documents: tuple[Trace, Comparison, TraceDiff],
) -> None:
    one = documents[0]
    table = one.to_pandas()
    assert len(table) == 2 * 11
    row = table[(table["layer"] == 3) & (table["positions"] == "all")].iloc[0]
    position = one.layers[3].positions["all"]
    for column in ("contraction", "contraction_se", "transport", "transport_se", "entropy", "effective_rank"):
        assert row[column] == getattr(position, column)
    assert table[table["layer"] == 0]["transport"].isna().all()


def test_a_comparison_as_a_table_has_a_row_for_each_layer_with_intervals(
    documents: tuple[Trace, Comparison, TraceDiff],
) -> None:
    result = documents[1]
    table = result.to_pandas()
    assert list(table["layer"]) == list(range(11))
    for layer, (_, row) in zip(result.layers, table.iterrows(), strict=True):
        for name, found in (
            ("d_contraction_last", layer.d_contraction.last),
            ("d_transport_all", layer.d_transport.all),
            ("function_gap_all", layer.function_gap.all),
            ("block_swap", layer.block_swap),
        ):
            shown = (row[name], row[f"{name}_low"], row[f"{name}_high"])
            if found.value is None:
                assert all(value != value for value in shown), name
            else:
                assert shown == (found.value, *(found.ci or ())), name


def test_a_column_of_nulls_is_a_column_of_numbers(documents: tuple[Trace, Comparison, TraceDiff]) -> None:
    single = changed_pair(prompts=1).compare().to_pandas()
    assert single["block_swap_low"].isna().all()
    assert single["block_swap_low"].dtype == float


def test_a_diff_as_a_table_has_a_row_for_each_layer_and_positions(
    documents: tuple[Trace, Comparison, TraceDiff],
) -> None:
    table = documents[2].to_pandas()
    assert len(table) == 2 * 11
    assert table["d_entropy"].tolist() == [0.0] * 22


@pytest.mark.parametrize("which", [0, 1, 2])
def test_without_pandas_the_error_says_what_to_install(
    documents: tuple[Trace, Comparison, TraceDiff], which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError) as refused:
        documents[which].to_pandas()
    assert refused.value.hint == install_hint("notebook")
