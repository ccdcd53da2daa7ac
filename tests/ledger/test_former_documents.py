"""What is stored is read by the code of the release before, member by member: it refuses what it does not know."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.traces import store
from spinal.documents.account import Account, AccountContrast, PlacePart
from spinal.documents.base import Estimate
from spinal.documents.comparison import (
    Comparison,
    Frame,
    Looked,
    PromptChange,
    PromptSignal,
    SettingDifference,
    Statement,
)
from spinal.documents.later import OF_COMPARISONS, put_back, take_out
from spinal.documents.trace import Trace
from tests.ledger.rows import put_trace
from tests.ledger.stored import made_trace
from tests.support.fabricated import changed_pair
from tests.support.former import NoHistory, environment_of, unpack

READ = {
    "comparison": "from spinal.comparison import Comparison as It",
    "trace": "from spinal.trace import Trace as It",
}


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return unpack(tmp_path_factory.mktemp("former"))
    except NoHistory as missing:
        pytest.skip(str(missing))


def read_by(former: Path, kind: str, document: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    code = f"import sys, json; {READ[kind]}; It.model_validate(json.load(sys.stdin))"
    return subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(document), capture_output=True, text=True, cwd=former,
        env=environment_of(former, {"PATH": "/usr/bin:/bin"}), check=False,
    )  # fmt: skip


def full_comparison() -> Comparison:
    """A comparison with something in every member that this release added."""
    some = Estimate(value=0.25, ci=(0.125, 0.5), se=0.0625, significant=True)
    account = Account(
        read_out="kl", prompts=8, total=some, floor=0.001, localization=None, blocks_terminal_share=some,
        places=(PlacePart(place="embeddings", block=None, identical=False, phi=some, interaction=0.5, share=some),),
        cancelling=("block 1", "block 2"),
    )  # fmt: skip
    made = changed_pair().compare()
    signals = {
        name: signal.model_copy(update={"n": 8, "se": 0.5, "ci": (0.0, 1.0), "of": "x", "fails_alone": True})
        for name, signal in made.damage.signals.items()
    }
    return made.model_copy(
        update={
            "damage": made.damage.model_copy(update={"signals": signals}),
            "accounts": {"kl": account},
            "control_accounts": {"kl": account},
            "noise_accounts": {"kl": account},
            "account_contrasts": {
                "kl": AccountContrast(read_out="kl", prompts=8, total=some, places={"embeddings": some})
            },
            "settings": (
                SettingDifference(part="configuration", key="k", reference="1", candidate=None, computes=True),
            ),
            "frame": Frame(changed=True, residual=0.5, gap=0.25),
            "unchanged_blocks": (1, 2),
            "statements": (Statement(about="kl", kind="band", text="some", null="none", blocks=((1, 2),)),),
            "prompt_changes": (
                PromptChange(
                    prompt=1, category="c", gap=0.5, nll_change=0.5, entropy_change=0.5, top_changed=0.5, block_swap=0.5
                ),
            ),
            "looked_at": (Looked(category="c", prompts=1, scored=1, swapped=1, accounted=1, continued=1),),
            "curves": {"candidate": changed_pair().compare().curves["candidate"]},
            "by_prompt": {"nll_change": PromptSignal(prompts=(1, 3), values=(0.5, -0.25), categories=("c", None))},
        }
    )


def _differ(whole: Any, plain: Any) -> set[str]:
    return {name for name in whole if whole[name] != plain[name]}


def test_every_member_of_this_release_is_tried_here() -> None:
    """Against what a comparison without any of them says: whoever adds a member adds it to the one above."""
    plain, full = (made.model_dump(mode="json") for made in (changed_pair().compare(), full_comparison()))
    apart = {name for name, below in OF_COMPARISONS.items() if below is None}
    assert _differ(full, plain) == apart | {"damage"}
    optional = {name for name, field in Comparison.model_fields.items() if not field.is_required()}
    assert optional - {"schema_", "control"} == apart


def test_a_stored_comparison_is_read_by_the_release_before_and_whole_by_this_one(
    session: Session, former: Path
) -> None:
    made = full_comparison()
    for side in (made.reference, made.candidate):
        put_trace(session, side.digest)
    store.store_comparison(session, made)
    stored = session.execute(text("SELECT document, content_digest_rfc8785 FROM comparisons")).one()
    told = read_by(former, "comparison", stored.document)
    assert told.returncode == 0, told.stderr
    whole = store.load_comparison_document(session, made.digest)
    assert whole == store.stored_document(made)
    assert store.content_digest(whole) == stored.content_digest_rfc8785
    # And the former would not have read all of it: this can fail.
    refused = read_by(former, "comparison", whole)
    assert refused.returncode == 1
    assert "accounts" in refused.stderr
    without_layers = store.load_comparison_document(session, made.digest, layers=False)
    assert without_layers == whole | {"layers": []}


def test_a_stored_trace_is_read_by_the_release_before(session: Session, former: Path) -> None:
    trace = made_trace()
    store.store_trace(session, trace, capture_uri="file:x", capture_bytes=1)
    told = read_by(former, "trace", store.load_trace_document(session, trace.digest, later=False))
    assert told.returncode == 0, told.stderr
    assert read_by(former, "trace", store.load_trace_document(session, trace.digest)).returncode == 1
    assert Trace.model_validate(store.load_trace_document(session, trace.digest)).digest == trace.digest


def test_what_is_taken_out_of_lists_comes_back_to_its_place() -> None:
    document = {"a": [{"x": 1, "y": 1}, {"x": 2}, {"x": 3, "y": 3}], "b": None, "c": {"y": 4}}
    before = json.loads(json.dumps(document))
    taken = take_out(document, {"a": {"*": {"y": None}}, "b": {"y": None}, "c": {"y": None}, "d": None})
    assert document == {"a": [{"x": 1}, {"x": 2}, {"x": 3}], "b": None, "c": {}}
    assert put_back(document, json.loads(json.dumps(taken))) == before
