"""Sentences on what carries the change: the account of the read-out that speaks."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from spinal.analysis.statements.facts import Facts
from spinal.analysis.statements.placed import beside_outliers, chance_in_words, placed
from spinal.analysis.statements.shape import outliers
from spinal.analysis.statements.words import listed, nats, reason_in_words, runs, sentence, share_of
from spinal.documents.account import (
    CANCELLING,
    FRAME_CHANGED,
    NOT_SIGNIFICANT,
    READ_OUTS,
    WITHIN_ROUNDING,
    Account,
    AccountContrast,
    PlacePart,
)
from spinal.documents.comparison import ComparisonContent, Statement
from spinal.documents.localization import NO_CHANGE
from spinal.numbers import number, share

PROMPTS_ALONE = "95% intervals cover prompts, not training seeds or other prompts"
ALIKE = "the KL account looks alike for any fine-tune"
NO_ACCOUNT = (
    "what carries the change was not measured: block swap names blocks that compute something else, which need not be "
    "those that matter"
)


def speaking(accounts: dict[str, Account]) -> Account | None:
    """The account that speaks: the margin where it is significant and has shares, else KL, else any there is."""
    margin = accounts.get("margin")
    if margin is not None and margin.reason is None and _stands(margin):
        return margin
    return accounts.get("kl") or margin or next(iter(accounts.values()), None)


def of_accounts(content: ComparisonContent, facts: Facts) -> Iterator[Statement]:
    """What carries the change, by the account that speaks; why another does not."""
    account = speaking(content.accounts)
    if account is None:
        if not content.identical:
            yield Statement(about="kl", kind="not_measured", text=sentence(NO_ACCOUNT))
        return
    if facts.perhaps_another_basis:
        yield Statement(
            about=account.read_out,
            kind="not_measured",
            text=sentence(
                f"what carries {total_in_words(account)}, cannot be told: the sides may write their residuals in "
                "different bases, and parts of one then do not fit the other"
            ),
        )
        return
    margin = content.accounts.get("margin")
    if margin is not None and margin is not account:
        yield _silent(margin)
    if account.reason is not None or not account.places:
        yield _silent(account)
        return
    if not _stands(account):
        yield _silent(account.model_copy(update={"reason": NOT_SIGNIFICANT}))
        return
    yield _outside(account, content)
    yield from _inside(account, content, facts)


def _stands(account: Account) -> bool:
    """Whether the total can be told from 0; KL is never negative, and its test is the floor."""
    if account.read_out == "kl":
        return True
    ci = account.total.ci
    return account.total.significant is True or (
        account.total.significant is None and ci is not None and not ci[0] <= 0.0 <= ci[1]
    )


def total_in_words(account: Account) -> str:
    """``the change of the preference margin, +4.92 nats [3.7, 6.1] over 64 pairs``."""
    name = READ_OUTS.get(account.read_out, account.read_out)
    of = ("pair" if account.read_out == "margin" else "prompt") + ("" if account.prompts == 1 else "s")
    if account.read_out == "kl":
        return f"{name} = {nats(account.total, signs=False)} over {account.prompts} {of}"
    return f"the change of {name}, {nats(account.total)} over {account.prompts} {of}"


def _silent(account: Account) -> Statement:
    """Why an account places nothing."""
    total, reason = total_in_words(account), account.reason
    kind = "none"
    if reason == NOT_SIGNIFICANT:
        text = f"{total}, cannot be told from 0, so nothing is said of what carries it"
    elif reason == WITHIN_ROUNDING:
        least = None if account.floor is None else number(account.floor, 2)
        floor = "" if least is None else f", below {least} nats, ten times what rounding does"
        text = f"{total}, lies within rounding{floor}, so nothing carries it"
    elif reason == NO_CHANGE:
        name = READ_OUTS.get(account.read_out, account.read_out)
        text = f"{name} moves by exactly 0 on the prompts that were read: no place carries anything there"
    elif reason == FRAME_CHANGED:
        text = (
            "what carries the change cannot be told: the sides write their residuals in different bases, and parts of "
            "one do not fit the other"
        )
    elif reason == CANCELLING:
        pair = "" if account.cancelling is None else f", most of all {listed(list(map(_name, account.cancelling)))}"
        text = f"places pull {total}, in opposite directions and cancel{pair}: shares would mislead"
    else:
        name, kind = READ_OUTS.get(account.read_out, account.read_out), "not_measured"
        text = f"what carries {name} was not measured ({reason_in_words(reason)})"
    return Statement.model_validate({"about": account.read_out, "kind": kind, "text": sentence(text)})


def _name(place: str) -> str:
    return {"embeddings": "the input embeddings", "read-out": "the read-out", "configuration": "the configuration"}.get(
        place, place
    )


def _outside(account: Account, content: ComparisonContent) -> Statement:
    """The total, and what places outside the blocks carry of it."""
    places = [part for part in account.places if part.block is None]
    moved = [part for part in places if not part.identical]
    blocks = [part for part in account.places if part.block is not None and not part.identical]
    total = total_in_words(account)
    if not blocks and len(moved) == 1:
        text = f"{_name(moved[0].place)} {_carry(moved)} all of {total}: nothing else changed"
    elif moved:
        carried = [
            f"{_name(part.place)} {_carry(moved) if i == 0 else ''} {share_of(part.share)}".replace("  ", " ")
            for i, part in enumerate(moved)
        ]
        text = f"of {total}, {listed(carried)}"
        if not blocks:
            text += "; no block changed"
    else:
        text = f"blocks carry all of {total}: nothing outside them changed"
    return Statement(about=account.read_out, kind="outside", text=sentence(text), null=_null(account, content))


def _carry(parts: list[PlacePart]) -> str:
    return "carry" if parts[0].place == "embeddings" else "carries"


def _null(account: Account, content: ComparisonContent) -> str:
    """What a flat account, the control and random changes give, and what the intervals cover."""
    changed = sum(not part.identical for part in account.places)
    parts = [f"flat over the {changed} changed places would be {share(1 / max(changed, 1))} each"]
    if account.read_out == "kl":
        parts.append(ALIKE)
    control = content.control_accounts.get(account.read_out)
    if control is not None:
        parts.append(f"of the control's total, {nats(control.total, signs=account.read_out != 'kl')}, {_of(control)}")
    contrast: AccountContrast | None = content.account_contrasts.get(account.read_out)
    if contrast is not None:
        parts.append(f"candidate minus control is {nats(contrast.total)}")
    noise = content.noise_accounts.get(account.read_out)
    if noise is not None:
        parts.append(f"of what random changes of the same size do, {_of(noise)}")
    return "; ".join([*parts, PROMPTS_ALONE])


def _of(account: Account) -> str:
    """An account in one clause: outside the blocks, and in their last third."""
    if account.reason is not None:
        return f"nothing is placed ({reason_in_words(account.reason)})"
    outside = [f"{_name(part.place)} {share_of(part.share)}" for part in account.places if part.block is None]
    late = account.blocks_terminal_share
    last = [] if late.value is None else [f"the last blocks {share_of(late)} of the blocks' part"]
    both = [*outside, *last]
    return f"{listed(both)}" if both else "nothing is placed"


def _inside(account: Account, content: ComparisonContent, facts: Facts) -> Iterator[Statement]:
    """Places that stand out, and how the blocks' own part lies over the depth."""
    parts = [part for part in account.places if not part.identical]
    sign = -1.0 if (account.total.value or 0.0) < 0.0 else 1.0
    weights = np.array([max(0.0, sign * (part.phi.value or 0.0)) for part in parts])
    significant = np.array([part.phi.significant is True for part in parts])
    far = outliers(weights, significant)
    name = READ_OUTS.get(account.read_out, account.read_out)
    if far.places:
        said = [f"{_name(parts[i].place)} ({share_of(parts[i].share)})" for i in far.places]
        stands = "stands" if len(said) == 1 and parts[far.places[0]].place != "embeddings" else "stand"
        yield Statement(
            about=account.read_out,
            kind="outlier",
            text=sentence(f"of all places that carry {name}, {listed(said)} {stands} out"),
            null=chance_in_words(far, len(parts), "places"),
            blocks=runs(parts[i].block or 0 for i in far.places if parts[i].block is not None),
        )
    inside = [i for i in range(len(parts)) if parts[i].block is not None]
    blocks = [parts[i].block or 0 for i in inside]
    own = replace(facts, unchanged=tuple(block for block in range(1, facts.depth + 1) if block not in blocks))
    what = f"what blocks carry of {name}"
    if blocks and float(np.abs([parts[i].phi.value or 0.0 for i in inside]).sum()) < _rounding_beside(account):
        text = f"{what} is no more than rounding makes of it beside the rest, so it has no place among them"
        yield Statement(about=account.read_out, kind="none", text=sentence(text))
    elif len(blocks) > 1:
        beside = [inside.index(i) for i in far.places if i in inside]
        sure = [parts[i].block or 0 for i in inside if significant[i] and i not in far.places]
        for made in beside_outliers(what, account.read_out, weights[inside], blocks, beside, own):
            known = all(any(low <= block <= high for block in sure) for low, high in made.blocks)
            told = known or made.kind != "band"
            yield (
                _with_terminal(made, account, content)
                if told
                else _not_told(made, f"the rest of {what}" if beside else what)
            )
    elif blocks and weights[inside].any():
        yield from placed(what, account.read_out, weights[inside], blocks, own)


def _rounding_beside(account: Account) -> float:
    """What rounding in some places makes of a read-out that others move (nats). KL is a square: beside a total K, a
    step that would alone make it f moves it by up to 2 sqrt(K f) + f (Cauchy-Schwarz)."""
    floor = account.floor or 0.0
    if account.read_out != "kl":
        return floor
    return floor + 2.0 * math.sqrt(floor * max(0.0, account.total.value or 0.0))


def _not_told(made: Statement, what: str) -> Statement:
    """In place of a band without a part that can be told from 0: noise has windows, too."""
    text = f"{what} has no sure place among them: its parts cannot be told from 0 one by one"
    return Statement(about=made.about, kind="none", text=sentence(text), null=made.null)


def _with_terminal(made: Statement, account: Account, content: ComparisonContent) -> Statement:
    """The sentence with the share of the last blocks, and what a flat account would give them."""
    late, flat = account.blocks_terminal_share, account.localization
    if late.value is None or flat is None:
        return made
    low, high = content.scores.terminal_window
    text = made.text.removesuffix(".")
    return made.model_copy(
        update={
            "text": f"{text}; blocks {low}-{high} carry {share_of(late)} of the blocks' own sum.",
            "null": f"{made.null}, and give blocks {low}-{high} {share(flat.terminal_share_null)}",
        }
    )
