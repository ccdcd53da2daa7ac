"""Nobody's names in what is shared, and each reader's own in what is read: in every text of a comparison."""

import json

from spinal.documents.account import Account
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, Statement
from spinal.documents.names import Occasion, named_comparison, nameless, unnamed_comparison
from tests.support.fabricated import capture, changed_pair, trace

NAMES = {"reference": "local:sft", "candidate": "local:dpo", "control": "local:sft-twin"}


def told() -> Comparison:
    """A comparison whose texts name all three sides, one of whose names begins another's."""
    pair = changed_pair()
    control = trace("sft-twin", 10, 32)
    made = pair.compare(control=(control, capture(control, 32, 0)))
    text = "{candidate} moves more than {control}, not as {reference} does".format(**NAMES)
    some = Estimate(value=0.25)
    account = Account(
        read_out="kl", prompts=8, total=some, floor=None, localization=None, blocks_terminal_share=some, places=(),
        remarks=(text,),
    )  # fmt: skip
    return made.model_copy(
        update={
            "statements": (Statement(about="kl", kind="band", text=text, null=text),),
            "accounts": {"kl": account},
            "control_accounts": {"kl": account},
            "noise_accounts": {"kl": account},
            "warnings": (*made.warnings, text),
        }
    )


def test_what_is_shared_names_nobodys_checkpoint_in_any_of_its_texts() -> None:
    shared = unnamed_comparison(told())
    assert {shared.reference.source, shared.candidate.source} == {
        nameless(shared.reference.weights_digest), nameless(shared.candidate.weights_digest),
    }  # fmt: skip
    written = json.dumps(shared.model_dump(mode="json"))
    assert not [name for name in NAMES.values() if name in written]


def test_a_reader_finds_the_own_names_in_all_of_them() -> None:
    mine = {"reference": "local:base", "candidate": "local:base-tuned", "control": "registered"}
    found = named_comparison(unnamed_comparison(told()), sources=mine, occasion=Occasion())
    text = "local:base-tuned moves more than registered, not as local:base does"
    account = found.accounts["kl"]
    assert (found.statements[0].text, found.statements[0].null, account.remarks) == (text, text, (text,))
    assert found.control_accounts["kl"] == found.noise_accounts["kl"] == account
    assert found.warnings[-1] == text
    assert "registered" in found.nulls["control"].note


def test_names_change_places_without_a_mixture() -> None:
    """One side's new name is the other's old one."""
    swapped = NAMES | {"reference": NAMES["candidate"], "candidate": NAMES["reference"]}
    found = named_comparison(told(), sources=swapped, occasion=Occasion())
    assert found.statements[0].text == "local:sft moves more than local:sft-twin, not as local:dpo does"
